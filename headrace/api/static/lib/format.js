// Numbers and times for people, as `headrace` prints them.

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const shown = unit === 0 || value >= 99.95 ? Math.round(value) : Number(value.toFixed(1));
  return `${shown} ${units[unit]}`;
}

export function milliseconds(ms) {
  if (ms > 0 && ms < 0.05) return "<0.1 ms";
  if (ms < 9.95) return `${Number(ms.toFixed(1))} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  return span(ms / 1000);
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

export function span(seconds) {
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  return duration(Math.round(seconds));
}

export const count = (number) => number.toLocaleString("en");
export const several = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
export const percent = (share) => `${Number((share * 100).toFixed(1))} %`;
export const score = (value) => (value === null || value === undefined ? "–" : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(4));
export const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
export const capital = (text) => `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`;
export const words = (name) => name.replaceAll("_", " ");

const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
export const when = (time) => DATE.format(new Date(time));
export const exactly = (time) => WHOLE.format(new Date(time));

export function ago(time) {
  const seconds = Math.max(0, Math.round((Date.now() - new Date(time)) / 1000));
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}

export function ahead(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  return seconds > 1 ? `in ${span(seconds)}` : "now";
}

export const TIERS = {
  stream: "Stream (Kafka)", file: "File", vector: "Vector", table: "Table", object: "Object",
};
