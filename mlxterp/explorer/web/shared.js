// Parts that several pages use.
import {h, svg, num, say} from './dom.js';
import {about, names, table, rename, isSite} from './data.js';
import {chips, order} from './columns.js';
import {code} from './tokens.js';
import {link, changed} from './route.js';

// Everything about one SAE that a page needs: {id, name, …, t: its table, names, n: how many features are shown}.
export async function source(id) {
  const { sources } = await about();
  const found = id ? sources.find((one) => one.id === id) : sources[0];
  if (!found) throw Object.assign(new Error(`There is no SAE ${id} here: ${num(sources.length)} are shown, numbered from 0.`), { status: 404 });
  const t = await table(found.id), only = found.features && new Set(found.features);
  return { ...found, first: found === sources[0], writable: found.writable || isSite, only, n: only?.size ?? t.d, t, names: await names(found.id) };
}
export const sourceParam = (s) => (s.first ? '' : s.id);

export const nameOf = (s, f) => s.names.labels[f]?.name;

// A name where there is one, else an explanation, else the tokens that stand out.
export function meaning(s, f, most = 4) {
  const name = nameOf(s, f), told = s.names.explanations[f];
  if (name) return h('b.name-of', { dir: 'auto' }, name);
  if (told) return h('span.told', { dir: 'auto', title: `said by ${told.source}` }, told.text);
  return tokensOf(s, f, most);
}

export function tokensOf(s, f, most) {
  const found = chips(s.t, f).slice(0, most);
  return found.length ? h('span.chips', null, found.map((chip) => code(chip.text,
    { title: `${num(chip.n)} of its ${num(s.t.count[f])} firings` })))
    : h('span.muted', null, s.t.count[f] ? '–' : 'never active');
}

export function featureLink(s, f, q = '') {
  return h('a.feature', { href: link('feature', [f], changed(q, { src: sourceParam(s) })) }, h('span.id', null, String(f)),
    meaning(s, f, 3));
}

// Features that were looked at, the last one first, and buttons for some of them.
const recent = [];
export function looked(src, f) {
  const at = recent.findIndex((one) => one.src === src && one.f === f);
  if (at >= 0) recent.splice(at, 1);
  recent.splice(0, 0, { src, f });
  recent.splice(8);
}
export function lately(all, without, take) {
  const some = recent.filter(({ src, f }) => !without.includes(`${src}:${f}`)).slice(0, 4);
  return some.length ? h('div.bar.lately', null, h('span.muted', null, 'Looked at lately:'), some.map(({ src, f }) => {
    const s = all.find((one) => one.id === src);
    return h('button', { type: 'button', onclick: () => take(s, f) }, `+ ${f} `, meaning(s, f, 2));
  })) : null;
}

// The list that an address describes; kept, so that next and previous cost nothing.
const lists = new Map();
export function listed(s, q) {
  const kept = [...q].filter(([key]) => key !== 'src').sort().join('&');
  const key = `${s.id} ${kept} ${s.names.serial}`;
  if (!lists.has(key)) {
    if (lists.size > 8) lists.clear();
    lists.set(key, order(s, q));
  }
  return lists.get(key);
}

// The feature that a number or a word means: the best match of a search; null where nothing fits.
export function meant(s, text) {
  const said = text.trim();
  if (/^\d+$/.test(said)) return +said < s.t.d ? +said : null;
  return said ? listed(s, new URLSearchParams({ q: said }))[0] ?? null : null;
}

// An input that names a feature: saved on Enter and when it is left; over another's name only on Enter.
export function namer(s, f, attributes) {
  const before = () => nameOf(s, f) || '';
  let sure = false, conflict = false;
  const status = h('span.muted.saved');
  const input = h('input.name', {
    value: before(), 'aria-label': `Name of feature ${f}`, placeholder: 'Name it (e)', maxlength: 200, dir: 'auto', spellcheck: 'false',
    readonly: !s.writable, title: s.writable ? null : 'This explorer is read-only', ...attributes,
    onkeydown: (event) => {
      if (event.key === 'Enter') { event.preventDefault(); sure = true; input.blur(); }
      if (event.key === 'Escape') { input.value = before(); status.textContent = ''; input.blur(); }
    },
    onblur: async () => {
      const pressed = sure;
      sure = false;
      if (s.writable && pressed && before() && input.value.trim() === before()) status.textContent = 'saved';
      if (!s.writable || input.value.trim() === before() || (conflict && !pressed)) return;
      conflict = false;
      try {
        await rename(s.id, f, input.value, s.names.labels[f]?.note);
        status.textContent = input.value.trim() ? 'saved' : 'name taken away';
        status.classList.remove('error');
        say(`Feature ${f}: ${status.textContent}`);
      } catch (error) {
        const now = error.status === 409 ? before() : null;
        conflict = now != null;
        status.textContent = now == null ? error.message : now
          ? `Somebody else has named it “${now}” meanwhile. Enter keeps yours, Escape takes theirs.`
          : 'Somebody else has taken its name away meanwhile. Enter keeps yours, Escape takes theirs.';
        status.classList.add('error');
        say(status.textContent);
        if (conflict && pressed) input.focus();
      }
    },
  });
  return [input, status];
}

