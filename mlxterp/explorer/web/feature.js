// One feature: what it is active on (reads), what its direction promotes (writes), where, and how sure that is.
import {$, h, num, pct, signed, say, tabular, problem, put} from './dom.js';
import {feature as fetched, logits as fetchedLogits, explanations, ask, address, isSite} from './data.js';
import {strip, code} from './tokens.js';
import {source, sourceParam, listed, namer, featureLink, histogram} from './shared.js';
import {visited} from './list.js';
import {COLUMNS} from './columns.js';
import {link, changed, go} from './route.js';

export async function feature(main, { args, q }) {
  const f = +args[0], s = await source(q.get('src'));
  const known = Number.isInteger(f) && f >= 0 && f < s.t.d && /^\d+$/.test(args[0] || '');
  if (!known) {
    put(main, problem('No such feature', `There is no feature ${args[0] || 'without a number'}: ${s.name} has ${num(s.t.d)}, numbered from 0.`,
      h('a.button', { href: link('list') }, 'All features')));
    return {};
  }
  document.title = `Feature ${f} · mlxterp`;
  visited(s.id, f, changed(q, { src: sourceParam(s) }));
  const waiting = h('p.loading', null, `Feature ${f} …`);
  put(main, waiting);
  const x = await fetched(s.id, f).finally(() => waiting.remove());
  const ids = listed(s, q), rank = ids.indexOf(f), own = changed(q, { src: sourceParam(s) });
  const next = (by) => (rank < 0 ? Math.min(s.t.d - 1, Math.max(0, f + by)) : ids[Math.min(ids.length - 1, Math.max(0, rank + by))]);
  const to = (g) => link('feature', [g], own), self = `${s.id}:${f}`;
  const steer = link('steer', [], { e: self }), compare = link('compare', x.similar.length ? [self, `${s.id}:${x.similar[0][0]}`] : [self]);
  const said = h('div', null, explained(x));
  if (!isSite && !x.explanations.length && x.count) {
    const waiting = put(said, h('p.explanations.muted', null, '…')).lastChild, silent = 'No explanation yet; it is active in too few texts to say one.';
    explanations(s.id, f).then((found) => waiting.replaceWith(...(found.length ? listOf(found) : [h('p.explanations.muted', null, silent)])),
      () => waiting.remove());
  }
  put(main,
    h('nav.crumbs', { 'aria-label': 'Feature' },
      h('a', { href: to(next(-1)), rel: 'prev', title: 'Previous in the list' }, '← previous', key('k')),
      h('a', { href: to(next(1)), rel: 'next', title: 'Next in the list' }, 'next →', key('j')),
      h('span.muted', null, rank < 0 ? 'not in the list' : `${num(rank + 1)} of ${num(ids.length)}`),
      h('a', { href: link('list', [], own) }, 'list', key('u')), h('a', { href: steer }, 'steer it', key('s')),
      h('a', { href: compare }, 'compare it', key('c')),
      h('a', { href: to(ids[Math.floor(Math.random() * ids.length)] ?? f) }, 'random', key('r'))),
    h('h1', null, `Feature ${f} `, s.first ? null : h('small', null, s.name, ' '), namer(s, f)),
    said,
    h('dl.stats', null, [['density', pct(x.density)], ['active on', `${num(x.count)} of ${num(s.t.tokens)} tokens`, 'Tokens on which it is active, of all in the index'],
      ['texts', num(x.texts)], ['mean', num(x.mean)], ['max', num(x.max)],
      ...(x.range ? [['calibrated for steering', `${num(x.range[0])} to ${num(x.range[1])} × max`]] : [])].map(([name, value, why]) => h('div',
        { title: why || COLUMNS[name]?.[3] }, h('dt', null, name), h('dd', null, value)))),
    x.flags.length ? h('ul.flags', null, x.flags.map((flag) => h('li', null, flag))) : null);
  const bars = x.count ? histogram(x.hist, { what: 'Activations', across: 'activation where active (log scale)' }) : null;
  const writes = h('div', null, h('p.loading', null, 'What it writes …'));
  put(main, h('div.two', null,
    h('section.card', { 'aria-label': 'Reads' }, h('h2', null, 'Reads ', h('small', null, 'what it is active on')),
      x.count ? [bars?.drawn, beside(x)] : h('p.muted', null,
        'Never active in the texts of this index. Its decoder direction still says what it would write.')),
    h('section.card', { 'aria-label': 'Writes' }, h('h2', null, 'Writes ', h('small', null, 'next tokens that its direction promotes')),
      writes)));
  const scale = Math.abs(x.max) || 1;
  const group = (title, list, kind, why) => list?.length
    ? [h('h2', null, title, why && h('small', null, ' ', why)),
      h(`ol.ex.card.${kind}`, null, list.map((ex) => example(s, x, ex, scale, bars?.mark)))] : null;
  put(main, group('Strongest', x.top, 'top', 'colour: share of its maximum'), s.live && tryText(s, f));
  const near = (rows) => rows.map(([g, v]) => [featureLink(s, g),
    [num(v), ' ', h('a.cmp', { href: link('compare', [self, `${s.id}:${g}`]), title: `Compare ${f} with ${g}`,
      'aria-label': `Compare ${f} with ${g}` }, '⇄')]]);
  if (x.similar.length || x.together.length) {
    put(main, h('div.two', null,
      h('section.card', { 'aria-label': 'Similar directions' },
        x.similar.length ? tabular('Similar directions', near(x.similar), ['feature', 'cosine']) : h('p.muted', null,
          'Similar directions need the SAE, which this explorer was opened without.')),
      h('section.card', { 'aria-label': 'Active together' },
        x.together.length ? tabular('Active together with', near(x.together), ['feature', 'Jaccard']) : h('p.muted', null,
          'Active together with no other feature.'))));
  }
  put(main, x.bands.map((band) => group(`Percentile ${num(100 * band.lo)}–${num(100 * band.hi)}`, band.examples, 'band',
    'of the texts that it is active in; the strongest is at 100')),
    group('Hard negatives', x.hard, 'hard', 'a token that it often reads, and it stays silent'), foot(s, x));
  fetchedLogits(s.id, f).then((found) => writes.replaceChildren(...written(found)),
    (error) => writes.replaceChildren(h('p.muted', null, error.message)));
  say(`Feature ${f} ${x.label || ''}`);
  return {
    keys: {
      j: () => go('feature', [next(1)], own), k: () => go('feature', [next(-1)], own), u: () => go('list', [], own),
      e: () => { const name = $('.name', main); name.focus(); name.select(); },
      s: () => { location.hash = steer; }, c: () => { location.hash = compare; },
      r: () => go('feature', [ids[Math.floor(Math.random() * ids.length)] ?? f], own),
    },
  };
}

