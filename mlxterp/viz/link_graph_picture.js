// The picture: nodes in layers and positions, the links of what is chosen, and the keys.
const LEFT = 46, DOT = 13, TOP = 20, rows = data.layers + 2;
const between = (x, low, high) => Math.min(high, Math.max(low, x));
const COLUMN = between((window.innerWidth - 440 - LEFT) / data.tokens.length, 58, 130);
const ROW = between((window.innerHeight - 190) / rows, 30, 80), across = Math.floor((COLUMN - 10) / DOT);
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
const names = s("g", {});  // of the rows; they stay in sight
for (let row = 0; row < rows; row++) {
  const name = row === 0 ? "token" : row === rows - 1 ? "output" : "L" + (row - 1);
  picture.append(s("line", { x1: 0, x2: width, y1: starts[row] - 4, y2: starts[row] - 4, class: "mxg-rule" }));
  names.append(s("text", { x: 2, y: starts[row] + 16, class: "mxg-axis" }, name));
}
const fitting = Math.floor((COLUMN - 6) / 6.4);
data.tokens.forEach((token, p) => picture.append(s("text", { x: LEFT + p * COLUMN + 4, y: height + 16, class: "mxg-axis" },
  [...token].length > fitting ? [...token].slice(0, fitting - 1).join("") + "…" : token, s("title", {}, token))));
picture.append(lines);
for (const node of nodes) {
  const about = { class: "mxg-node mxg-" + node.kind, tabindex: -1, role: "button",
    onclick: (event) => event.shiftKey ? pin(node) : choose(node, true) };
  node.shape = node.kind === "error"
    ? s("rect", { ...about, x: node.x - 4, y: node.y - 4, width: 8, height: 8 })
    : s("circle", { ...about, cx: node.x, cy: node.y, r: 5 });
  node.tip = s("title", {});
  node.shape.append(node.tip);
  picture.append(node.shape);
}
picture.append(names);

const KEYS = {
  ArrowUp: () => choose((state.chosen.out.find((link) => visible(link.target)) || {}).target || state.chosen, true),
  ArrowDown: () => choose((state.chosen.into.find((link) => visible(link.source)) || {}).source || state.chosen, true),
  ArrowLeft: () => beside(-1), ArrowRight: () => beside(1),
  p: () => pin(state.chosen), g: () => fields.group.focus(), l: () => fields.label && fields.label.focus(),
  Escape: () => choose(outputs[0] || nodes[0], true),
};
function pressed(event) {
  const here = event.target === document.body || picture.contains(event.target);
  const act = !here || event.ctrlKey || event.metaKey || event.altKey ? null : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}
function beside(step) {  // the next visible node of the same row
  const row = nodes.filter((node) => node.layer === state.chosen.layer && visible(node)).sort((a, b) => a.x - b.x || a.y - b.y);
  choose(row[row.indexOf(state.chosen) + step] || state.chosen, true);
}

function draw() {
  const grouped = new Set([...state.groups.values()].flat());
  for (const node of nodes) {
    const chosen = node === state.chosen, name = titleOf(node);
    node.shape.classList.toggle("mxg-chosen", chosen);
    node.shape.classList.toggle("mxg-pinned", state.pins.has(node.id));
    node.shape.classList.toggle("mxg-grouped", grouped.has(node.id));
    node.shape.classList.toggle("mxg-hidden", !visible(node) && !chosen);
    node.shape.setAttribute("tabindex", chosen ? 0 : -1);
    node.shape.setAttribute("aria-label", name);
    node.tip.textContent = name;
  }
  lines.replaceChildren();
  const onPath = new Set(paths().flatMap((path) => path.links));
  const amongPins = links.filter((l) => state.pins.has(l.source.id) && state.pins.has(l.target.id));
  for (const link of new Set([...state.chosen.into, ...state.chosen.out, ...amongPins, ...onPath])) {
    if (!visible(link.source) || !visible(link.target)) continue;
    const way = onPath.has(link);
    lines.append(s("line", { x1: link.source.x, y1: link.source.y, x2: link.target.x, y2: link.target.y,
      class: (link.weight > 0 ? "mxg-plus" : "mxg-minus") + (way ? " mxg-way" : ""),
      "stroke-opacity": between(0.2 + 12 * part(link), 0.2, 0.8), "stroke-width": Math.max(way ? 2.5 : 0.6, 7 * part(link)) }));
  }
  tell();
  writeAddress();
}
