// Your own text: which features are active on it, on each token and in all.
import {$, h, num, pct, say, later, tabular, field, choice, put} from './dom.js';
import {about, ask, isSite} from './data.js';
import {shade, marked, quoted} from './tokens.js';
import {source, featureLink, sourceChoice} from './shared.js';
import {changed, note} from './route.js';
import {needsLive} from './live.js';

const FIRST = 'Lily was very sad because she lost her red ball. She looked';
const MOST = 20, HEAT = 16;
const ORDERS = [['telling', 'strength × rarity'], ['act', 'activation, ⟨bos⟩ too'], ['share', 'share of its maximum']];

export async function text(main, { q }) {
  const { sources } = await about();
  const asked = q.get('src') || '';
  await source(asked === 'all' ? '' : asked);  // says where there is none
  const chosen = asked === 'all' ? sources : sources.filter((one) => one.id === (asked || sources[0].id));
  if (isSite || !chosen.some((one) => one.live)) { put(main, needsLive('Text')); return {}; }
  const state = { pos: q.has('pos') ? +q.get('pos') : null, f: q.get('f'), by: q.get('by') || 'telling', heat: q.get('view') === 'heat' };
  const area = h('textarea', { rows: 3, value: q.get('t') ?? FIRST, maxlength: 20000, dir: 'auto' });
  const out = h('div.answers', { 'aria-busy': 'true' });
  const all = await Promise.all(chosen.filter((one) => one.live).map((one) => source(one.id)));
  let control, answers = [];
  const keep = () => note('text', [], changed(q,
    { t: area.value, pos: state.pos, f: state.f, by: state.by === 'telling' ? '' : state.by, view: state.heat ? 'heat' : '' }));
  async function run() {
    control?.abort();
    if (!area.value.trim()) {
      out.replaceChildren(h('p.empty', null, 'Type a text: the features of each token appear as you type.'));
      return;
    }
    control = new AbortController();
    out.setAttribute('aria-busy', 'true');
    try {
      answers = await Promise.all(all.map((s) => ask(`${s.id}/text`,
        { method: 'POST', body: { text: area.value }, signal: control.signal })));
      if (state.pos >= answers[0].tokens.length) state.pos = null;
      show();
    } catch (error) {
      if (error.name !== 'AbortError') out.replaceChildren(h('p.error', { role: 'alert' }, error.message));
    }
    out.setAttribute('aria-busy', 'false');
  }
  const show = () => {
    keep();
    out.replaceChildren(h(`div.panes${all.length > 1 ? '.several' : ''}`, null,
      all.map((s, i) => panel(s, answers[i], state, all.length > 1, show))));
    say(`${answers[0].tokens.length} tokens`);
  };
  area.addEventListener('input', later(180, () => { state.pos = null; run(); }));
  put(main, h('h1', null, 'Text ', h('small', null, 'the features of each token, as you type')), field('Your text', area),
    h('div.bar', null, await sourceChoice(asked || sources[0].id,
      (value) => { location.hash = `#/text?${changed(q, { src: value === sources[0].id ? '' : value, t: area.value, f: '' })}`; },
      [['all', 'all side by side']]),
      choice('Order', state.by, ORDERS, (value) => { state.by = value; show(); }),
      h('button', { type: 'button', id: 'heat', 'aria-pressed': String(state.heat),
        onclick: (event) => { state.heat = !state.heat; event.currentTarget.setAttribute('aria-pressed', String(state.heat)); show(); } },
        'Heat map')), out);
  await run();
  return { keys: { h: () => $('#heat', main).click(), e: () => area.focus() }, leave: () => control?.abort() };
}

// Features of a text: the strongest place of each, with how often. At one token only, where one is chosen.
export function ranked(s, answer, { pos, by }) {
  const { t } = s, best = new Map();
  answer.rows.forEach((row, i) => {
    if (pos == null ? by !== 'act' && !answer.counted[i] : i !== pos) return;  // maxima were counted without ⟨bos⟩ and sinks
    for (const [f, a] of row) {
      const held = best.get(f);
      if (!held) best.set(f, { f, a, i, n: 1 });
      else { held.n++; if (Math.abs(a) > Math.abs(held.a)) { held.a = a; held.i = i; } }
    }
  });
  const rows = [...best.values()];
  for (const row of rows) {
    row.share = Math.abs(row.a) / (Math.abs(t.maximum[row.f]) || Math.abs(row.a));
    row.worth = by === 'act' ? Math.abs(row.a) : by === 'share' ? row.share : row.share * Math.log(t.tokens / Math.max(1, t.count[row.f]));
  }
  return rows.sort((a, b) => b.worth - a.worth || a.f - b.f);
}

