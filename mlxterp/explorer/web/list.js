// The list: all features of an SAE in rows of one height, of which only those in sight are elements.
import {$, h, num, say, later, choice, put} from './dom.js';
import {about, ask, peaks, isSite} from './data.js';
import {COLUMNS, shown, bounds, sorting, searched} from './columns.js';
import {strip, around} from './tokens.js';
import {source, sourceParam, meaning, tokensOf, listed, looked, nameOf, spark, sourceChoice} from './shared.js';
import {link, changed, go, remember, remembered} from './route.js';

const ROW = 54;
const seen = {};
// Back in the same list it is marked; another search begins at its top.
export function visited(src, f, q) { seen[src] = { f, list: String(q) }; looked(src, f); }

export async function list(main, { q }) {
  const { sources } = await about(), asked = q.get('src') || '';
  const ids = asked === 'all' ? sources.map((one) => one.id) : [asked];
  const panes = await Promise.all(ids.map(async (id) => pane(await source(id), q, ids.length > 1)));
  const active = { pane: panes[0] };
  const count = h('span.count', { role: 'status' });
  const change = (values) => go('list', [], changed(q, values));
  const open = h('button.filters', { type: 'button', 'aria-expanded': 'false', onclick: () => {
    main.classList.toggle('open');
    open.setAttribute('aria-expanded', String(main.classList.contains('open')));
  } }, 'Filter');
  const t = panes[0].s.t, [key, down] = sorting(t, q);
  const orders = [['best', 'most telling first'], ...(q.get('q') ? [['match', 'best match first']] : []),
    ...shown(t).flatMap((k) => [[`-${k}`, `${COLUMNS[k][0]}, largest first`], [k, `${COLUMNS[k][0]}, smallest first`]])];
  const filters = [...q].filter(([k, v]) => v && !['src', 'sort'].includes(k));
  put(main, h('div.bar', null,
    await sourceChoice(asked || sources[0].id, (value) => change({ src: value === sources[0].id ? '' : value }),
      [['all', 'all side by side']]),
    choice('Order', key === 'best' || key === 'match' ? key : (down ? '-' : '') + key, orders,
      (value) => change({ sort: value === 'best' || value === 'match' ? '' : value })),
    choice('With', q.get('has') || '', [['', 'all features'], ['name', 'with a name'], ['explanation', 'with an explanation'],
      ['nothing', 'without either']], (value) => change({ has: value })),
    open,
    filters.map(([k, v]) => h('button.chip', { type: 'button', title: 'Take this filter away',
      onclick: () => { if (k === 'q') $('#q').value = ''; change({ [k]: '' }); } }, filterName(k, v), ' ×')),
    count, filters.length ? null : h('small.hint', null,
      'A row is a feature: tokens it is active on, and where it is strongest. Click one; ? shows keys.')),
    h(`div.panes${panes.length > 1 ? '.several' : ''}`, null, panes.map((one) => one.element)));
  const told = `${panes.map((one) => `${num(one.ids.length)} of ${num(one.s.n)}`).join(' · ')} features`;
  count.textContent = told;
  if (panes.some((one) => one.ids.length && q.get('q') && searched(one.s.t, one.s.names, q.get('q')).loosely)) {
    put(count, '; none fits all of the search, these come near');
  }
  say(count.textContent);
  for (const one of panes) { one.element.addEventListener('focusin', () => { active.pane = one; }); one.begin(); }
  if (!isSite && q.get('q')) alsoFound(main, panes, q);
  return {
    keys: {
      j: () => active.pane.move(1), k: () => active.pane.move(-1), ArrowDown: () => active.pane.move(1),
      ArrowUp: () => active.pane.move(-1),
      PageDown: () => active.pane.move(10), PageUp: () => active.pane.move(-10), Home: () => active.pane.move(-Infinity),
      End: () => active.pane.move(Infinity),
      Enter: () => active.pane.enter(), r: () => active.pane.random(),
      f: () => { main.classList.add('open'); $('.filter input', main)?.focus(); },
      s: () => active.pane.take('steer'), c: () => active.pane.take('compare'),
    },
  };
}

const filterName = (key, value) => (key === 'lasso' ? 'drawn on the map' : !COLUMNS[key] ? value
  : `${COLUMNS[key][0]} ${/^[\d.]+$/.test(value) ? '≥ ' : ''}${value}`);