const scored = ([name, score]) => h('span.score',
  { title: score.n ? `${score.n} examples judged, ${score.failed || 0} without an answer` : null },
  `${name} ${num(score.value)}`, score.interval ? ` [${num(score.interval[0])}, ${num(score.interval[1])}]` : '',
  h('span.muted', null, score.chance == null ? ', chance not measured' : `, chance ${num(score.chance)}`,
    score.failed ? `, ${score.failed} failed` : ''));

const key = (letter) => h('span.key', null, ` (${letter})`);

function explained(x) { return [x.note && h('p.note', { dir: 'auto' }, x.note), listOf(x.explanations)]; }

function listOf(told) {
  if (!told.length) return [];
  const item = (e) => h('li', null, h('span.muted', null, 'Explanation: '), h('span', { dir: 'auto' }, e.text), ' ',
    h('small', null, `said by ${e.source}${e.confidence == null ? '' : `, ${pct(e.confidence)} sure`}${Object.keys(e.scores || {}).length ? '' : ', not scored'}`),
    Object.entries(e.scores || {}).map(scored));
  return [h('ul.explanations', { 'aria-label': 'Explanations' }, told.slice(0, 3).map(item)),
    told.length > 3 ? h('details', null, h('summary', null, `${told.length - 3} more`),
      h('ul.explanations', null, told.slice(3).map(item))) : ''].flat();
}

function beside(x) {
  const part = (rows, n) => rows.slice(0, 8).map(([token, k]) => [code(token), `${num(100 * k / n, 2)} %`]);
  return h('div.three', null, tabular('token before', part(x.before, x.count)), tabular('active on', part(x.tokens, x.count)),
    tabular('token after', part(x.after, x.count)));
}

// What a feature's direction does to the next token.
export function written(found) {
  const rows = (list) => list.map(([token, value]) => [code(token), signed(value)]);
  const bars = found.hist ? histogram(found.hist, { what: 'Logits', across: 'logit of every token', up: 'tokens' }) : null;
  const shape = [['mean', found.mean], ['sd', found.sd], ['skew', found.skew], ['kurtosis', found.kurtosis],
    ['norm', found.norm]].filter(([, v]) => v != null).map(([k, v]) => `${k} ${num(v)}`).join(' · ');
  return [h('div.columns', null, tabular('promotes', rows(found.up)), tabular('suppresses', rows(found.down))), bars?.drawn || '',
    h('p.muted', null, [found.folded, shape].filter(Boolean).join('; '))];
}

export function example(s, x, ex, scale, mark) {
  const place = h('span.window', null, strip(ex, scale, { onhover: mark }));
  const whole = !isSite && h('button.whole', { type: 'button', title: `Whole text ${ex.text}`, 'aria-expanded': 'false',
    onclick: async (event) => {
    const open = event.currentTarget.getAttribute('aria-expanded') === 'true';
    event.currentTarget.setAttribute('aria-expanded', String(!open));
    if (open) return place.replaceChildren(strip(ex, scale, { onhover: mark }));
    const all = await ask(`${s.id}/text/${ex.text}?feature=${x.id}`).catch((error) => { place.append(` ${error.message}`); });
    if (all) place.replaceChildren(strip({ ...all, start: 0, pos: ex.pos }, scale, { kind: 'text.all', onhover: mark }));
  } }, `text ${ex.text} ⤢`);
  return h('li', null, h('span.num', { title: `position ${ex.pos}` }, num(ex.act)), place, whole || h('small', null, `text ${ex.text}`));
}

function tryText(s, f) {
  return h('form.card.try', { onsubmit: (event) => { event.preventDefault(); go('text', [],
    { src: sourceParam(s), f, t: event.target.elements.t.value }); } },
    h('label.field', null, h('span', null, 'Try a text'),
      h('input', { name: 't', placeholder: `Where is feature ${f} active in your own text?`, maxlength: 4000, dir: 'auto' })),
      h('button', null, 'Show'));
}

function foot(s, x) {
  const facts = { SAE: s.name, at: s.component, model: s.model, texts: num(s.texts),
    'left out': Object.entries(s.excluded || {}).filter(([, n]) => n).map(([k, n]) => `${k} ${num(n)}`).join(', ') || 'nothing',
    fingerprint: s.fingerprint, ...x.facts };
  return h('footer', null, h('dl', null, Object.entries(facts).filter(([, v]) => v).map(([k, v]) => h('div', null, h('dt', null, k),
    h('dd', null, String(v))))),
    h('p', null, 'In Python: ', h('code', null, x.python),
      isSite ? '' : [' · ', h('a', { href: address(`${s.id}/feature/${x.id}`) }, 'as JSON')]));
}
