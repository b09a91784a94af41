// The table of steps: sorted, filtered, and expanded to the SQL, the messages and the rows of a step.
const steps = (() => {
  const table = document.getElementById("steps"), body = table.tBodies[0];
  const rows = [...body.rows];
  const search = document.getElementById("search"), none = document.getElementById("none");
  const rowOf = new Map(rows.map((row) => [run.steps[+row.dataset.index].key, row]));
  const states = new Set();

  function texts(step) {
    return [step.key, words(step.state), step.description, step.sql, step.error ? step.error.message : "", step.error && step.error.sqlstate || "",
      ...step.tags, ...step.pools].join("\n").toLowerCase();
  }
  let haystack = null;

  function filter() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    haystack ||= rows.map((row) => texts(run.steps[+row.dataset.index]));
    let shown = 0;
    rows.forEach((row, index) => {
      const step = run.steps[+row.dataset.index];
      const fits = (!states.size || states.has(step.state)) && wanted.every((word) => haystack[index].includes(word));
      row.hidden = !fits;
      const more = row.nextElementSibling;
      if (more && more.classList.contains("more")) more.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    none.hidden = shown > 0;
    document.getElementById("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
  }

  const KEYS = {
    name: (step) => step.key, state: (step) => step.state, start: (step) => step.started_at ?? Infinity,
    time: (step) => step.seconds, waited: (step) => step.waited, attempts: (step) => step.attempts.length,
    result: (step) => (step.error ? step.error.message : step.result_words),
  };

  function sort(header) {
    const down = header.getAttribute("aria-sort") === "ascending" || (!header.hasAttribute("aria-sort") && header.classList.contains("number"));
    const again = header.getAttribute("aria-sort") === "descending";
    const key = KEYS[header.dataset.key], sign = down && !again ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    const compare = (a, b) => {
      const x = key(run.steps[+a.dataset.index]), y = key(run.steps[+b.dataset.index]);
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y) || a.dataset.index - b.dataset.index;
    };
    const inOrder = document.createDocumentFragment();
    for (const row of [...rows].sort(compare)) {
      const more = row.nextElementSibling && row.nextElementSibling.classList.contains("more") ? row.nextElementSibling : null;
      inOrder.append(row);
      if (more) inOrder.append(more);
    }
    body.append(inOrder);
  }

  function toggle(row, open = row.querySelector("button").getAttribute("aria-expanded") !== "true") {
    const button = row.querySelector("button"), next = row.nextElementSibling;
    const more = next && next.classList.contains("more") ? next : null;
    button.setAttribute("aria-expanded", String(open));
    if (!open && more) more.remove();
    if (open && !more) {
      const cell = element("td", {colspan: row.cells.length});
      cell.append(element("div", {class: "inside"}, ...details(run.steps[+row.dataset.index])));
      row.after(element("tr", {class: "more"}, cell));
    }
  }

  function details(step) {
    const parts = [];
    if (step.description) parts.push(element("p", {}, step.description));
    const facts = [
      ["needs", step.needs.map(([key, on]) => (on === "success" ? key : `${key} (on ${on})`)).join(", ")], ["pools", step.pools.join(", ")],
      ["slots", step.slots > 1 ? String(step.slots) : ""], ["timeout", step.timeout === null ? "none" : duration(step.timeout)],
      ["on finish", step.detaches ? "detach" : ""], ["tags", step.tags.join(", ")], ["instance of", step.parent || ""],
      ["skipped", step.skipped], ["outcome", step.committed],
    ].filter(([, value]) => value);
    parts.push(element("div", {class: "facts"}, ...facts.map(([name, value]) => element("span", {}, `${name} `, element("b", {}, value)))));
    if (step.error) parts.push(heading("Error"), element("pre", {class: "error"}, errorText(step.error)));
    if (step.leftovers.length) parts.push(heading("Left behind"), element("pre", {class: "notices"}, step.leftovers.join("\n")));
    if (step.waits.length) parts.push(heading("Waits"), data(["since", "for", "why"], shortened(step.waits).map((wait) =>
      wait === null ? ["…", "", ""] : [`+${duration(wait.since - run.started_at)}`, duration(wait.until - wait.since), wait.why ? `${wait.kind}: ${wait.why}` : wait.kind])));
    if (step.attempts.length) parts.push(heading("Attempts"), attemptTable(step));
    const noticed = step.attempts.filter((attempt) => attempt.notices.length || attempt.notices_dropped);
    if (noticed.length) parts.push(heading("Notices"), element("pre", {class: "notices"}, shortened(noticed).map((attempt) => (attempt === null ? "…" : noticeText(attempt, step))).join("\n")));
    for (const attempt of shortened(step.attempts.filter((one) => one.result))) {
      if (attempt === null) continue;
      parts.push(heading(step.attempts.length > 1 ? `Rows of attempt ${attempt.number}` : "Rows"));
      parts.push(attempt.result.problem ? element("p", {}, attempt.result.problem) : data(attempt.result.columns, attempt.result.rows));
    }
    const past = pastRuns(step);
    if (past) parts.push(heading("Past runs"), past);
    parts.push(heading("SQL"), element("pre", {class: "sql"}, step.sql));
    return parts;
  }

  // A bar for each past run of the plan in which the step ran, and a last one for this run; longer is taller.
  function pastRuns(step) {
    const bars = run.history.filter((one) => one.steps[step.key]).map((one) => [one.run, one.at, ...one.steps[step.key]]);
    if (!bars.length) return null;
    if (step.attempts.length) bars.push([`${run.run} (this run)`, run.started_at, step.seconds, step.state]);
    const most = Math.max(0.001, ...bars.map(([, , seconds]) => seconds)), wide = 14, tall = 46;
    const svg = drawn("svg", {class: "past", width: bars.length * wide, height: tall, role: "img", "aria-label": "Durations over past runs"});
    bars.forEach(([name, at, seconds, state], index) => {
      const height = Math.max(2, (seconds / most) * (tall - 4));
      const rect = drawn("rect", {class: stateClass(state), x: index * wide + 1, y: tall - height, width: wide - 3, height, rx: 2});
      if (index < bars.length - 1 || !step.attempts.length) rect.setAttribute("opacity", "0.55");
      rect.append(drawn("title", {}, `${name}, ${clock(at).slice(0, 16)} UTC: ${words(state)} in ${duration(seconds)}`));
      svg.append(rect);
    });
    const sorted = bars.slice(0, step.attempts.length ? -1 : undefined).map(([, , seconds]) => seconds).sort((a, b) => a - b);
    const middle = sorted[Math.floor(sorted.length / 2)];
    return element("div", {class: "facts"}, svg, element("span", {}, "median of past runs ", element("b", {}, duration(middle))),
      element("span", {}, "longest bar ", element("b", {}, duration(most))));
  }

  function heading(text) { return element("h3", {}, text); }

  // A repeat can have thousands of iterations: the first and the last hundred are shown.
  function shortened(list) { return list.length > 200 ? [...list.slice(0, 100), null, ...list.slice(-100)] : list; }

  function errorText(error) {
    const names = {sqlstate: "SQLSTATE", detail: "DETAIL", hint: "HINT", context: "CONTEXT", schema: "SCHEMA NAME", table: "TABLE NAME", column: "COLUMN NAME", constraint: "CONSTRAINT NAME"};
    return [error.message, ...error.excerpt, ...Object.entries(names).filter(([key]) => error[key]).map(([key, name]) => `${name}: ${error[key]}`)].join("\n");
  }

  function noticeText(attempt, step) {
    const lines = attempt.notices.map(([severity, message]) => `${severity}:  ${message}`);
    if (attempt.notices_dropped) lines.push(`${attempt.notices_dropped} more notices were dropped`);
    if (step.attempts.length > 1) lines.unshift(`attempt ${attempt.number}`);
    return lines.join("\n");
  }

  function attemptTable(step) {
    const columns = ["attempt", "launched", "took", "on the server", "outcome", "pid", "result"];
    return data(columns, shortened(step.attempts).map((attempt) => (attempt === null ? ["…", "", "", "", "", "", ""] : [
      attempt.iteration > 1 ? `${attempt.number} (iteration ${attempt.iteration})` : String(attempt.number),
      `${clock(attempt.launched_at)} (+${duration(attempt.launched_at - run.started_at)})`,
      duration(attempt.ended_at - attempt.launched_at),
      attempt.server_started_at && attempt.server_finished_at ? duration(attempt.server_finished_at - attempt.server_started_at) : "",
      (attempt.outcome ? words(attempt.outcome) : "not ended") + (attempt.cancel_reason ? ` (cancel requested: ${words(attempt.cancel_reason)})` : ""),
      attempt.pid ? String(attempt.pid) : "",
      [attempt.error ? errorText(attempt.error) : attempt.result_words, attempt.lost ? `session lost: ${attempt.lost}` : "",
        ...shortened(attempt.lock_waits).map((wait) => (wait === null ? "…" : wait.words)),
        attempt.blocked && attempt.reason !== "yielded" ? `blocked ${attempt.blocked}` : "",
        attempt.deadline ? `ends by ${clock(attempt.deadline)} UTC` : ""].filter(Boolean).join("\n"),
    ])));
  }

  function data(columns, lines) {
    const head = element("tr", {}, ...columns.map((name) => element("th", {}, name)));
    const rest = lines.map((line) => element("tr", {}, ...line.map((value) => (value === null ? element("td", {class: "null"}, "NULL") : element("td", {}, value)))));
    return element("div", {class: "scroll"}, element("table", {class: "data"}, element("thead", {}, head), element("tbody", {}, ...rest)));
  }

  function reveal(key) {
    const isOf = (step) => step.parent === key || run.steps.some((item) => item.key === step.parent && item.parent === key);
    const row = rowOf.get(key) || rows.find((one) => isOf(run.steps[+one.dataset.index]));
    if (!row) return;
    if (row.hidden) { search.value = ""; for (const chip of [...states]) press(chip, false); filter(); }
    toggle(row, true);
    row.scrollIntoView({block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth"});
    row.querySelector("button").focus({preventScroll: true});
  }

  function press(state, on) {
    if (on) states.add(state); else states.delete(state);
    document.querySelector(`[data-state="${state}"]`).setAttribute("aria-pressed", String(on));
  }

  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr.step");
    if (row && !String(getSelection())) toggle(row);
  });
  for (const header of table.tHead.rows[0].cells) header.firstElementChild.addEventListener("click", () => sort(header));
  search.addEventListener("input", filter);
  for (const chip of document.querySelectorAll("[data-state]")) {
    chip.addEventListener("click", () => { press(chip.dataset.state, !states.has(chip.dataset.state)); filter(); });
  }
  addEventListener("beforeprint", () => { for (const row of rows) if (BAD.has(run.steps[+row.dataset.index].state)) toggle(row, true); });
  return {reveal};
})();
