"""What each command does: it calls the method of its name and shows what comes back."""

from __future__ import annotations

import os
import webbrowser
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from rich.text import Text

from ..core import checks
from ..core.places import expanded
from ..errors import InputError
from ..index import FeatureIndex
from ..model.interpretable import InterpretableModel
from ..training import SAETrainConfig
from ..viz import FeatureCard, FeatureReport, TokenView, View
from ..viz.terminal import Screen, around, complain
from . import as_json, explaining, exploring, opening
from .overwrite import check_apart, check_file, check_folder, check_page

_BEFORE, _AFTER = 24, 12
"""Tokens shown on both sides of the one where a feature is strongest."""
_SHOWN = 5
"""Features of a text that are shown where none are named."""
_NONE = "No feature is active on this text."
NOT_WELL, INTERRUPTED = 1, 130


def run(options: Namespace) -> int:
    """Runs the command named; returns the exit status."""
    commands: dict[str, Callable[[Namespace, Screen], int | None]] = {
        "demo": demo, "features": features, "texts": texts, "index": index, "show": show, "train": train,
        "check": check, "explain": explaining.explain, "score": explaining.score, "graph": graph,
        "selftest": selftest,
        "serve": exploring.serve, "site": exploring.site, "search": exploring.search,
    }  # fmt: skip
    return commands[options.command](options, Screen()) or 0


def demo(options: Namespace, screen: Screen) -> None:
    """`mlxterp demo`."""
    from ..demo.tour import run_tour

    report = expanded(options.report)
    if report.is_dir() or not os.access(report.parent, os.W_OK):
        raise InputError(
            f"No page can be written at {report}: --report takes the path of a file in a folder."
        )
    check_page(report, options)
    text = None if options.text is None else opening.read_text(options.text)
    run_tour(screen, text, options.backend, report)


def features(options: Namespace, screen: Screen) -> None:
    """`mlxterp features`."""
    subject, text = opening.open_subject(options), opening.read_text(options.text)
    found = _strongest(subject, text, options.top_k, options.exclude)
    if not found:
        return screen.json(as_json.text_features(text)) if options.json else screen.write_line(_NONE)
    view = _view(subject, text, [feature for feature, _ in found])
    peaks = [
        int(np.abs(row - value).argmin()) for row, (_, value) in zip(view.activations, found, strict=True)
    ]
    if options.json:
        return screen.json(as_json.text_features(text, view, peaks))
    screen.write_line(f"{'feature':>8}  {'activation':>10}  strongest on", "bold")
    for feature, row, peak in zip(view.feature_ids, view.activations, peaks, strict=True):
        shown = Text(f"{feature:>8}  {row[peak]:>10.4g}  ")
        start = max(0, peak - _BEFORE)
        parts = around(view.tokens[start : peak + _AFTER + 1], peak - start)
        screen.write_line(shown + screen.snippet(*parts, indent=shown.cell_len))


def texts(options: Namespace, screen: Screen) -> None:
    """`mlxterp texts`."""
    if options.index is not None:
        if options.texts is not None:
            raise InputError("--texts and --index both say where to look; give one of them.")
        if options.exclude is not None:
            raise InputError("--exclude is settled when an index is built (mlxterp index --exclude …).")
        found = opening.open_index(options).examples(
            options.feature, checks.count(options.top_k, "top_k"), before=_BEFORE, after=_AFTER
        )
        rows = [(e.text, e.activation, e.position) for e in found]
        windows = [around(e.tokens, e.position - e.start) for e in found]
    else:
        subject = opening.open_subject(options)
        corpus = opening.read_texts(options.texts, None if subject.demo is None else subject.demo.texts)
        rows = subject.model.get_top_texts_for_feature(
            options.feature, subject.sae, corpus, subject.layer, subject.component, options.top_k,
            exclude=("bos", "sinks") if options.exclude is None else options.exclude,
        )  # fmt: skip
        windows = [_window(subject.model, text, position) for text, _, position in rows]
    if options.json:
        return screen.json(as_json.feature_texts(options.feature, rows))
    for (_, activation, _), window in zip(rows, windows, strict=True):
        shown = Text(f"{activation:>8.4g}  ")
        screen.write_line(shown + screen.snippet(*window, indent=shown.cell_len))
    if not rows:
        screen.write_line(f"Feature {options.feature} is active on none of these texts.")


