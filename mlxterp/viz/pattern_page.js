// Draws attention patterns and answers the hand that moves over them. Text reaches the screen as text nodes only.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("mxm-data").textContent);
  const app = document.getElementById("mxm");
  const root = document.documentElement;

  function unpack(text, Kind) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Kind(bytes.buffer);
  }
  function h(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children) if (child !== null) node.append(child);
    return node;
  }
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
  const dark = () => getComputedStyle(app).colorScheme === "dark";
  const mode = () => (dark() ? "dark" : "light");

  // -- state and data -------------------------------------------------------------------------

  const state = { text: 0, layer: 0, head: 0, token: 0, locked: false, source: false, weighted: false };
  const text = () => data.texts[state.text];
  const size = () => text().tokens.length;
  const layer = () => data.layers[state.layer];
  const nameOf = (l, i) => (data.dot ? l.layer + "." + l.heads[i] : "L" + l.layer + "H" + l.heads[i]);
  const opened = new Map();  // the layers last looked at, as bytes (heads, tokens, tokens)

  function weights(at) {
    const key = state.text + " " + at;
    if (opened.has(key)) return opened.get(key);
    const [counts, keys, steps] = text().packed[at], n = size();
    const many = unpack(counts, Uint16Array), where = unpack(keys, n <= 256 ? Uint8Array : Uint16Array), what = unpack(steps, Uint8Array);
    const found = new Uint8Array(data.layers[at].heads.length * n * n);
    for (let row = 0, i = 0; row < many.length; row++) for (let c = many[row]; c > 0; c--, i++) found[row * n + where[i]] = what[i];
    if (opened.size > 6) opened.delete(opened.keys().next().value);
    opened.set(key, found);
    return found;
  }
  const shares = new Map();
  function share(at) {
    const key = state.text + " " + at;
    if (!shares.has(key)) shares.set(key, unpack(text().shares[at], Float32Array));
    return shares.get(key);
  }
  // Weights (tokens, tokens) of a head in [0, 1]; -1 is the mean of all heads.
  function pattern(at, head) {
    const n = size(), own = weights(at), found = new Float32Array(n * n);
    const heads = head < 0 ? data.layers[at].heads.map((_, i) => i) : [head];
    const part = state.weighted ? share(at) : null;
    for (const i of heads) for (let c = 0; c < n * n; c++) {
      const w = own[i * n * n + c];
      if (w) found[c] += w / 255 / heads.length * (part ? part[i * n + c % n] : 1);
    }
    return found;
  }
  const step = (w) => clamp(Math.round(Math.sqrt(w) * (data.colors.light.length - 1)), 0, data.colors.light.length - 1);
  let now = pattern(0, 0);

  // -- elements -------------------------------------------------------------------------------

  const button = (label, title, onclick, more) => h("button", { type: "button", title, onclick, ...(more || {}) }, label);
  const slider = h("input", { type: "range", min: "0", max: String(data.layers.length - 1), value: "0", "aria-label": "Layer", oninput: () => go({ layer: Number(slider.value) }) });
  const layerName = h("output", { class: "mxa-layer" });
  const reads = button("reads", "The token as destination: what it attends to (S)", () => go({ source: false }));
  const readBy = button("is read by", "The token as source: what attends to it (S)", () => go({ source: true }));
  const byValue = button("Value-weighted", "Weights times the length of what is read, as a share of the head's longest (V)", () => go({ weighted: !state.weighted }));
  const theme = button("\u25d0", "Light or dark (T)", () => swap(), { "aria-label": "Switch between light and dark" });
  const chooser = h("select", { "aria-label": "Text", onchange: () => go({ text: chooser.selectedIndex, token: 0, locked: false }) });
  data.texts.forEach((one, i) => chooser.append(h("option", {}, i + ": " + one.tokens.slice(0, 8).join("").slice(0, 40))));
  app.querySelector(".mxa-head").append(
    h("span", { class: "mxa-space" }), ...(data.texts.length > 1 ? [chooser] : []),
    h("label", { class: "mxa-by" }, h("span", {}, "Layer"), slider, layerName),
    h("span", { class: "mxa-tools", role: "group", "aria-label": "Direction" }, reads, readBy),
    ...(data.texts[0].shares ? [byValue] : []), theme);
  const bar = h("div", { class: "mxa-bar", role: "listbox", "aria-label": "Tokens: point at one, click to hold it" });
  const canvas = h("canvas", { class: "mxa-map", role: "img", "aria-label": "Weights of the head: a row for each token that reads, a column for each that is read" });
  const tip = h("div", { class: "mxa-tip", hidden: true });
  const headName = h("h2", {});
  const list = h("ol", { class: "mxa-list" });
  const said = h("p", { class: "mxa-said", role: "status" });
  const thumbs = h("div", { class: "mxa-thumbs", role: "listbox", "aria-label": "Heads of this layer" });
  const all = h("canvas", { class: "mxa-all", role: "img", "aria-label": "All layers and heads" });
  const stage = h("div", { class: "mxa-stage" }, canvas, tip);
  const overview = data.overview && data.layers.length > 1 ? h("section", { class: "mxa-card", "aria-label": "All heads" }, h("h2", {}, "All layers \u00d7 heads"), h("div", { class: "mxa-scroll" }, all)) : null;
  app.insertBefore(h("div", { class: "mxa-body" },
    h("div", { class: "mxa-main" },
      h("section", { class: "mxa-card", "aria-label": "Text" }, bar, said),
      h("section", { class: "mxa-card mxa-grow", "aria-label": "Pattern" }, headName, stage)),
    h("aside", { class: "mxa-side" },
      h("section", { class: "mxa-card", "aria-label": "Heads" }, h("h2", {}, "Heads of this layer"), thumbs),
      h("section", { class: "mxa-card", "aria-label": "Strongest" }, h("h2", {}, "Strongest"), list), overview)),
  app.querySelector(".mxa-foot"));
  let tokens = [], pictures = [];

  // -- drawing --------------------------------------------------------------------------------

  const hex = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  const inks = { light: data.colors.light.map(hex), dark: data.colors.dark.map(hex) };
  function image(values) {  // a canvas of one pixel for each pair of tokens
    const n = size(), made = h("canvas", { width: String(n), height: String(n) });
    const pen = made.getContext("2d"), picture = pen.createImageData(n, n), colors = inks[mode()];
    for (let c = 0; c < n * n; c++) {
      const [red, green, blue] = colors[step(values[c])];
      picture.data[4 * c] = red; picture.data[4 * c + 1] = green; picture.data[4 * c + 2] = blue; picture.data[4 * c + 3] = 255;
    }
    pen.putImageData(picture, 0, 0);
    return made;
  }
  const short = (word) => (word.length > 14 ? word.slice(0, 13) + "\u2026" : word);
  let box = { left: 0, top: 0, cell: 1 };
  function drawMap() {
    const n = size(), ratio = devicePixelRatio || 1, wide = stage.clientWidth;
    const named = n <= 60, edge = named ? 92 : 8;
    const cell = clamp(Math.floor((Math.min(wide, 660) - edge - 4) / n), 1, 34), side = cell * n;
    box = { left: edge, top: 6, cell };
    canvas.width = (edge + side + 6) * ratio;
    canvas.height = (6 + side + edge) * ratio;
    canvas.style.width = edge + side + 6 + "px";
    canvas.style.height = 6 + side + edge + "px";
    const pen = canvas.getContext("2d"), style = getComputedStyle(app);
    pen.scale(ratio, ratio);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image(now), edge, 6, side, side);
    pen.strokeStyle = style.getPropertyValue("--mxt-line");
    pen.strokeRect(edge - 0.5, 5.5, side + 1, side + 1);
    if (named && cell >= 9) {
      pen.fillStyle = style.getPropertyValue("--mxt-muted");
      pen.font = Math.min(12, cell + 1) + "px system-ui, sans-serif";
      pen.textBaseline = "middle";
      pen.textAlign = "right";
      text().tokens.forEach((word, i) => {
        pen.fillText(short(word), edge - 6, 6 + (i + 0.5) * cell, edge - 8);
        pen.save();
        pen.translate(edge + (i + 0.5) * cell, 6 + side + 6);
        pen.rotate(-Math.PI / 2);
        pen.fillText(short(word), 0, 0, edge - 8);
        pen.restore();
      });
    }
    pen.strokeStyle = style.getPropertyValue("--mxt-link");
    pen.lineWidth = 2;
    const t = state.token * cell;
    if (state.source) pen.strokeRect(edge + t, 6, cell, side);
    else pen.strokeRect(edge, 6 + t, side, cell);
  }
  function drawThumbs() {
    pictures.forEach(({ node, head }) => {
      const own = image(pattern(state.layer, head)), pen = node.getContext("2d");
      pen.imageSmoothingEnabled = size() > 72;
      pen.drawImage(own, 0, 0, node.width, node.height);
    });
  }
  function makeThumbs() {
    pictures = [];
    const heads = layer().heads.map((_, i) => i);
    thumbs.replaceChildren(...(heads.length > 1 ? [-1, ...heads] : heads).map((head) => {
      const node = h("canvas", { width: "72", height: "72" });
      pictures.push({ node, head });
      return h("button", { type: "button", role: "option", class: "mxa-thumb", "data-head": String(head), onclick: () => go({ head }), onmouseenter: () => glance(head), onmouseleave: () => glance(state.head) },
        node, h("span", {}, head < 0 ? "mean" : nameOf(layer(), head)));
    }));
    drawThumbs();
  }
  let laid = { cell: 1, left: 0 }, round = 0, ground = null;
  function drawAll() {  // a layer at a time, the last on top
    if (!overview) return void (app.dataset.overview = "none");
    const most = Math.max(...data.layers.map((l) => l.heads.length)), count = data.layers.length, mine = ++round;
    const cell = clamp(Math.floor((all.parentElement.clientWidth - 34) / most), 7, 34), left = 30, ratio = devicePixelRatio || 1;
    laid = { cell, left };
    all.width = (left + most * cell) * ratio;
    all.height = count * cell * ratio;
    all.style.width = left + most * cell + "px";
    all.style.height = count * cell + "px";
    ground = h("canvas", { width: String(all.width), height: String(all.height) });
    const pen = ground.getContext("2d"), style = getComputedStyle(app);
    pen.scale(ratio, ratio);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.fillStyle = style.getPropertyValue("--mxt-muted");
    delete app.dataset.overview;
    function one(at) {
      if (mine !== round) return;
      const y = (count - 1 - at) * cell;
      if (cell >= 11 || at % 5 === 0) pen.fillText(String(data.layers[at].layer), 2, y + cell / 2, left - 4);
      data.layers[at].heads.forEach((_, i) => pen.drawImage(image(pattern(at, i)), left + i * cell + 1, y + 1, cell - 2, cell - 2));
      markAll();
      if (at + 1 < count) setTimeout(one, 0, at + 1);
      else app.dataset.overview = "done";
    }
    one(0);
  }
  function markAll() {  // the overview with a frame around the head that is shown
    if (!overview || !ground) return;
    const pen = all.getContext("2d"), ratio = devicePixelRatio || 1, { cell, left } = laid;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, all.width, all.height);
    pen.drawImage(ground, 0, 0);
    if (state.head < 0) return;
    pen.scale(ratio, ratio);
    pen.strokeStyle = getComputedStyle(app).getPropertyValue("--mxt-link");
    pen.lineWidth = 2;
    pen.strokeRect(left + state.head * cell + 1, (data.layers.length - 1 - state.layer) * cell + 1, cell - 2, cell - 2);
  }

  // -- what is told ---------------------------------------------------------------------------

  const told = (w) => (w >= 0.995 ? w.toFixed(2) : w >= 0.002 ? w.toFixed(w < 0.1 ? 3 : 2) : "0");
  function row() {
    const n = size(), found = new Float32Array(n);
    for (let i = 0; i < n; i++) found[i] = state.source ? now[i * n + state.token] : now[state.token * n + i];
    return found;
  }
  function tell() {
    const found = row(), colors = data.colors[mode()], ink = data.inks[mode()], words = text().tokens;
    tokens.forEach((node, i) => {
      const at = step(found[i]);
      node.style.background = at ? colors[at] : "";
      node.style.color = at ? ink[at] : "";
      node.title = "position " + i + ": " + told(found[i]);
      node.setAttribute("aria-selected", String(i === state.token));
      node.classList.toggle("mxa-held", i === state.token && state.locked);
      node.tabIndex = i === state.token ? 0 : -1;
    });
    const best = [...found.keys()].sort((a, b) => found[b] - found[a] || a - b).filter((i) => found[i] >= 0.002).slice(0, 8);
    list.replaceChildren(...best.map((i) => h("li", {}, h("span", { class: "mxa-at" }, String(i)), h("code", { dir: "auto" }, words[i]), h("b", {}, told(found[i])))));
    said.replaceChildren(h("code", { dir: "auto" }, words[state.token]), " (" + state.token + ") ", state.source ? "is read by" : "reads",
      state.weighted ? ", by value" : "", state.locked ? " \u2014 held; Esc lets go" : "");
    headName.textContent = state.head < 0 ? "Layer " + layer().layer + ", mean of heads" : nameOf(layer(), state.head);
    layerName.textContent = String(layer().layer);
    slider.value = String(state.layer);
    reads.setAttribute("aria-pressed", String(!state.source));
    readBy.setAttribute("aria-pressed", String(state.source));
    byValue.setAttribute("aria-pressed", String(state.weighted));
    for (const node of thumbs.children) {
      const mine = Number(node.dataset.head) === state.head;
      node.setAttribute("aria-selected", String(mine));
      node.tabIndex = mine ? 0 : -1;
    }
    app.dataset.shown = [layer().layer, state.head < 0 ? "mean" : layer().heads[state.head], state.token, state.source ? "source" : "destination"].join(" ");
  }
  function glance(head) {  // another head under the pointer, until it leaves
    const before = state.head;
    state.head = head;
    now = pattern(state.layer, head);
    drawMap();
    tell();
    state.head = before;
    for (const node of thumbs.children) node.setAttribute("aria-selected", String(Number(node.dataset.head) === before));
  }
  function go(change) {
    const before = { ...state };
    Object.assign(state, change);
    state.layer = clamp(state.layer, 0, data.layers.length - 1);
    state.head = clamp(state.head, -1, layer().heads.length - 1);
    state.token = clamp(state.token, 0, size() - 1);
    if (before.text !== state.text) makeTokens();
    const redraw = ["text", "layer", "weighted"].some((name) => before[name] !== state[name]);
    now = pattern(state.layer, state.head);
    if (redraw) makeThumbs();
    if (before.text !== state.text || before.weighted !== state.weighted) drawAll();
    else markAll();
    drawMap();
    tell();
  }
  function makeTokens() {
    tokens = text().tokens.map((word, i) => h("button", { type: "button", role: "option", class: "mxa-token", dir: "auto",
      onmouseenter: () => state.locked || go({ token: i }), onfocus: () => state.locked || go({ token: i }),
      onclick: () => go({ token: i, locked: !(state.locked && state.token === i) }) }, word || "\u25af"));
    bar.replaceChildren(...tokens);
  }

  // -- the hand -------------------------------------------------------------------------------

  function cellAt(event) {
    const frame = canvas.getBoundingClientRect(), n = size();
    const x = Math.floor((event.clientX - frame.left - box.left) / box.cell), y = Math.floor((event.clientY - frame.top - box.top) / box.cell);
    return x >= 0 && y >= 0 && x < n && y < n ? [y, x] : null;
  }
  canvas.addEventListener("pointermove", (event) => {
    const found = cellAt(event);
    tip.hidden = !found;
    if (!found) return;
    const [query, key] = found, words = text().tokens;
    tip.replaceChildren(h("code", { dir: "auto" }, words[query]), " (" + query + ") reads ", h("code", { dir: "auto" }, words[key]), " (" + key + "): ", h("b", {}, told(now[query * size() + key])));
    const frame = stage.getBoundingClientRect();
    tip.style.left = clamp(event.clientX - frame.left + 14, 0, Math.max(0, frame.width - 220)) + "px";
    tip.style.top = event.clientY - frame.top + 16 + "px";
    if (!state.locked) go({ token: state.source ? key : query });
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => { const found = cellAt(event); if (found) go({ token: found[state.source ? 1 : 0], locked: true }); });
  all.addEventListener("click", (event) => {
    const frame = all.getBoundingClientRect(), at = data.layers.length - 1 - Math.floor((event.clientY - frame.top) / laid.cell);
    const head = Math.floor((event.clientX - frame.left - laid.left) / laid.cell);
    if (data.layers[at] && head >= 0 && head < data.layers[at].heads.length) go({ layer: at, head });
  });
  function swap() {
    root.dataset.theme = dark() ? "light" : "dark";
    repaint();
  }
  function repaint() {
    drawThumbs();
    drawAll();
    drawMap();
    tell();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    if (event.target === slider && event.key.startsWith("Arrow")) return;
    const { token, layer: at, head } = state;
    const keys = {
      ArrowLeft: { token: token - 1 }, ArrowRight: { token: token + 1 }, ArrowUp: { layer: at + 1 }, ArrowDown: { layer: at - 1 },
      "[": { head: head - 1 }, "]": { head: head + 1 }, m: { head: -1 }, s: { source: !state.source }, Escape: { locked: false },
    };
    if (text().shares) keys.v = { weighted: !state.weighted };
    if (event.key === "t") swap();
    const change = keys[event.key];
    if (!change) return;
    event.preventDefault();
    const inBar = bar.contains(document.activeElement);
    go("token" in change ? { ...change, locked: true } : change);
    if (inBar && "token" in change) tokens[state.token].focus();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // -- the beginning: #layer=3&head=5&token=7&theme=dark says how ------------------------------------

  function begin() {
    const asked = new URLSearchParams(location.hash.slice(1)), wanted = asked.get("theme"), first = data.chosen[0] || [];
    if (wanted === "dark" || wanted === "light") root.dataset.theme = wanted;
    const number = (name, other) => (asked.has(name) ? Number(asked.get(name)) : other);
    const at = Math.max(0, data.layers.findIndex((l) => l.layer === number("layer", first[0])));
    const head = Math.max(0, data.layers[at].heads.indexOf(number("head", first[1])));
    const token = number("token", size() - 1);
    go({ layer: at, head, token: Number.isInteger(token) ? token : 0, locked: asked.has("token"), source: asked.get("as") === "source" });
  }
  makeTokens();
  makeThumbs();
  begin();
  drawAll();
  addEventListener("hashchange", begin);
  let wide = stage.clientWidth;
  new ResizeObserver(() => { if (stage.clientWidth !== wide) { wide = stage.clientWidth; drawMap(); drawAll(); } }).observe(stage);
  app.dataset.ready = "yes";
})();