// What the index knows beyond the tokens in the table: tokens that it is rarely active on, meanings.
async function alsoFound(main, panes, q) {
  for (const { s, ids, element } of panes) {
    const found = await ask(`${s.id}/search?k=12&q=${encodeURIComponent(q.get('q'))}`).catch(() => []);
    const here = new Set(ids), more = (found || []).filter(([f]) => !here.has(f)).slice(0, 6);
    if (more.length && element.isConnected) element.append(h('p.also', null, 'Also: ',
      more.map(([f, , why]) => h('a.feature', { href: link('feature', [f], { src: sourceParam(s) }), title: why },
        h('span.id', null, String(f)), meaning(s, f, 2), h('small', null, why)))));
  }
}

function pane(s, q, narrow) {
  const { t } = s, ids = listed(s, q), columns = narrow ? ['id', 'density'] : shown(t), [sortKey, down] = sorting(t, q);
  const own = changed(q, { src: sourceParam(s) });
  const pad = h('div.pad', { role: 'presentation' }), box = h('div.rows', { tabindex: 0, role: 'listbox', 'aria-label': `Features of ${s.name}` }, pad);
  const element = h('section.pane', { 'aria-label': s.name }, narrow ? h('h2', null, s.name) : null, head(), box);
  const rows = new Map();
  let at = -1;
  element.style.setProperty('--figures', columns.length - 1);
  pad.style.height = `${Math.max(ids.length * ROW, 1)}px`;
  if (!ids.length) box.replaceChildren(h('div.empty', null, h('p', null, 'No feature fits.', lacking()),
    h('a.button', { href: link('list', [], { src: sourceParam(s) }) }, 'Show all'), ' ',
    q.get('q') && s.live ? h('a.button', { href: link('text', [], changed('', { src: sourceParam(s), t: q.get('q') })) }, 'Features of it as a text') : null));

  // Why nothing is there, where it can be said.
  function lacking() {
    if (q.get('q')) return ' A search looks for tokens that a feature is active on above all, names and explanations.';
    if (q.get('has') === 'name' && !Object.keys(s.names.labels).length) return ' Nobody has named one yet: open a feature and name it.';
    return q.get('has') === 'explanation' && !Object.keys(s.names.explanations).length
      ? ' The SAE has no explanations: index.explain(…) makes them, sae.concepts.add_explanations(…) keeps them.' : '';
  }


  function head() {
    const sorts = (key) => h('button', {
      type: 'button', title: `${COLUMNS[key][3]}. Sorts by it; again turns round.`, 'data-key': key,
      onclick: () => go('list', [], changed(q, { sort: sortKey === key ? (down ? key : `-${key}`) : key === 'id' ? key : `-${key}` })),
    }, COLUMNS[key][0] + (sortKey === key ? (down ? ' ↓' : ' ↑') : ''));
    const cell = (key) => h(`span.c-${key}`, { 'data-sort': sortKey === key ? (down ? 'descending' : 'ascending') : null }, sorts(key));
    const filter = (key) => h(`label.c-${key}.filter`, null, h('span', null, COLUMNS[key][0] + (COLUMNS[key][1] && ` ${COLUMNS[key][1]}`)),
      h('input', {
      value: q.get(key) || '', placeholder: '≥', size: 4, 'data-filter': key, 'aria-label': `Filter by ${COLUMNS[key][0]}`,
      title: `Keeps features by ${COLUMNS[key][0]}${COLUMNS[key][1] && ` in ${COLUMNS[key][1]}`}: 2 or >2 or <2 or 1-5 or =2`,
      'aria-invalid': q.get(key) && bounds(q.get(key)) === undefined ? 'true' : null, maxlength: 40,
      onchange: (event) => {
        const bad = bounds(event.target.value) === undefined;
        event.target.setAttribute('aria-invalid', String(bad));
        if (bad) say('Not understood. Write 2, >2, <2, 1-5 or =2.');
        else go('list', [], changed(q, { [key]: event.target.value.trim() }));
      },
    }));
    return h('div.head', null,
      h('div.grid', null, columns.slice(0, 1).map(cell), h('span.c-label', null, 'feature'), columns.slice(1).map(cell),
        narrow ? null : h('span.c-spark', null, 'activations')),
      narrow ? null : h('div.grid.filtering', null, columns.slice(0, 1).map(filter), h('span.c-label', null, 'keep only: 2, >2, <2, 1-5'),
        columns.slice(1).map(filter), h('span.c-spark')));
  }

  const figure = (f, key) => {
    if (key === 'id') return String(f);
    if (!t.count[f] && key !== 'norm') return key === 'density' ? '0' : '';
    return num(COLUMNS[key][2](t, f)) + (COLUMNS[key][1] && ' %');
  };
  const cells = (f, key) => h(`span.c-${key}`, null, figure(f, key));
  function row(i) {
    const f = ids[i];
    const made = h(`a.row.grid${i === at ? '.on' : ''}`,
      { href: link('feature', [f], own), id: `${s.id}-${i}`, role: 'option', 'aria-selected': String(i === at), tabindex: -1, 'data-id': f,
        'aria-posinset': i + 1, 'aria-setsize': ids.length, onclick: () => { at = i; keepNow(); } },
      cells(f, 'id'), h('span.c-label', null, h('span.first', null, meaning(s, f, 5),
        nameOf(s, f) || s.names.explanations[f] ? tokensOf(s, f, 4) : null), h('span.peek')),
      columns.slice(1).map((key) => cells(f, key)),
      narrow ? null : h('span.c-spark', null, spark(t.spark.subarray(f * t.bins, (f + 1) * t.bins))));
    made.style.transform = `translateY(${i * ROW}px)`;
    rows.set(i, made);
    peek(i);
    return made;
  }
  function peek(i) {
    const ex = t.peaks.get(ids[i]), place = $('.peek', rows.get(i));
    if (ex && !place.firstChild) place.append(strip(around(ex, box.clientWidth < 600 ? 3 : 8), Math.abs(t.maximum[ids[i]]),
      { kind: 'snip' }));
  }
  const fetchPeaks = later(60, async () => {
    const active = [...rows.keys()].map((i) => ids[i]).filter((f) => t.count[f]);
    const all = () => { for (const i of rows.keys()) peek(i); };
    await peaks(s.id, active.slice(0, 100), (f) => [...rows.keys()].some((i) => ids[i] === f), all).catch(() => null);
  });
  const keepNow = () => remember({ top: box.scrollTop, at }), keep = later(120, keepNow);
  function draw() {
    if (!ids.length) return;
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 4),
      last = Math.min(ids.length - 1, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 4);
    for (const [i, made] of rows) if (i < first || i > last) { made.remove(); rows.delete(i); }
    for (let i = first; i <= last; i++) if (!rows.has(i)) pad.append(row(i));
    fetchPeaks();
  }
  function select(i, focus = true) {
    if (!ids.length) return;
    for (const [j, on] of [[at, false], [i, true]]) {
      rows.get(j)?.classList.toggle('on', on);
      rows.get(j)?.setAttribute('aria-selected', String(on));
    }
    at = i;
    const top = i * ROW;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
    draw();
    rows.get(i)?.classList.add('on');
    box.setAttribute('aria-activedescendant', `${s.id}-${i}`);
    if (focus) box.focus({ preventScroll: true });
    say(`${ids[i]} ${nameOf(s, ids[i]) || ''}`);
    keep();
  }
  box.addEventListener('scroll', () => { draw(); keep(); }, { passive: true });
  new ResizeObserver(draw).observe(box);
  return {
    s, ids, element,
    begin() {
      const { top, at: kept } = remembered();
      if (top != null) { box.scrollTop = top; at = kept ?? -1; draw(); if (at >= 0) box.focus({ preventScroll: true }); return; }
      const back = seen[s.id]?.list === String(own) ? ids.indexOf(seen[s.id].f) : -1;
      draw();
      if (back >= 0) { box.scrollTop = back * ROW - box.clientHeight / 2; select(back); }
    },
    move(by) { select(Math.min(ids.length - 1, Math.max(0, at + by))); },
    enter() { if (ids.length) { keepNow(); go('feature', [ids[Math.max(at, 0)]], own); } },
    random() { if (ids.length) go('feature', [ids[Math.floor(Math.random() * ids.length)]], own); },
    take(page) {
      if (at < 0) return;
      go(page, page === 'compare' ? [`${s.id}:${ids[at]}`] : [], page === 'steer' ? { e: `${s.id}:${ids[at]}` } : '');
    },
  };
}
