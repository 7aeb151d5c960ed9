// The map: every feature a point; draw round some to list them.
import {$, h, num, later, choice, problem, say, put} from './dom.js';
import {COLUMNS, shown, polygon} from './columns.js';
import {source, sourceParam, meaning, nameOf, listed, sourceChoice} from './shared.js';
import {link, changed, go, note} from './route.js';

const MOST = 48;
const views = {};

export async function map(main, { q }) {
  const s = await source(q.get('src')), { t } = s;
  if (!t.map) {
    put(main, problem('No map yet', `${s.name} has no coordinates beside its index.`,
      h('p', null, 'In Python: ', h('code', null, 'geometry.decoder_map(sae, index=index).save(index)'), ', then open the explorer again.'),
      h('a.button', { href: '#/list' }, 'All features')));
    return {};
  }
  const xy = t.map, points = [];
  for (let f = 0; f < t.d; f++) if ((!s.only || s.only.has(f)) && Number.isFinite(xy[2 * f]) && Number.isFinite(xy[2 * f + 1])) points.push(f);
  const low = [0, 1].map((k) => points.reduce((m, f) => Math.min(m, xy[2 * f + k]), Infinity)),
    high = [0, 1].map((k) => points.reduce((m, f) => Math.max(m, xy[2 * f + k]), -Infinity));
  const middle = [0, 1].map((k) => (low[k] + high[k]) / 2), span = Math.max(high[0] - low[0], high[1] - low[1]) || 1;
  const kinds = [...shown(t).filter((key) => key !== 'id').map((key) => [key, COLUMNS[key][0]]), ['named', 'names']];
  const by = kinds.some(([key]) => key === q.get('by')) ? q.get('by') : 'density', whole = { x: middle[0], y: middle[1], zoom: 1 };
  const state = { ...(views[s.id] || whole), lasso: true, by, hover: -1, path: null };
  const canvas = h('canvas', { tabindex: 0, role: 'img',
    'aria-label': `Map of ${num(points.length)} features. Arrow keys move, plus and minus zoom, 0 shows all. The list of features has the same by keyboard.` });
  const tip = h('div.tip', { hidden: true }), legend = h('span',
    { id: 'legend', role: 'img', 'aria-label': 'Colours, from the least to the most' }), told = h('p.count', { role: 'status' });
  const pen = canvas.getContext('2d', { alpha: false });
  const query = (values) => changed(q, values), own = () => changed(q, { src: sourceParam(s) });
  let wide = 0, tall = 0, ratio = 1, picture = null, chosen = null;
  const scale = () => 0.92 * Math.min(wide, tall) * state.zoom / span;
  const X = (x) => (x - state.x) * scale() + wide / 2, Y = (y) => tall / 2 - (y - state.y) * scale();
  const back = ([px, py]) => [(px - wide / 2) / scale() + state.x, state.y - (py - tall / 2) / scale()];

  const rgb = (name) => {
    const colour = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    return [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
  };
  const dots = (list) => list.map(([text, colour]) => {
    const dot = h('i');
    dot.style.background = `rgb(${colour})`;
    return h('span', null, dot, text);
  });

  // The colour of each feature on the map, and what the colours mean.
  function colours() {
    const stops = [0, 1, 2, 3, 4].map((i) => rgb(`--map${i}`)), grey = rgb('--mxt-muted');
    const named = state.by === 'named', value = named ? null : COLUMNS[state.by][2];
    const logged = ['density', 'texts', 'max', 'mean', 'norm'].includes(state.by),
      worth = (f) => { const v = value(t, f); return logged ? Math.log(Math.max(v, 1e-9)) : v; };
    const values = named ? [] : points.filter((f) => t.count[f] && !Number.isNaN(value(t, f))).map(worth).sort((a, b) => a - b);
    if (named) legend.replaceChildren(...dots([['a name', stops[4]], ['an explanation', stops[2]], ['neither', grey]]));
    const first = values[Math.floor(0.01 * values.length)] ?? 0, last = values[Math.floor(0.99 * values.length)] ?? 1;
    const said = (v) => `${num(logged ? Math.exp(v) : v, 2)}${named ? '' : COLUMNS[state.by][1] && ' %'}`;
    if (!named) legend.replaceChildren(said(first), ...dots(stops.map((stop) => ['', stop])), said(last));
    const colour = (f) => {
      if (named) return nameOf(s, f) ? stops[4] : s.names.explanations[f] ? stops[2] : grey;
      if (!t.count[f] || Number.isNaN(value(t, f))) return grey;
      const share = Math.min(0.9999, Math.max(0, (worth(f) - first) / (last - first || 1))) * 4, i = Math.floor(share);
      return stops[i].map((c, k) => Math.round(c + (stops[i + 1][k] - c) * (share - i)));
    };
    const found = [];
    for (const f of points) found[f] = colour(f);
    return found;
  }
  let inks = colours();

  // Points go straight into the picture's bytes: without a graphics card that is ten times as fast as circles.
  function draw() {
    if (!wide) return;
    const base = rgb('--mxt-bg'), bytes = picture.data, w = picture.width;
    views[s.id] = { x: state.x, y: state.y, zoom: state.zoom };
    new Uint32Array(bytes.buffer).fill((255 << 24 | base[2] << 16 | base[1] << 8 | base[0]) >>> 0);
    const r = Math.max(1, ratio * Math.min(5, 1.6 * (20000 / points.length) ** 0.25 * state.zoom ** 0.4)), reach = Math.ceil(r);
    for (const faint of chosen ? [true, false] : [false]) for (const f of points) {
      if (chosen && chosen.has(f) === faint) continue;
      const x = Math.round(X(xy[2 * f]) * ratio), y = Math.round(Y(xy[2 * f + 1]) * ratio);
      if (x < reach || y < reach || x >= w - reach || y >= picture.height - reach) continue;
      const [red, green, blue] = inks[f];
      for (let dy = -reach; dy <= reach; dy++) for (let dx = -reach; dx <= reach; dx++) {
        const cover = Math.min(1, Math.max(0, r + 0.5 - Math.hypot(dx, dy))) * (faint ? 0.15 : 0.85), o = 4 * ((y + dy) * w + x + dx);
        bytes[o] += (red - bytes[o]) * cover;
        bytes[o + 1] += (green - bytes[o + 1]) * cover;
        bytes[o + 2] += (blue - bytes[o + 2]) * cover;
      }
    }
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.putImageData(picture, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.strokeStyle = getComputedStyle(canvas).color;
    const line = state.path || (q.get('lasso') ? polygon(q.get('lasso')).map(([x, y]) => [X(x), Y(y)]) : null);
    pen.lineWidth = 1.5;
    if (line) {
      pen.setLineDash([5, 4]);
      pen.beginPath();
      line.forEach((p, i) => pen[i ? 'lineTo' : 'moveTo'](...p));
      pen.closePath();
      pen.stroke();
    }
    if (state.hover >= 0) {
      pen.setLineDash([]);
      pen.beginPath();
      pen.arc(X(xy[2 * state.hover]), Y(xy[2 * state.hover + 1]), 7, 0, 7);
      pen.stroke();
    }
    main.dataset.drawn = String(points.length);
  }
  let waiting = false;
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };

  function choose() {
    const lasso = q.get('lasso');
    chosen = lasso ? new Set(listed(s, q)) : null;
    told.replaceChildren();
    if (chosen) {
      put(told, `${num(chosen.size)} chosen `, h('a.button', { href: link('list', [], own()) }, 'List them'), ' ',
        h('button', { type: 'button', onclick: () => go('map', [], query({ lasso: '' })) }, 'Clear (esc)'));
    } else put(told, `${num(points.length)} of ${num(s.n)} features; near ones have similar directions. Click one, or draw round some to list them.`);
    say(told.textContent);
  }
  function close() {
    const every = Math.max(1, Math.ceil(state.path.length / MOST));
    const digits = Math.max(0, Math.ceil(-Math.log10(span / 1e4))), line = state.path.filter((_, i) => i % every === 0).map(back);
    state.path = null;
    if (line.length > 2) go('map', [], query({ lasso: line.map((p) => p.map((v) => +v.toFixed(digits)).join(',')).join(';') }));
    soon();
  }
  function nearest([px, py]) {
    let best = -1, least = 144;
    for (const f of points) { const d = (X(xy[2 * f]) - px) ** 2 + (Y(xy[2 * f + 1]) - py) ** 2; if (d < least) { least = d; best = f; } }
    return best;
  }
  function point(f, [px, py] = []) {
    state.hover = f;
    tip.hidden = f < 0;
    canvas.style.cursor = f >= 0 ? 'pointer' : state.lasso ? 'crosshair' : 'grab';
    if (f >= 0) {
      tip.replaceChildren(h('b', null, String(f)), ' ', meaning(s, f));
      tip.style.left = `${Math.min(px + 14, wide - 200)}px`;
      tip.style.top = `${py + 14}px`;
    }
    soon();
  }
  const zoom = (by) => { state.zoom = Math.min(400, Math.max(0.5, state.zoom * by)); soon(); };
  const hand = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  let held = null, moved = 0;
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    held = hand(event);
    moved = 0;
    if (state.lasso !== event.shiftKey) state.path = [held];
  });
  canvas.addEventListener('pointermove', (event) => {
    const now = hand(event);
    if (!held) return point(nearest(now), now);
    moved += Math.hypot(now[0] - held[0], now[1] - held[1]);
    if (state.path) state.path.push(now);
    else { state.x -= (now[0] - held[0]) / scale(); state.y += (now[1] - held[1]) / scale(); }
    held = now;
    soon();
  });
  canvas.addEventListener('pointerup', (event) => {
    const f = moved < 4 ? nearest(hand(event)) : -1;
    held = null;
    if (f >= 0) { state.path = null; go('feature', [f], own()); } else if (state.path) close();
  });
  canvas.addEventListener('pointerleave', () => held || point(-1));
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    const before = back(hand(event));
    zoom(Math.exp(-event.deltaY * 0.0016));
    const after = back(hand(event));
    state.x += before[0] - after[0];
    state.y += before[1] - after[1];
  }, { passive: false });
  canvas.addEventListener('keydown', (event) => {
    const by = 60 / scale(), move = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] }[event.key];
    if (move) { event.preventDefault(); state.x += move[0]; state.y += move[1]; soon(); }
  });
  const drag = h('button', { type: 'button', 'aria-pressed': 'false', title: 'Drag moves the map instead (p); Shift does the other',
    onclick: () => { state.lasso = !state.lasso; drag.setAttribute('aria-pressed', String(!state.lasso)); } }, 'Move');
  put(main, h('div.bar', null, await sourceChoice(s.id, (value) => go('map', [], { src: value })),
    choice('Colour by', state.by, kinds, (value) => {
      state.by = value;
      q.set('by', value);
      note('map', [], q);
      inks = colours();
      soon();
    }),
    legend, drag, h('button', { type: 'button', title: 'Nearer (+)', 'aria-label': 'Nearer', onclick: () => zoom(1.4) }, '+'),
    h('button', { type: 'button', title: 'Farther (−)', 'aria-label': 'Farther', onclick: () => zoom(1 / 1.4) }, '−'), told),
    h('div.stage', null, canvas, tip));
  const fit = () => {
    const box = $('.stage', main);
    ratio = devicePixelRatio || 1;
    wide = box.clientWidth;
    tall = box.clientHeight;
    canvas.width = Math.max(1, Math.round(wide * ratio));
    canvas.height = Math.max(1, Math.round(tall * ratio));
    picture = pen.createImageData(canvas.width, canvas.height);
    soon();
  };
  new ResizeObserver(later(50, fit)).observe($('.stage', main));
  choose();
  fit();
  const clear = () => { if (q.get('lasso')) go('map', [], query({ lasso: '' })); };
  return { keys: { p: () => drag.click(), '+': () => zoom(1.4), '=': () => zoom(1.4), '-': () => zoom(1 / 1.4),
    0: () => { Object.assign(state, whole); soon(); }, u: () => go('list', [], own()) }, escape: (typing) => typing || clear(),
    themed: () => { inks = colours(); soon(); } };
}
