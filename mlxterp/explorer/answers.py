"""What the explorer says of a feature, a token, a text: plain dictionaries, as JSON takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from ..concepts.explanations import PERSON, Explanation, checked_text
from ..concepts.labels import judged_by
from ..core.sparse import SparseFeatures
from ..core.version import version as installed
from ..data.corpus import Corpus
from ..data.text import pieces_of
from ..errors import InputError
from ..features.search import encode_corpus, top_features_of
from ..index import FeatureExample, FeatureStats
from ..index.windows import Windows
from ..lens.feature_logits import feature_logits
from .generation import check_fits
from .label_file import NONE
from .shown_index import ShownIndex

BANDS = (8, 6, 4, 2, 0)
"""Tenths of the ranks that are shown, strongest first."""
TOP, PER_BAND = 12, 3
"""Windows of a feature, and of each band."""
LOGITS, LOGIT_BINS = 10, 40
"""Tokens that are named on each side, and bins of all."""
_NEAR, _AROUND, _HARD = 8, 8, 4
_BEFORE, _AFTER = 8, 6
_OF_TEXT = 50
"""Features of a text that are named for the whole of it."""
_EXPLAINED = 16
"""Texts that an explanation takes: half are kept for scores, and four of each half are wanted."""
_DENSE, _ALIKE, _MOSTLY, _OFTEN = 0.1, 0.95, 0.5, 0.05

Answer = dict[str, Any]


@cache
def version() -> str:
    """Of the package, looked up once."""
    return installed()


def about(shown: Sequence[ShownIndex], **more: Any) -> Answer:
    """What is shown."""
    sources = [source(one) for one in shown]
    return {**sources[0], "version": version(), "sources": sources, **more}


def source(shown: ShownIndex) -> Answer:
    """An index among those that are shown."""
    index, file = shown.index, shown.labels.path
    positions = None if index.source is None else index.source.anatomy.model.max_positions
    return {
        "id": str(shown.number), "name": shown.name, "sae": index.sae_name, "component": index.component,
        "d": index.d_hidden, "tokens": index.n_tokens, "texts": index.n_texts, "model": _model(shown),
        "fingerprint": index.fingerprint, "excluded": index.excluded, "live": index.source is not None,
        "writable": shown.labels.writable, "signed": shown.signed, "map": shown.map is not None,
        "calibrated": bool(shown.calibrations), "file": None if file is None else file.name, "positions": positions,
    }  # fmt: skip


def _model(shown: ShownIndex) -> str | None:
    facts = shown.index._meta.model
    name, kind = facts.get("name"), facts.get("type")
    return f"{name} ({kind})" if name and kind else name or kind


# -- a feature --------------------------------------------------------------------------------


def feature(shown: ShownIndex, number: int, n: int = TOP, per_band: int = PER_BAND) -> Answer:
    """All that is known of one feature without running the model."""
    index = shown.index
    stats = index.stats(number)
    counts, edges = stats.histogram
    top = index.examples(number, n)
    before, after = _around(shown, number)
    similar = [] if index.source is None else index.similar(number, _NEAR)
    return {
        "id": number, **label(shown, number), "explanations": [told(one) for one in shown.explanations(number)],
        "count": stats.count, "density": stats.density, "mean": stats.mean, "max": stats.maximum,
        "texts": stats.n_texts, "hist": [counts.tolist(), [float(edge) for edge in edges]],
        "tokens": [list(one) for one in stats.top_tokens], "before": before, "after": after,
        "top": [window(one) for one in top], "bands": _bands(shown, number, top, per_band),
        "hard": [window(one) for one in _hard(shown, number)],
        "together": [list(one) for one in index.coactivation(number, top_k=_NEAR)] if stats.count else [],
        "similar": [list(one) for one in similar], "flags": _flags(shown, stats, similar),
        **_strengths(shown, number), "facts": facts(shown), "python": f"index[{number}]",
    }  # fmt: skip


def explained(shown: ShownIndex, number: int) -> list[Answer]:
    """The words that a feature without an explanation fires on, said now, not kept; [] of too few texts."""
    if shown.explanations(number) or shown.index.stats(number).n_texts < _EXPLAINED:
        return []
    return [told(one) for one in shown.index.explain(number, verbose=False)]


def label(shown: ShownIndex, number: int) -> Answer:
    """What a feature is called, and by whom."""
    entry = shown.labels.entry(number)
    said = shown.explanations(number)
    by = shown.index.labels.source(number) if entry is not None else said[0].source if said else None
    name = entry["name"] if entry is not None else said[0].text if by == PERSON else None
    note = "" if entry is None else entry.get("notes", "")
    etag = shown.labels.etag(number)
    return {"label": shown.index.label(number), "by": by, "name": name, "note": note, "etag": etag}


def facts(shown: ShownIndex) -> Answer:
    """Where the figures come from."""
    index = shown.index
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in index.excluded.items() if n) or "nothing"
    return {
        "index": f"{index.n_texts:,} texts, {index.n_tokens:,} tokens counted", "left out": left_out,
        "SAE": f"{index.sae_name}, {index.fingerprint[:16]}", "component": index.component,
        "model": str(_model(shown)), "mlxterp": version(),
    }  # fmt: skip


def window(example: FeatureExample) -> Answer:
    """A window of a text."""
    return {
        "text": example.text_id, "pos": example.position, "act": float(example.activation), "start": example.start,
        "tokens": list(example.tokens), "acts": [float(value) for value in example.activations],
    }  # fmt: skip


def peek(shown: ShownIndex, numbers: Iterable[int]) -> Answer:
    """The strongest window of each feature that is active somewhere."""
    found = {f: shown.index.examples(f, 1, before=_BEFORE, after=_AFTER) for f in numbers}
    return {str(f): window(several[0]) for f, several in found.items() if several}


def logits(shown: ShownIndex, number: int) -> Answer:
    """What a feature promotes and suppresses; runs the model's head."""
    made = shown.index._with_source()
    component = None if made.sae.is_transcoder else made.component.name
    [found] = feature_logits(made.anatomy, made.sae, [number], LOGITS, component=component, bins=LOGIT_BINS)
    assert found.histogram is not None
    return {
        "up": [list(one) for one in found.promoted], "down": [list(one) for one in found.suppressed],
        "norm": found.strength, "relative_norm": found.relative_strength, "mean": found.mean, "sd": found.sd,
        "skew": found.skew, "kurtosis": found.kurtosis, "hist": [list(part) for part in found.histogram],
        "folded": "final norm folded in",
    }  # fmt: skip


