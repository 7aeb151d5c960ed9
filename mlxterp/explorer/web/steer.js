// Steering: a continuation as it is beside one with features turned up or down, piece by piece.
import {$, h, num, say, field, choice, put} from './dom.js';
import {about, ask, events, feature as fetched, isSite} from './data.js';
import {source, sourceParam, featureLink, meant, lately} from './shared.js';
import {changed, note} from './route.js';
import {needsLive} from './live.js';

const KINDS = [['add', 'add'], ['clamp', 'hold at'], ['scale', 'multiply by'], ['ablate', 'take out']];
const PLACES = [['all', 'all tokens'], ['prompt', 'the prompt'], ['prompt[1:]', 'the prompt but its first token'],
  ['generated', 'what is written']];
const LOW = -2, HIGH = 4;
const PROMPT = 'Once upon a time';

// "0:741:add:1.5,1:5:ablate:1" and back.
const parse = (text) => (text || '').split(',').filter(Boolean).map((part) => {
  const [src, f, kind, strength] = part.split(':');
  return { src, f: +f, kind: KINDS.some(([key]) => key === kind) ? kind : 'add', strength: strength == null || Number.isNaN(+strength) ? 1 : +strength };
});
const spelled = (edits) => edits.map((e) => `${e.src}:${e.f}:${e.kind}:${e.strength}`).join(',');

export async function steer(main, { q }) {
  const { sources, limits = {} } = await about();
  if (isSite || !sources.some((one) => one.live)) { put(main, needsLive('Steer')); return {}; }
  const all = await Promise.all(sources.map((one) => source(one.id)));
  const of = (src) => all.find((s) => s.id === src) || all[0];
  const asked = parse(q.get('e')), edits = asked.filter((e) => all.some((s) => s.id === e.src && Number.isInteger(e.f) && e.f >= 0 && e.f < s.t.d));
  const value = (key, otherwise) => q.get(key) ?? otherwise;
  const number = (key, start, attributes) => h('input',
    { type: 'number', name: key, value: value(key, start), ...attributes, onchange: keep });
  const prompt = h('textarea', { rows: 2, name: 'p', value: value('p', PROMPT), maxlength: 20000, dir: 'auto', onchange: keep });
  const n = number('n', 60, { required: true, min: 1, max: limits.max_tokens || 512 }), heat = number('temp', 0, { required: true, min: 0, max: 5, step: 'any' }),
    seed = number('seed', 0, { required: true, min: 0 });
  const places = choice(null, value('at', 'all'), PLACES, keep);
  const chips = h('ul.edits', { 'aria-label': 'Features that are steered' }), near = h('div.near');
  const run = h('button.primary', { type: 'submit' }, 'Generate'),
    halt = h('button', { type: 'button', disabled: true, onclick: () => control?.abort() }, 'Stop (esc)');
  const status = h('p.muted', { role: 'status' }), warning = h('p.muted');
  const sides = Object.fromEntries(['base', 'steered'].map((side) => [side,
    { text: h('p.out', { dir: 'auto', 'data-side': side }), figure: h('p.muted.figure', { 'data-perplexity': side }) }]));
  let control = null, wrote = false;
  function keep() {
    note('steer', [], changed(q, { e: spelled(edits), p: prompt.value === PROMPT ? '' : prompt.value, n: +n.value === 60 ? '' : n.value,
      temp: +heat.value ? heat.value : '', seed: +seed.value ? seed.value : '', at: places.value === 'all' ? '' : places.value }));
  }
  const redraw = () => {
    keep();
    const remove = (edit) => { edits.splice(edits.indexOf(edit), 1); redraw(); };
    chips.replaceChildren(...edits.map((edit) => chip(edit, of(edit.src), redraw, () => remove(edit))));
    near.replaceChildren();
    put(near, edits.length ? null : h('p.muted', null, 'No feature is steered yet, so both texts will be the same. Add one:'),
      lately(all, edits.map((e) => `${e.src}:${e.f}`), (s, f) => steered(s, f)));
  };
  const steered = (s, f) => { edits.push({ src: s.id, f, kind: 'add', strength: 1 }); tell(''); redraw(); };
  const tell = (text, bad) => { status.textContent = text; status.classList.toggle('error', Boolean(bad)); };

  const more = h('input', { size: 16, placeholder: 'number or word', maxlength: 200 });
  const which = all.length > 1 ? h('select', { 'aria-label': 'SAE' }, all.map((s) => h('option', { value: s.id }, s.name))) : null;
  const add = () => {
    const s = of(which?.value), f = meant(s, more.value);
    if (f == null) {
      tell(`${more.value.trim() ? `No feature has to do with “${more.value.trim()}”.` : 'Which feature?'} Give a word that it is active on, or a number from 0 to ${num(s.t.d - 1)}.`, true);
      more.focus();
      return;
    }
    more.value = '';
    steered(s, f);
  };
  more.addEventListener('keydown', (event) => { if (event.key === 'Enter') { event.preventDefault(); add(); } });

  async function generate(event) {
    event.preventDefault();
    keep();
    control?.abort();
    if (!prompt.value) { tell('The prompt is empty.', true); prompt.focus(); return; }
    const mine = control = new AbortController();
    for (const side of Object.values(sides)) {
      side.text.replaceChildren(h('span.muted', null, prompt.value));
      side.figure.textContent = '';
      delete side.figure.dataset.value;
    }
    run.disabled = true;
    halt.disabled = wrote = false;
    main.dataset.state = 'running';
    tell('Waiting for the model …');
    warning.textContent = '';
    try {
      const body = { prompt: prompt.value, max_tokens: +n.value, temperature: +heat.value, seed: +seed.value, positions: places.value,
        edits: edits.map((e) => ({ source: e.src, feature: e.f, kind: e.kind,
          ...(e.kind === 'ablate' ? {} : { strength: e.strength }) })) };
      const answer = await ask(`${edits[0]?.src ?? all[0].id}/steer`, { method: 'POST', body, signal: mine.signal, raw: true });
      for await (const told of events(answer)) follow(told);
    } catch (error) {
      const stopped = error.name === 'AbortError';
      tell(stopped ? 'Stopped.' : error.message, !stopped);
      main.dataset.state = stopped ? 'stopped' : 'failed';
      if (!stopped && !wrote) for (const side of Object.values(sides)) side.text.replaceChildren();
    } finally {
      if (control === mine) { run.disabled = false; halt.disabled = true; control = null; }
      if (main.dataset.state === 'running') main.dataset.state = 'failed';
    }
  }
  function follow(told) {
    if (told.queued != null) status.textContent = told.queued
      ? `${told.queued} before you; waiting for the model …` : 'Waiting for the model …';
    else if (told.started) { status.textContent = 'Writing …'; warning.textContent = told.note || ''; }
    else if (told.piece != null) { wrote = true; sides[told.on].text.append((told.glue || '') + told.piece); }
    else if (told.end) {
      const { perplexity, loss } = told, figure = sides[told.end].figure;
      figure.textContent = perplexity == null ? 'perplexity: not for a text this short or long' : `perplexity ${num(perplexity)}`;
      if (perplexity == null) return;
      figure.dataset.value = perplexity;
      figure.title = `exp(${loss}): how surprising the unsteered model finds prompt and continuation`;
    } else if (told.error) { tell(told.error, true); main.dataset.state = 'failed'; }
    else if (told.done) {
      tell(`${told.pieces} pieces in ${num(told.seconds)} s${told.stopped ? ', then the explorer was stopped' : ''}.`, told.stopped);
      main.dataset.state = told.stopped ? 'failed' : 'done';
      say('Done');
    }
  }
  const side = (key, title, why) => h('section.card', { 'aria-label': title }, h('h2', null, title, ' ', h('small', null, why)),
    sides[key].text, sides[key].figure);
  put(main, h('h1', null, 'Steer ', h('small', null, 'turn features up or down and watch what is written')),
    h('form.card.steer', { onsubmit: generate }, field('Prompt', prompt), chips, near,
      h('div.bar', null, field('Add a feature', more), which, h('button', { type: 'button', onclick: add }, 'Add'),
        h('small', null, 'or choose “steer it” on its page')),
      h('div.bar', null, field('Tokens', n), field('Temperature', heat), field('Seed', seed), field('Steer at', places), h('span.grow'),
        run, halt), status, warning),
    h('div.two', null, side('base', 'As it is', 'no edit'), side('steered', 'Steered', 'the same seed')),
    h('p.muted', null, 'Perplexity is that of the unsteered model on prompt and continuation: where it rises steeply, the text falls apart.',
      ' The address holds all of this: copy it to share it.'));
  redraw();
  if (edits.length < asked.length) tell(`${num(asked.length - edits.length)} of the address's features are not here and are left out.`, true);
  return { keys: { e: () => prompt.focus() }, escape: () => control?.abort(), leave: () => control?.abort() };
}

