"""What a language model replied: an explanation, or the numbers of the windows that it chose. Nothing here raises."""

from __future__ import annotations

import re
from typing import Any

from ...autointerp.answers import without_thinking

_FENCE = re.compile(r"```\w*")
_LIST = re.compile(r"\[[^\[\]]*\]")
_LABEL = re.compile(
    r"^\W*(?:(?:the|my)\s+)?(?:final\s+)?(?:answers?|predictions?|numbers?|examples?|texts?|sequences?)\b[^\d\[:]{0,40}"
    r"(?::|\bis\b|\bare\b)",
    re.IGNORECASE,
)
_ROW = re.compile(
    r"^\W*(?:example|text|sequence|no\.?|number)?\s*#?(\d{1,6})\W{1,4}(yes|no|true|false|1|0|active|inactive)\W*$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"#?\d{1,6}")
_NONE = re.compile(r"none(?:\s+of\s+(?:them|the\s+\w+|these))?", re.IGNORECASE)
_YES = {"yes", "true", "1", "active"}


class Predictions(list[int]):
    """Numbers of windows, counted from 1, ascending; a plain list otherwise.

    Attributes:
        failed: Whether the reply could not be read; the list is empty then.
        ignored: Numbers in the reply that are no window's.
        unanswered: Windows that a judge gave no answer for.
        reply: What was read.
    """

    def __init__(
        self, found: Any = (), *, failed: bool = False, ignored: tuple[int, ...] = (),
        unanswered: tuple[int, ...] = (), reply: str = "",
    ):  # fmt: skip
        super().__init__(found)
        self.failed, self.ignored, self.unanswered, self.reply = failed, ignored, unanswered, reply

    @property
    def reason(self) -> str:
        """Why it failed, or what was ignored; "" for neither."""
        if self.unanswered:
            return f"the judge gave no answer for {len(self.unanswered)} windows"
        if self.failed:
            return f"the reply names no windows that can be read: {self.reply[:80]!r}"
        if self.ignored:
            return f"the reply names windows that there are none of: {', '.join(map(str, self.ignored))}"
        return ""


def parse_explanation(reply: Any) -> str:
    """What follows the last "activates on", without the full stop; the whole reply where it is not there."""
    if not isinstance(reply, str):
        return ""
    last = re.split("activates on", without_thinking(reply), flags=re.IGNORECASE)[-1]
    paragraph = last.strip().partition("\n\n")[0]
    return " ".join(paragraph.split()).rstrip(".").strip()


def parse_predictions(reply: Any, n: int) -> Predictions:
    """The windows that a reply names.

    Read are lists ("1, 4 and 7", "[1, 4]"), "None", a number on each line, and lines such as "3: yes"; with a label
    before them or not. Where lines say different things, or none says anything, it is a failure.

    Args:
        n: Windows that there are.
    """
    if not isinstance(reply, str):
        return Predictions(failed=True, reply=repr(reply))
    said = _FENCE.sub("", without_thinking(reply)).strip()
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    found = _rows(lines)
    if found is None:
        found = _column(lines)
    if found is None:
        found = _one_of([_listed(line) for line in lines])
    if found is None:
        return Predictions(failed=True, reply=reply)
    kept = sorted(one for one in found if 1 <= one <= n)
    return Predictions(kept, ignored=tuple(sorted(found - set(kept))), reply=reply)


def _rows(lines: list[str]) -> set[int] | None:
    """Windows of lines "3: yes", where every line is one; None otherwise, and where a window is told twice apart."""
    matched = [_ROW.match(line) for line in lines]
    if not matched or not all(matched):
        return None
    told: dict[int, bool] = {}
    for one in matched:
        assert one is not None
        number, yes = int(one[1]), one[2].lower() in _YES
        if told.setdefault(number, yes) != yes:
            return None
    return {number for number, yes in told.items() if yes}


def _column(lines: list[str]) -> set[int] | None:
    """The numbers of lines that are one number each; None otherwise."""
    bare = [re.sub(r"^[-*•]\s+", "", line).rstrip(".,") for line in lines]
    if not bare or not all(_NUMBER.fullmatch(one) for one in bare):
        return None
    return {int(one.lstrip("#")) for one in bare}


def _one_of(found: list[set[int] | None]) -> set[int] | None:
    """What the lines that say something agree on; None where they do not, or none does."""
    told = [one for one in found if one is not None]
    return told[0] if told and all(one == told[0] for one in told) else None


def _listed(line: str) -> set[int] | None:
    """The numbers of a line that is a list, or has one list in brackets; None otherwise."""
    brackets = _LIST.findall(line)
    if len(brackets) == 1:
        inner = brackets[0][1:-1].strip()
        return _numbers(inner) if inner else set()
    return _numbers(_LABEL.sub("", line))


def _numbers(text: str) -> set[int] | None:
    """The numbers of "1, 4 and 7"; nothing for "None"; None for anything else."""
    bare = text.replace("*", "").replace("`", "").strip().strip("\"'().").strip()
    if _NONE.fullmatch(bare):
        return set()
    parts = [part.strip() for part in re.split(r",|;|&|\band\b|\s", bare) if part.strip()]
    if not parts or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    return {int(part.lstrip("#")) for part in parts}
