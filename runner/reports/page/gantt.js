// The chart over time: slots as lanes with the number of queued steps, or a row for each step with its waits. The time
// between two runners of a resumed run is cut out of the axis.
const gantt = (() => {
  const host = document.getElementById("gantt");
  const LANE = 26, ROW = 22, AXIS = 24, STRIP = 44, LABEL_SLOTS = 64;
  const PAPER = 720;  // width of A4 without margins, so that letters keep their size
  const first = run.started_at, last = Math.max(run.finished_at, first + 0.001);
  const BROKEN = 0.03;  // the share of the axis that a cut takes
  const long = run.gaps.filter(([from, to]) => to - from > 0.05 * (last - first));
  const left = last - first - long.reduce((sum, [from, to]) => sum + to - from, 0);
  const cuts = long.map(([from, to]) => ({from, to, length: Math.min(to - from, BROKEN * Math.max(left, 0.001))}));
  // From a time to its place on the axis, in seconds of the axis, and back.
  function shrunk(at) {
    let place = at;
    for (const {from, to, length} of cuts) {
      if (at >= to) place -= to - from - length;
      else if (at > from) place -= (at - from) * (1 - length / (to - from));
    }
    return place;
  }
  function grown(place) {
    let at = place;
    for (const {from, to, length} of cuts) {
      if (at <= from) break;
      at = at >= from + length ? at + to - from - length : from + ((at - from) * (to - from)) / length;
    }
    return at;
  }
  const begin = first, end = shrunk(last);
  const attempts = [], queued = [];
  let waits = [];
  run.steps.forEach((step, index) => {
    for (const attempt of step.attempts) attempts.push({step, attempt, index});
    for (const wait of step.waits) if (wait.kind === "queued") queued.push({step, wait});
  });
  let view = [begin, end], mode = "slots", drag = null;

  function ticks(width) {
    const span = view[1] - view[0], least = (span / Math.max(2, width)) * 90;
    const steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
      3600, 7200, 14400, 28800, 86400, 172800, 604800, 2592000];
    const step = steps.find((one) => one >= least) || steps.at(-1);
    const found = [];
    const edges = [begin, ...cuts.flatMap(({from, to}) => [from, to]), last];
    for (let part = 0; part < edges.length; part += 2) {
      const from = Math.max(edges[part], grown(view[0])), to = Math.min(edges[part + 1], grown(view[1]));
      for (let n = Math.ceil((from - begin) / step - 1e-9); begin + n * step <= to + 1e-9; n++) found.push(n * step);
    }
    return found;
  }

  function tipOf({step, attempt}) {
    const server = attempt.server_started_at && attempt.server_finished_at
      ? `on the server ${duration(attempt.server_finished_at - attempt.server_started_at)}` : "";
    const wait = step.waits.filter((one) => one.kind === "queued").reduce((sum, one) => sum + one.until - one.since, 0);
    const held = step.waits.filter((one) => one.kind === "held").reduce((sum, one) => sum + one.until - one.since, 0);
    return [
      `${step.key}${step.attempts.length > 1 ? `, attempt ${attempt.number}` : ""}${attempt.iteration > 1 ? `, iteration ${attempt.iteration}` : ""}`,
      `${attempt.outcome ? words(attempt.outcome) : "not ended"} in ${duration(attempt.ended_at - attempt.launched_at)}${server ? ` (${server})` : ""}`,
      `${clock(attempt.launched_at)} UTC, +${duration(attempt.launched_at - begin)}`,
      local(attempt.launched_at),
      wait >= 0.001 ? `waited ${duration(wait)} for its slot` : "",
      held >= 0.001 ? `held for ${duration(held)}` : "",
      attempt.pid ? `pid ${attempt.pid}` : "",
      ...attempt.lock_waits.slice(0, 4).map((wait) => cut(wait.words, 200)),
      attempt.lock_waits.length > 4 ? `and ${attempt.lock_waits.length - 4} more lock waits` : "",
      attempt.error ? cut(attempt.error.message, 300) : attempt.result_words,
    ];
  }

  function draw(width = Math.max(280, host.clientWidth), paper = false) {
    const bySlot = mode === "slots";
    waits = [];
    const rows = bySlot ? null : run.steps.filter((step) => step.above === null || BAD.has(step.state) && !step.instances);
    const label = bySlot ? (width < 500 ? 48 : LABEL_SLOTS) : Math.min(220, Math.round(width * 0.32));
    const lanes = bySlot ? Math.max(1, run.lanes) : rows.length;
    const tall = Math.round((bySlot ? LANE : ROW) * (paper ? 0.7 : 1));
    const strip = bySlot && queued.length ? STRIP * (paper ? 0.7 : 1) : 0;
    const height = AXIS + lanes * tall + strip + 6;
    const x = (at) => label + ((shrunk(at) - view[0]) / (view[1] - view[0])) * (width - label - 8);
    const svg = drawn("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Timeline of the run"});
    const defs = drawn("defs", {});
    const hatch = drawn("pattern", {id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)"});
    hatch.append(drawn("line", {x1: 0, y1: 0, x2: 0, y2: 6, class: "hatching"}));
    const clip = drawn("clipPath", {id: "plot"});
    clip.append(drawn("rect", {x: label, y: 0, width: width - label, height}));
    const locked = drawn("pattern", {id: "locked", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(-45)"});
    locked.append(drawn("line", {x1: 0, y1: 0, x2: 0, y2: 7, class: "locking"}));
    defs.append(hatch, locked, clip);
    svg.append(defs);
    const letters = Math.floor((label - 10) / 6.4);
    for (let lane = 0; lane < lanes; lane++) {
      const y = AXIS + lane * tall;
      if (lane % 2 === 0) svg.append(drawn("rect", {class: "lane", x: label, y, width: width - label, height: tall}));
      const name = bySlot ? (width < 500 ? String(lane + 1) : `slot ${lane + 1}`) : cut(rows[lane].key, letters);
      svg.append(drawn("text", {x: label - 8, y: y + tall / 2 + 4, "text-anchor": "end", class: "soft"}, name));
    }
    let labelled = -Infinity;
    const marks = ticks(width - label), apart = Math.min(...marks.slice(1).map((offset, index) => offset - marks[index]));
    for (const offset of marks) {
      const at = x(begin + offset);
      svg.append(drawn("line", {class: "grid", x1: at, x2: at, y1: AXIS - 4, y2: height}));
      const text = offset === 0 ? "0" : `+${tickText(offset, apart)}`;
      if (at - 3.4 * text.length < labelled) continue;
      labelled = at + 3.4 * text.length + 6;
      svg.append(drawn("text", {x: at, y: 14, class: "soft", "text-anchor": offset === 0 && view[0] === begin ? "start" : "middle"},
        text));
    }
    const plot = drawn("g", {"clip-path": "url(#plot)"});
    svg.append(plot);
    if (bySlot) {
      attempts.forEach(({attempt}, at) => bar(plot, at, attempt.lanes.map((lane) => AXIS + lane * tall), tall, x, width));
      if (strip) drawQueue(svg, plot, AXIS + lanes * tall + 6, strip - 6, x, label);
    } else {
      // An instance that succeeded is drawn in the row of its step.
      const rowOf = new Map(rows.map((step, index) => [step.key, index]));
      for (const step of run.steps) {
        let shown = step;
        while (!rowOf.has(shown.key)) shown = run.steps[shown.above];
        rowOf.set(step.key, rowOf.get(shown.key));
        const y = AXIS + rowOf.get(step.key) * tall;
        for (const wait of step.waits) {
          const index = waits.push([step, wait]) - 1;
          plot.append(drawn("rect", {class: "wait", "data-wait": index, x: x(wait.since), y: y + 6, width: Math.max(1, x(wait.until) - x(wait.since)), height: tall - 12}));
        }
      }
      attempts.forEach(({step}, at) => bar(plot, at, [AXIS + rowOf.get(step.key) * tall], tall, x, width));
    }
    for (const cut of cuts) drawCut(svg, cut, x, label, height);
    for (const {attempt} of attempts.filter((one) => BAD.has(one.attempt.outcome))) flag(plot, attempt, x);
    host.replaceChildren(svg);
    host.dataset.label = label;
  }

  // A band across the chart, with two slanted lines on the axis and the time that is left out.
  function drawCut(svg, {from, to}, x, label, height) {
    const a = Math.max(label, x(from)), b = x(to);
    if (b <= label || a > 20000) return;
    const group = drawn("g", {class: "cut"});
    group.append(drawn("rect", {x: a, y: AXIS - 4, width: Math.max(4, b - a), height: height - AXIS + 4}));
    const middle = (a + b) / 2;
    group.append(drawn("path", {d: `M${middle - 6} ${AXIS}l4 -9M${middle + 1} ${AXIS}l4 -9`}));
    group.append(drawn("text", {x: middle + 4, y: AXIS + 10, class: "soft", transform: `rotate(90 ${middle - 4} ${AXIS + 10})`}, height < 170 ? duration(to - from) : `${duration(to - from)} between two runners`));
    group.append(drawn("title", {}, `${duration(to - from)} between two runners are left out`));
    svg.append(group);
  }

  // With its seconds if the ticks are less than a minute apart.
  function tickText(offset, apart) {
    if (offset < 60) return `${+offset.toFixed(3)}s`;
    if (apart >= 60 || offset >= 86400) return duration(offset);
    const minutes = Math.floor(offset / 60 + 1e-9), hours = Math.floor(minutes / 60);
    const seconds = String(+Math.max(0, offset - 60 * minutes).toFixed(3)).padStart(2, "0");
    return hours ? `${hours}h${String(minutes % 60).padStart(2, "0")}m${seconds}s` : `${minutes}m${seconds}s`;
  }

  // A failure is marked on the axis, also if its attempt was short or is covered.
  function flag(plot, attempt, x) {
    const at = x(attempt.ended_at);
    plot.append(drawn("path", {class: `flag ${stateClass(attempt.outcome)}`, d: `M${at - 4} ${AXIS - 7}h8l-4 7z`}));
  }

  function bar(plot, at, tops, tall, x, width) {
    const {step, attempt} = attempts[at];
    const left = x(attempt.launched_at), right = x(attempt.ended_at);
    if (right < 0 || left > 20000) return;
    const wide = Math.max(BAD.has(attempt.outcome) ? 4 : 2.5, right - left);
    const group = drawn("g", {"data-step": step.key, "data-attempt": attempt.number, "data-at": at});
    const state = attempt.outcome || "running";
    tops.forEach((y, index) => {
      const rect = drawn("rect", {class: `attempt ${stateClass(state)}${BAD.has(state) ? " bad" : ""}`, x: left, y: y + 3, width: wide, height: tall - 6, rx: Math.min(4, wide / 2)});
      if (index === 0) {
        rect.setAttribute("tabindex", "0");
        rect.setAttribute("role", "button");
        rect.setAttribute("aria-label", `${step.key} attempt ${attempt.number}: ${words(state)}`);
      }
      group.append(rect);
      for (const wait of attempt.lock_waits) {
        const from = x(wait.since), to = Math.min(left + wide, x(wait.until));
        group.append(drawn("rect", {class: "blocked", x: from, y: y + 3, width: Math.max(1.5, to - from), height: tall - 6}));
      }
      if (BAD.has(state)) {
        const middle = y + tall / 2, at = left + Math.min(wide - 1, 9), half = Math.min(3.5, wide / 2 - 0.5);
        if (half > 1) {
          group.append(drawn("path", {class: "mark", d: `M${at - half} ${middle - half}L${at + half} ${middle + half}M${at - half} ${middle + half}L${at + half} ${middle - half}`}));
        }
      }
      const from = Math.max(left, x(view[0])), room = Math.min(right, width) - from;
      const indent = BAD.has(state) ? 18 : 6;
      if (mode === "slots" && index === 0 && room > 44 + indent) {
        group.append(drawn("text", {class: BAD.has(state) || state === "failed_allowed" ? "in loud" : "in", x: from + indent, y: y + tall / 2 + 4}, cut(step.key, Math.floor((room - indent - 4) / 6.6))));
      }
    });
    plot.append(group);
  }

  function drawQueue(svg, plot, top, height, x, label) {
    const changes = [];
    for (const {wait} of queued) changes.push([wait.since, 1], [wait.until, -1]);
    changes.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    let count = 0, most = 1;
    for (const [, by] of changes) { count += by; most = Math.max(most, count); }
    const y = (number) => top + height - (number / most) * (height - 4);
    count = 0;
    let path = `M${x(begin)} ${y(0)}`;
    for (const [at, by] of changes) { path += `H${x(at).toFixed(1)}`; count += by; path += `V${y(count).toFixed(1)}`; }
    const area = drawn("path", {class: "queue", d: `${path}H${x(last)}V${y(0)}Z`});
    plot.append(area);
    svg.append(drawn("text", {x: label - 8, y: top + height / 2 + 4, "text-anchor": "end", class: "soft"}, "queue"));
  }

  function tipOfQueue(at) {
    const waiting = queued.filter(({wait}) => wait.since <= at && at < wait.until);
    return [`${waiting.length} queued at +${duration(Math.max(0, at - begin))}`,
      ...waiting.slice(0, 8).map(({step, wait}) => `${cut(step.key, 60)}${wait.why ? `: ${cut(wait.why, 80)}` : ""}`),
      waiting.length > 8 ? `and ${waiting.length - 8} more` : ""];
  }

  // What is under the pointer or has the focus, in words; null if nothing is.
  function tipLines(target, clientX) {
    const group = target.closest("[data-at]");
    if (group) return tipOf(attempts[+group.dataset.at]);
    if (target.dataset.wait) {
      const [step, wait] = waits[+target.dataset.wait];
      return [step.key, `${wait.kind} for ${duration(wait.until - wait.since)}`, cut(wait.why, 300)];
    }
    return target.classList.contains("queue") ? tipOfQueue(timeAt(clientX)) : null;
  }

  function timeAt(clientX) {
    return grown(axisAt(clientX));
  }

  function axisAt(clientX) {
    const label = +host.dataset.label, box = host.getBoundingClientRect();
    return view[0] + ((clientX - box.left - label) / (Math.max(280, host.clientWidth) - label - 8)) * (view[1] - view[0]);
  }

  function zoom(factor, around = (view[0] + view[1]) / 2) {
    const least = Math.min(0.005, end - begin);
    const span = Math.min(end - begin, Math.max(least, (view[1] - view[0]) * factor));
    const share = (around - view[0]) / (view[1] - view[0]);
    move(around - span * share, span);
  }

  function move(from, span = view[1] - view[0]) {
    const start = Math.max(begin, Math.min(from, end - span));
    view = [start, start + span];
    hideTip();
    draw();
  }

  host.addEventListener("pointermove", (event) => {
    const shown = tipLines(event.target, event.clientX);
    if (shown) showTip(shown, event.clientX, event.clientY); else hideTip();
  });
  host.addEventListener("pointerleave", hideTip);
  host.addEventListener("focusin", (event) => {
    const shown = tipLines(event.target, 0), box = event.target.getBoundingClientRect();
    if (shown) showTip(shown, box.left, box.bottom);
  });
  host.addEventListener("focusout", hideTip);
  host.addEventListener("click", (event) => {
    const group = event.target.closest("[data-at]");
    if (group && !(drag && drag.moved)) steps.reveal(attempts[+group.dataset.at].step.key);
  });
  host.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return;
    event.preventDefault();
    if (event.shiftKey) move(view[0] + Math.sign(event.deltaY || event.deltaX) * (view[1] - view[0]) * 0.1);
    else zoom(event.deltaY > 0 ? 1.25 : 0.8, axisAt(event.clientX));
  }, {passive: false});
  host.addEventListener("dblclick", (event) => zoom(0.5, axisAt(event.clientX)));
  host.addEventListener("pointerdown", (event) => { drag = event.pointerType === "mouse" ? {x: event.clientX, from: view[0], moved: false} : null; });
  addEventListener("pointermove", (event) => {
    if (!drag || !(event.buttons & 1)) return;
    const by = event.clientX - drag.x;
    if (Math.abs(by) < 4 && !drag.moved) return;
    drag.moved = true;
    move(drag.from - (by / (host.clientWidth - +host.dataset.label - 8)) * (view[1] - view[0]));
  });
  host.addEventListener("keydown", (event) => {
    const span = view[1] - view[0];
    const group = event.target.closest("[data-at]");
    if (event.key === "Enter" && group) steps.reveal(attempts[+group.dataset.at].step.key);
    else if (event.key === "+") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "0") move(begin, end - begin);
    else if (event.key === "ArrowLeft" && event.target === host) move(view[0] - span * 0.2);
    else if (event.key === "ArrowRight" && event.target === host) move(view[0] + span * 0.2);
  });
  const press = (id, act) => document.getElementById(id).addEventListener("click", act);
  press("zoom-in", () => zoom(0.5));
  press("zoom-out", () => zoom(2));
  press("zoom-all", () => move(begin, end - begin));
  for (const name of ["slots", "steps"]) {
    press(`by-${name}`, () => {
      mode = name;
      for (const other of ["slots", "steps"]) document.getElementById(`by-${other}`).setAttribute("aria-pressed", String(other === name));
      draw();
    });
  }
  let width = 0;
  new ResizeObserver(() => { if (host.clientWidth !== width) { width = host.clientWidth; draw(); } }).observe(host);
  addEventListener("beforeprint", () => draw(PAPER, true));
  addEventListener("afterprint", () => draw());
  draw();
  return {draw};
})();
