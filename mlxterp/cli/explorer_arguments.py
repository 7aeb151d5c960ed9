"""What the commands take that show an index: `mlxterp serve`, `mlxterp site`, `mlxterp search`."""

from __future__ import annotations

import argparse
from pathlib import Path

Parser = argparse.ArgumentParser
PORT = 8321


def serve(p: Parser) -> None:
    """`mlxterp serve`."""
    index(p)
    p.add_argument("--port", type=int, default=PORT, help="0 takes a free one (default: %(default)s)")
    p.add_argument("--no-open", action="store_true", help="do not open the browser")
    p.add_argument("--read-only", action="store_true", help="names cannot be changed")
    _others(p)
    p.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="keeps the names (default: names.json in the index's folder)",
    )


def site(p: Parser) -> None:
    """`mlxterp site`."""
    index(p)
    _others(p)
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the site is written")
    p.add_argument(
        "--features",
        type=_numbers,
        metavar="NUMBERS",
        help="pages for these of INDEX only, with commas between (default: all)",
    )
    p.add_argument("--examples", type=int, default=12, help="of each feature, at most (default: %(default)s)")


def search(p: Parser) -> None:
    """`mlxterp search`."""
    p.add_argument(
        "words", nargs="+", metavar="WORD", help="words of names, of explanations, or that are read"
    )
    p.add_argument("--index", metavar="PATH", help="the index that knows them (mlxterp index makes one)")


def index(p: Parser) -> None:
    """The index that is shown."""
    p.add_argument(
        "index", nargs="?", metavar="INDEX",
        help="its folder (mlxterp index makes one; default: that of the stories that come with mlxterp)",
    )  # fmt: skip
    p.add_argument("--demo", action="store_true", help="the stories that come with mlxterp")


def _others(p: Parser) -> None:
    p.add_argument(
        "--with", dest="others", action="append", default=[], metavar="INDEX",
        help="an index to show beside this one; may be given again",
    )  # fmt: skip


def _numbers(given: str) -> list[int]:
    try:
        return [int(one) for one in given.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{given!r} is no list of features' numbers") from None
