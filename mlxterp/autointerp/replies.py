"""Reading what a language model writes: an explanation, or a list of texts. What cannot be read is nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .answers import without_thinking
from .marks import whole
from .styles import UNCLEAR

_FENCE = re.compile(r"^\s*```.*$", re.MULTILINE)
_REFUSED = re.compile(
    r"^(?:i['’]?m (?:sorry|unable)|i am (?:sorry|unable)|sorry|i (?:cannot|can['’]t|can not)|as an ai)\b",
    re.I,
)
_OPENING = re.compile(
    r"^\s*(?:sure|certainly|of course|okay|ok|here (?:is|are)|here['’]s)\b[^\n]*:\s*$", re.I
)
_AGAIN = re.compile(
    r"\s*(?:\bthis (?:feature|neuron|latent) (?:activates|fires) on\b|</?texts>).*", re.I | re.S
)
"""Where a model that was not made to stop begins anew."""
_NUMBER = re.compile(r"^\s*(?:\(?\d{1,3}[.):\]]|[-*•–])\s+")
_HEADING = re.compile(r"^\W{0,6}(?:final )?explanation\W{0,4}:[*_\s]{0,3}", re.IGNORECASE | re.MULTILINE)
_UNCLEAR = re.compile(
    rf"(?:(?:it|this|the pattern|the feature) is )?{UNCLEAR}(?:\s*[.,:;(—–-].*|\s+(?:from|what|which|whether)\b.*)?",
    re.S,
)
_METHOD = re.compile(r"method\W{0,4}(\d)", re.IGNORECASE)
_WRAPPED = " \t\n*_`#"
_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"))
_PROSE = 60
"""A reply without a label that is longer, in words, is thinking aloud."""
_LONGEST = 60
"""Words of a text that is taken from a list."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a reply says.

    Attributes:
        text: The explanation; None where there is none.
        reason: Why there is none; "" where there is one.
        cut: Words of it before it was cut; 0 where it was not.
        method: The number of the method that it names; None without one.
    """

    text: str | None = None
    reason: str = ""
    cut: int = 0
    method: int | None = None


def explanation_in(
    reply: Any, labels: Sequence[str] = (), words: int = 40, wants_label: bool = False, starts: str = ""
) -> Told:
    """The explanation that a reply gives: what follows the last label, in its first paragraph.

    Args:
        labels: Phrases that may stand before it, whatever the case, beside a heading "Explanation:". Without any the
            first paragraph is taken, where the reply is short.
        words: It is cut after so many, and says so.
        wants_label: Whether a reply without a label is none.
        starts: What the prompt ended with, so that the reply goes on from there.
    """
    if not isinstance(reply, str) or not without_thinking(reply):
        return Told(reason="no reply, or an empty one")
    said = _FENCE.sub("", without_thinking(whole(reply)))
    if _REFUSED.match(said.strip()):
        return Told(reason="it would not answer")
    method = _METHOD.findall(f"{starts} {said}")
    after = _after_label(said, labels)
    if after is None:
        if wants_label or len(said.split()) > _PROSE:
            return Told(reason="its reply has no explanation where it was asked for")
        after = "\n".join(row for row in said.splitlines() if not _OPENING.match(row))
    return _told(_paragraph(after), words, int(method[-1]) if method else None)


def texts_in(reply: Any, n: int) -> list[str]:
    """At most n texts that a reply lists: as JSON, or one to a line, with numbers or without.

    Empty ones, those that come twice and those above 60 words are left out.
    """
    if not isinstance(reply, str):
        return []
    said = _FENCE.sub("", without_thinking(whole(reply))).strip()
    listed = _json_list(said)
    if listed is None:
        rows = [row for row in said.splitlines() if row.strip() and not _OPENING.match(row)]
        numbered = [row for row in rows if _NUMBER.match(row)]
        if numbered and re.match(
            r"\D{0,2}2\D", numbered[0].lstrip()
        ):  # the prompt ended with the first number
            numbered = [*rows[: rows.index(numbered[0])][:1], *numbered]
        listed = [_unquoted(_NUMBER.sub("", row).strip()) for row in numbered or rows]
        if len(rows) == 1 and _REFUSED.match(said):
            listed = []
    kept = [text for text in listed if text.strip() and len(text.split()) <= _LONGEST]
    return list(dict.fromkeys(kept))[:n]


def _after_label(said: str, labels: Sequence[str]) -> str | None:
    """What follows the last of the labels; None where there is none."""
    headings = list(_HEADING.finditer(said))
    if headings:
        return said[headings[-1].end() :]
    for part in reversed(re.split(r"\n\s*\n", said)):
        found = [(at, at + len(label)) for label in labels if (at := part.lower().find(label.lower())) >= 0]
        if found:
            return part[min(found)[1] :]
    return None


def _paragraph(text: str) -> str:
    """The first paragraph, without what wraps it."""
    first = next((part for part in re.split(r"\n\s*\n", text.strip()) if part.strip(_WRAPPED)), "")
    line = " ".join(first.split()).strip(_WRAPPED)
    line = re.sub(r"\[/?explanation\]:?", "", line, flags=re.IGNORECASE).strip(_WRAPPED)
    line = _AGAIN.sub("", line)
    return _unquoted(line.removeprefix(":").strip(_WRAPPED))


def _told(text: str, words: int, method: int | None) -> Told:
    bare = text.strip(" .\"'()[]<>…").lower()
    if not text.strip(" .…-:[]()<>"):
        return Told(reason="its explanation is empty", method=method)
    if _UNCLEAR.fullmatch(bare):
        return Told(reason=UNCLEAR, method=method)
    if _REFUSED.match(text):
        return Told(reason="it would not answer", method=method)
    said = text.split()
    if len(said) > words:
        return Told(" ".join(said[:words]) + " …", cut=len(said), method=method)
    return Told(text, method=method)


def _unquoted(text: str) -> str:
    """Without quotes around the whole."""
    for opening, closing in _QUOTES:
        if len(text) > 2 and text[0] == opening and text[-1] == closing:
            inner = text[1:-1]
            if opening not in inner and closing not in inner and any(one.isalnum() for one in inner):
                return inner
    return text


def _json_list(said: str) -> list[str] | None:
    """The strings of the last JSON list; None where there is none."""
    first, end = said.find("["), said.rfind("]")
    if first < 0 or end < first:
        return None
    try:
        found = json.loads(said[first : end + 1])
    except (ValueError, RecursionError):
        return None
    return [whole(one) for one in found if isinstance(one, str)] if isinstance(found, list) else None
