"use strict";
// Functions for all parts of the page. Text from the plan and the server becomes only text nodes and attributes.
const run = JSON.parse(document.getElementById("run").textContent);
for (const step of run.steps) [step.sql, step.marks] = [run.texts[step.sql], run.marks[step.sql]];
const MARKS = ["keyword", "string", "number", "comment", "name"];
const SVG = "http://www.w3.org/2000/svg";
const BAD = new Set(["failed", "timed_out", "cancelled", "unknown"]);
const FINAL = new Set([...BAD, "succeeded", "detached", "skipped", "failed_allowed"]);

function element(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function words(state) { return state.replaceAll("_", " "); }

function stateClass(state) { return `s-${FINAL.has(state) ? state : "running"}`; }

function duration(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)}ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole >= 86400) return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
  if (whole >= 3600) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
}

function clock(seconds) { return new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 23); }

const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
const OTHER_ZONE = new Date(run.started_at * 1000).getTimezoneOffset() !== 0;

// The reader's local time; empty if it is UTC.
function local(seconds, withDate = false) {
  if (!OTHER_ZONE) return "";
  const date = new Date(seconds * 1000), two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${withDate ? `${day} ` : ""}${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())} ${ZONE}`;
}

for (const time of document.querySelectorAll("time")) {
  const text = local(Date.parse(time.dateTime) / 1000, true);
  if (text) time.append(` (${text})`);
}

// SQL as text nodes, with an element for each mark.
function sqlText({sql, marks}) {
  const made = element("pre", {class: "sql"});
  let done = 0;
  for (let at = 0; at < marks.length; at += 3) {
    const start = done + marks[at], end = start + marks[at + 1];
    made.append(chars(sql, done, start), element("b", {class: `q-${MARKS[marks[at + 2]]}`}, chars(sql, start, end)));
    done = end;
  }
  made.append(chars(sql, done));
  return made;
}

// Marks count characters, and a string counts one character beyond the basic plane as two.
const wide = new Map();
function chars(text, start, end) {
  if (!/[\ud800-\udbff]/.test(text)) return text.slice(start, end);
  if (!wide.has(text)) wide.set(text, [...text]);
  return wide.get(text).slice(start, end).join("");
}

function copyButton(text, label = "Copy") {
  const button = element("button", {class: "copy tool", type: "button"}, label);
  button.dataset.copy = text;
  return button;
}

// Pages from a disk may have no clipboard: then the text is selected in a field and copied from there.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = element("textarea", {class: "offscreen", readonly: ""});
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

for (const button of document.querySelectorAll("button.copy")) button.hidden = false;
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  event.stopPropagation();
  const words = button.textContent;
  button.textContent = (await copy(button.dataset.copy)) ? "Copied" : "Not copied";
  setTimeout(() => { button.textContent = words; }, 1500);
});

function cut(text, length) { return text.length > length ? `${text.slice(0, Math.max(1, length - 1))}…` : text; }

const tip = element("div", {class: "tip", hidden: "", role: "status"});
document.body.append(tip);

function showTip(lines, x, y) {
  tip.textContent = lines.filter(Boolean).join("\n");
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 6))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 18}px`;
}

function hideTip() { tip.hidden = true; }

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--page").trim() === "#10141b";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
