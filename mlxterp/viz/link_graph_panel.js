// What is said of the chosen node, of the pinned ones and of the groups; the tools above; the start.
const panel = h("aside", { class: "mxg-panel" });
const fields = {}, FIRST = 12;
const section = (title, ...children) => h("section", {}, h("h3", {}, title), ...children);
const button = (text, act, more) => h("button", { type: "button", onclick: act, ...more }, text);
const nodeButton = (node) => button(titleOf(node), () => choose(node, true));
const row = (numbers, last) => h("tr", {}, ...numbers.map((text) => h("td", { class: "mxg-num" }, text)), h("td", {}, last));

function grid(heads, rows) {
  return h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, ...rows));
}
function linksTable(title, found, end) {
  const rows = found.filter((link) => visible(link[end]))
    .map((link) => row([shown(link.weight), percent(part(link))], nodeButton(link[end])));
  const heads = ["weight", "share", "node"], more = rows.splice(FIRST);
  return rows.length ? section(title, grid(heads, rows),
    more.length ? h("details", {}, h("summary", {}, `${more.length} more`), grid(heads, more)) : null) : null;
}
function pathSection(path) {
  const steps = [path.links[0].source, ...path.links.map((link) => link.target)];
  return section(`Strongest path (share ${percent(path.share)})`, h("ol", {}, ...steps.map((one) => h("li", {}, nodeButton(one)))));
}
function effectsTable(title, found) {  // [what the graph predicts, measured with attention and norms held, measured live]
  if (!found || !found.length) return null;
  const order = found[0].map((_, i) => i).sort((a, b) => Math.abs(found[2][b]) - Math.abs(found[2][a])).slice(0, 10);
  return section(title, grid(["graph", "held", "live", "output"],
    order.map((i) => row(found.map((numbers) => shown(numbers[i])), outputs[i].name))));
}
function summed(found) {
  return found.length ? found[0].map((_, kind) => outputs.map((_, i) => found.reduce((sum, one) => sum + one[kind][i], 0))) : null;
}

function pinsSection() {
  const pinned = [...state.pins].map((id) => byId.get(id));
  if (!pinned.length) return null;
  const measured = pinned.map((node) => data.effects[node.id]).filter((one) => one);
  fields.group = h("input", { type: "text", placeholder: "name of a group", "aria-label": "Name of a group of the pinned nodes",
    onkeydown: (event) => { if (event.key === "Enter") group(); } });
  return section("Pinned", h("ul", {}, ...pinned.map((one) => h("li", {}, nodeButton(one), " ", button("×", () => pin(one), { "aria-label": "Unpin" })))),
    h("p", {}, fields.group, " ", button("Group pinned (g)", group)), steerLink(pinned),
    effectsTable("Taking the pinned features away one at a time, summed", summed(measured)));
}
function steerLink(pinned) {  // the explorer's page, with the features that it shows
  const found = [...new Set(pinned.map((node) => data.steer[node.id]).filter((one) => one))];
  if (!found.length) return null;
  const edits = found.map((address) => address.slice(address.lastIndexOf("e=") + 2));
  const address = found[0].slice(0, found[0].lastIndexOf("e=") + 2) + edits.join(",");
  return h("p", {}, h("a", { class: "mxg-steer", href: address, target: "_blank", rel: "noopener" }, "Steer by the pinned features"));
}
function groupSection([name, ids]) {
  const own = new Set(ids), sums = { source: new Map(), target: new Map() };
  for (const link of links) {
    if (own.has(link.target.id) && !own.has(link.source.id)) add(sums.source, link.source, link.weight);
    if (own.has(link.source.id) && !own.has(link.target.id)) add(sums.target, link.target, link.weight);
  }
  const table = (title, found) => found.size ? section(title, grid(["weight", "node"], [...found].sort((a, b) =>
    Math.abs(b[1]) - Math.abs(a[1])).slice(0, 8).map(([node, weight]) => row([shown(weight)], nodeButton(node))))) : null;
  return h("details", {}, h("summary", {}, `${name} (${ids.length})`),
    h("ul", {}, ...ids.map((id) => h("li", {}, nodeButton(byId.get(id))))),
    ...[table("Adds to the group", sums.source), table("The group adds to", sums.target),
      effectsTable("Taking the group away, all at once", asGiven(name, ids) ? data.group_effects[name] : null)].filter((one) => one !== null),
    h("p", {}, button("Ungroup", () => { state.groups.delete(name); draw(); })));
}
const asGiven = (name, ids) => data.groups.some(([given, own]) => given === name && own.join() === ids.join());
const add = (sums, node, weight) => sums.set(node, (sums.get(node) || 0) + weight);

function tell() {
  const node = state.chosen, card = node.card && document.getElementById(node.card);
  fields.group = fields.label = { focus() {} };
  if (node.kind !== "embedding" && node.kind !== "output") {
    fields.label = h("input", { type: "text", value: labelOf(node), placeholder: "label", "aria-label": "Label of this node",
      onchange: () => relabel(node, fields.label.value.trim()) });
  }
  const parts = [
    h("h2", {}, titleOf(node)),
    h("p", {}, fields.label instanceof Node ? fields.label : null, " ", button(state.pins.has(node.id) ? "Unpin (p)" : "Pin (p)", () => pin(node))),
    ...paths().map(pathSection),
    effectsTable("Taking it away changes", data.effects[node.id]),
    linksTable("Adds to it", node.into, "source"), linksTable("It adds to", node.out, "target"),
    card ? h("details", { class: "mxg-card", open: true }, h("summary", {}, "Feature card"), card.content.cloneNode(true)) : null,
    pinsSection(),
    state.groups.size ? section("Groups", ...[...state.groups].map(groupSection)) : null,
  ];
  panel.replaceChildren(...parts.filter((one) => one !== null));
}

function choose(node, focus) { state.chosen = node; draw(); if (focus) { node.shape.focus(); node.shape.scrollIntoView({ block: "nearest", inline: "nearest" }); } }
function pin(node) { state.pins.delete(node.id) || state.pins.add(node.id); draw(); }
function relabel(node, text) {
  if (text === node.label) state.labels.delete(node.id); else state.labels.set(node.id, text);
  draw();
}
function group() {
  const name = fields.group.value.trim();
  if (name && state.pins.size) { state.groups.set(name, [...state.pins]); draw(); }
}

const scrolled = h("div", { class: "mxg-picture",
  onscroll: () => names.setAttribute("transform", `translate(${scrolled.scrollLeft} 0)`) }, picture);
const said = h("output", {}, "");
const slider = h("input", { type: "range", min: 1, max: 100, step: 1, "aria-label": "Influence shown, in percent",
  oninput: () => { state.limit = Number(slider.value); said.textContent = state.limit + " %"; draw(); } });
app.append(
  h("div", { class: "mxg-tools" }, h("label", {}, "Influence shown ", slider, " ", said), button("Save page", savePage),
    h("span", { class: "mxg-keys" }, "arrows: follow links, p: pin, g: group, l: label, Esc: back to the output")),
  h("div", { class: "mxg-body" }, scrolled, panel));

function start() {
  readAddress();
  slider.value = state.limit;
  said.textContent = state.limit + " %";
  draw();
  scrolled.scrollTo(state.chosen.x - scrolled.clientWidth / 2, state.chosen.y - scrolled.clientHeight / 2);
}
window.addEventListener("hashchange", start);
document.addEventListener("keydown", pressed);
start();
app.dataset.ready = "yes";
