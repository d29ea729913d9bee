// Requests to the server, all of them with the token.

import { keep, kept } from "./keep.js";

export class Refusal extends Error {
  constructor(message, code, status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

// The token comes in the address behind #, which no server is ever sent, and is kept for this tab alone: a cookie would go to every
// server on this machine, whatever its port.
const TOKEN = "headrace-token";

export function token() {
  const brought = location.hash.startsWith("#token=") ? new URLSearchParams(location.hash.slice(1)).get("token") : null;
  if (brought) {
    history.replaceState(null, "", location.pathname);
    keep(TOKEN, brought);
  }
  return kept(TOKEN, "");
}

export const LOST = "The server cannot be reached. Is `headrace up` still running? Start it again and open the address it prints.";
const STALE = "The token is no longer right. Open the address that `headrace up` printed last.";
const NO_TOKEN = "This page needs a token. Open the address that `headrace up` printed in its terminal; it carries one.";

export async function call(path, { method = "GET", json, body, headers = {}, signal } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      headers: { Authorization: `Bearer ${token()}`, ...(json === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      body: json === undefined ? body : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(LOST, "lost");
  }
  if (response.ok) return response;
  let refusal;
  try {
    refusal = (await response.json()).error;
  } catch {
    refusal = { message: `The server said ${response.status}. Try again.`, code: "" };
  }
  if (response.status === 401) refusal.message = token() ? STALE : NO_TOKEN;
  throw new Refusal(refusal.message, refusal.code, response.status);
}

export const get = async (path, parameters = {}, options = {}) => (await call(withParameters(path, parameters), options)).json();
export const send = async (method, path, json, options = {}) => (await call(path, { method, json, ...options })).json();

export function withParameters(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = new URLSearchParams();
  for (const [name, value] of given) for (const one of [value].flat()) query.append(name, one);
  return given.length ? `${path}?${query}` : path;
}

// The path of a document: each part of its name is escaped, slashes stay.
export const documentPath = (uri) => `/v1/documents/${uri.split("/").map(encodeURIComponent).join("/")}`;

export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    pending += value;
    let end;
    while ((end = pending.indexOf("\n\n")) >= 0) {
      const lines = pending.slice(0, end).split("\n");
      pending = pending.slice(end + 2);
      const of = (field) => lines.filter((line) => line.startsWith(`${field}: `)).map((line) => line.slice(field.length + 2)).join("\n");
      yield { name: of("event"), data: JSON.parse(of("data")) };
    }
  }
}
