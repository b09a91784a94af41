"use strict";
// The reader's local time beside UTC, and the switch of the theme.
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
for (const time of document.querySelectorAll("time")) {
  const date = new Date(time.dateTime), two = (number) => String(number).padStart(2, "0");
  if (date.getTimezoneOffset() === 0) continue;
  const local = document.createElement("span");
  local.className = "local";
  local.textContent = ` (${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())} ${ZONE})`;
  time.append(local);
}
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).getPropertyValue("--page").trim() === "#10141b";
  root.dataset.theme = dark ? "light" : "dark";
});
