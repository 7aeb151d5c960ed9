// Names: all that people called features; edited here, taken from a file, written to one.
import {h, num, say, put} from './dom.js';
import {ask, address, rename, forget, isSite} from './data.js';
import {source, sourceParam, namer, sourceChoice, download} from './shared.js';
import {link, go} from './route.js';

export async function names(main, { q }) {
  const s = await source(q.get('src')), found = Object.entries(s.names.labels).map(([f, label]) => [+f, label]).sort((a, b) => a[0] - b[0]);
  const status = h('p', { role: 'status' });
  const again = async () => {
    forget(s.id);
    main.replaceChildren();
    await names(main, { q });
    main.querySelector('[role=status]').textContent = status.textContent;
  };
  const failed = (error) => { status.textContent = error.message; };
  const file = h('input', { type: 'file', accept: '.json,.csv', 'aria-label': 'File of names', onchange: async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    const text = await chosen.text(), replace = over.checked, format = /\.csv$/i.test(chosen.name) ? 'csv' : 'json';
    try {
      const told = await (isSite ? here(s, text, replace) : ask(`${s.id}/names`, { method: 'POST', body: { text, format, replace } }));
      status.textContent = summary(told);
      await again();
    } catch (error) { failed(error); }
  } });
  const over = h('input', { type: 'checkbox' });
  const plain = Object.fromEntries(found.map(([f, { name, note }]) => [f, note ? { name, notes: note } : { name }]));
  const saved = () => download('names.json', JSON.stringify(plain, null, 1), 'application/json');
  const exported = isSite ? [h('button', { type: 'button', onclick: saved }, 'Export')]
    : [h('a.button', { href: address(`${s.id}/names.json`), download: 'names.json' }, 'Export JSON'),
      h('a.button', { href: address(`${s.id}/names.csv`), download: 'names.csv' }, 'Export CSV')];
  const where = isSite ? 'Names are kept in this browser; export them to keep them for good.' : s.writable
    ? `Names are kept in ${s.file || 'memory: export them before you stop the server'}.` : 'This explorer is read-only.';
  put(main, h('h1', null, 'Names ', h('small', null, `${num(found.length)} of ${num(s.t.d)} features have one`)),
    h('div.bar', null, await sourceChoice(s.id, (value) => go('names', [], { src: value })), exported,
      s.writable ? [h('label.import', null, 'Import', file), h('label', null, over, ' replace names that differ')] : null),
    h('p.muted', null, where), status,
    found.length ? h('ul.names.card', null, found.map(([f, label]) => row(s, f, label, again, failed))) : h('p.empty', null,
      'No names yet. Open a feature and name it.'));
  return {};
}

function summary({ added, changed, same, kept, refused = [] }) {
  const others = kept.length ? `${num(kept.length)} have another name and keep it: ${kept.slice(0, 20).join(', ')}${kept.length > 20 ? ' …' : ''}.` : '';
  return [`${num(added)} added, ${num(changed)} changed, ${num(same)} the same.`, others, ...refused.slice(0, 20)].join(' ');
}

function row(s, f, label, again, failed) {
  const writes = s.writable;
  const noted = h('input.note', { value: label.note || '', placeholder: 'note', 'aria-label': `Note on feature ${f}`, maxlength: 2000,
    dir: 'auto', readonly: !writes, onchange: () => rename(s.id, f, s.names.labels[f]?.name || label.name,
      noted.value).then(() => say('Saved'), failed) });
  return h('li', { 'data-id': f }, h('a', { href: link('feature', [f], { src: sourceParam(s) }) }, String(f)), namer(s, f), noted,
    writes ? h('button.remove', { type: 'button', 'aria-label': `Take the name of feature ${f} away`, title: 'Take the name away',
      onclick: () => rename(s.id, f, '').then(again, failed) }, '×') : null);
}

// Into the browser's own memory, from a JSON file of names.
async function here(s, text, replace) {
  const told = { added: 0, changed: 0, same: 0, kept: [], refused: [] };
  let given;
  try { given = JSON.parse(text); } catch { given = null; }
  if (!given || typeof given !== 'object') throw new Error('This is not a JSON file of names.');
  if (given.sae && given.sae !== s.fingerprint) throw new Error('These are names of another SAE.');
  for (const [f, label] of Object.entries(given)) {
    if (f === 'sae' || f === 'digest') continue;
    const name = typeof label === 'string' ? label : label?.name, before = s.names.labels[f]?.name;
    if (!/^\d+$/.test(f) || +f >= s.t.d || typeof name !== 'string') { told.refused.push(`${f}: no feature, or no name.`); continue; }
    if (before && before !== name && !replace) { told.kept.push(f); continue; }
    told[before === name ? 'same' : before ? 'changed' : 'added']++;
    await rename(s.id, +f, name, label.notes || '');
  }
  return told;
}
