// Sorting, filtering and searching all features in the browser, over the columns of one table.
const share = (t, f) => (t.count[f] ? t.top_token_counts[f * t.most] / t.count[f] : 0);

// key: [title, unit, value of a feature, tooltip]. Columns that a table lacks are not shown.
export const COLUMNS = {
  id: ['#', '', (t, f) => f, 'Number of the feature'],
  density: ['density', '%', (t, f) => 100 * t.count[f] / t.tokens, 'Share of all tokens on which it is active'],
  max: ['max', '', (t, f) => t.maximum[f], 'Largest activation'],
  mean: ['mean', '', (t, f) => t.mean[f], 'Mean where it is active'],
  texts: ['texts', '', (t, f) => t.n_texts[f], 'Texts in which it is active'],
  focus: ['focus', '%', (t, f) => 100 * share(t, f), 'Share of its most frequent token among all that it is active on'],
  score: ['score', '', (t, f) => t.score[f], 'How well its explanation predicts it'],
  norm: ['norm', '', (t, f) => t.norm[f], 'Length of its decoder direction'],
  output_score: ['output', '', (t, f) => t.output_score[f], 'How much it changes what comes next'],
};
const differs = (values) => values && values.some((v) => Math.abs(v - values[0]) > 1e-4 * Math.abs(values[0]));
export const shown = (t) => (t.shown ??= Object.keys(COLUMNS).filter((key) => !['score', 'norm',
  'output_score'].includes(key) || differs(t[key])));

// How much more often a feature is active on its j-th token than the token occurs.
const lift = (t, f, j) => t.top_token_counts[f * t.most + j] / t.count[f] / ((t.totals[t.top_tokens[f * t.most + j]] || 1) / t.tokens);

// What orders the list when nothing is asked: features that are about one token and seldom about another; few firings prove little.
const interest = (t, f) => (t.count[f] ? t.top_token_counts[f * t.most] / (t.count[f] + 20) * Math.log(Math.max(1, lift(t, f, 0))) : -1);

const known = new WeakMap();
function column(t, key) {
  if (!known.has(t)) known.set(t, {});
  const value = key === 'best' ? interest : COLUMNS[key][2];
  return (known.get(t)[key] ??= Float32Array.from({ length: t.d }, (_, f) => value(t, f)));
}

// ">0.5", "< 2", "1-10", "=3"; a number alone means at least. null where it says nothing, undefined where it cannot be read.
export function bounds(text) {
  const said = text.trim().replace(/[%,_\s]/g, '').replace(/≥/g, '>=').replace(/≤/g, '<=');
  if (!said) return null;
  const N = '([-+]?(?:\\d+\\.?\\d*|\\.\\d+)(?:e[-+]?\\d+)?)';
  const one = new RegExp(`^(>=|<=|>|<|=)?${N}$`, 'i').exec(said), two = new RegExp(`^${N}(?:-|–|\\.\\.|to)${N}$`, 'i').exec(said);
  if (two) return (x) => x >= +two[1] && x <= +two[2];
  if (!one) return undefined;
  const n = +one[2];
  return { '>': (x) => x > n, '<': (x) => x < n, '<=': (x) => x <= n,
    '=': (x) => Math.fround(x) === Math.fround(n) }[one[1]] || ((x) => x >= n);
}

// Words of a search; "in quotes" is one word, spaces and all.
export const words = (query) => [...query.toLowerCase().matchAll(/"([^"]+)"?|(\S+)/g)].map((found) => ({ word: (found[1] || found[2]).trim(), exact: found[1] != null })).filter(({ word }) => word);

function lowered(t) { return (t.lowered ??= Object.entries(t.pieces).map(([id, text]) => [+id, text.trim().toLowerCase()])); }

