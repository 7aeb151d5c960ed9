// Elements made of text nodes only: nothing is ever parsed as HTML.
export const $ = (selector, root = document) => root.querySelector(selector);

// h('td.num', {title: 'x'}, child, …): null, undefined and false are left out, arrays are flattened.
export function h(tag, attributes, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name || 'div');
  if (classes.length) element.className = classes.join(' ');
  return filled(element, attributes, children);
}

export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value == null || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'value') element.value = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  return put(element, children);
}

// Adds children to an element; null, undefined and false are left out.
export function put(element, ...children) {
  element.append(...children.flat(9).filter((child) => child != null && child !== false));
  return element;
}

// A number to three digits; whole numbers with thousands.
export function num(x, digits = 3) {
  if (x == null || Number.isNaN(x)) return '–';
  if (Number.isInteger(x)) return x.toLocaleString('en').replace('-', '−');
  return (Math.abs(x) >= 1e4 ? Math.round(x).toLocaleString('en') : String(+x.toPrecision(digits))).replace('-', '−');
}
export const pct = (x) => `${num(100 * x)} %`;
export const signed = (x) => (x > 0 ? '+' : x < 0 ? '−' : '') + Math.abs(x).toFixed(2);

// What a screen reader says.
export function say(text) { $('#live').textContent = text; }

export function later(ms, run) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => run(...given), ms); };
}

export function problem(title, text, ...more) {
  return h('div.empty', { role: 'alert' }, h('h1', null, title), h('p', null, text), more);
}

export function tabular(caption, rows, heads) {
  const last = (row, i) => i === row.length - 1 && row.length > 1;
  return h('table', null, caption && h('caption', null, caption),
    heads && h('thead', null, h('tr', null, heads.map((head, i) => h(last(heads, i) ? 'th.num' : 'th', { scope: 'col' }, head)))),
    h('tbody', null, rows.map((row) => h('tr', null, row.map((cell, i) => h(last(row, i) ? 'td.num' : 'td', null, cell))))));
}

export function field(label, control, more) { return h('label.field', null, h('span', null, label), control, more); }

// `label` null: a field names it.
export function choice(label, value, options, onchange) {
  return h('select', { 'aria-label': label, onchange: (event) => onchange(event.target.value) },
    options.map(([key, name]) => h('option', { value: key, selected: key === value }, name)));
}
