// The table of steps: folded, sorted, filtered, and expanded to the SQL, the messages and the rows of a step.
// A step with instances is a folded row with their counts. Instances that went wrong are shown nevertheless.
const steps = (() => {
  const table = document.getElementById("steps"), body = table.tBodies[0];
  const rows = [...body.rows];
  const search = document.getElementById("search"), none = document.getElementById("none"), clear = document.getElementById("clear");
  const stepOf = (row) => run.steps[+row.dataset.index];
  const rowOf = new Map(rows.map((row) => [stepOf(row).key, row]));
  const leaves = rows.filter((row) => !stepOf(row).instances);
  const open = new Set();  // the numbers of unfolded steps
  const states = new Set();
  let tile = null;

  function texts(step) {
    return [step.key, words(step.state), step.description, step.sql, step.error ? step.error.message : "", step.error && step.error.sqlstate || "",
      ...step.tags, ...step.pools].join("\n").toLowerCase();
  }

  const SLOW = 10;
  const slowest = new Set([...leaves].map(stepOf).filter((step) => step.attempts.length).sort((a, b) => b.seconds - a.seconds).slice(0, SLOW));
  const TILES = {
    slow: (step) => slowest.has(step),
    failed: (step) => BAD.has(step.state) || step.state === "failed_allowed",
    retries: (step) => step.retries > 0,
    slots: (step) => step.split[0][1] >= 0.001,
  };

  function moreOf(row) {
    const next = row.nextElementSibling;
    return next && next.classList.contains("more") ? next : null;
  }

  function unfolded(step) {
    for (let at = step.above; at !== null; at = run.steps[at].above) if (!open.has(at)) return false;
    return true;
  }

  // With a filter, the steps that fit are shown without the steps that they are instances of.
  function filter() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const filtered = Boolean(wanted.length || states.size || tile);
    if (wanted.length) haystack ||= new Map(leaves.map((row) => [row, texts(stepOf(row))]));
    let shown = 0;
    for (const row of rows) {
      const step = stepOf(row), leaf = !step.instances;
      const fits = filtered
        ? leaf && (!states.size || states.has(step.state)) && (!tile || TILES[tile](step)) && wanted.every((word) => haystack.get(row).includes(word))
        : unfolded(step) || (leaf && BAD.has(step.state));
      row.hidden = !fits;
      row.classList.toggle("inner", step.above !== null && !filtered);
      const more = moreOf(row);
      if (more) more.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    none.hidden = shown > 0;
    clear.hidden = !filtered;
    document.getElementById("shown").textContent = filtered ? `${shown} of ${leaves.length}` : "";
  }
  let haystack = null;

  const KEYS = {
    name: (step) => step.key, state: (step) => step.state, start: (step) => step.started_at ?? Infinity,
    time: (step) => spanOf(step), split: (step) => step.split.reduce((sum, [, seconds]) => sum + seconds, 0), waited: (step) => step.waited, attempts: (step) => step.attempts.length,
    result: (step) => (step.error ? step.error.message : step.result_words),
  };

  const spans = new Map(run.graph.nodes.map((node) => [node.key, node.seconds]));
  function spanOf(step) { return step.instances ? spans.get(step.key) || 0 : step.seconds; }

  function sort(header) {
    const first = header.classList.contains("number") || header.dataset.key === "split";
    const down = header.getAttribute("aria-sort") === "ascending" || (!header.hasAttribute("aria-sort") && first);
    const again = header.getAttribute("aria-sort") === "descending";
    const key = KEYS[header.dataset.key], sign = down && !again ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    const compare = (a, b) => {
      const x = key(stepOf(a)), y = key(stepOf(b));
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y) || a.dataset.index - b.dataset.index;
    };
    const under = new Map();
    for (const row of [...rows].sort(compare)) {
      const above = stepOf(row).above;
      if (!under.has(above)) under.set(above, []);
      under.get(above).push(row);
    }
    const inOrder = document.createDocumentFragment();
    const place = (above) => {
      for (const row of under.get(above) || []) {
        const more = moreOf(row);
        inOrder.append(row);
        if (more) inOrder.append(more);
        place(+row.dataset.index);
      }
    };
    if (tile) for (const row of [...rows].sort(compare)) {
      const more = moreOf(row);
      inOrder.append(row);
      if (more) inOrder.append(more);
    } else place(null);
    body.append(inOrder);
  }

  function toggle(row, on = row.querySelector("button").getAttribute("aria-expanded") !== "true") {
    const step = stepOf(row), more = moreOf(row);
    row.querySelector("button").setAttribute("aria-expanded", String(on));
    if (!on && more) more.remove();
    if (on && !more) {
      const cell = element("td", {colspan: row.cells.length});
      cell.append(element("div", {class: "inside"}, ...details(step)));
      row.after(element("tr", {class: "more"}, cell));
    }
    if (step.instances) {
      if (on) open.add(+row.dataset.index); else open.delete(+row.dataset.index);
      filter();
    }
  }

  function details(step) {
    const parts = [];
    if (step.description) parts.push(element("p", {}, step.description));
    const facts = [
      ["needs", step.needs.map(([key, on]) => (on === "success" ? key : `${key} (on ${on})`)).join(", ")], ["pools", step.pools.join(", ")],
      ["slots", step.slots > 1 ? String(step.slots) : ""], ["timeout", step.timeout === null ? "none" : duration(step.timeout)],
      ["on finish", step.detaches ? "detach" : ""], ["place", step.place], ["tags", step.tags.join(", ")], ["instance of", step.parent || ""],
      ["skipped", step.skipped], ["outcome", step.committed],
      ["time", step.split.filter(([, seconds]) => seconds).map(([name, seconds]) => `${name} ${duration(seconds)}`).join(", ")],
    ].filter(([, value]) => value);
    parts.push(element("div", {class: "facts"}, ...facts.map(([name, value]) => element("span", {}, `${name} `, element("b", {}, value)))));
    if (step.error) parts.push(heading("Error", errorText(step.error)), element("pre", {class: "error"}, errorText(step.error)));
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
    if (step.sql) parts.push(heading("SQL", step.sql), sqlText(step));
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

  function heading(text, copied) { return copied === undefined ? element("h3", {}, text) : element("h3", {}, text, " ", copyButton(copied)); }

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

  function localAfter(seconds) { const text = local(seconds); return text && `, ${text}`; }

  function attemptTable(step) {
    const columns = ["attempt", "launched", "took", "on the server", "outcome", "pid", "result"];
    return data(columns, shortened(step.attempts).map((attempt) => (attempt === null ? ["…", "", "", "", "", "", ""] : [
      attempt.iteration > 1 ? `${attempt.number} (iteration ${attempt.iteration})` : String(attempt.number),
      `${clock(attempt.launched_at)} UTC${localAfter(attempt.launched_at)} (+${duration(attempt.launched_at - run.started_at)})`,
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
    const row = rowOf.get(key);
    if (!row) return false;
    const step = stepOf(row);
    if (states.size || tile || search.value) showAll();
    for (let at = step.above; at !== null; at = run.steps[at].above) unfold(at);
    filter();
    toggle(row, true);
    row.scrollIntoView({block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth"});
    row.querySelector("button").focus({preventScroll: true});
    remember(key);
    return true;
  }

  function unfold(index) {
    open.add(index);
    rowOf.get(run.steps[index].key).querySelector("button").setAttribute("aria-expanded", "true");
  }

  function remember(key) { history.replaceState(null, "", `#step=${encodeURIComponent(key)}`); }

  // A link to a step: `#step=load`, or the step alone, `#load`.
  function follow() {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { return; }
    if (name) reveal(name.startsWith("step=") ? name.slice(5) : name);
  }

  function press(state, on) {
    if (on) states.add(state); else states.delete(state);
    document.querySelector(`[data-state="${state}"]`).setAttribute("aria-pressed", String(on));
  }

  function chooseTile(name) {
    tile = tile === name ? null : name;
    for (const button of document.querySelectorAll("[data-tile]")) button.setAttribute("aria-pressed", String(button.dataset.tile === tile));
    for (const state of [...states]) press(state, false);
    filter();
    const header = [...table.tHead.rows[0].cells].find((one) => one.dataset.key === {slow: "time", slots: "waited", retries: "attempts"}[tile]);
    for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
    if (header) sort(header); else restore();
    if (tile) document.getElementById("steps-card").scrollIntoView({block: "nearest"});
  }

  // The plan's order.
  function restore() {
    for (const row of rows) {
      const more = moreOf(row);
      body.append(row);
      if (more) body.append(more);
    }
  }

  function showAll() {
    search.value = "";
    for (const state of [...states]) press(state, false);
    if (tile) chooseTile(tile);
    filter();
  }

  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr.step");
    if (!row || String(getSelection())) return;
    toggle(row);
    if (row.querySelector("button").getAttribute("aria-expanded") === "true") remember(stepOf(row).key);
  });
  for (const header of table.tHead.rows[0].cells) header.firstElementChild.addEventListener("click", () => sort(header));
  search.addEventListener("input", filter);
  clear.addEventListener("click", showAll);
  for (const chip of document.querySelectorAll("[data-state]")) {
    chip.addEventListener("click", () => { press(chip.dataset.state, !states.has(chip.dataset.state)); filter(); });
  }
  for (const button of document.querySelectorAll("[data-tile]")) button.addEventListener("click", () => chooseTile(button.dataset.tile));
  filter();
  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#step="]');
    if (link && link.hash === location.hash) follow();  // the address does not change
  });
  addEventListener("DOMContentLoaded", follow);
  return {reveal};
})();
