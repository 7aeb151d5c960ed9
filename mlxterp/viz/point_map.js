// Draws the points of a map and answers the hand that moves over it. Text reaches the screen as text nodes only.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("mxm-data").textContent);
  const app = document.getElementById("mxm");
  const n = data.n;

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
  const count = (x) => x.toLocaleString("en");
  const shown = (x) => Number.isFinite(x) ? String(Number(x.toPrecision(3))) : "\u2013";

  // -- data -----------------------------------------------------------------------------------

  const places = unpack(data.xy, Uint16Array), ids = unpack(data.ids, Int32Array);
  const width = unpack(data.width, Uint16Array), tokens = unpack(data.tokens, Int32Array);
  const xs = new Float32Array(n), ys = new Float32Array(n);
  for (let i = 0; i < n; i++) { xs[i] = places[2 * i] / 65535; ys[i] = places[2 * i + 1] / 65535; }
  for (const one of data.colourings) one.values = unpack(one.values, one.groups ? Int32Array : Float32Array);
  const several = data.widths.length > 1;
  const nameOf = (i) => (several ? data.widths[width[i]] + " / " : "") + ids[i];
  function tokensOf(i) {  // those that match what is searched first
    const found = [], later = [];
    for (let j = 0; j < data.most; j++) {
      const t = tokens[i * data.most + j];
      if (t >= 0) (state.query && told[t] ? found : later).push(data.words[t]);
    }
    return [...found, ...later].map((word, k) => {
      const bare = word.trimStart(), spaces = word.length - bare.length;
      return h("code", { class: k < found.length ? "mxm-hit" : null }, spaces ? h("i", {}, word.slice(0, spaces)) : null, bare);
    });
  }

  // Points by cells, for what lies under the pointer.
  const side = Math.max(1, Math.ceil(Math.sqrt(n / 3)));
  const cellOf = (x) => clamp(Math.floor(x * side), 0, side - 1);
  const starts = new Uint32Array(side * side + 1), inCells = new Uint32Array(n);
  for (let i = 0; i < n; i++) starts[cellOf(ys[i]) * side + cellOf(xs[i]) + 1]++;
  for (let c = 0; c < side * side; c++) starts[c + 1] += starts[c];
  const next = starts.slice();
  for (let i = 0; i < n; i++) inCells[next[cellOf(ys[i]) * side + cellOf(xs[i])]++] = i;

  // -- state ----------------------------------------------------------------------------------

  const state = { x: 0.5, y: 0.5, zoom: 1, lasso: false, color: 0, hover: -1, query: "" };
  const selected = new Uint8Array(n), matched = new Uint8Array(n), focused = new Set();
  const code = new Uint16Array(n);
  let order = new Uint32Array(n), told = [], palette = [], inks = new Uint8Array(0), chosen = [], matches = [], path = null, waiting = false;

  // -- elements -------------------------------------------------------------------------------

  const canvas = h("canvas", { class: "mxm-canvas", tabindex: "0", "aria-label":
    "Map of features. Arrow keys move, plus and minus zoom, 0 shows all. Search lists features by text." });
  const pen = canvas.getContext("2d", { alpha: false });
  const tip = h("div", { class: "mxm-tip", role: "status", hidden: true });
  const hint = h("div", { class: "mxm-hint" });
  const stage = h("div", { class: "mxm-stage" }, canvas, tip, hint);
  const search = h("input", { type: "search", class: "mxm-search", placeholder: "Search labels, tokens, ids  ( / )",
    "aria-label": "Search labels, tokens and feature ids", oninput: () => find(search.value) });
  const chooser = h("select", { class: "mxm-select", "aria-label": "Colour by", onchange: () => paint(chooser.selectedIndex) });
  for (const one of data.colourings) chooser.append(h("option", {}, one.name));
  const pan = h("button", { type: "button", "aria-pressed": "true", title: "Drag moves the map (P)", onclick: () => tool(false) }, "Move");
  const lasso = h("button", { type: "button", "aria-pressed": "false", title: "Drag around features to list them (L, or hold Shift)", onclick: () => tool(true) }, "Lasso");
  const fit = h("button", { type: "button", title: "Show all (0)", onclick: () => reset() }, "Fit");
  const theme = h("button", { type: "button", title: "Light or dark", "aria-label": "Switch between light and dark", onclick: () => swap() }, "\u25d0");
  app.querySelector(".mxm-head").append(
    h("span", { class: "mxm-space" }), search,
    h("label", { class: "mxm-by" }, h("span", {}, "Colour"), chooser),
    h("span", { class: "mxm-tools", role: "group", "aria-label": "What dragging does" }, pan, lasso), fit, theme);
  const legend = h("section", { class: "mxm-legend", "aria-label": "Colours" });
  const list = h("section", { class: "mxm-list", "aria-label": "Features" });
  app.insertBefore(h("div", { class: "mxm-body" }, stage, h("aside", { class: "mxm-side" }, legend, list)), app.querySelector(".mxm-foot"));

  // -- drawing --------------------------------------------------------------------------------

  const dark = () => getComputedStyle(app).colorScheme === "dark";
  let wide = 0, high = 0, ratio = 1, scale = 1;
  const crowd = clamp(Math.pow(30000 / n, 0.25), 0.8, 2.4);
  const screenX = (x) => (x - state.x) * scale + wide / 2;
  const screenY = (y) => (y - state.y) * scale + high / 2;
  const dataX = (px) => (px - wide / 2) / scale + state.x;
  const dataY = (py) => (py - high / 2) / scale + state.y;
  const grown = () => clamp(Math.pow(state.zoom, 0.4), 0.8, 4);
  const radius = (i) => data.sizes[width[i]] / 2 * crowd * grown();

  // Points go into the picture's bytes: a canvas's own circles are ten times slower without a graphics card.
  let picture = null, masks = new Map();
  function mask(r) {  // pixels of a disc around a point, and how much of each it covers
    const key = Math.round(r * ratio * 4);
    if (!masks.has(key)) {
      const real = key / 4, reach = Math.ceil(real), found = [];
      for (let y = -reach; y <= reach; y++) {
        for (let x = -reach; x <= reach; x++) {
          const cover = clamp(real + 0.5 - Math.hypot(x, y), 0, 1);
          if (cover > 0.02) found.push(x, y, cover);
        }
      }
      masks.set(key, { reach, pixels: Float32Array.from(found) });
    }
    return masks.get(key);
  }
  const parsed = (color) => color[0] === "#" ? [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16)) : color.match(/\d+/g).map(Number);
  function stamp(which, alpha, grow) {
    const bytes = picture.data, w = picture.width, t = picture.height;
    const kinds = data.sizes.map((size) => mask(size / 2 * crowd * grown() * grow));
    for (let k = 0; k < n; k++) {
      const i = order[k];
      if (which && !which(i)) continue;
      const kind = kinds[width[i]], reach = kind.reach, pixels = kind.pixels;
      const x = Math.round(screenX(xs[i]) * ratio), y = Math.round(screenY(ys[i]) * ratio);
      if (x < reach || y < reach || x >= w - reach || y >= t - reach) continue;
      const c = 3 * code[i], red = inks[c], green = inks[c + 1], blue = inks[c + 2];
      for (let m = 0; m < pixels.length; m += 3) {
        const at = 4 * ((y + pixels[m + 1]) * w + x + pixels[m]), cover = pixels[m + 2] * alpha;
        bytes[at] += (red - bytes[at]) * cover;
        bytes[at + 1] += (green - bytes[at + 1]) * cover;
        bytes[at + 2] += (blue - bytes[at + 2]) * cover;
      }
    }
  }
  function draw() {
    waiting = false;
    const began = performance.now();
    const [red, green, blue] = parsed(getComputedStyle(stage).backgroundColor);
    new Uint32Array(picture.data.buffer).fill((255 << 24 | blue << 16 | green << 8 | red) >>> 0);
    const some = chosen.length > 0 || state.query !== "" || focused.size > 0;
    const groups = data.colourings[state.color];
    const bright = (i) => chosen.length ? selected[i] : state.query ? matched[i] : focused.has(groups.values[i]);
    if (!some) stamp(null, 0.82, 1);
    else { stamp((i) => !bright(i), 0.13, 1); stamp(bright, 1, 1.3); }
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.putImageData(picture, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.globalAlpha = some ? 0.45 : 1;
    words();
    pen.globalAlpha = 1;
    if (state.hover >= 0) ring(state.hover);
    if (path) outline();
    app.dataset.drawn = (performance.now() - began).toFixed(1);
  }
  function soon() { if (!waiting && picture) { waiting = true; requestAnimationFrame(draw); } }
  function ring(i) {
    pen.lineWidth = 2;
    pen.strokeStyle = dark() ? "#ffffff" : "#15151a";
    pen.beginPath();
    pen.arc(screenX(xs[i]), screenY(ys[i]), radius(i) + 3.5, 0, 7);
    pen.stroke();
  }
  function outline() {
    pen.beginPath();
    path.forEach(([x, y], k) => k ? pen.lineTo(x, y) : pen.moveTo(x, y));
    pen.closePath();
    pen.fillStyle = dark() ? "rgba(140,196,255,.14)" : "rgba(11,92,173,.10)";
    pen.strokeStyle = dark() ? "#8cc4ff" : "#0b5cad";
    pen.lineWidth = 1.5;
    pen.setLineDash([5, 4]);
    pen.fill();
    pen.stroke();
    pen.setLineDash([]);
  }
  function words() {
    const taken = [];
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    for (const [mx, my, text] of data.marks) {
      const x = screenX(mx), y = screenY(my) - 12, half = pen.measureText(text).width / 2 + 5;
      if (x < half || y < 10 || x > wide - half || y > high - 10) continue;
      if (taken.some(([a, b, c]) => Math.abs(a - x) < c + half && Math.abs(b - y) < 17)) continue;
      taken.push([x, y, half]);
      pen.lineWidth = 3.5;
      pen.strokeStyle = dark() ? "rgba(30,30,34,.9)" : "rgba(255,255,255,.92)";
      pen.strokeText(text, x, y);
      pen.fillStyle = dark() ? "#ececf0" : "#1c1c1f";
      pen.fillText(text, x, y);
    }
  }
  function resize() {
    const box = stage.getBoundingClientRect();
    ratio = window.devicePixelRatio || 1;
    wide = Math.max(1, box.width);
    high = Math.max(1, box.height);
    canvas.width = Math.round(wide * ratio);
    canvas.height = Math.round(high * ratio);
    scale = Math.min(wide, high) * 0.92 * state.zoom;
    picture = pen.createImageData(canvas.width, canvas.height);
    masks = new Map();
    draw();
  }

  // -- colours --------------------------------------------------------------------------------

  function paint(which) {
    state.color = which;
    chooser.selectedIndex = which;
    focused.clear();
    recolor();
  }
  function recolor() {
    const one = data.colourings[state.color], mode = dark() ? "dark" : "light";
    if (one.groups) {
      palette = [data.grey[mode], ...one.colors[mode]];
      for (let i = 0; i < n; i++) code[i] = one.values[i] + 1;
    } else {
      palette = [data.grey[mode], ...data.scale[mode]];
      const most = data.scale[mode].length - 1, range = one.high - one.low || 1;
      for (let i = 0; i < n; i++) {
        const v = one.values[i];
        code[i] = Number.isFinite(v) ? 1 + Math.round(clamp((v - one.low) / range, 0, 1) * most) : 0;
      }
    }
    inks = Uint8Array.from(palette.flatMap(parsed));
    const kinds = palette.length, rank = (i) => (data.widths.length - 1 - width[i]) * kinds + code[i];
    const sizes = new Uint32Array(data.widths.length * kinds + 1);  // the widest SAE's points lie below
    for (let i = 0; i < n; i++) sizes[rank(i) + 1]++;
    for (let c = 0; c < sizes.length - 1; c++) sizes[c + 1] += sizes[c];
    for (let i = 0; i < n; i++) order[sizes[rank(i)]++] = i;
    explain();
    soon();
  }
  function explain() {
    const one = data.colourings[state.color];
    legend.replaceChildren(h("h2", {}, one.name));
    if (!one.groups) return legend.append(range(one));
    const sizes = new Map();
    for (const v of one.values) sizes.set(v, (sizes.get(v) || 0) + 1);
    const rows = h("div", { class: "mxm-groups" });
    one.groups.forEach((name, g) => sizes.has(g) && rows.append(key(g, name, palette[g + 1], sizes.get(g))));
    if (sizes.has(-1)) rows.prepend(key(-1, "noise", palette[0], sizes.get(-1)));
    legend.append(rows);
  }
  function key(group, name, color, size) {
    const button = h("button", { type: "button", class: "mxm-key", "aria-pressed": String(focused.has(group)), title: "Show only this",
      onclick: () => {
        focused.has(group) ? focused.delete(group) : focused.add(group);
        button.setAttribute("aria-pressed", String(focused.has(group)));
        soon();
      } }, h("i", { class: "mxm-dot" }), h("span", { class: "mxm-name" }, name), h("span", { class: "mxm-size" }, count(size)));
    button.firstChild.style.background = color;
    return button;
  }
  function range(one) {
    const bins = new Array(32).fill(0), span = one.high - one.low || 1;
    for (const v of one.values) if (Number.isFinite(v)) bins[Math.round(clamp((v - one.low) / span, 0, 1) * 31)]++;
    const most = Math.max(...bins, 1), bars = h("div", { class: "mxm-bars" });
    bins.forEach((size, b) => {
      const bar = h("i", { title: count(size) });
      bar.style.height = Math.max(2, 44 * size / most) + "px";
      bar.style.background = palette[b + 1];
      bars.append(bar);
    });
    return h("div", {}, bars, h("div", { class: "mxm-ends" }, h("span", {}, shown(one.low)), h("span", {}, shown(one.high))));
  }
  function swap() {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    recolor();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);

  // -- what is under the pointer ----------------------------------------------------------------

  function nearest(px, py) {
    const reach = 11 / scale, x = dataX(px), y = dataY(py);
    let best = -1, least = reach * reach;
    for (let cy = cellOf(y - reach); cy <= cellOf(y + reach); cy++) {
      for (let cx = cellOf(x - reach); cx <= cellOf(x + reach); cx++) {
        for (let k = starts[cy * side + cx]; k < starts[cy * side + cx + 1]; k++) {
          const i = inCells[k], d = (xs[i] - x) ** 2 + (ys[i] - y) ** 2;
          if (d < least) { least = d; best = i; }
        }
      }
    }
    return best;
  }
  function point(i) {
    if (i === state.hover) return;
    state.hover = i;
    tip.hidden = i < 0;
    canvas.style.cursor = state.lasso ? "crosshair" : i >= 0 ? "pointer" : "grab";
    if (i >= 0) {
      tip.replaceChildren(...card(i));
      const x = screenX(xs[i]), y = screenY(ys[i]), box = tip.getBoundingClientRect();
      tip.style.left = clamp(x + 16 + box.width > wide ? x - box.width - 16 : x + 16, 6, Math.max(6, wide - box.width - 6)) + "px";
      tip.style.top = clamp(y - box.height / 2, 6, Math.max(6, high - box.height - 6)) + "px";
    }
    soon();
  }
  function card(i) {
    const rows = h("dl", {});
    for (const one of data.colourings) {
      const v = one.values[i], text = one.groups ? (v < 0 ? "noise" : one.groups[v]) : shown(v);
      if (!one.groups || one.name !== "width") rows.append(h("dt", {}, one.name), h("dd", {}, text));
    }
    const label = data.labels[i] || "", chips = h("div", { class: "mxm-chips" }, ...tokensOf(i));
    return [
      h("div", { class: "mxm-who" }, h("b", {}, label || "Feature " + ids[i]),
        h("span", {}, (label ? "feature " + ids[i] : "") + (several ? (label ? ", " : "") + "width " + data.widths[width[i]] : ""))),
      chips.childNodes.length ? chips : null, rows].filter(Boolean);
  }

  // -- lists ------------------------------------------------------------------------------------

  function find(text) {
    state.query = text.trim().toLowerCase();
    matches = [];
    told = data.words.map((word) => state.query !== "" && word.toLowerCase().includes(state.query));
    for (let i = 0; i < n; i++) {
      let hit = state.query !== "" && ((data.labels[i] || "").toLowerCase().includes(state.query) || String(ids[i]) === state.query);
      for (let j = 0; j < data.most && !hit; j++) { const t = tokens[i * data.most + j]; hit = t >= 0 && told[t]; }
      matched[i] = hit && state.query !== "" ? 1 : 0;
      if (matched[i]) matches.push(i);
    }
    fill();
    soon();
  }
  function select(found) {
    selected.fill(0);
    for (const i of found) selected[i] = 1;
    chosen = found;
    app.dataset.selected = String(found.length);
    fill();
    soon();
  }
  const MOST = 400;
  function fill() {
    const found = chosen.length ? chosen : matches, one = data.colourings[state.color];
    if (!found.length) {
      const said = state.query ? "Nothing matches." : "Draw around points with the lasso, click one, or search: features appear here.";
      return list.replaceChildren(h("p", { class: "mxm-empty" }, said));
    }
    const head = h("div", { class: "mxm-listhead" },
      h("h2", {}, count(found.length) + (chosen.length ? " selected" : found.length === 1 ? " match" : " matches")),
      chosen.length ? h("button", { type: "button", title: "Escape", onclick: () => select([]) }, "Clear")
        : h("button", { type: "button", onclick: () => select(matches) }, "Select"));
    const body = h("tbody", {});
    for (const i of found.slice(0, MOST)) {
      const v = one.values[i], said = one.groups ? (v < 0 ? "noise" : one.groups[v]) : shown(v);
      const mark = h("i", { class: "mxm-dot" });
      mark.style.background = palette[code[i]];
      const text = h("td", {}, data.labels[i] ? h("div", { class: "mxm-label" }, data.labels[i]) : null,
        data.most ? h("div", { class: "mxm-tokens" }, ...tokensOf(i).slice(0, 6)) : null);
      body.append(h("tr", { onmouseenter: () => point(i), onmouseleave: () => point(-1) },
        h("td", {}, h("button", { type: "button", class: "mxm-go", title: "Show it on the map", onclick: () => go(i) }, mark, nameOf(i))),
        text, h("td", { class: "mxm-value" }, one.name === "width" ? "" : said)));
    }
    const more = found.length > MOST ? h("p", { class: "mxm-empty" }, "\u2026 and " + count(found.length - MOST) + " more") : null;
    const code_ = h("textarea", { class: "mxm-code", readonly: true, rows: "2", spellcheck: "false", "aria-label": "The same features in Python",
      onfocus: () => code_.select() }, python(found));
    list.replaceChildren(head, h("div", { class: "mxm-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, several ? "width / id" : "id"),
      h("th", { scope: "col" }, data.most ? "label, tokens" : "label"), h("th", { scope: "col" }, one.name === "width" ? "" : one.name))), body), more),
      h("p", { class: "mxm-small" }, "In Python"), code_);
  }
  function python(found) {
    const by = new Map();
    for (const i of found) { const w = data.widths[width[i]]; by.has(w) ? by.get(w).push(ids[i]) : by.set(w, [ids[i]]); }
    const parts = [...by].sort((a, b) => a[0] - b[0]).map(([w, own]) => w + ": [" + own.sort((a, b) => a - b).join(", ") + "]");
    return "features = {" + parts.join(", ") + "}";
  }
  function go(i) {
    state.x = xs[i];
    state.y = ys[i];
    zoom(Math.max(state.zoom, 4) / state.zoom);
    point(-1);
    point(i);
  }

  // -- the hand -----------------------------------------------------------------------------------

  function zoom(by, px = wide / 2, py = high / 2) {
    const x = dataX(px), y = dataY(py);
    state.zoom = clamp(state.zoom * by, 0.5, 400);
    scale = Math.min(wide, high) * 0.92 * state.zoom;
    state.x = x - (px - wide / 2) / scale;
    state.y = y - (py - high / 2) / scale;
    soon();
  }
  function reset() {
    Object.assign(state, { x: 0.5, y: 0.5, zoom: 1 });
    scale = Math.min(wide, high) * 0.92;
    soon();
  }
  function tool(which) {
    state.lasso = which;
    pan.setAttribute("aria-pressed", String(!which));
    lasso.setAttribute("aria-pressed", String(which));
    canvas.style.cursor = which ? "crosshair" : "grab";
    hint.textContent = which ? "Drag around features. Escape clears." : "Drag to move, scroll to zoom, Shift-drag to select.";
  }
  function inside(polygon, x, y) {
    let odd = false;
    for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
      const [ax, ay] = polygon[a], [bx, by] = polygon[b];
      if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) odd = !odd;
    }
    return odd;
  }
  function caught() {
    const found = [], low = [Infinity, Infinity], most = [-Infinity, -Infinity];
    for (const [x, y] of path) {
      low[0] = Math.min(low[0], x); low[1] = Math.min(low[1], y);
      most[0] = Math.max(most[0], x); most[1] = Math.max(most[1], y);
    }
    const groups = data.colourings[state.color];
    for (let i = 0; i < n; i++) {
      const x = screenX(xs[i]), y = screenY(ys[i]);
      if (focused.size && !focused.has(groups.values[i])) continue;
      if (x >= low[0] && x <= most[0] && y >= low[1] && y <= most[1] && inside(path, x, y)) found.push(i);
    }
    return found;
  }
  const hands = new Map();
  let moved = 0, spread = 0;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    hands.set(event.pointerId, at(event));
    moved = 0;
    spread = 0;
    path = hands.size === 1 && (state.lasso || event.shiftKey) ? [at(event)] : null;
    if (!path) canvas.style.cursor = "grabbing";
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = at(event), before = hands.get(event.pointerId);
    if (!before) return point(nearest(...now));
    hands.set(event.pointerId, now);
    moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
    if (hands.size === 2) {
      const [a, b] = [...hands.values()], apart = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread) zoom(apart / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      spread = apart;
    } else if (path) path.push(now);
    else { state.x -= (now[0] - before[0]) / scale; state.y -= (now[1] - before[1]) / scale; }
    if (moved > 3) point(-1);
    soon();
  });
  function lift(event) {
    if (!hands.delete(event.pointerId)) return;
    const drawn = path, where = at(event);
    if (drawn && moved > 3) { const found = caught(); path = null; select(found); }
    else if (moved <= 3 && event.type === "pointerup") { path = null; const i = nearest(...where); if (i >= 0) select(selected[i] ? chosen.filter((j) => j !== i) : [...chosen, i]); }
    path = null;
    tool(state.lasso);
    soon();
  }
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => hands.size || point(-1));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...at(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
  canvas.addEventListener("keydown", (event) => {
    const step = 60 / scale, keys = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (keys[event.key]) { state.x += keys[event.key][0]; state.y += keys[event.key][1]; soon(); event.preventDefault(); }
    if (event.key === "+" || event.key === "=") zoom(1.4);
    if (event.key === "-") zoom(1 / 1.4);
    if (event.key === "0") reset();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { search.value = ""; focused.clear(); find(""); select([]); explain(); }
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { search.focus(); event.preventDefault(); }
    if (event.key === "l") tool(true);
    if (event.key === "p") tool(false);
  });

  // -- the beginning: #q=ball&color=cluster&theme=dark says how ------------------------------------

  function begin() {
    const asked = new URLSearchParams(location.hash.slice(1)), mode = asked.get("theme");
    if (mode === "dark" || mode === "light") document.documentElement.dataset.theme = mode;
    paint(Math.max(0, data.colourings.findIndex((one) => one.name === asked.get("color"))));
    search.value = asked.get("q") || "";
    select([]);
    find(search.value);
  }
  tool(false);
  begin();
  addEventListener("hashchange", begin);
  new ResizeObserver(resize).observe(stage);
  resize();
  app.dataset.ready = "yes";
})();
