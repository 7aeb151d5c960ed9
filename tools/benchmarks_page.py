"""Writes docs/benchmarks.md: words from benchmarks_page.md beside this, every figure from benchmarks/results.

    python tools/benchmarks_page.py [--check]

A line {{encode}} of the template becomes the results of that name: when, where and by which command they were
measured, and a table. {{index | ^torch}} takes the rows whose names the pattern is found in. --check writes nothing,
and ends with status 1 where the page is another.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = Path(__file__).with_suffix(".md")
PAGE = ROOT / "docs" / "benchmarks.md"
NOT_KEPT = "not kept"
INTERVALS = ("interval", "over seeds", "bootstrap")
"""Names of a row's entry that is an interval of its value."""
_DIRECTIVE = re.compile(r"^\{\{(\w+)(?: \| (.+))?\}\}$", re.MULTILINE)


def page(template: str, folder: Path) -> str:
    """The whole page.

    Args:
        folder: Of the results files.

    Raises:
        LookupError: The template names results that are not there, or a pattern that fits no row of theirs.
    """
    return _DIRECTIVE.sub(lambda found: results(folder, found[1], found[2] or ""), template)


def results(folder: Path, name: str, pattern: str = "") -> str:
    """One results file, as Markdown."""
    paths = sorted(folder.glob(f"{name}-*-*.json"))
    if not paths:
        raise LookupError(f"{folder} has no results {name!r}.")
    return "\n\n".join(_file(path, pattern) for path in paths)


def _file(path: Path, pattern: str) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = {row: value for row, value in content["rows"].items() if re.search(pattern, row)}
    if not rows:
        raise LookupError(f"{path.name} has no row that {pattern!r} is found in.")
    left = len(content["rows"]) - len(rows)
    told = [_where(content), *_tables(rows)]
    notes = list(content.get("notes", ()))
    if left:
        notes.append(f"{left} more rows are in `benchmarks/results/{path.name}`")
    if notes:
        told.append("\n".join(f"- {_cell(note)}" for note in notes))
    return "\n\n".join(told)


def _where(content: Mapping[str, Any]) -> str:
    """When, where and by which command it was measured."""
    machine = content["machine"]
    known = [
        machine.get("processor"),
        machine.get("gpu"),
        f"{machine['cores']} cores",
        f"Python {machine['python']}",
    ]
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    command = f"`{content['command']}`" if content.get("command") else NOT_KEPT
    return (
        f"*Date: {content.get('date', NOT_KEPT)}. Command: {command}. Machine: {machine['system']},"
        f" {', '.join(filter(None, known))}; {versions}.*"
    )


def _tables(rows: Mapping[str, Any]) -> Iterator[str]:
    """A table for each run of rows of one form."""
    for form, several in groupby(rows.items(), key=lambda pair: _form(pair[1])):
        if form is None:
            yield _table(
                ["", "figure", "noise"], [[row, _shown(value), _noise(value)] for row, value in several]
            )
        else:
            yield _table(
                ["", *form], [[row, *(_shown(value.get(key)) for key in form)] for row, value in several]
            )


def _form(value: Any) -> tuple[str, ...] | None:
    """Names of a row's figures; None where it is one figure, with an interval or without."""
    if not isinstance(value, Mapping) or ("value" in value and _interval(value)):
        return None
    return tuple(value)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _shown(value: Any) -> str:
    """A figure as it is read: three digits, intervals in brackets."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Mapping) and "value" in value:
        interval = _interval(value)
        beside = f"; random {_shown(value['random features'])}" if "random features" in value else ""
        return (
            _shown(value["value"]) + (f" [{', '.join(map(_shown, interval))}]" if interval else "") + beside
        )
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)


def _noise(value: Any) -> str:
    """Half the width of an interval."""
    interval = _interval(value) if isinstance(value, Mapping) else None
    if interval:
        return f"± {_shown((interval[1] - interval[0]) / 2)}"
    if isinstance(value, int) or (isinstance(value, str) and "[" in value):
        return ""  # it is a count, or has its interval in brackets
    return NOT_KEPT


def _interval(value: Mapping[str, Any]) -> list[float] | None:
    found = next((value[key] for key in INTERVALS if value.get(key)), None)
    return found if found and not isinstance(found[0], list) else None


def _cell(text: str) -> str:
    """Text that stays in its cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 where the page is another"
    )
    options = parser.parse_args()
    made = page(TEMPLATE.read_text(encoding="utf-8"), ROOT / "benchmarks" / "results")
    if options.check:
        return int(PAGE.read_text(encoding="utf-8") != made)
    PAGE.write_text(made, encoding="utf-8")
    sys.stdout.write(f"written: {PAGE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