def labels(shown: ShownIndex) -> Answer:
    """All names, and the best explanation of each feature without one."""
    names: Answer = {}
    if shown.sae is not None:
        names = {
            str(f): {"name": shown.sae.concepts.name_of(f), "note": "", "etag": NONE}
            for f in shown.sae.concepts.names
        }
    for f, etag in shown.labels.etags().items():
        entry = shown.labels.entry(f)
        if entry is not None:
            names[str(f)] = {"name": entry["name"], "note": entry.get("notes", ""), "etag": etag}
    file = shown.labels.path
    return {
        "labels": names, "explanations": _best(shown, names), "writable": shown.labels.writable,
        "file": None if file is None else file.name,
    }  # fmt: skip


# -- texts ------------------------------------------------------------------------------------


def text(shown: ShownIndex, number: int, of: int | None) -> Answer:
    """A whole text of the index, with a feature's activations on it."""
    reader = shown.index._reader
    every = 1 << 40
    found = reader.window(of or 0, number, 0, 0, every)
    pieces = shown.index._pieces_of(found, lambda _: found, reader.text(number))
    acts = [0.0] * len(pieces) if of is None else [float(value) for value in found.activations]
    return {"id": number, "text": reader.text(number), "tokens": list(pieces), "acts": acts}


def features_of(shown: ShownIndex, given: str) -> Answer:
    """The features of each token of a text that somebody wrote; runs the model.

    Raises:
        InputError: It has no tokens, or more than the model has positions.
    """
    made = shown.index._with_source()
    model = made.anatomy.model
    if model.tokenizer is None:
        raise InputError("This model has no tokenizer, so it reads no text.")
    corpus = Corpus.from_texts([checked_text(given, "The text")], model.tokenize)
    check_fits(model, len(corpus.tokens), "The text")
    rows = SparseFeatures.concat(
        [part.features for part in encode_corpus(model, corpus, made.sae, made.component)]
    )
    rule = shown.index._meta.rule
    counted = np.ones(len(corpus.tokens), bool)
    if "bos" in rule.exclude and rule.bos is not None:
        counted = np.asarray(corpus.tokens) != rule.bos
    return {
        "tokens": list(pieces_of(model.tokenizer, np.asarray(corpus.tokens).tolist())),
        "rows": [_strongest_first(rows, i) for i in range(rows.n)], "counted": counted.tolist(),
        "top": [[f, value, _where(rows, f, value)] for f, value in top_features_of(rows, _OF_TEXT)],
    }  # fmt: skip


def _strongest_first(rows: SparseFeatures, i: int) -> list[list[Any]]:
    ids, values = rows.row(i)
    order = np.lexsort((ids, -np.abs(values)))
    return [[int(ids[j]), float(values[j])] for j in order]


def _where(rows: SparseFeatures, feature: int, value: float) -> int:
    """The first token where a feature has this activation."""
    hits = np.flatnonzero((rows.indices == feature) & (rows.values == np.float32(value)))
    return int(rows.row_ids[hits[0]])


# -- parts of a feature's page ----------------------------------------------------------------


