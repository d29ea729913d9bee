// The one stream of events from the server; views listen to it by name and get the newest at once.

import { call, events, Refusal } from "./api.js";

const AGAIN_MS = 5000;
const newest = new Map();
const listeners = new Map();
let following = false;

// Calls `work` with the newest event of this name, if there is one, and with each one that follows.
export function listen(name, work) {
  if (!listeners.has(name)) listeners.set(name, new Set());
  listeners.get(name).add(work);
  if (newest.has(name)) work(newest.get(name));
}

export const last = (name) => newest.get(name) ?? null;

function tell(name, data) {
  newest.set(name, data);
  for (const work of listeners.get(name) ?? []) work(data);
}

export async function follow() {
  if (following) return;
  following = true;
  let again = true;
  let message = "Connection lost; trying again. Is `headrace up` still running?";
  try {
    for await (const { name, data } of events(await call("/v1/events"))) {
      if (name === "totals") tell("connection", "");
      tell(name, data);
    }
  } catch (error) {
    if (error instanceof Refusal && error.code !== "lost") message = error.message;
    again = error.code !== "invalid_api_key"; // which another address mends, and no patience
  }
  following = false;
  tell("connection", message);
  if (again) setTimeout(follow, AGAIN_MS);
}
