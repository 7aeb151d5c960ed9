// Where the figures come from: a live server (fetch) or a folder of files (scripts that call mlxterp.data).
import {$} from './dom.js';

export const isSite = document.documentElement.dataset.mode === 'site';
const token = $('meta[name=mlxterp-token]')?.content;
const memo = new Map(), MOST = 200, MOST_SHARDS = 24, MOST_PEAKS = 5000;
function once(key, make) {
  if (!memo.has(key)) memo.set(key, make().catch((error) => { memo.delete(key); throw error; }));
  return memo.get(key);
}
function forgotten(kind, most) {
  const keys = [...memo.keys()].filter((key) => key.startsWith(`${kind} `));
  for (const key of keys.slice(0, -most)) memo.delete(key);
}

// -- the live server ------------------------------------------------------------------------------

export class Gone extends Error {}
const AWAY = 'The server does not answer. Is `mlxterp serve` still running?';

export async function ask(path, { method = 'GET', body, signal, raw, match } = {}) {
  const headers = { 'x-mlxterp-token': token, 'x-mlxterp-quiet': '1' };  // quiet: a refusal is no error in the console
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (match) headers['if-match'] = match;
  let answer;
  try {
    answer = await fetch(`api/${path}`, { method, signal, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    alone(true);
    throw new Gone(AWAY);
  }
  alone(false);
  const status = +answer.headers.get('x-mlxterp-status') || answer.status;
  if (status >= 400) {
    const told = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(told.error || `${status} ${answer.statusText}`), { status, ...told });
  }
  return raw ? answer : answer.json();
}

function alone(gone) {
  const note = $('#gone');
  if (gone !== note.hidden) return;
  note.hidden = !gone;
  note.textContent = gone ? `${AWAY} What is shown stays; the page tries again with whatever you do next.` : '';
}

// The events of a stream, as they come.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = '';
  for (;;) {
    const { done, value } = await reader.read().catch((error) => { throw error.name === 'AbortError' ? error : new Gone(AWAY); });
    if (done) return;
    const parts = (held + value).split(/\r?\n\r?\n/);
    held = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith('data:')).map((line) => line.slice(5)).join('\n');
      if (data) yield JSON.parse(data);
    }
  }
}

// -- the folder -----------------------------------------------------------------------------------

const waiting = {};
if (isSite) window.mlxterp = { data: (name, packed) => waiting[name]?.(packed) };

// A file's bytes. A script runs once, so who asks for a file that is on its way waits for the same.
const shard = (name) => once(`file ${name}`, () => new Promise((resolve, reject) => {
  waiting[name] = (packed) => unzipped(packed).then(resolve, reject);
  const script = document.createElement('script');
  script.src = `data/${name}.js`;
  script.onload = () => script.remove();
  script.onerror = () => reject(new Error(`data/${name}.js is missing. Copy the whole folder, or call to_site again: it completes it.`));
  document.head.append(script);
})).finally(() => memo.delete(`file ${name}`));

async function unzipped(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
}
const filed = async (name) => JSON.parse(new TextDecoder().decode(await shard(name)));
// Features lie in files of 256, with their strings as numbers.
const inShard = (src, f) => once(`of ${src} ${f}`, async () => {
  const { features: some } = (await about()).sources.find((one) => one.id === src) || {};
  if (some && !some.includes(f)) throw new Error(`Feature ${f} is not in this folder: it was written for some features only.`);
  const { strings, features } = await once(`shard ${src} ${f >> 8}`, () => filed(`${src}/${f >> 8}`));
  forgotten('shard', MOST_SHARDS);
  return opened(features[f], strings, await table(src), f);
});

function opened(x, strings, t, f) {
  const max = t.maximum[f], scale = Math.abs(max) / 255, pairs = (rows = []) => rows.map(([s, n]) => [strings[s], n]);
  const windows = (list = []) => list.map(([text, pos, act, start, tokens, active, steps]) => {
    const acts = new Array(tokens.length).fill(0);
    active.forEach((j, i) => { acts[j] = steps[i] * scale; });
    if (acts[pos - start]) acts[pos - start] = act;
    return { text, pos, act, start, tokens: tokens.map((s) => strings[s]), acts };
  });
  const [first, counts] = x.hist || [0, []];
  return {
    explanations: [], together: [], similar: [], flags: [], facts: {}, ...x, id: f, python: `index[${f}]`,
    count: t.count[f], density: t.count[f] / t.tokens, mean: t.mean[f], max, texts: t.n_texts[f],
    hist: [counts, Array.from({ length: counts.length + 1 }, (_, i) => 2 ** ((first + i) / 4))],
    tokens: pairs(x.tokens), before: pairs(x.before), after: pairs(x.after),
    top: windows(x.top), hard: windows(x.hard),
    bands: (x.bands || []).map(([q, list]) => ({ q, lo: q / 10, hi: (q + 1) / 10, examples: windows(list) })),
    logits: x.logits && { ...x.logits, up: pairs(x.logits.up), down: pairs(x.logits.down),
      hist: x.logits.hist && linear(...x.logits.hist) },
  };
}

