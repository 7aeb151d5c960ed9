"""What parsers make of replies in every wrong form: ours, and delphi's on the same ones.

    python benchmarks/autointerp_parsers.py [--delphi FOLDER] [--replies 1000]

FOLDER is a checkout of EleutherAI/delphi. Two of its functions are run, taken from its files as they stand, so that
none of its libraries is needed: the parser of classifications, which takes the first list in a reply (set to one
example), and that of explanations. A reply is read right, counted as failed, or read wrong; one that says nothing must
fail. The figures are given for all replies, and for those in the form that delphi's prompts ask for: with a list, or
with "[EXPLANATION]:".
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import report

from mlxterp.autointerp.answers import parsed
from mlxterp.autointerp.replies import explanation_in
from tests.autointerp import malformed

_PARSER, _EXPLAINER = "delphi/scorers/classifier/classifier.py", "delphi/explainers/explainer.py"
_UNREAD = "Explanation could not be parsed."
Read = Callable[[str], str | None]
"""A reply → what it says; None where it is counted as failed."""


def ours(reply: str) -> str | None:
    p = parsed(reply)
    return None if np.isnan(p) else str(int(p))


def ours_explained(reply: str) -> str | None:
    return explanation_in(reply).text


def method_of(folder: Path, file: str, kind: str, name: str) -> Callable[..., Any]:
    """A method of a class in a file, compiled by itself."""
    tree = ast.parse((folder / file).read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind]
    [found] = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    names: dict[str, Any] = {
        "re": re, "json": json, "np": np, "Literal": Literal, "Any": Any, "logger": SimpleNamespace(error=print),
    }  # fmt: skip
    exec(compile(ast.Module([found], []), file, "exec"), names)
    return names[name]


def delphis(folder: Path) -> tuple[Read, Read]:
    """delphi's two parsers, as it uses them."""
    classes = method_of(folder, _PARSER, "Classifier", "_parse")
    explained = method_of(folder, _EXPLAINER, "Explainer", "parse_explanation")
    one = SimpleNamespace(n_examples_shown=1)

    def answer(reply: str) -> str | None:
        try:
            said = classes(one, reply)[0][0]
        except Exception:  # as it does: the batch has no prediction then
            return None
        if said is None:
            return None
        return str(int(said)) if said in (0, 1) else f"neither: {said!r}"

    return answer, lambda reply: explained(one, reply)


def counted(
    replies: Iterable[malformed.Reply], read: Read, agrees: Callable[[str, str], bool]
) -> Counter[str]:
    found: Counter[str] = Counter(right=0, failed=0, wrong=0)
    for reply, says in replies:
        got = read(reply)
        if got is None:
            found["failed"] += 1
        else:
            found["right" if says is not None and agrees(got, says) else "wrong"] += 1
    return found


def kept(got: str, says: str) -> bool:
    """As `malformed.agrees`; 500 words that were kept whole are right here."""
    return (says == "cut" and got != _UNREAD) or malformed.agrees(got, says)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delphi", type=Path, help="a checkout of EleutherAI/delphi")
    parser.add_argument("--replies", type=int, default=1000)
    asked = parser.parse_args()
    answers = list(malformed.answers(asked.replies))
    told = list(malformed.explanations(asked.replies))
    kinds: dict[str, tuple[list[malformed.Reply], int]] = {
        "answers": (answers, 0),
        "answers with a list": ([one for one in answers if "[" in one[0]], 0),
        "explanations": (told, 1),
        "explanations with its label": ([one for one in told if "[EXPLANATION]:" in one[0]], 1),
    }
    readers = {"mlxterp": (ours, ours_explained)} | (
        {"delphi": delphis(asked.delphi)} if asked.delphi else {}
    )
    rows: dict[str, Any] = {}
    for what, (replies, which) in kinds.items():
        rows[f"{what}: all; those that say something"] = (
            f"{len(replies)}; {sum(says is not None for _, says in replies)}"
        )
        for name, read in readers.items():
            found = counted(replies, read[which], kept if which else str.__eq__)
            rows[f"{what}, {name}: right, failed, wrong"] = ", ".join(str(n) for n in found.values())
    notes = [
        f"{asked.replies} replies of each kind, seed 0; {_UNREAD!r}, which delphi scores as an explanation, is wrong"
    ]
    report("autointerp_parsers", rows, notes)


if __name__ == "__main__":
    main()
