// Two features side by side, of one SAE or of two: what they share and what only one of them has.
import {h, num, pct, signed, tabular, put} from './dom.js';
import {about, ask, feature as fetched, logits as fetchedLogits, isSite} from './data.js';
import {strip, code} from './tokens.js';
import {source, sourceParam, nameOf, meaning, histogram, meant, lately} from './shared.js';
import {link, go} from './route.js';

export async function compare(main, { args }) {
  const { sources } = await about();
  const pick = (text) => { const [src, f] = (text || '').includes(':') ? text.split(':') : [sources[0].id, text]; return { src, f }; };
  const asked = [pick(args[0]), pick(args[1])];
  const all = await Promise.all(sources.map((one) => source(one.id)));
  const chooser = ({ src, f }, i) => {
    const number = h('input', { value: f ?? '', size: 14, placeholder: 'number or word', maxlength: 200,
      'aria-label': `Feature ${i ? 'on the right' : 'on the left'}` });
    const which = all.length > 1 ? h('select', { 'aria-label': `SAE ${i ? 'on the right' : 'on the left'}` },
      all.map((s) => h('option', { value: s.id, selected: s.id === src }, s.name))) : null;
    const read = () => {
      const s = all.find((one) => one.id === which?.value) || all[0];
      return `${s.id}:${meant(s, number.value) ?? number.value.trim()}`;
    };
    return { element: [which, number], read, number };
  };
  const choosers = asked.map(chooser);
  put(main, h('h1', null, 'Compare ', h('small', null, 'two features, side by side')),
    h('form.bar', { onsubmit: (event) => { event.preventDefault(); go('compare', choosers.map((one) => one.read())); } },
      choosers[0].element, h('span', null, 'with'), choosers[1].element, h('button', null, 'Compare'),
      h('button', { type: 'button', title: 'Exchange left and right', 'aria-label': 'Exchange left and right',
        onclick: () => go('compare', choosers.map((one) => one.read()).reverse()) }, '⇄')));
  const sides = asked.map(({ src, f }) => ({ s: all.find((one) => one.id === src), f: /^\d+$/.test(f) ? +f : NaN }));
  if (!sides.every(({ s, f }) => f < s?.t.d)) {
    const given = choosers.filter((one) => one.number.value.trim()).map((one) => one.read());
    put(main, lately(all, given, (s, f) => go('compare', [...given.slice(0, 1), `${s.id}:${f}`])));
    put(main, h('p.empty', null, asked.every((one) => one.f) ? 'There is no such feature. Give a number, or a word that it is active on.'
      : 'Give two features by number or word, or choose “compare it” on the page of one.'));
    return {};
  }
  const pages = await Promise.all(sides.map(({ s, f }) => fetched(s.id, f)));
  const key = sides.map(({ s, f }) => `${s.id}:${f}`);
  const figures = isSite ? known(sides, pages) : await ask(`compare?a=${key[0]}&b=${key[1]}`);
  const figure = (name, value, why) => value != null && h('div', { 'data-figure': name, 'data-value': value }, h('dt', null, name),
    h('dd', null, num(value), why && h('small', null, ' ', why)));
  put(main, h('dl.stats', null, figure('cosine', figures.cosine, 'of the directions'),
    figure('Jaccard', figures.jaccard, figures.jaccard_over && `over ${figures.jaccard_over}`),
    figure('shared texts', figures.shared_texts, `of ${num(pages[0].texts)} and ${num(pages[1].texts)}`)));
  if (figures.why_null) put(main, h('p.muted', null, figures.why_null));
  const only = [new Set(figures.tokens.only_a.map(([token]) => token)), new Set(figures.tokens.only_b.map(([token]) => token))];
  put(main, h('div.two.facing', null, sides.map((side, i) => column(side, pages[i], only[i]))));
  const rows = Math.max(pages[0].top.length, pages[1].top.length), cell = (i, k) => {
    const ex = pages[i].top[k];
    return ex ? h('div.facing-row', null, h('span.num', null, num(ex.act)),
      h('span.window', null, strip(ex, Math.abs(pages[i].max)))) : h('div');
  };
  put(main, h('h2', null, 'Strongest examples'),
    h('div.card.pairs', null, sides.map(({ s, f }) => h('h3', null, `Feature ${f} `, meaning(s, f, 2))),
      Array.from({ length: rows }, (_, k) => [cell(0, k), cell(1, k)])));
  return { keys: { c: () => go('compare', [...key].reverse()) } };
}

function column({ s, f }, x, only) {
  const bars = x.count ? histogram(x.hist, { what: 'Activations', across: 'activation' })?.drawn : null, direction = h('div');
  fetchedLogits(s.id, f).then((found) => direction.append(h('div.columns', null,
    [['promotes', found.up], ['suppresses', found.down]].map(([title, rows]) => tabular(title,
      rows.slice(0, 6).map(([token, v]) => [code(token), signed(v)]))))), () => null);
  return h('section.card', { 'aria-label': `Feature ${f}` },
    h('h2', null, h('a', { href: link('feature', [f], { src: sourceParam(s) }) }, `Feature ${f}`), ' ',
      nameOf(s, f) ? h('span.label', { dir: 'auto' }, nameOf(s, f)) : meaning(s, f), s.first ? null : h('small', null, ` ${s.name}`)),
    h('p.muted', null, `${pct(x.density)} of tokens · ${num(x.texts)} texts · max ${num(x.max)}`), bars,
    tabular('active on', x.tokens.slice(0, 8).map(([token, n]) => [[code(token, { class: only.has(token) ? 'only' : null }),
      only.has(token) ? h('small', null, ' only here') : null], num(n)])), direction);
}

// A folder knows the figures of neighbours only.
function known([a, b], [x, y]) {
  const found = (list, g) => (a.s === b.s ? list.find(([id]) => id === g)?.[1] ?? null : null);
  const left = new Map(x.tokens), right = new Map(y.tokens);
  return {
    cosine: found(x.similar, b.f), jaccard: found(x.together, b.f), shared_texts: null,
    tokens: { both: [], only_a: x.tokens.filter(([token]) => !right.has(token)), only_b: y.tokens.filter(([token]) => !left.has(token)) },
    why_null: 'A folder of files knows cosine and Jaccard of near neighbours only, and the ten most frequent tokens of each;'
      + ' mlxterp serve knows all.',
  };
}