// Chooses the SAE, where there are several.
export async function sourceChoice(value, onchange, extra = []) {
  const { sources } = await about();
  if (sources.length < 2) return null;
  return h('select', { 'aria-label': 'SAE', title: 'Which SAE', onchange: (event) => onchange(event.target.value) },
    [...sources.map((one) => [one.id, one.name]),
      ...extra].map(([key, name]) => h('option', { value: key, selected: key === value }, name)));
}

// -- histograms -----------------------------------------------------------------------------------

// Bars of equal width with both axes named; `mark(value)` draws a line at a value.
export function histogram([counts, edges], { what, across, up = 'tokens' }) {
  const first = counts.findIndex((n) => n), last = counts.findLastIndex((n) => n);
  if (first < 0) return null;
  counts = counts.slice(first, last + 1);
  edges = edges.slice(first, last + 2);
  while (counts.length > 40) {
    counts = counts.filter((_, i) => i % 2 === 0).map((n, i) => n + (counts[2 * i + 1] || 0));
    const end = edges[edges.length - 1];
    edges = [...edges.slice(0, -1).filter((_, i) => i % 2 === 0), end];
  }
  const L = 46, R = 12, T = 8, B = 84, W = 400, H = 118, n = counts.length, most = Math.max(...counts);
  const x = (i) => L + (W - L - R) * i / n, y = (c) => B - (B - T) * c / most;
  const at = (value) => {
    if (value < edges[0] || value > edges[n]) return null;
    let i = 0;
    while (i < n - 1 && value >= edges[i + 1]) i++;
    return x(i + (value - edges[i]) / (edges[i + 1] - edges[i] || 1));
  };
  const ticks = [...new Set([0, Math.round(n / 4), Math.round(n / 2), Math.round(3 * n / 4), n])];
  const line = svg('line', { class: 'mark', y1: T - 4, y2: B, x1: 0, x2: 0, visibility: 'hidden' });
  const drawn = svg('svg', { viewBox: `0 0 ${W} ${H}`, class: 'hist', role: 'img',
    'aria-label': `${what}: ${num(counts.reduce((a, b) => a + b, 0))} values from ${num(edges[0])} to ${num(edges[n])}` },
    [0.5, 1].map((part) => [svg('line', { class: 'rule', x1: L, x2: W - R, y1: y(most * part), y2: y(most * part) }),
      svg('text', { x: L - 5, y: y(most * part) + 4, 'text-anchor': 'end' }, num(Math.round(most * part)))]),
    counts.map((c, i) => c > 0 && svg('rect', { x: x(i), y: Math.min(y(c), B - 1.5), width: Math.max(x(i + 1) - x(i) - 1, 0.6),
      height: Math.max(B - y(c), 1.5) }, svg('title', null, `${num(edges[i])} to ${num(edges[i + 1])}: ${num(c)}`))),
    svg('line', { class: 'axis', x1: L, x2: W - R, y1: B, y2: B }),
    ticks.map((i) => [svg('line', { class: 'axis', x1: x(i), x2: x(i), y1: B, y2: B + 4 }),
      svg('text', { x: x(i), y: B + 15, 'text-anchor': i === 0 ? 'start' : i === n ? 'end' : 'middle' }, num(edges[i], 2))]),
    svg('text', { class: 'axis-name', x: (L + W - R) / 2, y: H - 3, 'text-anchor': 'middle' }, across),
    svg('text', { class: 'axis-name', x: -(T + B) / 2, y: 10, transform: 'rotate(-90)', 'text-anchor': 'middle' }, up), line);
  const mark = (value) => {
    const where = value == null ? null : at(Math.abs(value) > edges[n] ? edges[n] : value);
    line.setAttribute('visibility', where == null ? 'hidden' : 'visible');
    if (where != null) { line.setAttribute('x1', where); line.setAttribute('x2', where); }
  };
  return { drawn, mark };
}

// A few bars without axes, for a row of the list.
export function spark(values) {
  return svg('svg', { viewBox: `0 0 ${values.length * 5} 20`, class: 'spark', 'aria-hidden': 'true' },
    [...values].map((v, i) => v > 0 && svg('rect', { x: 5 * i, y: 20 - 19 * v / 255, width: 4, height: 19 * v / 255 })));
}

// Text in a file that the browser saves.
export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
