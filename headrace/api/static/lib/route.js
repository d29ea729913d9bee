// Where the page is: #/view?name=value, so that every view and what is chosen in it can be linked to.

export function here() {
  const [, path, query] = /^#\/([a-z]*)(?:\?(.*))?$/.exec(location.hash) ?? [null, "", ""];
  return { view: path || "overview", parameters: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

export function address(view, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return `#/${view}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

export function go(view, parameters = {}) {
  location.hash = address(view, parameters);
}

// Changes the address of the view that is shown, without another step of the browser's history. A view that is no longer asked for,
// such as one whose dialog closes while another view is opened, leaves the address alone.
export function note(view, parameters = {}) {
  if (here().view === view) history.replaceState(null, "", address(view, parameters));
}
