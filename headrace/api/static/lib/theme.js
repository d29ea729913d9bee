// Light or dark: as the browser says, or as chosen for this tab.

import { keep, kept } from "./keep.js";

const THEMES = ["auto", "light", "dark"];
const darkness = globalThis.matchMedia?.("(prefers-color-scheme: dark)");
const listeners = [];

export const chosenTheme = () => document.documentElement.dataset.theme || "auto";

// The theme that is shown.
export function theme() {
  const chosen = chosenTheme();
  return chosen === "light" || chosen === "dark" ? chosen : darkness?.matches ? "dark" : "light";
}

export function onTheme(work) {
  listeners.push(work);
}

export function openTheme() {
  document.documentElement.dataset.theme = kept("headrace-theme", "auto");
  darkness?.addEventListener?.("change", () => listeners.forEach((work) => work()));
}

export function turnTheme() {
  const next = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  keep("headrace-theme", next);
  document.documentElement.dataset.theme = next;
  listeners.forEach((work) => work());
}
