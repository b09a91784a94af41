// The plan's graph, as it was laid out. Steps that went wrong are filled; the critical path is drawn if it is wanted.
// It is drawn when it scrolls into view, so that a thousand steps do not delay the page.
const dag = (() => {
  const host = document.getElementById("dag");
  const {nodes, edges, columns, rows} = run.graph;
  const WIDE = 168, TALL = 36, GAP_X = 56, GAP_Y = 14, PAD = 14;
  const byKey = new Map(run.steps.map((step) => [step.key, step]));
  const critical = new Set(run.critical);
  const place = new Map(nodes.map((node) => [node.key, [PAD + node.column * (WIDE + GAP_X), PAD + node.row * (TALL + GAP_Y)]]));
  const path = document.getElementById("dag-path");
  const badBelow = new Set();
  for (const step of run.steps) {
    if (!BAD.has(step.state)) continue;
    for (let one = step; one; one = run.steps[one.above]) badBelow.add(one.key);
  }
  const wrong = (step) => badBelow.has(step.key);
  let svg = null, scale = 1;
  const width = 2 * PAD + columns * (WIDE + GAP_X) - GAP_X, height = 2 * PAD + rows * (TALL + GAP_Y) - GAP_Y;
  const next = new Map(run.critical.slice(0, -1).map((key, index) => [key, run.critical[index + 1]]));

  function draw() {
    if (svg) return;
    svg = drawn("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Graph of the plan"});
    const defs = drawn("defs", {});
    const arrow = drawn("marker", {id: "arrow", viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 8, markerHeight: 8, orient: "auto", markerUnits: "userSpaceOnUse"});
    arrow.append(drawn("path", {d: "M0 0L8 4L0 8z", fill: "context-stroke"}));
    defs.append(arrow);
    svg.append(defs);
    if (run.graph.finally !== null) {
      const x = place.get(nodes.find((node) => node.column === run.graph.finally).key)[0] - GAP_X / 2;
      svg.append(drawn("line", {class: "finally", x1: x, x2: x, y1: 4, y2: height - 4}));
      svg.append(drawn("text", {class: "soft", x: x + 6, y: 10}, "finally"));
    }
    const drawEdge = ([from, to, on]) => {
      const [x1, y1] = place.get(from), [x2, y2] = place.get(to);
      const a = x1 + WIDE, b = x2 - 2, bend = Math.max(24, (b - a) / 2);
      const path = drawn("path", {
        class: `edge${critical.has(from) && critical.has(to) && next.get(from) === to ? " critical" : ""}${on === "success" ? "" : " other"}`,
        d: `M${a} ${y1 + TALL / 2}C${a + bend} ${y1 + TALL / 2} ${b - bend} ${y2 + TALL / 2} ${b} ${y2 + TALL / 2}`, "marker-end": "url(#arrow)",
      });
      if (on !== "success") path.append(drawn("title", {}, `on ${on}`));
      svg.append(path);
    };
    edges.filter(([from, to]) => next.get(from) !== to).forEach(drawEdge);
    edges.filter(([from, to]) => next.get(from) === to).forEach(drawEdge);
    for (const node of nodes) {
      const step = byKey.get(node.key), [x, y] = place.get(node.key);
      const group = drawn("g", {
        class: `node${critical.has(node.key) ? " critical" : ""}${wrong(step) ? " bad" : ""}`, "data-node": node.key, tabindex: 0, role: "button",
        transform: `translate(${x} ${y})`, "aria-label": `${node.key}: ${words(step.state)}`,
      });
      group.append(drawn("rect", {class: "box", width: WIDE, height: TALL, rx: 7}));
      group.append(drawn("path", {class: stateClass(step.state), d: `M0 7a7 7 0 0 1 7 -7v${TALL}a7 7 0 0 1 -7 -7z`}));
      group.append(drawn("text", {x: 14, y: 15}, cut(node.key, 24)));
      const times = step.instances ? ` ×${step.instances}` : "";
      group.append(drawn("text", {x: 14, y: 29, class: "soft"}, cut(node.words, 28) || `${words(step.state)}${times}${node.seconds ? `, ${duration(node.seconds)}` : ""}`));
      svg.append(group);
    }
    host.append(svg);
    if (path) svg.classList.toggle("paths", path.getAttribute("aria-pressed") === "true");
    if (width * 0.6 < host.clientWidth) zoom(0);
  }

  const tipLines = (node) => {
    const step = byKey.get(node.key);
    return [node.key, cut(step.description, 200), node.words || words(step.state), node.seconds ? duration(node.seconds) : "",
      critical.has(node.key) ? "on the critical path" : "", step.error ? cut(step.error.message, 200) : ""];
  };
  const nodeOf = (event) => byName.get((event.target.closest("[data-node]") || {dataset: {}}).dataset.node);
  const byName = new Map(nodes.map((node) => [node.key, node]));
  host.addEventListener("pointermove", (event) => { const node = nodeOf(event); if (node) showTip(tipLines(node), event.clientX, event.clientY); else hideTip(); });
  host.addEventListener("pointerleave", hideTip);
  host.addEventListener("click", (event) => { const node = nodeOf(event); if (node) steps.reveal(node.key); });
  host.addEventListener("keydown", (event) => { const node = nodeOf(event); if (node && event.key === "Enter") steps.reveal(node.key); });
  const zoom = (factor) => {
    draw();
    scale = Math.max(0.15, Math.min(2, factor === 0 ? Math.min(1, (host.clientWidth - 2) / width) : scale * factor));
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
  };
  for (const [id, factor] of [["dag-in", 1.25], ["dag-out", 0.8], ["dag-fit", 0]]) {
    document.getElementById(id).addEventListener("click", () => zoom(factor));
  }
  if (path) path.addEventListener("click", () => {
    draw();
    path.setAttribute("aria-pressed", String(svg.classList.toggle("paths")));
  });
  host.style.minHeight = `${Math.min(height, 360)}px`;
  new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) draw(); }, {rootMargin: "300px"}).observe(host);
  addEventListener("beforeprint", draw);
  return {draw};
})();
