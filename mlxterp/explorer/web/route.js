// Addresses: #/page/argument?key=value. What a page shows stands in its address, so that back, reload and links work.
export function parsed(hash) {
  const [path, query] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [page, ...args] = path.split('/').map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  return { page: page || 'list', args, q: new URLSearchParams(query || '') };
}

export function link(page, args = [], q = '') {
  const query = new URLSearchParams(q).toString().replace(/%2C/g, ',').replace(/%3A/g, ':').replace(/%3B/g, ';').replace(/%3E/g, '>');
  return `#/${[page, ...args].map((part) => encodeURIComponent(part).replace(/%3A/g, ':')).join('/')}${query && `?${query}`}`;
}

// The same query with some values changed; '' or null takes one out.
export function changed(q, values) {
  const next = new URLSearchParams(q);
  for (const [key, value] of Object.entries(values)) if (value == null || value === '') next.delete(key); else next.set(key, value);
  return next;
}

export function go(page, args, q) { location.hash = link(page, args, q); }

// Changes the address without a new page in the history.
export function note(page, args, q) { replaced(history.state, link(page, args, q)); }

// Places in the history remember how far they were scrolled.
export const remembered = () => history.state || {};
export function remember(values) { replaced({ ...history.state, ...values }); }

// Some browsers refuse more than a hundred changes in half a minute; the next one is told then.
function replaced(state, address) {
  try { history.replaceState(state, '', address); } catch { /* kept as it was */ }
}
