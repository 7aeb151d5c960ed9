// Draws a graph of nodes in layers and positions, and shows the links of what is chosen. Text reaches the screen as text nodes only.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("mxg-data").textContent);
  const app = document.getElementById("mxg"), NS = "http://www.w3.org/2000/svg";

  function h(tag, attributes, ...children) {
    return filled(document.createElement(tag), attributes, children);
  }
  function s(tag, attributes, ...children) {
    return filled(document.createElementNS(NS, tag), attributes, children);
  }
  function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children) if (child !== null) node.append(child);
    return node;
  }
  const shown = (x) => (x > 0 ? "+" : "") + Number(x.toPrecision(3));

  // -- data -----------------------------------------------------------------------------------

  const nodes = data.nodes.map(([id, kind, layer, position, name, share], i) =>
    ({ i, id, kind, layer, position, name, share, into: [], out: [] }));
  const links = data.links.map(([source, target, weight]) => ({ source: nodes[source], target: nodes[target], weight }));
  for (const link of links) { link.target.into.push(link); link.source.out.push(link); }
  const size = (link) => Math.abs(link.weight);
  for (const node of nodes) {
    node.total = node.into.reduce((sum, link) => sum + size(link), 0) || 1;
    node.into.sort((a, b) => size(b) - size(a));
  }
  for (const node of nodes) node.out.sort((a, b) => size(b) / b.target.total - size(a) / a.target.total);
  const byId = new Map(nodes.map((node) => [node.id, node]));

  // -- state, kept in the address --------------------------------------------------------------

  const state = { chosen: null, pins: new Set(), limit: 100 };
  function readAddress() {
    const said = new URLSearchParams(location.hash.slice(1));
    state.chosen = byId.get(said.get("node")) || nodes.find((node) => node.kind === "output") || nodes[0];
    state.pins = new Set((said.get("pins") || "").split(",").filter((id) => byId.has(id)));
    const limit = Number(said.get("influence"));
    state.limit = limit >= 1 && limit <= 100 ? limit : 100;
  }
  function writeAddress() {
    const said = new URLSearchParams();
    said.set("node", state.chosen.id);
    if (state.pins.size) said.set("pins", [...state.pins].join(","));
    if (state.limit < 100) said.set("influence", state.limit);
    history.replaceState(null, "", "#" + said);
  }

  // -- the picture ----------------------------------------------------------------------------

  const LEFT = 46, DOT = 13, TOP = 20, rows = data.layers + 2;
  const between = (x, low, high) => Math.min(high, Math.max(low, x));
  const COLUMN = between((window.innerWidth - 440 - LEFT) / data.tokens.length, 58, 130);
  const ROW = between((window.innerHeight - 180) / rows, 40, 80), across = Math.floor((COLUMN - 10) / DOT);
  const cells = new Map();
  for (const node of nodes) {
    const key = node.layer + " " + node.position;
    cells.set(key, (cells.get(key) || 0) + 1);
    node.place = cells.get(key) - 1;
  }
  const tallest = Array.from({ length: rows }, (_, row) => Math.max(1, ...data.tokens.map((_, p) =>
    Math.ceil((cells.get((row - 1) + " " + p) || 0) / across))));
  const starts = [];
  let height = TOP;
  for (let row = rows - 1; row >= 0; row--) { starts[row] = height; height += Math.max(ROW, tallest[row] * DOT + 16); }
  const width = LEFT + data.tokens.length * COLUMN + 10;
  for (const node of nodes) {
    node.x = LEFT + node.position * COLUMN + 8 + (node.place % across) * DOT;
    node.y = starts[node.layer + 1] + 12 + Math.floor(node.place / across) * DOT;
  }
  const lines = s("g", { class: "mxg-lines" });
  const picture = s("svg", { viewBox: `0 0 ${width} ${height + 26}`, width, height: height + 26, role: "group",
    "aria-label": "Nodes by layer and position" }, lines);
  for (let row = 0; row < rows; row++) {
    const name = row === 0 ? "token" : row === rows - 1 ? "output" : "L" + (row - 1);
    picture.append(s("text", { x: 2, y: starts[row] + 16, class: "mxg-axis" }, name));
  }
  data.tokens.forEach((token, p) => picture.append(
    s("text", { x: LEFT + p * COLUMN + 4, y: height + 16, class: "mxg-axis" }, token)));
  for (const node of nodes) {
    const about = { class: "mxg-node mxg-" + node.kind, tabindex: 0, role: "button", "aria-label": node.name,
      onclick: (event) => event.shiftKey ? pin(node) : choose(node),
      onkeydown: (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(node); }
        if (event.key === "p") pin(node);
      } };
    node.shape = node.kind === "error"
      ? s("rect", { ...about, x: node.x - 4, y: node.y - 4, width: 8, height: 8 })
      : s("circle", { ...about, cx: node.x, cy: node.y, r: 5 });
    node.shape.append(s("title", {}, node.name));
    picture.append(node.shape);
  }

  // -- what is chosen -------------------------------------------------------------------------

  const panel = h("aside", { class: "mxg-panel", "aria-live": "polite" });
  const visible = (node) => node.kind === "output" || node.kind === "embedding" || node.share * 100 <= state.limit + 1e-9;

  function draw() {
    for (const node of nodes) {
      node.shape.classList.toggle("mxg-chosen", node === state.chosen);
      node.shape.classList.toggle("mxg-pinned", state.pins.has(node.id));
      node.shape.classList.toggle("mxg-hidden", !visible(node));
    }
    lines.replaceChildren();
    const related = [...state.chosen.into, ...state.chosen.out];
    const amongPins = links.filter((l) => state.pins.has(l.source.id) && state.pins.has(l.target.id));
    for (const link of new Set([...related, ...amongPins, ...pathTo(state.chosen)])) {
      if (!visible(link.source) || !visible(link.target)) continue;
      lines.append(s("line", { x1: link.source.x, y1: link.source.y, x2: link.target.x, y2: link.target.y,
        class: link.weight > 0 ? "mxg-plus" : "mxg-minus",
        "stroke-width": Math.max(0.6, 7 * size(link) / link.target.total) }));
    }
    tell();
    writeAddress();
  }

  function pathTo(node) {  // the strongest way back to a token: by the largest input, again and again
    const found = [];
    for (let here = node, steps = 0; here.into.length && steps < 200; steps++) {
      found.push(here.into[0]);
      here = here.into[0].source;
    }
    return found;
  }

  function table(title, found, end) {
    if (!found.length) return null;
    const body = found.filter((link) => visible(link[end])).slice(0, 40).map((link) => h("tr", {},
      h("td", { class: "mxg-num" }, shown(link.weight)),
      h("td", { class: "mxg-num" }, (100 * size(link) / link.target.total).toFixed(1) + " %"),
      h("td", {}, h("button", { type: "button", onclick: () => choose(link[end], true) }, link[end].name))));
    return h("section", {}, h("h3", {}, title), h("table", {},
      h("thead", {}, h("tr", {}, h("th", {}, "weight"), h("th", {}, "share"), h("th", {}, "node"))), h("tbody", {}, ...body)));
  }

  function tell() {
    const node = state.chosen, way = pathTo(node).reverse();
    const pinned = [...state.pins].map((id) => byId.get(id));
    panel.replaceChildren(
      h("h2", {}, node.name),
      h("p", {}, h("button", { type: "button", onclick: () => pin(node) }, state.pins.has(node.id) ? "Unpin" : "Pin (p)")),
      ...[
        table("Adds to it", node.into, "source"), table("It adds to", node.out, "target"),
        way.length ? h("section", {}, h("h3", {}, "Strongest inputs, back to the start"),
          h("ol", {}, ...[...way.map((link) => link.source), node].map((one) => h("li", {},
            h("button", { type: "button", onclick: () => choose(one, true) }, one.name))))) : null,
        pinned.length ? h("section", {}, h("h3", {}, "Pinned"), h("ul", {}, ...pinned.map((one) => h("li", {},
          h("button", { type: "button", onclick: () => choose(one, true) }, one.name))))) : null,
      ].filter((part) => part !== null));
  }

  function choose(node, focus) { state.chosen = node; draw(); if (focus) node.shape.focus(); }
  function pin(node) { state.pins.delete(node.id) || state.pins.add(node.id); draw(); }

  const scrolled = h("div", { class: "mxg-picture" }, picture);
  const said = h("output", {}, "");
  const slider = h("input", { type: "range", min: 1, max: 100, step: 1, "aria-label": "Influence shown, in percent",
    oninput: () => { state.limit = Number(slider.value); said.textContent = state.limit + " %"; draw(); } });
  app.append(
    h("div", { class: "mxg-tools" }, h("label", {}, "Influence shown ", slider, " ", said)),
    h("div", { class: "mxg-body" }, scrolled, panel));

  function start() {
    readAddress();
    slider.value = state.limit;
    said.textContent = state.limit + " %";
    draw();
    scrolled.scrollTo(state.chosen.x - scrolled.clientWidth / 2, state.chosen.y - scrolled.clientHeight / 2);
  }
  window.addEventListener("hashchange", start);
  start();
  app.dataset.ready = "yes";
})();
