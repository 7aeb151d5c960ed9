// What the page shows, what is chosen in it, and its address. Text reaches the screen as text nodes only.
const original = document.documentElement.outerHTML;  // what "Save page" writes, with what is chosen by then
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
const percent = (x) => (100 * x).toFixed(1) + " %";

// -- nodes and links ----------------------------------------------------------------------------

const nodes = data.nodes.map(([id, kind, layer, position, name, share, label, card], i) =>
  ({ i, id, kind, layer, position, name, share, label, card, into: [], out: [] }));
const links = data.links.map(([source, target, weight]) => ({ source: nodes[source], target: nodes[target], weight }));
for (const link of links) { link.target.into.push(link); link.source.out.push(link); }
const size = (link) => Math.abs(link.weight), part = (link) => size(link) / link.target.total;
for (const node of nodes) {
  node.total = node.into.reduce((sum, link) => sum + size(link), 0) || 1;
  node.into.sort((a, b) => size(b) - size(a));
}
for (const node of nodes) node.out.sort((a, b) => part(b) - part(a));
const byId = new Map(nodes.map((node) => [node.id, node]));
const upwards = [...nodes].sort((a, b) => a.layer - b.layer || a.i - b.i);
const outputs = nodes.filter((node) => node.kind === "output");

// -- what is chosen, kept in the address and in a saved page -------------------------------------

const state = { chosen: null, pins: new Set(), groups: new Map(), labels: new Map(), limit: 100 };

function cut(text) {  // "a=b=c" → ["a", "b=c"]
  const place = text.indexOf("=");
  return place < 0 ? [text, ""] : [text.slice(0, place), text.slice(place + 1)];
}
function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1) || document.getElementById("mxg-state").textContent);
  state.chosen = byId.get(said.get("node")) || outputs[0] || nodes[0];
  const pins = said.has("pins") ? said.get("pins").split(",") : data.pins;
  state.pins = new Set(pins.filter((id) => byId.has(id)));
  const limit = Number(said.get("influence"));
  state.limit = limit >= 1 && limit <= 100 ? limit : 100;
  state.labels = new Map(said.getAll("label").map(cut).filter(([id]) => byId.has(id)));
  const groups = said.has("group") ? said.getAll("group").map((one) => {
    const place = one.lastIndexOf("=");
    return [one.slice(0, Math.max(place, 0)), one.slice(place + 1).split(",")];
  }) : data.groups;
  state.groups = new Map(groups.map(([name, ids]) => [name, ids.filter((id) => byId.has(id))])
    .filter(([name, ids]) => name && ids.length));
}
function address() {
  const said = new URLSearchParams();
  said.set("node", state.chosen.id);
  if (state.pins.size || data.pins.length) said.set("pins", [...state.pins].join(","));
  if (state.limit < 100) said.set("influence", state.limit);
  for (const [id, text] of state.labels) said.append("label", id + "=" + text);
  for (const [name, ids] of state.groups) said.append("group", name + "=" + ids.join(","));
  if (!state.groups.size && data.groups.length) said.set("group", "");
  return said.toString();
}
const writeAddress = () => history.replaceState(null, "", "#" + address());

function savePage() {
  const at = original.indexOf('id="mxg-state">') + 'id="mxg-state">'.length;
  const page = "<!doctype html>\n" + original.slice(0, at) + address() + original.slice(original.indexOf("<", at));
  const url = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  h("a", { href: url, download: "graph.html" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

const labelOf = (node) => state.labels.get(node.id) ?? node.label;
const titleOf = (node) => labelOf(node) ? node.name + " — " + labelOf(node) : node.name;
const visible = (node) => node.kind === "output" || node.kind === "embedding" || node.share * 100 <= state.limit + 1e-9;

// -- paths --------------------------------------------------------------------------------------

function strongestFrom(start) {  // node → the last link of the path from there with the largest product of shares
  const best = new Map([[start, 1]]), last = new Map();
  for (const node of upwards) {
    if (node.layer <= start.layer || !visible(node)) continue;
    for (const link of node.into) {
      const product = (best.get(link.source) || 0) * part(link);
      if (product > (best.get(node) || 0)) { best.set(node, product); last.set(node, link); }
    }
  }
  return { best, last };
}
function pathBetween(start, end) {
  const { best, last } = strongestFrom(start), found = [];
  if (!last.has(end)) return null;
  for (let here = end; here !== start; here = last.get(here).source) found.unshift(last.get(here));
  return { links: found, share: best.get(end) };
}
function pathBack(node) {  // by the largest visible input, again and again, to a token or an error
  const found = [];
  for (let here = node; ;) {
    const link = here.into.find((one) => visible(one.source));
    if (!link) return found.length ? { links: found, share: found.reduce((product, one) => product * part(one), 1) } : null;
    found.unshift(link);
    here = link.source;
  }
}
function pathOn(node) {  // to the output that gets the largest share
  const found = outputs.filter((one) => one !== node).map((one) => pathBetween(node, one)).filter((path) => path !== null);
  return found.sort((a, b) => b.share - a.share)[0] || null;
}
function paths() {  // between what is chosen and what is pinned; without pins, back to where it comes from, or on to an output
  const others = [...state.pins].map((id) => byId.get(id)).filter((node) => node !== state.chosen && visible(node));
  const found = others.length
    ? others.map((pin) => pin.layer < state.chosen.layer ? pathBetween(pin, state.chosen) : pathBetween(state.chosen, pin))
    : [pathBack(state.chosen) || pathOn(state.chosen)];
  return found.filter((path) => path !== null);
}