def index(options: Namespace, screen: Screen) -> None:
    """`mlxterp index`."""
    subject = opening.open_subject(options)
    corpus = opening.read_texts(options.texts, None if subject.demo is None else subject.demo.texts)
    built = subject.model.build_index(
        subject.sae, corpus, options.path, options.n_examples, options.exclude, layer=subject.layer,
        component=subject.component, seed=options.seed, shard_tokens=options.shard_tokens, workers=options.workers,
    )  # fmt: skip
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in built.excluded.items() if n)
    screen.write_line(
        f"{options.path}: {len(built.live):,} of {built.d_hidden:,} features are active on {built.n_tokens:,} tokens of"
        f" {built.n_texts:,} texts at {built.component}{f' (left out: {left_out})' if left_out else ''}."
    )
    if len(built.live):
        strongest = int(np.argmax(built.summary.maximum))
        screen.write_line(f"See one of them: mlxterp show {strongest} --index {options.path}{_same(options)}")


def show(options: Namespace, screen: Screen) -> None:
    """`mlxterp show`."""
    if options.text is None and not options.features:
        raise InputError(
            'Name a feature (mlxterp show 12), a word (mlxterp show ball), or a text (mlxterp show --text "…").'
        )
    if options.html is not None:
        check_page(expanded(options.html), options)
    if options.text is not None:
        if options.index is not None:
            raise InputError("--text shows a text by the model and SAE; it takes no --index.")
        subject, text = opening.open_subject(options), opening.read_text(options.text)
        if options.features and options.top_k is not None:
            raise InputError(
                "--top-k chooses the features of a text, and they are named here; give one of the two."
            )
        top_k = _SHOWN if options.top_k is None else options.top_k
        ids = [_number(one) for one in options.features] or [
            feature for feature, _ in _strongest(subject, text, top_k, ("bos", "sinks"))
        ]
        shown: list[FeatureCard | TokenView] = [_view(subject, text, ids or None)]
    else:
        if options.top_k is not None:
            raise InputError("--top-k says how many features of a text are shown: add --text.")
        known = opening.open_index(options)
        shown = [known.feature(exploring.feature_of(known, one)) for one in options.features]
    if options.json:
        screen.json([as_json.view(part) for part in shown])
    elif options.html is None and not options.open:
        for number, part in enumerate(shown):
            if number:
                screen.write_line()
            screen.ansi(part.to_str(color=screen.colored))
    if options.html is not None or options.open:
        _page(options, screen, shown)


def train(options: Namespace, screen: Screen) -> int | None:
    """`mlxterp train`."""
    known = {field.name for field in fields(SAETrainConfig)}
    config = SAETrainConfig(**{name: value for name, value in vars(options).items() if name in known})
    if not options.resume:
        check_folder(expanded(options.save_path), options, "an SAE")
    own = opening.stories() if options.model is None else None
    corpus = opening.read_texts(options.texts, own)
    sae = opening.open_model(options).train_sae(
        options.layer, corpus, options.component, config, options.save_path, resume=options.resume,
        exclude=options.exclude, context_length=options.context_length, device=options.device,
    )  # fmt: skip
    screen.write_line(f"{options.save_path}: {sae}")
    screen.write_line(sae.metadata.get("training", {}).get("summary", ""))
    if sae.metadata.get("training", {}).get("interrupted"):
        complain("interrupted. The SAE is saved as it is; the same command with --resume goes on.")
        return INTERRUPTED
    screen.write_line(f"Does it fit? mlxterp check {options.save_path}{_same(options)} --texts FILE")
    return None


def check(options: Namespace, screen: Screen) -> int | None:
    """`mlxterp check`."""
    subject = opening.open_subject(options)
    corpus = opening.read_texts(options.texts, opening.stories() if options.model is None else None)
    place = f"layers.{subject.layer}.{subject.component}"
    found = subject.model.check_sae(subject.sae, corpus, place, options.max_tokens)
    if options.json:
        screen.json(found.to_dict() | {"ok": found.ok})
    else:
        screen.ansi(str(found))
        if found.ok:
            screen.write_line(
                f"It belongs here: it explains {found.judged_variance:.2f} of the variance, an untrained SAE"
                f" {found.untrained_variance:.2f}; no other layer, component or normalisation fits far better."
            )
    return None if found.ok else NOT_WELL