def told(one: Explanation) -> Answer:
    """An explanation."""
    return {
        "text": one.text, "source": one.source, "confidence": one.confidence,
        "scores": {name: asdict(score) for name, score in one.scores.items()},
    }  # fmt: skip


def _best(shown: ShownIndex, names: Iterable[str]) -> Answer:
    if shown.sae is None:
        return {}
    named, found = set(names), {}
    concepts = shown.sae.concepts
    for f in concepts.explanations:
        best = None if str(f) in named else concepts.best_explanation(f)
        if best is not None:
            judged = judged_by(best)
            score = None if judged is None else [judged[0], judged[1].value]
            found[str(f)] = {"text": best.text, "source": best.source, "score": score}
    return found


def _bands(shown: ShownIndex, number: int, top: Sequence[FeatureExample], n: int) -> list[Answer]:
    seen = {_looks(one) for one in top}
    found = []
    for tenth in BANDS:
        several = shown.index._examples_of(number, n + len(seen), tenth, at_once=n + 1)
        new = list(islice((one for one in several if _looks(one) not in seen), n))
        seen |= {_looks(one) for one in new}
        if new:
            ends = {"q": tenth, "lo": tenth / 10, "hi": (tenth + 1) / 10}
            found.append({**ends, "examples": [window(one) for one in new]})
    return found


def _looks(example: FeatureExample) -> tuple[object, ...]:
    """Equal for windows that look alike."""
    return example.tokens, example.position - example.start


def _around(shown: ShownIndex, number: int) -> tuple[list[Any], list[Any]]:
    """The commonest tokens before and after the tokens where a feature is active, over all of them."""
    counted: dict[int, Counter[int]] = {-1: Counter(), 1: Counter()}
    for shard in shown.index._reader.shards():
        rows = shard.firings(number)[0].astype(np.int64)
        pieces = shard.pieces_of(rows)
        inside = {-1: rows > shard.offsets[pieces], 1: rows + 1 < shard.offsets[pieces + 1]}
        for step, counter in counted.items():
            ids, numbers = np.unique(shard.tokens[rows[inside[step]] + step], return_counts=True)
            counter.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
    before, after = (_commonest(shown, counter) for counter in counted.values())
    return before, after


def _commonest(shown: ShownIndex, counted: Counter[int]) -> list[Any]:
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_AROUND]
    return [[shown.index._piece(token), n] for token, n in ranked]


def _hard(shown: ShownIndex, number: int) -> list[FeatureExample]:
    """Windows around a token that the feature often reads, where it is silent."""
    reader = shown.index._reader
    ids, counts = np.unique(reader.token_ids(number), return_counts=True)
    often = np.argsort(-counts, kind="stable")[:3]
    read = ids[often[counts[often] >= max(2, _OFTEN * counts.sum())]]
    places: list[tuple[int, int]] = []
    for shard_number, shard in enumerate(reader.shards() if len(read) else []):
        rows = np.flatnonzero(np.isin(shard.tokens, read))
        silent = rows[~np.isin(rows, shard.firings(number)[0])]
        places += [(shard_number, int(row)) for row in silent]
    windows, found, seen = Windows(shown.index, 16, 8), [], set()
    for i in np.random.default_rng(number).permutation(len(places)):
        shard_number, row = places[i]
        texts, positions = reader.places(shard_number, np.array([row]))
        one = windows.at(number, int(texts[0]), int(positions[0]))
        if _looks(one) not in seen:
            seen.add(_looks(one))
            found.append(one)
        if len(found) == _HARD:
            break
    return found


def _flags(shown: ShownIndex, stats: FeatureStats, similar: Sequence[tuple[int, float]]) -> list[str]:
    """What one should know before one reads the rest."""
    if not stats.count:
        return [f"Never active on the {stats.n_tokens:,} tokens of this index."]
    found = []
    if stats.density > _DENSE:
        found.append(f"Dense: active on {stats.density:.0%} of all tokens.")
    first = float((shown.index._reader.ranked(stats.feature_id).every.positions <= 1).mean())
    if first >= _MOSTLY:
        found.append(f"Mostly on the first two tokens of texts ({first:.0%}).")
    if similar and similar[0][1] >= _ALIKE:
        found.append(f"Nearly the same direction as feature {similar[0][0]} (cosine {similar[0][1]:.2f}).")
    return found


def _strengths(shown: ShownIndex, number: int) -> Answer:
    """The range in which a calibration found that steering works, in units of the feature's maximum."""
    made = shown.calibrations.get(number)
    unit = 1.0 if made is None or made.units == "max" else made.maximum if made.units == "raw" else None
    if made is None or not unit:
        return {"range": None, "best": None}
    ends = made.range
    return {
        "range": None if ends is None else [end / unit for end in ends],
        "best": None if made.best is None else made.best / unit,
    }