const picked = (s, { f }) => (/^\d+$/.test(f ?? '') && +f < s.t.d ? +f : null);
const at = (answer, i, f) => answer.rows[i].find(([g]) => g === f)?.[1] || 0;

function panel(s, answer, state, several, show) {
  const rows = ranked(s, answer, state), chosen = picked(s, state);
  let painted;
  const told = h('p.muted.told'), line = h('p.tokens', { dir: 'auto' }), paint = (f) => {
    if (f === painted) return;
    painted = f;
    const scale = Math.abs(s.t.maximum[f]);
    told.replaceChildren(...(f == null ? ['Click a token for its features only; point at a feature to see where it is active.']
      : ['Coloured: ', featureLink(s, f), ' ', f === chosen ? h('button', { type: 'button', onclick: () => { state.f = null; show(); } }, 'colour nothing') : '']));
    line.querySelectorAll('button').forEach((button, i) => {
      const a = f == null ? 0 : at(answer, i, f);
      button.className = ['tok', shade(a, scale), !answer.counted[i] ? 'left-out' : ''].join(' ').trim();
      button.title = (a ? `${num(a, 4)} at position ${i}` : `position ${i}`) + (answer.counted[i] ? '' : ', left out of the index');
    });
  };
  answer.tokens.forEach((token, i) => {
    const button = h('button', { type: 'button', 'aria-pressed': String(i === state.pos),
      onclick: () => { state.pos = state.pos === i ? null : i; show(); } }, marked(token));
    // A line breaks between words only, unless a word is very long.
    if (/^\w|^[.,!?;:'")]/.test(token) && line.lastChild?.childElementCount < 8) line.lastChild.append(button);
    else line.append(h('span.word', null, button));
  });
  paint(chosen);
  const where = state.pos == null ? 'Features of the text' : `Features on ${quoted(answer.tokens[state.pos])}`;
  return h('section.pane', { 'aria-label': s.name }, several ? h('h2', null, s.name) : null, line, told,
    !rows.length ? h('p.empty', null, 'No feature is active here.')
      : state.heat ? heatMap(s, answer, rows.slice(0, HEAT)) : listing(s, answer, rows, where, paint, state, show));
}

function listing(s, answer, rows, where, paint, state, show) {
  const chosen = picked(s, state), full = state.full;
  const made = tabular(where, rows.slice(0, full ? rows.length : MOST).map((row) => [
    featureLink(s, row.f), h('span.muted', null, `on ${quoted(answer.tokens[row.i])}${row.n > 1 ? ` and ${row.n - 1} more` : ''}`),
    pct(s.t.count[row.f] / s.t.tokens), num(row.a), `${Math.round(100 * row.share)} %`]),
  ['feature', 'strongest', 'density', 'activation', 'of its max']);
  [...made.tBodies[0].rows].forEach((tr, i) => {
    const { f } = rows[i];
    tr.dataset.f = f;
    tr.classList.toggle('on', f === chosen);
    // A page that is drawn under a resting pointer is not pointed at.
    tr.addEventListener('mousemove', (event) => { if (event.movementX || event.movementY) paint(f); });
    tr.addEventListener('mouseleave', () => paint(chosen));
    tr.addEventListener('focusin', () => paint(f));
    tr.cells[3].replaceChildren(h('button.pin', { type: 'button', title: 'Colour the text by it', 'aria-pressed': String(f === chosen),
      onclick: () => { state.f = f === chosen ? null : f; show(); } }, num(rows[i].a)));
  });
  const hidden = rows.length - MOST;
  made.className = 'listing';
  return [h('div.card', null, made), hidden > 0 ? h('button', { type: 'button', onclick: () => { state.full = !full; show(); } },
    full ? 'Show fewer' : `Show ${num(hidden)} more`) : null];
}

// Tokens × features: a row for each feature, coloured by the share of its maximum.
function heatMap(s, answer, rows) {
  return h('div.scroll', { tabindex: 0, role: 'region', 'aria-label': 'Heat map of tokens and features' }, h('table.heat', null,
    h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'feature'),
      answer.tokens.map((token) => h('th', { scope: 'col' }, h('span', null, marked(token)))))),
    h('tbody', null, rows.map(({ f }) => h('tr', null, h('th', { scope: 'row' }, featureLink(s, f)), answer.tokens.map((token, i) => {
      const a = at(answer, i, f);
      return h(`td${a ? '.' + shade(a, Math.abs(s.t.maximum[f])) : ''}`, a ? { title: `${num(a, 4)} on ${quoted(token)}` } : null,
        a ? num(a, 2) : '');
    }))))));
}
