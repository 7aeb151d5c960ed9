// Tokens as text: white space can be seen, colour is the share of the feature's own maximum.
import {h, num} from './dom.js';

export const step = (activation, scale) =>
  activation ? Math.min(8, Math.max(1, Math.ceil(8 * Math.abs(activation) / (scale || 1) - 1e-9))) : 0;
export const shade = (activation, scale) => (activation ? (activation < 0 ? 'n' : 'p') + step(activation, scale) : '');

const SPECIAL = /^(<\|.{1,40}\|>|<\/?s>|<(bos|eos|pad|unk|cls|sep)>|\[(CLS|SEP|PAD|UNK|BOS|EOS)\])$/i;
const NAMES = { '<|endoftext|>': '⟨bos⟩', '<s>': '⟨bos⟩', '<bos>': '⟨bos⟩', '</s>': '⟨eos⟩', '<eos>': '⟨eos⟩' };

// Children for one token: a leading space as a faint dot, a line break as ↵, a special token in grey.
export function marked(token) {
  if (SPECIAL.test(token)) return [h('i.special', { title: token }, NAMES[token] || token)];
  if (!token) return [h('i.special', { title: 'part of a character' }, '∅')];
  const lead = /^ */.exec(token)[0];
  const parts = token.slice(lead.length).split(/([\n\t])/);
  return [lead && h('i.space', null, lead), parts.map((part) => (part === '\n' ? h('i.line', null, '\n') : part === '\t'
    ? h('i.tab', null, '\t') : part))];
}

export const code = (token, more) => h('code', { dir: 'auto', ...more }, marked(token));

// A token in a sentence: trimmed, its quotes around it.
export const quoted = (token) => `“${token.trim() || (token.includes('\n') ? '↵' : token ? '␣' : '∅')}”`;

// A window of text; active tokens are marks, the peak is underlined.
export function strip(ex, scale, { kind = 'text', peak = ex.pos - ex.start, onhover } = {}) {
  const line = h(`span.${kind}`, { dir: 'auto', lang: '' }, ex.start ? h('i.more', null, '…') : null);
  ex.tokens.forEach((token, i) => {
    const activation = ex.acts[i], tone = shade(activation, scale);
    if (!tone && i !== peak) { line.append(...marked(token).flat(9).filter((part) => part)); return; }
    line.append(h(`mark${tone ? '.' + tone : '.quiet'}${i === peak ? '.peak' : ''}${token.length < 30 ? '.unbroken' : ''}`, {
      title: `${num(activation, 4)} at position ${ex.start + i}`,
      onmouseenter: onhover && (() => onhover(activation)), onmouseleave: onhover && (() => onhover(null)),
    }, marked(token)));
  });
  return line;
}

// The window cut down to what lies round its peak, for one line.
export function around(ex, before = 8, after = 6) {
  const peak = ex.pos - ex.start, from = Math.max(0, peak - before), to = peak + after + 1;
  return { ...ex, start: ex.start + from, tokens: ex.tokens.slice(from, to), acts: ex.acts.slice(from, to) };
}
