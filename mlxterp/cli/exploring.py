"""`mlxterp serve`, `mlxterp site` and `mlxterp search`: an index in the browser, and what it knows of words."""

from __future__ import annotations

import signal
import threading
from argparse import Namespace
from typing import Any

from rich.text import Text

from ..core import checks
from ..core.places import expanded
from ..demo import load_demo
from ..demo.kept_index import kept_index
from ..errors import InputError, warn
from ..index import FeatureIndex
from ..viz.terminal import Screen
from . import as_json, opening

_MEANS = 0.05
"""Score below which a feature is hardly about a word."""


def serve(options: Namespace, screen: Screen) -> None:
    """`mlxterp serve`."""
    index, others = _index(options), _others(options)
    labels = None if options.labels is None else expanded(options.labels)
    with index.serve(
        options.port, not options.no_open, others, labels=labels, read_only=options.read_only
    ) as explorer:
        names = ", ".join(one.path.name for one in (index, *others))
        screen.write_line(f"Explorer of {names}. Ctrl-C ends it. Its address, which holds the key:")
        screen.print(explorer.url, soft_wrap=True)
        _until_told(explorer)
    screen.write_line("Stopped.")


def site(options: Namespace, screen: Screen) -> None:
    """`mlxterp site`."""
    folder = _index(options).to_site(
        expanded(options.out),
        options.features,
        checks.count(options.examples, "examples"),
        others=_others(options),
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    screen.write_line(
        f"{folder}: {size / 1e6:,.1f} MB. Open {(folder / 'index.html').resolve()} in a browser."
    )


def search(options: Namespace, screen: Screen) -> None:
    """`mlxterp search`."""
    index = opening.open_index(options) if options.index is not None or _named(options) else _demo(options)
    found = index.search(" ".join(options.words), options.top_k)
    if options.json:
        return screen.json(as_json.hits(found))
    screen.write_line(f"{'feature':>8}  {'score':>6}  why", "bold")
    for hit in found:
        share = index.stats(hit.feature_id).density
        screen.write_line(
            Text(f"{hit.feature_id:>8}  {hit.score:>6.2f}  {hit.why}; active on {share:.2%} of tokens")
        )
    if not found:
        screen.write_line("Nothing is called so, and no feature fires on these words.")


def feature_of(index: FeatureIndex, given: str) -> int:
    """The feature of a number, or the one that a word finds first.

    Raises:
        InputError: No feature has to do with the word.
    """
    if given.lstrip("-").isdecimal():
        return index.check_feature(int(given))
    found = index.search(given, 1)
    if not found or found[0].score < _MEANS:
        raise InputError(
            f"No feature is called {given!r} or fires on it above all. mlxterp search {given!r} lists what comes near."
        )
    warn(
        f"{given!r} is taken for feature {found[0].feature_id}: {found[0].why}. mlxterp search {given} lists others."
    )
    return found[0].feature_id


def _index(options: Namespace) -> FeatureIndex:
    """The index named; that of the demo's stories where none is.

    Raises:
        InputError: Both are named, or neither the index of a model.
    """
    if options.demo and (options.index is not None or _named(options)):
        raise InputError(
            "--demo shows the stories that come with mlxterp; it takes no INDEX, --model or --sae."
        )
    return _demo(options) if options.index is None and not _named(options) else opening.open_index(options)


def _named(options: Namespace) -> bool:
    return options.model is not None or options.sae is not None


def _demo(options: Namespace) -> FeatureIndex:
    return opening.at_its_place(options, kept_index(load_demo(options.backend)))


def _others(options: Namespace) -> list[FeatureIndex]:
    """The indexes that are shown beside it."""
    return [opening.open_index(_of(options, path)) for path in options.others]


def _of(options: Namespace, path: str) -> Namespace:
    """The options of another index: its SAE is not the one that is named."""
    return Namespace(index=path, model=None, sae=None, backend=options.backend)


def _until_told(explorer: Any) -> None:
    """Returns at Ctrl-C, and when the process is asked to end."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        explorer.wait()
    except KeyboardInterrupt:
        return