function chip(edit, s, redraw, remove) {
  const scales = edit.kind === 'scale', strength = () => `${num(edit.strength)} ${scales ? '×' : '× max'}`, output = h('output', null, strength());
  const slider = h('input', { type: 'range', min: LOW, max: HIGH, step: 0.1, value: edit.strength,
    'aria-label': `Strength of feature ${edit.f}`, 'aria-valuetext': strength(),
    oninput: () => {
      edit.strength = +slider.value;
      output.textContent = strength();
      slider.setAttribute('aria-valuetext', strength());
    },
    onchange: () => {
      const held = document.activeElement === slider;
      redraw();
      if (held) $(`[data-edit="${edit.src}:${edit.f}"] input[type=range]`)?.focus();
    } });
  const band = h('span.rail', { 'aria-hidden': 'true' }, h('i.zero')), told = h('small.range');
  $('.zero', band).style.left = `${100 * -LOW / (HIGH - LOW)}%`;
  if (!scales && edit.kind !== 'ablate') fetched(s.id, edit.f).then(({ range, best }) => {
    if (!range) { told.textContent = 'not calibrated'; told.title = 'steering.calibrate finds how far it can be turned up before the text falls apart'; return; }
    const good = h('i.good'), place = (x) => 100 * (Math.min(HIGH, Math.max(LOW, x)) - LOW) / (HIGH - LOW);
    good.style.left = `${place(range[0])}%`;
    good.style.width = `${Math.max(1, place(range[1]) - place(range[0]))}%`;
    band.append(good);
    told.textContent = `works and stays fluent: ${num(range[0])} to ${num(range[1])}${best == null ? '' : `, best ${num(best)}`}`;
  }, () => null);
  return h('li', { 'data-edit': `${edit.src}:${edit.f}` }, featureLink(s, edit.f, { src: sourceParam(s) }),
    choice(`What to do with feature ${edit.f}`, edit.kind, KINDS, (kind) => { edit.kind = kind; redraw(); }),
    edit.kind === 'ablate' ? null : [h('span.slide', null, slider, band), output, told],
    h('button.remove', { type: 'button', 'aria-label': `Do not steer feature ${edit.f}`, title: 'Remove', onclick: remove }, '×'));
}
