"use strict";
// Functions for all parts of the page. Text from the plan and the server becomes only text nodes and attributes.
const run = JSON.parse(document.getElementById("run").textContent);
for (const step of run.steps) step.sql = run.texts[step.sql];
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
