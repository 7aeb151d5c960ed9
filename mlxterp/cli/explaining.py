"""`mlxterp explain` and `mlxterp score`: what features mean, and whether the sentences that say so hold."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from .. import autointerp
from ..autointerp.generation import TESTS
from ..concepts import Concepts, store
from ..concepts.explanations import Explanation
from ..errors import InputError
from ..index import FeatureIndex
from ..model.interpretable import InterpretableModel
from ..viz.terminal import Screen
from . import as_json, opening
from .overwrite import check_apart, check_file, check_page

WORDS = "words"
"""The judge that asks no language model."""
_SERVERS = ("http://", "https://")


def explain(options: Namespace, screen: Screen) -> None:
    """`mlxterp explain`."""
    if options.out is not None:
        check_file(options.out, options, "explanations")
    index = _index(options)
    features = options.features or index.live.tolist()
    told = index.explain(
        features, autointerp.TokenListExplainer(options.words), plan=autointerp.Plan(seed=options.seed),
        path=_part(options.out),
    )  # fmt: skip
    if options.out is not None:
        _write(told, options.out)
        _done(options.out)
    if options.json:
        return screen.json(as_json.explanations(told))
    for one in told if options.out is None else ():
        screen.write_line(f"{one.feature_id:>8}  {one.text}")
    if options.out is not None:
        screen.write_line(f"{options.out}: {len(told):,} explanations of {len(features):,} features.")
        if told:
            screen.write_line(f"Do they hold? mlxterp score {options.index} {options.out}")


def score(options: Namespace, screen: Screen) -> None:
    """`mlxterp score`."""
    if options.out is not None:
        check_file(options.out, options, "scores")
    if options.html is not None:
        check_page(options.html, options)
    check_apart(out=options.out, html=options.html)
    index = _index(options)
    told = _read(options.explanations, index)
    judge = _judge(options)
    scores = index.score(
        told, judge, options.scorers, writer=_writer(judge, options.scorers), controls=options.controls,
        path=_part(options.out),
    )  # fmt: skip
    if options.out is not None:
        scores.save(options.out)
        _done(options.out)
    if options.html is not None:
        scores.to_html(options.html)
    if options.json:
        return screen.json(as_json.scores(scores))
    screen.ansi(scores.to_str(color=screen.colored))
    for path in (options.out, options.html):
        if path is not None:
            screen.write_line(f"Written: {path}")


def _index(options: Namespace) -> FeatureIndex:
    """The index named, with its SAE, whose near features give windows.

    Raises:
        InputError: Nothing says which SAE it is of.
    """
    index = opening.open_index(options)
    if index.source is None:
        raise InputError(
            "Windows of near features need the model and SAE of this index: add --model and --sae."
        )
    return index


def _part(out: Path | None) -> Path | None:
    """Where a call that may be interrupted keeps what is done: beside its result."""
    return None if out is None else out.with_name(f"{out.name}.part")


def _done(out: Path) -> None:
    part = _part(out)
    if part is not None:
        part.unlink(missing_ok=True)


def _write(told: list[Explanation], path: Path) -> None:
    by_feature: dict[int, list[Explanation]] = {}
    for one in told:
        by_feature.setdefault(one.feature_id, []).append(one)
    store.write(path, store.nested({}, by_feature))


def _read(path: str, index: FeatureIndex) -> list[Explanation]:
    """The explanations in a file.

    Raises:
        InputError: There are none, or it cannot be read.
    """
    concepts = Concepts(index.d_hidden)
    concepts.load_concepts(Path(path))
    told = [one for several in concepts.explanations.values() for one in several]
    if not told:
        raise InputError(
            f"{path} holds no explanations. To make some: mlxterp explain INDEX --out FILE; names are given as"
            ' {"741": [{"text": "toys", "source": "me"}]}.'
        )
    return told


def _writer(judge: autointerp.Judge, scorers: Sequence[str]) -> autointerp.Writer | None:
    """The judge as writer, where texts are wanted.

    Raises:
        InputError: It writes none.
    """
    wanted = [one for one in scorers if one in TESTS]
    if not wanted:
        return None
    if isinstance(judge, (autointerp.OpenAIJudge, autointerp.LocalJudge)):
        return judge
    raise InputError(
        f"{wanted[0]} is scored on texts that a language model writes, and word lists write none: name a server or a"
        " model with --judge."
    )


def _judge(options: Namespace) -> autointerp.Judge:
    """The judge named: words, a server's address, or a model."""
    named = options.judge
    for name in ("judge_model", "cache", "windows_per_prompt"):
        if getattr(options, name) is not None and not named.startswith(_SERVERS):
            option = name.replace("_", "-")
            raise InputError(
                f"--{option} is for a judge on a server, and --judge is {named!r}: give its address."
            )
    if named == WORDS:
        return autointerp.TokenListJudge()
    if named.startswith(_SERVERS):
        each = 1 if options.windows_per_prompt is None else options.windows_per_prompt
        return autointerp.OpenAIJudge(
            named, options.judge_model, cache=options.cache, windows_per_prompt=each
        )
    return autointerp.LocalJudge(InterpretableModel(named, backend=options.backend))