// How well each feature fits each word: its name, its explanation, the tokens it is active on. 0 in any word is no match.
// Loosely, any of the words will do, and a token that a word begins with: "balls" finds "ball".
function matching(t, names, query, loosely) {
  const score = new Float32Array(t.d).fill(loosely ? 0 : 1), found = words(query);
  for (const { word, exact } of found) {
    const fits = new Float32Array(t.d), ids = new Map();
    for (const [id, text] of lowered(t)) {
      if (text === word) ids.set(id, 1);
      else if (!exact && text.startsWith(word)) ids.set(id, 0.5);
      else if (loosely && !exact && text.length > 2 && word.startsWith(text)) ids.set(id, 0.5 * text.length / word.length);
    }
    if (ids.size) {
      for (let f = 0; f < t.d; f++) for (let j = f * t.most, end = j + t.most; j < end; j++) {
        const weight = ids.get(t.top_tokens[j]);
        if (weight) fits[f] += weight * t.top_token_counts[j] / t.count[f];
      }
    }
    for (const [f, label] of Object.entries(names.labels)) if (`${label.name} ${label.note || ''}`.toLowerCase().includes(word)) fits[f] += 2;
    for (const [f, told] of Object.entries(names.explanations)) if (told.text.toLowerCase().includes(word)) fits[f] += 0.7;
    if (/^\d+$/.test(word) && +word < t.d) fits[+word] += 3;
    for (let f = 0; f < t.d; f++) if (loosely) score[f] += fits[f]; else score[f] *= fits[f];
  }
  return score;
}

// How well each feature fits a search, and whether only loosely, as nothing fits all of it.
export function searched(t, names, query) {
  const match = matching(t, names, query, false), loosely = !match.some((score) => score > 0);
  return { match: loosely ? matching(t, names, query, true) : match, loosely };
}

export function inside(polygon, x, y) {
  let odd = false;
  for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
    const [ax, ay] = polygon[a], [bx, by] = polygon[b];
    if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}
export const polygon = (text) => text.split(';').map((point) => point.split(',').map(Number));

const HAS = {
  name: (f, names) => names.labels[f], explanation: (f, names) => names.explanations[f],
  nothing: (f, names) => !names.labels[f] && !names.explanations[f],
};

// The ids that pass every filter of the address, in the order it asks for (Uint32Array).
export function order({ t, names, only }, q) {
  const tests = only ? [(f) => only.has(f)] : [], query = q.get('q') || '';
  for (const key of shown(t)) {
    const fits = bounds(q.get(key) || '');
    if (fits) { const values = column(t, key); tests.push((f) => fits(values[f])); }
  }
  const has = HAS[q.get('has')], lasso = q.get('lasso');
  if (has) tests.push((f) => has(f, names));
  if (lasso && t.map) { const line = polygon(lasso); tests.push((f) => inside(line, t.map[2 * f], t.map[2 * f + 1])); }
  const match = query.trim() ? searched(t, names, query).match : null;
  if (match) tests.push((f) => match[f] > 0);
  const ids = new Uint32Array(t.d);
  let n = 0;
  for (let f = 0; f < t.d; f++) if (tests.every((test) => test(f))) ids[n++] = f;
  const [key, down] = sorting(t, q);
  return sorted(ids.subarray(0, n), key === 'match' ? match : column(t, key), down);
}

// [column, whether from the largest down]; without a word: by match where something is searched.
export function sorting(t, q) {
  const asked = q.get('sort') || '', key = asked.replace(/^-/, '');
  if (shown(t).includes(key) || key === 'best') return [key, asked[0] === '-'];
  return [(q.get('q') || '').trim() ? 'match' : 'best', true];
}

// Among equals the lower id comes first; what has no value comes last. Value and id become one number, so that
// no comparison function is called: 65,536 features take a few milliseconds.
export function sorted(ids, values, down) {
  const keys = new Float64Array(ids.length), one = new Float32Array(1), bits = new Uint32Array(one.buffer);
  for (let i = 0; i < ids.length; i++) {
    one[0] = values[ids[i]] + 0;
    let rank = bits[0] & 0x80000000 ? ~bits[0] >>> 0 : (bits[0] | 0x80000000) >>> 0;
    if (down) rank = 0xffffffff - rank;
    if (Number.isNaN(one[0])) rank = 0xffffffff;
    keys[i] = rank * 0x200000 + ids[i];
  }
  keys.sort();
  return Uint32Array.from(keys, (key) => key % 0x200000);
}

// The tokens of a feature that stand out: by how much more often than in the texts as a whole.
export function chips(t, f) {
  const found = [];
  for (let j = 0; j < t.most; j++) {
    const id = t.top_tokens[f * t.most + j], n = t.top_token_counts[f * t.most + j];
    if (id >= 0 && n) found.push({ id, n, text: t.pieces[id] ?? '�', lift: n * Math.log1p(lift(t, f, j)) });
  }
  return found.sort((a, b) => b.lift - a.lift || a.id - b.id);
}