def graph(options: Namespace, screen: Screen) -> None:
    """`mlxterp graph`."""
    page, file = (None if path is None else expanded(path) for path in (options.html, options.save))
    if page is not None:
        check_page(page, options)
    if file is not None:
        check_file(file, options, "the graph")
    check_apart(html=page, save=file)
    if options.index and page is None and not options.open:
        raise InputError("--index gives cards to the page: add --html or --open.")
    indexes = [FeatureIndex.open(folder) for folder in options.index or ()]
    text, transcoders = opening.read_text(options.text), opening.transcoders_of(options)
    made = opening.open_model(options).attribution_graph(
        text, transcoders, targets=options.target, max_features=options.max_features
    )
    shown = made.prune(options.node_threshold, options.edge_threshold)
    screen.ansi(shown.to_str(color=screen.colored))
    if file is not None:
        screen.write_line(f"Written: {shown.save(file).resolve()}")
    if page is not None or options.open:
        path = page or Path(mkdtemp(prefix="mlxterp-")) / "graph.html"
        _tell_written(options, screen, shown.to_html(path, index=indexes or None))


def _number(given: str) -> int:
    """A feature's number, where no index knows words.

    Raises:
        InputError: It is none.
    """
    if not given.isdecimal():
        raise InputError(f"{given!r} is no feature's number; with --text features are given by number.")
    return int(given)


def _strongest(
    subject: opening.Subject, text: str, top_k: int, exclude: Sequence[str]
) -> list[tuple[int, float]]:
    """The features most active on a text, by an index's rule of which tokens count."""
    return subject.model.get_top_features_for_text(text, *subject.place, top_k, exclude=exclude)


def _view(subject: opening.Subject, text: str, ids: list[int] | None) -> TokenView:
    return subject.model.visualize_feature_activations(text, *subject.place, ids)


def _window(model: InterpretableModel, text: str, position: int) -> tuple[str, str, str]:
    """The tokens around a position of a text."""
    start = max(0, position - _BEFORE)
    return around(model.to_str_tokens(text)[start : position + _AFTER + 1], position - start)


def _page(options: Namespace, screen: Screen, shown: list[FeatureCard | TokenView]) -> None:
    """Writes what is shown as a page, and opens it where that is asked."""
    path = options.html or Path(mkdtemp(prefix="mlxterp-")) / "features.html"
    title = "Features of a text" if options.text is not None else "Features"
    view = shown[0] if len(shown) == 1 else FeatureReport(title, shown)
    _written(options, screen, view, expanded(path), told=not options.json)


def _written(options: Namespace, screen: Screen, view: View, path: Path, told: bool = True) -> None:
    """Writes a page, and opens it where that is asked."""
    _tell_written(options, screen, view.to_html(path), told)


def _tell_written(options: Namespace, screen: Screen, page: Path, told: bool = True) -> None:
    """Names the page that was written, and opens it where that is asked."""
    written = page.resolve()
    if told:
        screen.write_line(f"Written: {written}")
    if options.open and not webbrowser.open(written.as_uri()):
        complain(f"note: there is no browser here; open {written} yourself.")


def _same(options: Namespace) -> str:
    """The options that name the same model and SAE again."""
    names = ("model", "sae", "sae_id", "backend")
    given = [(name, getattr(options, name, None)) for name in names]
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in given if value is not None)


def selftest(options: Namespace, screen: Screen) -> int | None:
    """`mlxterp selftest`."""
    from ..demo.selftest import selftest as tried

    report = None if options.report is None else expanded(options.report)
    if report is not None:
        check_file(report, options, "the report")
    found = tried(options.backend)
    if report is not None:
        found.save(report)
    if options.json:
        screen.json(found.to_dict())
    else:
        screen.ansi(str(found))
        if report is not None:
            screen.write_line(f"The figures are in {report}.")
    return None if found.passed else NOT_WELL
