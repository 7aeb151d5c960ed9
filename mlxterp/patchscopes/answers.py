"""`Patchscope`: what a model says of a direction at each of its lengths, beside what it says of others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core import checks
from ..core.controls import Controlled
from ..core.frames import data_frame
from ..viz.escaping import one_line
from ..viz.lines import LinesView, Table
from ..viz.plotting import Plotted, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 70
"""Letters of a text in a table."""


class BestScale(NamedTuple):
    """A scale whose text is worth reading.

    Attributes:
        scale: In the scope's units.
        text: What was written there, for the first prompt; None where it could not be.
        why: What speaks for it.
    """

    scale: float
    text: str | None
    why: str


@dataclass(frozen=True, eq=False, slots=True)
class Answers:
    """What a model says of one direction in answer to one prompt, at each scale.

    Attributes:
        texts: What was written; None where it could not go on.
        entropy: float64, (scales,): of the next token after the prompt, nats; NaN where the logits are no numbers.
        self_similarity: float64, (scales,): cosine of the direction with the residual stream at the prompt's last
            token, late in the model.
        failures: Why texts are None, by number of the scale.
    """

    texts: tuple[str | None, ...]
    entropy: np.ndarray
    self_similarity: np.ndarray
    failures: dict[int, str]

    @property
    def agreement(self) -> np.ndarray:
        """float64, (scales,): share of words that a text has in common with those of the neighbouring scales.

        The mean over both neighbours; NaN for a scale without any.
        """
        words = [None if text is None else set(re.findall(r"\w+", text.lower())) for text in self.texts]
        common = [_jaccard(a, b) for a, b in pairwise(words)]
        sides = np.array([[np.nan, *common], [*common, np.nan]])
        known = np.isfinite(sides)
        return np.where(
            known.any(axis=0),
            np.where(known, sides, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1),
            np.nan,
        )


def _jaccard(a: set[str] | None, b: set[str] | None) -> float:
    if a is None or b is None:
        return float("nan")
    return len(a & b) / len(a | b) if a | b else 1.0


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Patchscope(LinesView, Plotted):
    """What a model says of a direction that stands in the place of a token; made by `patchscope`.

    `print` and notebooks show the best scales and a table; `.plot()` draws next-token entropy, self-similarity and
    agreement by scale, for the direction in colour, for a random one and another one in grey.

    Attributes:
        subject: What was asked about, in words.
        component: Where the vectors stood.
        layer: Its layer.
        prompts: As they were run, placeholder included.
        placeholder: Its text, or its token id.
        scales: float64, (scales,), ascending: how long the direction was, in `units`.
        units: "norm": times `unit`; "raw": as the residual stream measures.
        unit: Median length of the stream there on the package's prose, without its first token.
        mean_added: Whether a mean was added to the direction.
        answers: For each prompt, what is said of the direction.
        random: The same of a random direction; empty without a control.
        other: The same of another feature, or of another token's activation; empty where there is none.
        others: What `other` and `random` are, in words.
        certainty: How much lower the next token's entropy is at its lowest than for the prompt as it is, in nats, mean
            over prompts; the control is the same for random directions, each at the scale where it is lowest.
        derivatives: float64, (scales,): slope of the entropy by the scale, mean over prompts; None unless asked for.
        seed: Of the control, and of sampling.
    """

    subject: str
    component: str
    layer: int
    prompts: tuple[str, ...]
    placeholder: str | int
    scales: np.ndarray
    units: str
    unit: float
    mean_added: bool
    answers: tuple[Answers, ...]
    random: tuple[Answers, ...]
    other: tuple[Answers, ...]
    others: tuple[str, str]
    certainty: Controlled
    derivatives: np.ndarray | None
    seed: int

    @property
    def texts(self) -> tuple[str | None, ...]:
        """What was written at each scale, for the first prompt; `answers` has those of the others."""
        return self.answers[0].texts

    @property
    def entropy(self) -> np.ndarray:
        """float64, (scales,): next-token entropy, nats, mean over prompts."""
        return _mean([one.entropy for one in self.answers])

    @property
    def self_similarity(self) -> np.ndarray:
        """float64, (scales,): see `Answers`; mean over prompts."""
        return _mean([one.self_similarity for one in self.answers])

    @property
    def agreement(self) -> np.ndarray:
        """float64, (scales,): see `Answers`; mean over prompts."""
        return _mean([one.agreement for one in self.answers])

    @property
    def lengths(self) -> np.ndarray:
        """float64, (scales,): length of the direction as it was put there."""
        return self.scales * (self.unit if self.units == "norm" else 1.0)

    def best(self, top_k: int = 3) -> tuple[BestScale, ...]:
        """The scales worth reading, each with what speaks for it.

        First the lowest next-token entropy (the entropy rule), then the largest self-similarity, then the largest
        agreement with its neighbours, then the others by entropy. A scale of 0 says nothing and is left out.
        """
        top_k = checks.count(top_k, "top_k")
        rules = (
            ("lowest next-token entropy", -self.entropy), ("largest self-similarity", self.self_similarity),
            ("largest agreement with its neighbours", self.agreement),
        )  # fmt: skip
        usable = (self.scales > 0) & np.isfinite(self.entropy)
        found: dict[int, list[str]] = {}
        for name, values in rules:
            ranked = np.where(usable & np.isfinite(values), values, -np.inf)
            if len(ranked) and np.isfinite(ranked.max()):
                found.setdefault(int(ranked.argmax()), []).append(name)
        for i in np.argsort(np.where(usable, self.entropy, np.inf), kind="stable"):
            if usable[i]:
                found.setdefault(int(i), ["next lowest entropy"])
        return tuple(self._best(i, why) for i, why in list(found.items())[:top_k])

    def _best(self, i: int, why: list[str]) -> BestScale:
        figures = f"entropy {self.entropy[i]:.2f} nats, self-similarity {self.self_similarity[i]:.2f}"
        agrees = f", agreement {self.agreement[i]:.2f}" if np.isfinite(self.agreement[i]) else ""
        return BestScale(float(self.scales[i]), self.texts[i], f"{', '.join(why)} ({figures}{agrees})")

    @property
    def failures(self) -> int:
        """How many texts could not be written, those of the controls among them."""
        return sum(len(one.failures) for one in (*self.answers, *self.random, *self.other))

    def to_pandas(self) -> Any:
        """A row for each direction, prompt and scale.

        Raises:
            BackendError: pandas is not installed.
        """
        kinds = (("direction", self.answers), ("random", self.random), ("other", self.other))
        rows = [
            {
                "kind": kind, "prompt": p, "scale": float(scale), "text": one.texts[i], "entropy": one.entropy[i],
                "self_similarity": one.self_similarity[i], "agreement": one.agreement[i],
            }
            for kind, several in kinds
            for p, one in enumerate(several)
            for i, scale in enumerate(self.scales)
        ]  # fmt: skip
        return data_frame({name: [row[name] for row in rows] for name in rows[0]})

    # -- to look at -----------------------------------------------------------------------------

    def __repr__(self) -> str:
        best = self.best(1)
        shown = f", best {best[0].scale:g}: {best[0].text!r}" if best else ""
        return f"<Patchscope of {self.subject}, {len(self.scales)} scales{shown}>"

    @property
    def _lines(self) -> Sequence[str]:
        mean = ", the mean added" if self.mean_added else ""
        unit = f", 1 is {self.unit:.3g}" if self.units == "norm" else ""
        told = [
            f"Patch scope of {self.subject}",
            f"in the place of {self.placeholder!r} at {self.component}; scales in units {self.units!r}{unit}{mean}",
            f"certainty (nats): {self.certainty}",
        ]
        told += [f"prompt: {one_line(prompt)}" for prompt in self.prompts]
        told += [f"scale {one.scale:.3g}, {one.why}: {_shown(one.text)}" for one in self.best()]
        if self.certainty.stands_out is False:
            told.append(
                "A random direction makes the model as certain: this is no sign that the direction is read."
            )
        if self.failures:
            told.append(f"{self.failures} texts could not be written.")
        return told

    @property
    def _tables(self) -> Sequence[Table]:
        heads = ["scale", "entropy", "self-similarity", "agreement", "text"]
        compared = [
            (name, several)
            for name, several in zip(self.others, (self.other, self.random), strict=True)
            if several
        ]
        tables = []
        for p, one in enumerate(self.answers):
            rows = [
                [
                    f"{scale:.3g}",
                    *(_number(values[i]) for values in (one.entropy, one.self_similarity, one.agreement)),
                    _shown(one.texts[i]), *(_shown(several[p].texts[i]) for _, several in compared),
                ]
                for i, scale in enumerate(self.scales)
            ]  # fmt: skip
            tables.append(Table([*heads, *(name for name, _ in compared)], rows))
        return tables

    def _drawn(self, show: bool) -> Figure:
        """Entropy, self-similarity and agreement by scale, one below the other; slopes beside the entropy."""
        figure = new_figure(7.0, 7.5, show)
        panels = figure.subplots(3, 1, sharex=True)
        names = ("entropy", "self_similarity", "agreement")
        for axes, name in zip(panels, names, strict=True):
            for several, label, look in (
                (self.random, self.others[1], "0.75"), (self.other, self.others[0], "0.5"),
            ):  # fmt: skip
                if several:
                    axes.plot(
                        self.scales,
                        _mean([getattr(one, name) for one in several]),
                        "--",
                        color=look,
                        label=label,
                    )
            axes.plot(self.scales, getattr(self, name), "o-", color="tab:blue", label="the direction")
            axes.set_ylabel(name.replace("_", "-") + (", nats" if name == "entropy" else ""))
        for one in self.best(1):
            panels[0].axvline(one.scale, color="tab:green", alpha=0.4, label="the entropy rule")
        if self.derivatives is not None:
            beside = panels[0].twinx()
            beside.plot(self.scales, self.derivatives, ":", color="tab:red")
            beside.set_ylabel("slope of the entropy", color="tab:red")
        panels[0].legend(fontsize=8)
        panels[0].set_title(self.subject.replace("$", r"\$"))
        panels[-1].set_xlabel(f"scale ({self.units})")
        return figure


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over prompts; NaN where one of them has no number."""
    return np.mean(np.stack(values), axis=0)


def _shown(text: str | None) -> str:
    if text is None:
        return "(failed)"
    line = one_line(text)
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else ""
