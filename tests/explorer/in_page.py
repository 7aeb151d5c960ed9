"""What a page shows, asked of the browser."""

from __future__ import annotations

from typing import Any

_CONTRAST = """() => {
  const parsed = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => sum + w * linear(rgb[i] / 255), 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parsed(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim(), e = walk.currentNode.parentElement, style = getComputedStyle(e);
    if (!text || !e.getClientRects().length || e.closest('noscript, option, [hidden]')) continue;
    const ink = e.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [more, less] = [light(parsed(ink)), light(behind(e))].sort((x, y) => y - x);
    if ((more + 0.05) / (less + 0.05) < 4.5) bad.push([text.slice(0, 30), ink, String(behind(e)), String(e.className)]);
  }
  for (const e of document.querySelectorAll('[placeholder]')) {
    if (!e.getClientRects().length) continue;
    const ink = getComputedStyle(e, '::placeholder').color;
    const [more, less] = [light(parsed(ink)), light(behind(e))].sort((x, y) => y - x);
    if ((more + 0.05) / (less + 0.05) < 4.5) bad.push([e.placeholder, ink, String(behind(e)), 'placeholder']);
  }
  return bad;
}"""
_OUTLINED = """() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
}"""
_FOCUSED = "(({id, className, tagName}) => id || className || tagName)(document.activeElement)"
_LIST = """async query => {
  const {source, listed} = await import('./static/shared.js');
  return [...listed(await source('0'), new URLSearchParams(query))];
}"""


def rows_of(page: Any) -> list[int]:
    """Feature ids of the rows in sight, from the top."""
    found = page.locator(".row").evaluate_all("rows => rows.map(r => [+r.ariaPosInSet, +r.dataset.id])")
    return [feature for _, feature in sorted(found)]


def whole_list(page: Any, query: str) -> list[int]:
    """All ids of a list, as the page has them."""
    return page.evaluate(_LIST, query)


def faint(page: Any) -> list[Any]:
    """Texts that contrast with what is behind them by less than 4.5."""
    return page.evaluate(_CONTRAST)


def outlined(page: Any) -> bool:
    """Whether what has the focus is seen to have it."""
    return page.evaluate(_OUTLINED)


def focused(page: Any) -> str:
    """What has the focus."""
    return page.evaluate(_FOCUSED)


def width(page: Any) -> int:
    """How wide the page is, in pixels."""
    return page.evaluate("document.documentElement.scrollWidth")
