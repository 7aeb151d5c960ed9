"""A feature's decoder row: what it writes, and which rows are near, beside random directions."""

from __future__ import annotations

import numpy as np

from ..core.controls import Controlled, random_like
from ..core.numeric import moments
from ..errors import InputError
from ..geometry.logit_classes import CLASSES, Limits
from ..geometry.neighbours import cosine_neighbours
from ..index import FeatureIndex
from ..index.source import Source
from ..lens.feature_logits import direction_logits, feature_logits
from ..viz.lines import Table
from .evidence import LEFT_OUT, Evidence

_RANDOM = 200
"""Random directions with the mean and covariance of the decoder's rows."""
_ALPHA = 0.01
"""Share of random directions beyond each limit of a class."""
_TOP = 8


def random_rows(source: Source, seed: int, n: int = _RANDOM) -> np.ndarray:
    """float32, (n, d_out): random directions like the decoder's live rows."""
    alive = source.sae.W_dec[source.sae.W_dec.any(axis=1)]
    found, draw = [], 0
    while sum(map(len, found)) < n:
        found.append(random_like(alive, "covariance", (seed + draw) % 2**64))
        draw += 1
    return np.concatenate(found)[:n]


def logits_of(source: Source, feature: int, control: bool, seed: int) -> Evidence:
    """What it promotes and suppresses, how peaked that is, and the class that follows.

    Raises:
        InputError: Its decoder row is zero.
    """
    anatomy, sae, place = source.anatomy, source.sae, source.component.name
    if not sae.W_dec[feature].any():
        raise InputError("Its decoder row is zero, so that it writes nothing.")
    where = None if sae.is_transcoder else place
    [own] = feature_logits(anatomy, sae, [feature], _TOP, component=where)
    rows = [[up, f"{high:+.3f}", down, f"{low:+.3f}"]
            for (up, high), (down, low) in zip(own.promoted, own.suppressed, strict=True)]  # fmt: skip
    table = Table(["promotes", "logit", "suppresses", "logit "], rows)
    data = {
        "promoted": own.promoted,
        "suppressed": own.suppressed,
        "skew": own.skew,
        "kurtosis": own.kurtosis,
    }
    told = f"skew {own.skew:.2f}, kurtosis {own.kurtosis:.1f}"
    if not control:
        return Evidence("Logits of its direction", (told,), LEFT_OUT, None, (table,), data)
    random = direction_logits(anatomy, sae, random_rows(source, seed), where)
    found = np.array([moments(row)[1:] for logits, _ in random for row in logits])
    limits = Limits.of(found[:, 0], found[:, 1], _ALPHA)
    kind = CLASSES[int(limits.classes(np.array([own.skew]), np.array([own.kurtosis]))[0])]
    beside = Controlled(own.kurtosis, None, found[:, 1], "covariance-matched directions", seed)
    return Evidence(
        "Logits of its direction",
        (f"{'no class' if kind == 'none' else f'a {kind} feature'}: {told}", f"kurtosis {beside}"),
        f"{_RANDOM} covariance-matched random directions; {_ALPHA:.0%} of them lie beyond each limit of a class",
        kind != "none", (table,), {**data, "class": kind, "beside": beside},
    )  # fmt: skip


def neighbours_of(index: FeatureIndex, source: Source, feature: int, control: bool, seed: int) -> Evidence:
    """Features with near decoder rows, and features that are active on the same tokens."""
    near = index.similar(feature, _TOP)
    if not near:
        alone = (
            "It is the only one"
            if len(source.sae.W_dec) < 2
            else "Its decoder row, or every other one, is zero"
        )
        raise InputError(f"{alone}, so that no feature is near.")
    together = index.coactivation(feature, top_k=_TOP)
    tables = (
        Table(["near in direction", "cosine", "label"], [[str(f), f"{c:.3f}", index.label(f) or ""] for f, c in near]),
        Table(
            ["active together with", "overlap", "by chance", "label "],
            [[str(f), f"{j:.4f}", f"{_by_chance(index, feature, f):.4f}", index.label(f) or ""] for f, j in together],
        ),
    )  # fmt: skip
    data = {"similar": near, "coactive": [(f, j, _by_chance(index, feature, f)) for f, j in together]}
    first, cosine = near[0]
    told = [f"nearest is feature {first}, cosine {cosine:.3f}"]
    if together:
        other, share = together[0]
        chance = _by_chance(index, feature, other)
        told.append(f"most often active with feature {other}: overlap {share:.4f}, {chance:.4f} by chance")
    if not control:
        return Evidence("Features beside it", tuple(told), LEFT_OUT, None, tables, data)
    rows = cosine_neighbours(random_rows(source, seed), source.sae.W_dec, 1).cosines[:, 0]
    beside = Controlled(cosine, None, rows, "covariance-matched directions and their nearest feature", seed)
    return Evidence(
        "Features beside it", tuple(told), f"largest cosine {beside}; overlaps beside independent firing",
        beside.stands_out, tables, {**data, "beside": beside},
    )  # fmt: skip


def _by_chance(index: FeatureIndex, one: int, other: int) -> float:
    """The Jaccard index of two features that fire as often as these, each by itself."""
    a, b = (int(index.summary.count[f]) / index.n_tokens for f in (one, other))
    return a * b / (a + b - a * b) if a + b else 0.0
