// The frame: which page the address names, keys, theme.
import {$, h, num, problem, later} from './dom.js';
import {about, store, isSite, Gone} from './data.js';
import {parsed, go, changed, link, remember, remembered} from './route.js';
import {list} from './list.js';
import {feature} from './feature.js';
import {text} from './text.js';
import {steer} from './steer.js';
import {compare} from './compare.js';
import {map} from './map.js';
import {names} from './names.js';

const PAGES = { list, feature, text, steer, compare, map, names };
const TITLES = [['list', 'Features', 'g f'], ['text', 'Text', 'g t'], ['steer', 'Steer', 'g s'], ['compare', 'Compare', 'g c'],
  ['map', 'Map', 'g m'], ['names', 'Names', 'g n']];
const KEYS = [['/', 'search'], ['j k ↓ ↑', 'next, previous'], ['Enter', 'open'], ['u', 'back to the list'],
  ['e', 'name the feature; edit the text'], ['s', 'steer it'], ['c', 'compare it'], ['r', 'a random one'], ['f', 'filter the list'],
  ['h', 'heat map of a text'], ['Esc', 'stop, leave a field, clear'], ['g', 'then f t s c m n: a page'], ['d', 'light or dark'],
  ['?', 'these keys']];
const main = $('#main');
const KEPT = ['text', 'steer', 'compare', 'map'];
let current = {}, turn = 0, going = false;

async function show() {
  const mine = ++turn, address = location.hash || '#/list', route = parsed(location.hash), page = PAGES[route.page] ? route.page : null;
  current.leave?.();
  current = {};
  going = false;
  delete document.body.dataset.ready;
  document.title = `${TITLES.find(([key]) => key === page)?.[1] ?? 'mlxterp'} · mlxterp`;
  for (const item of document.querySelectorAll('header nav a')) {
    const here = item.dataset.page === page;
    item.toggleAttribute('aria-current', here);
    if (here) item.href = `#/${page}`;
  }
  if (document.activeElement !== $('#q')) $('#q').value = route.q.get('q') || '';
  const place = h(`div.page.page-${page || 'unknown'}`);
  main.replaceChildren(place);
  try {
    const made = await (PAGES[page] || unknown)(place, route);
    if (mine === turn) current = made; else made.leave?.();
  } catch (error) {
    place.append(problem(error instanceof Gone ? 'The server is gone' : 'This did not work', error.message,
      h('button', { type: 'button', onclick: show }, 'Try again')));
    if (!(error instanceof Gone) && !error.status && !isSite) console.error(error);
  }
  if (mine !== turn) return;
  window.scrollTo(0, remembered().scroll || 0);
  document.body.dataset.ready = address;
}

function unknown(place, route) {
  place.append(problem('No such page', `There is no page ${route.page}.`, h('a.button', { href: '#/list' }, 'All features')));
  return {};
}

// A page that was left is found again as it was: its link goes there.
function left(url) {
  const hash = new URL(url).hash, { page } = parsed(hash);
  if (KEPT.includes(page)) $(`header nav [data-page=${page}]`).href = hash;
}

const asked = () => {
  const value = $('#q').value.trim(), { page, q } = parsed(location.hash), src = q.get('src');
  $('#q').blur();
  if (/^\d+$/.test(value)) return go('feature', [+value], src && src !== 'all' ? { src } : '');
  const kept = page === 'list' ? q : new URLSearchParams(src ? { src } : '');
  const next = changed(kept, { q: value, sort: (kept.get('q') || '') === value ? kept.get('sort') : '' });
  if (link('list', [], next) === location.hash) show(); else go('list', [], next);
};

function theme() {
  const root = document.documentElement, system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  const dark = (root.dataset.theme || system) === 'dark';
  root.dataset.theme = dark ? 'light' : 'dark';
  store('theme', root.dataset.theme);
  current.themed?.();
}

async function keys() {
  const rows = (list, key) => h('dl', null, list.map(([left, right]) => h('div', null, h('dt', null, key(left)), h('dd', null, right))));
  const { sources } = await about().catch(() => ({ sources: [] }));
  const facts = sources.flatMap((one) => [['SAE', one.sae], ['reads', one.component], ['model', one.model],
    ['index', `${num(one.tokens)} tokens in ${num(one.texts)} texts`], ['fingerprint', one.fingerprint]]);
  $('#keys').replaceChildren(h('form', { method: 'dialog' }, h('button', null, 'Close')), h('h2', null, 'Keys'), rows(KEYS, (left) => left.split(' ').map((one) => h('kbd', null, one))),
    h('h2', null, 'What is shown'), h('div.facts', null, rows(facts, (left) => left)));
  $('#keys').showModal();
}

function pressed(event) {
  const typing = event.target.matches('input, textarea, select');
  if (event.key === 'Escape') {
    if ($('#keys').open) return;
    current.escape?.(typing);
    if (typing) event.target.blur();
    return;
  }
  if (typing || event.metaKey || event.ctrlKey || event.altKey || $('#keys').open) return;
  const page = going && TITLES.find(([, , key]) => key === `g ${event.key}`)?.[0];
  going = event.key === 'g' && !going;
  if (page) { event.preventDefault(); return $(`header nav [data-page=${page}]`).click(); }
  if (event.target.matches('button, summary, a:not(.row)') && (event.key === 'Enter' || event.key === ' ')) return;
  const run = { '/': () => { $('#q').focus(); $('#q').select(); }, '?': keys, d: theme }[event.key] || current.keys?.[event.key];
  if (run) { event.preventDefault(); run(); }
}

async function begin() {
  const kept = store('theme');
  if (kept === 'light' || kept === 'dark') document.documentElement.dataset.theme = kept;
  history.scrollRestoration = 'manual';
  $('header nav').append(...TITLES.map(([page, title, key]) => h('a', { href: `#/${page}`, 'data-page': page, title: key }, title)));
  addEventListener('hashchange', (event) => { left(event.oldURL); show(); });
  addEventListener('keydown', pressed);
  addEventListener('scroll', later(150, () => remember({ scroll: window.scrollY })), { passive: true });
  $('#jump').addEventListener('submit', (event) => { event.preventDefault(); asked(); });
  $('#q').addEventListener('search', () => { if (!$('#q').value && parsed(location.hash).q.get('q')) asked(); });
  $('#theme').addEventListener('click', theme);
  $('#help').addEventListener('click', keys);
  $('.skip').addEventListener('click', (event) => { event.preventDefault(); main.focus(); });
  await show();
  const told = await about().catch(() => null);
  if (!told) return;
  $('#about').replaceChildren(told.component, ` · ${num(told.d)} features · ${num(told.tokens)} tokens · `,
    h(`span.${told.live ? 'on' : 'off'}`, { title: told.live
      ? 'Text and Steer run the model' : 'Without the model: Text and Steer say how to get them' },
      told.live ? '● live' : isSite ? '○ files' : '○ index only'));
  if (!told.sources.some((one) => one.map)) $('nav [data-page=map]').classList.add('missing');
}
begin();
