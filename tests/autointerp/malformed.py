"""Replies as language models really give them: right in a wrong form, cut off, wrapped, contradictory, or no answer.

Seeded; for each reply what it says, or None where nothing can be said of it. A parser may read it right or count it as
failed; anything else is wrong. `benchmarks/autointerp_parsers.py` puts other tools' parsers before the same replies.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

Reply = tuple[str, str | None]
"""A reply, and what it says."""
ListReply = tuple[str, list[str | None] | None]
"""A reply to several questions, and what it says of each; None for nothing of any."""

_FILLER = "The text is about a small village near the sea where people meet in the evening to talk about the weather."
_EXPLANATIONS = (
    "the word ball in stories for children", 'words that end in "-ness"', "dates in the year 1905", "say a colour",
    "an opening quotation mark", "names of people after the verb said", "unhappy endings", "the pronoun it",
    "commas in lists of things", 'the phrase "do not"', "explanations of rules", "the digit 7 in prices",
)  # fmt: skip


def answers(n: int, seed: int = 0) -> Iterator[Reply]:
    """Replies to a question that is answered by 1 or 0, alone or as a list of one; what they say is "1" or "0"."""
    draw = random.Random(seed)
    for _ in range(n):
        bit = draw.choice("10")
        reply, says = draw.choice(_ANSWERS)(bit, draw)
        yield _wrapped(reply, bit, draw), says


def lists(n: int, seed: int = 0) -> Iterator[tuple[str, int, list[str | None]]]:
    """Replies to two to twelve numbered questions, how many these are, and what each says of every one."""
    draw = random.Random(seed)
    for _ in range(n):
        bits = [draw.choice("10") for _ in range(draw.randrange(2, 13))]
        reply, says = draw.choice(_LISTS)(bits, draw)
        other = "".join(map(_other, bits))
        kind = draw.random()
        if kind < 0.15:
            reply = f"<think>Is it {list(map(int, other))}?</think>{reply}"
        elif kind < 0.3:
            reply = f"```json\n{reply}\n```"
        yield reply, len(bits), [None] * len(bits) if says is None else says


def explanations(n: int, seed: int = 0) -> Iterator[Reply]:
    """Replies to a question for an explanation after "[EXPLANATION]:"."""
    draw = random.Random(seed)
    for _ in range(n):
        text = draw.choice(_EXPLANATIONS)
        reply, says = draw.choice(_TOLD)(text, draw)
        if draw.random() < 0.2:
            reply = f"<think>Maybe [EXPLANATION]: {draw.choice(_EXPLANATIONS)}? No.</think>\n{reply}"
        yield reply, says


def _other(bit: str) -> str:
    return "0" if bit == "1" else "1"


def _word(bit: str) -> str:
    return "yes" if bit == "1" else "no"


def _wrapped(reply: str, bit: str, draw: random.Random) -> str:
    """As it is, after thoughts of the opposite, in a code block, or among white space."""
    kind = draw.random()
    if kind < 0.15:
        return f"<think>Is it {_other(bit)}? [{_other(bit)}]</think>{reply}"
    if kind < 0.3:
        return f"```json\n{reply}\n```"
    return f"\n \t{reply}\r\n" if kind < 0.45 else reply


_ANSWERS: tuple[Callable[[str, random.Random], Reply], ...] = (
    lambda bit, _: (bit, bit),
    lambda bit, _: (f"[{bit}]", bit),
    lambda bit, _: (f"[ {bit} ]", bit),
    lambda bit, _: (f"[{bit}", bit),
    lambda bit, _: (f"{bit}]", bit),
    lambda bit, _: (f"[{bit}].", bit),
    lambda bit, _: (f"**{bit}**", bit),
    lambda bit, _: (f"Answer: {bit}", bit),
    lambda bit, _: (f"Answer (1 or 0): {bit}", bit),
    lambda bit, _: (f"The answer is {bit}.", bit),
    lambda bit, _: (f"[RESPONSE]: {bit}", bit),
    lambda bit, _: (f'{{"answer": {bit}}}', bit),
    lambda bit, _: (f"{_word(bit).upper()}.", bit),
    lambda bit, _: (f"{_word(bit)} ({bit})", bit),
    lambda bit, _: (f"[{'true' if bit == '1' else 'false'}]", bit),
    lambda bit, _: (f"{_FILLER} {_FILLER} Answer: {bit}", bit),
    lambda bit, _: (f"{_FILLER} So it is {_word(bit)}, I would say.", bit),
    lambda bit, _: (f"Texts [3] and [7] decide it: [{bit}]", bit),
    lambda bit, _: (f"[{bit}, {_other(bit)}]", None),
    lambda bit, _: (f"[{bit}, {bit}, {_other(bit)}]", None),
    lambda bit, _: ("1 or 0", None),
    lambda bit, _: (f"{bit}{_other(bit)}", None),
    lambda bit, _: (f"0.{bit}5", None),
    lambda bit, _: (f"-{bit}", None),
    lambda bit, _: (f"{bit},5", None),
    lambda bit, _: ("", None),
    lambda bit, _: ("[]", None),
    lambda bit, _: ("[null]", None),
    lambda bit, _: ("None", None),
    lambda bit, _: ("<think>It could be 1, because", None),
    lambda bit, _: (f"Answer: {bit}\nAnswer: {_other(bit)}", None),
    lambda bit, _: ("I'm sorry, but I cannot help with that.", None),
    lambda bit, _: (_FILLER, None),
    lambda bit, draw: ("".join(draw.choices("abc[]{}:,. \n", k=draw.randrange(1, 12))), None),
)


def _numbered(bits: list[str], form: str, order: list[int] | None = None) -> str:
    return "\n".join(form.format(n=i + 1, bit=bits[i]) for i in order or range(len(bits)))


def _some(bits: list[str], draw: random.Random) -> list[str | None]:
    """The answers, at least one of them open and one not."""
    kept = draw.sample(range(len(bits)), draw.randrange(1, len(bits)))
    return [bit if i in kept else None for i, bit in enumerate(bits)]


def _with_gaps(bits: list[str], draw: random.Random, form: str) -> ListReply:
    says = _some(bits, draw)
    return "\n".join(form.format(n=i, bit=bit) for i, bit in enumerate(says, 1) if bit), says


def _with_nulls(says: list[str | None]) -> ListReply:
    return f"[{', '.join(bit or 'null' for bit in says)}]", says


_LISTS: tuple[Callable[[list[str], random.Random], ListReply], ...] = (
    lambda bits, _: (f"[{', '.join(bits)}]", [*bits]),
    lambda bits, _: (f"[{','.join(bits)}]", [*bits]),
    lambda bits, _: (f"[{','.join(bits)}", [*bits]),
    lambda bits, _: (f"[{','.join(bits)},]", [*bits]),
    lambda bits, _: ("[\n  " + ",\n  ".join(bits) + "\n]", [*bits]),
    lambda bits, _: ("[" + ", ".join(f'"{bit}"' for bit in bits) + "]", [*bits]),
    lambda bits, _: ("[" + ", ".join("true" if bit == "1" else "false" for bit in bits) + "]", [*bits]),
    lambda bits, _: (f'{{"answers": [{", ".join(bits)}]}}', [*bits]),
    lambda bits, _: (f"Answer (a JSON list of {len(bits)} digits): [{', '.join(bits)}]", [*bits]),
    lambda bits, _: (f"{_FILLER} So the list is [{', '.join(bits)}]. {_FILLER}", [*bits]),
    lambda bits, _: (_numbered(bits, "{n}. {bit}") + f"\n\n[{', '.join(bits)}]", [*bits]),
    lambda bits, _: (_numbered(bits, "{n}. {bit}"), [*bits]),
    lambda bits, _: (_numbered(bits, "{n}: {bit}"), [*bits]),
    lambda bits, _: (_numbered(bits, "Text {n}: {bit}"), [*bits]),
    lambda bits, _: (_numbered(bits, "- **{n}**: {bit}"), [*bits]),
    lambda bits, _: (_numbered(bits, "| {n} | {bit} |"), [*bits]),
    lambda bits, _: ("{" + _numbered(bits, '"{n}": {bit},').replace("\n", " ") + "}", [*bits]),
    lambda bits, draw: (_numbered(bits, "{n}. {bit}", draw.sample(range(len(bits)), len(bits))), [*bits]),
    lambda bits, _: (f"{_FILLER}\n{_numbered(bits, '{n}) {bit}')}\n{_FILLER}", [*bits]),
    lambda bits, _: (", ".join(bits), [*bits]),
    lambda bits, _: (" ".join(bits), [*bits]),
    lambda bits, _: ("\n".join(bits), [*bits]),
    lambda bits, _: ("".join(bits), [*bits]),
    lambda bits, _: (f"Answers: {', '.join(map(_word, bits))}.", [*bits]),
    lambda bits, draw: _with_gaps(bits, draw, "{n}. {bit}"),
    lambda bits, draw: _with_gaps(bits, draw, '"{n}": {bit}'),
    lambda bits, draw: _with_nulls(_some(bits, draw)),
    lambda bits, _: (f"[{', '.join(bits[:-1])}]", None),
    lambda bits, _: (f"[{', '.join([*bits, '1'])}]", None),
    lambda bits, _: (", ".join(bits[1:]), None),
    lambda bits, _: ("".join([*bits, "0"]), None),
    lambda bits, _: (f"[{', '.join(bits)}] or [{', '.join(map(_other, bits))}]", None),
    lambda bits, _: (f"[{', '.join(str(i) for i in range(1, len(bits) + 1))}]", None),
    lambda bits, _: (f"[{', '.join(f'0.{bit}7' for bit in bits)}]", None),
    lambda bits, _: (_numbered(bits, "{n}. {bit}") + f"\n{len(bits) + 1}. 1", None),
    lambda bits, _: (_numbered(bits, "{n}. {bit}") + "\n" + _numbered([*map(_other, bits)], "{n}. {bit}"), None),
    lambda bits, _: (_numbered(bits, "{n}. {bit} or 0.5"), None),
    lambda bits, _: (f"<think>[{', '.join(bits)}", None),
    lambda bits, _: (_FILLER, None),
    lambda bits, _: (f"The feature fires in {bits[0]} of the texts, I would say.", None),
    lambda bits, _: ("I'm sorry, but I cannot help with that.", None),
    lambda bits, _: ("[]", None),
    lambda bits, _: ("None", None),
    lambda bits, _: ("", None),
    lambda bits, draw: ("".join(draw.choices("abc[]{}:,. \n", k=draw.randrange(1, 12))), None),
)  # fmt: skip


def _long(draw: random.Random) -> str:
    return " ".join(draw.choices(_FILLER.split(), k=500))


_TOLD: tuple[Callable[[str, random.Random], Reply], ...] = (
    lambda text, _: (f"[EXPLANATION]: {text}", text),
    lambda text, _: (f"[EXPLANATION]: {text}\n\nI hope that this helps!", text),
    lambda text, _: (f"[explanation]: {text}", text),
    lambda text, _: (f"**[EXPLANATION]:** {text}", text),
    lambda text, _: (f"[EXPLANATION]:\n{text}", text),
    lambda text, _: (f"EXPLANATION: {text}", text),
    lambda text, _: (f"**Explanation:** {text}", text),
    lambda text, _: (f"```\n[EXPLANATION]: {text}\n```", text),
    lambda text, _: (f"1. {_FILLER}\n2. {_FILLER}\n\n[EXPLANATION]: {text}", text),
    lambda text, _: (f"[EXPLANATION]: something else\n\nNo, better:\n[EXPLANATION]: {text}", text),
    lambda text, _: (f"[EXPLANATION]: {text} [/EXPLANATION]", text),
    lambda text, _: (text, text),
    lambda text, _: (f"Sure, here is the explanation:\n{text}", text),
    lambda text, draw: (f"[EXPLANATION]: {_long(draw)}", "cut"),
    lambda text, draw: (_long(draw), None),
    lambda text, _: ("", None),
    lambda text, _: ("[EXPLANATION]:", None),
    lambda text, _: ("[EXPLANATION]: ...", None),
    lambda text, _: ("[EXPLANATION]: unclear", None),
    lambda text, _: ("[EXPLANATION]: Unclear. The texts share nothing.", None),
    lambda text, _: ("<think>They all have", None),
    lambda text, _: ("I'm sorry, but I cannot help with that.", None),
    lambda text, _: ("[EXPLANATION]: I cannot determine a pattern.", None),
)


def agrees(found: str | None, says: str | None) -> bool:
    """Whether an explanation that was read is what the reply says: its words, or, of 500, their beginning."""
    if found is None or says is None:
        return found == says
    if says == "cut":
        return len(found.split()) <= 60
    return found.strip(" .\"'").lower() == says.strip(" .\"'").lower()