const linear = (low, high, counts) => [counts, Array.from({ length: counts.length + 1 }, (_, i) => low + (high - low) * i / counts.length)];

// -- the same for both ----------------------------------------------------------------------------

export const about = () => once('about', () => (isSite ? filed('about') : ask('about')));

// The table of all features: columns as typed arrays.
export const table = (src) => once(`table ${src}`, async () => {
  const bytes = isSite ? await shard(`${src}/table`) : await (await ask(`${src}/table`, { raw: true })).arrayBuffer();
  return unpacked(bytes);
});

const KINDS = { f4: Float32Array, i4: Int32Array, u4: Uint32Array, u1: Uint8Array, f8: Float64Array };
export function unpacked(bytes) {
  const size = new DataView(bytes).getUint32(0, true), base = 4 + size;
  const found = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, size)));
  for (const [name, [kind, shape, offset]] of Object.entries(found.columns)) {
    found[name] = new KINDS[kind](bytes, base + offset, shape.reduce((a, b) => a * b, 1));
  }
  found.most = found.columns.top_tokens[1][1];
  found.bins = found.columns.spark[1][1];
  found.peaks = new Map();
  return found;
}

export function feature(src, f) {
  for (const kind of ['feature', 'logits', 'of', 'explain']) forgotten(kind, MOST);
  return isSite ? inShard(src, f) : once(`feature ${src} ${f}`, () => ask(`${src}/feature/${f}`));
}

export const logits = async (src, f) => {
  const found = isSite ? (await inShard(src, f)).logits : await once(`logits ${src} ${f}`, () => ask(`${src}/logits/${f}`));
  if (!found) throw new Error('This folder was written without the model, so it has no logits.');
  return found;
};

// Gets the strongest windows of features and keeps them in the table's `peaks`; `come` is called as they come,
// `wanted(f)` says whether one is still in sight.
export async function peaks(src, ids, wanted, come) {
  const { peaks: known } = await table(src);
  if (known.size > MOST_PEAKS) known.clear();
  const missing = ids.filter((f) => !known.has(f));
  if (!isSite && missing.length) {
    const found = await ask(`${src}/peek?ids=${missing.join(',')}`);
    for (const f of missing) known.set(f, found[f]);
  }
  come();
  if (isSite) for (const f of missing) if (wanted(f)) {
    known.set(f, await inShard(src, f).then((x) => x.top[0], () => null));
    come();
  }
}

// -- names ----------------------------------------------------------------------------------------

// {labels: {id: {name, note, etag}}, explanations: {id: {text, source, score}}}; a folder keeps your names in the browser.
export const names = (src) => once(`names ${src}`, async () => {
  const found = isSite ? await filed(`${src}/labels`).catch(() => ({})) : await ask(`${src}/labels`);
  const kept = isSite ? JSON.parse(store(await place(src)) || '{}') : {};
  const labels = { ...found.labels, ...kept };
  for (const f of Object.keys(kept)) if (!kept[f]) delete labels[f];
  return { explanations: {}, ...found, labels, kept, serial: ++serial };
});
let serial = 0;  // tells lists that names changed
const place = async (src) => `names ${(await about()).sources.find((one) => one.id === src).fingerprint}`;

// What a feature without an explanation fires on, said now.
export const explanations = (src, f) => once(`explain ${src} ${f}`, () => ask(`${src}/explain/${f}`));

export async function rename(src, f, name, note = '') {
  const all = await names(src), label = name.trim() ? { name: name.trim(), note } : null;
  if (isSite) {
    all.kept[f] = label;
    if (!store(await place(src),
      JSON.stringify(all.kept))) throw new Error('This browser keeps nothing for a folder. Export the names before you leave.');
  } else {
    const match = all.labels[f]?.etag || 'none';
    const told = await ask(`${src}/label/${f}`, { method: label ? 'PUT' : 'DELETE', match,
      body: label ? { ...label } : undefined }).catch((error) => {
      if (error.status === 409) { if (error.current) all.labels[f] = error.current; else delete all.labels[f]; }
      throw error;
    });
    if (label) Object.assign(label, told);
  }
  if (label) all.labels[f] = label; else delete all.labels[f];
  all.serial = ++serial;
  memo.delete(`feature ${src} ${f}`);
}

export function forget(src) {
  for (const key of memo.keys()) if (key === `names ${src}` || key.startsWith(`feature ${src} `)) memo.delete(key);
}

// An address that a link can have.
export const address = (path) => `api/${path}${path.includes('?') ? '&' : '?'}t=${encodeURIComponent(token)}`;

// What the browser remembers; a private window or a strict file:// page may refuse.
export function store(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(`mlxterp ${key}`);
    localStorage.setItem(`mlxterp ${key}`, value);
    return true;
  } catch { return null; }
}
