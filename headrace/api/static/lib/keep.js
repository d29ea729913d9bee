// What this tab keeps over a reload: the token, the theme, answers. Nothing outlives the tab, and no other tab sees it.

const held = new Map(); // for a browser that stores nothing, until the page is loaded again

export function kept(name, otherwise = null) {
  try {
    const text = sessionStorage.getItem(name);
    return text === null ? otherwise : text;
  } catch {
    return held.get(name) ?? otherwise;
  }
}

// Whether it could be kept: a tab has room for some megabytes.
export function keep(name, text) {
  held.set(name, text);
  try {
    sessionStorage.setItem(name, text);
    return true;
  } catch {
    return false;
  }
}
