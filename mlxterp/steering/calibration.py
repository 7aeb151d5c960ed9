"""`Calibration`: what came of every strength that `calibrate` tried, as a table and a picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from ..viz.escaping import escaped, one_line
from ..viz.page import Links
from ..viz.plotting import finished, new_figure, plain_log_ticks
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .receipt import Receipt
from .trials import Written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAMPLE = 60
_ENOUGH = 0.9
"""Of the range's largest readout: more strength than it takes for this costs fluency and brings little."""


@dataclass(frozen=True, eq=False, slots=True)
class Strength:
    """One strength that was tried.

    Attributes:
        strength: The strength, in the calibration's units.
        written: What the model writes with it.
        kl: KL(unsteered ‖ steered) on neutral text, nats per token.
    """

    strength: float
    written: Written
    kl: float


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Calibration(View):
    """How strongly a feature can be steered; made by `calibrate`. `print` and notebooks show the table.

    Attributes:
        feature: The feature.
        units: What strengths are in: "raw", "max" or "norm".
        method: "add" or "clamp".
        component: Path of the component that is steered.
        maximum: The feature's largest activation; None where it was not known.
        concept: Words that show the concept.
        strengths: What was tried, the smallest strength first.
        unsteered: What the model writes by itself.
        prompting: What the unsteered model writes with the concept's words in front of the prompt.
        random: What is written along a random direction, as strong as the best strength (as the largest, where none
            works).
        output_score: See `steering.output_score`.
        max_perplexity: How many times as large as that of the unsteered text the perplexity may be.
        max_repetition: How much larger the share of repeated 3-grams may be.
        min_effect: How far the readout must rise to count as an effect, as a share of `scale`.
        receipt: What the best strength is worth, by three gates (of the strongest fluent one, where none works); None
            where it was left out.
    """

    feature: int
    units: str
    method: str
    component: str
    maximum: float | None
    concept: tuple[str, ...]
    strengths: tuple[Strength, ...]
    unsteered: Written
    prompting: Written
    random: Written | None = None
    output_score: float
    max_perplexity: float
    max_repetition: float
    min_effect: float
    receipt: Receipt | None = None

    @property
    def scale(self) -> float:
        """What readouts are measured by: the feature's maximum, or the largest readout."""
        largest = max((float(row.written.readout.mean()) for row in self.strengths), default=0.0)
        return abs(self.maximum) if self.maximum else largest or 1.0

    def shows(self, written: Written) -> bool:
        """Whether the feature is at work in what was written."""
        gain = _size(written) - _size(self.unsteered)
        return gain >= self.min_effect * self.scale

    def fluent(self, written: Written) -> bool:
        """Whether the text still holds together."""
        repeats = float(written.repetition.mean()) - float(self.unsteered.repetition.mean())
        return (
            written.perplexity <= self.max_perplexity * self.unsteered.perplexity
            and repeats <= self.max_repetition
        )

    @property
    def strongest_fluent(self) -> float | None:
        """The strongest strength before the text falls apart; None where it does at once.

        Of negative and positive strengths, each counted from 0, on the side with the larger readout.
        """
        rows = self._fluent
        return rows[-1].strength if rows else None

    @property
    def _fluent(self) -> list[Strength]:
        """The strengths of one sign before the text falls apart, from 0 outwards."""
        sides: list[list[Strength]] = []
        for sign in (1.0, -1.0):
            side = sorted(
                (row for row in self.strengths if row.strength * sign > 0), key=lambda r: abs(r.strength)
            )
            sides.append(list(takewhile(lambda row: self.fluent(row.written), side)))
        return max(sides, key=lambda side: max((_size(row.written) for row in side), default=-1.0))

    @property
    def range(self) -> tuple[float, float] | None:
        """From the weakest strength that shows to the strongest before the text falls apart; None without one.

        Both ends are strengths that were tried, the smaller number first.
        """
        rows = self._working
        ends = [row.strength for row in rows]
        return (min(ends), max(ends)) if ends else None

    @property
    def _working(self) -> list[Strength]:
        rows = self._fluent
        shown = [i for i, row in enumerate(rows) if self.shows(row.written)]
        return rows[shown[0] : shown[-1] + 1] if shown else []

    @property
    def best(self) -> float | None:
        """The weakest strength of the range with nine tenths of its largest readout; None without a range."""
        rows = self._working
        largest = max((_size(row.written) for row in rows), default=0.0)
        return next((row.strength for row in rows if _size(row.written) >= _ENOUGH * largest), None)

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each strength and baseline, as dicts (for `pandas.DataFrame`)."""
        rows = [self._row("unsteered", None, self.unsteered, 0.0)]
        rows += [self._row("steered", row.strength, row.written, row.kl) for row in self.strengths]
        if self.random is not None:
            rows.append(self._row("random direction", self.best, self.random, None))
        return [*rows, self._row("prompt", None, self.prompting, None)]

    def _row(self, what: str, strength: float | None, written: Written, kl: float | None) -> dict[str, Any]:
        return {
            "what": what, "strength": strength, "readout": float(written.readout.mean()) / self.scale,
            "concept": _mean(written.concept), "perplexity": written.perplexity,
            "repetition": float(written.repetition.mean()), "kl": kl, "shows": self.shows(written),
            "fluent": self.fluent(written), "text": written.texts[0],
        }  # fmt: skip

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: the verdict, a row for each strength and baseline, and the receipt.

        Args:
            color: None sets the verdict in bold where the output is a terminal and NO_COLOR is not set.
        """
        lines = [
            bold(self._summary, wants_color(color)),
            f"concept: {one_line(', '.join(word.strip() for word in self.concept))}",
            f"output score {self.output_score:+.3f}",
            "",
            " | ".join(title.rjust(width) for title, width, _ in COLUMNS) + " | text",
        ]
        for row in self.table:
            cells = [form(row).rjust(width) for _, width, form in COLUMNS]
            lines.append(" | ".join(cells) + f" | {one_line(row['text'])[:_SAMPLE]}")
        return "\n".join(lines if self.receipt is None else [*lines, "", self.receipt.to_str(color)])

    @property
    def _summary(self) -> str:
        return f"Feature {self.feature} at {self.component}, {self.method}, units {self.units!r}: {self._verdict}"

    @property
    def _verdict(self) -> str:
        if self.range is not None:
            low, high = self.range
            return f"works from {low:g} to {high:g}, best {self.best:g}"
        if not any(self.shows(row.written) for row in self.strengths):
            return (
                "no strength that was tried shows an effect; try larger ones, or a feature that writes more"
            )
        return "no strength shows an effect before the text falls apart; another feature may write better"

    def __repr__(self) -> str:
        return f"<Calibration of feature {self.feature}: {self._verdict}>"

    def _title(self) -> str:
        return f"Calibration of feature {self.feature}"

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; only its receipt has a heading, of this `level`."""
        head = "".join(f"<th>{escaped(title)}</th>" for title, _, _ in COLUMNS) + "<th>text</th>"
        body = "".join(
            "<tr>"
            + "".join(f"<td>{escaped(form(row))}</td>" for _, _, form in COLUMNS)
            + f"<td>{escaped(row['text'][:_SAMPLE])}</td></tr>"
            for row in self.table
        )
        anchor = f' id="{element_id}"' if element_id else ""
        below = "" if self.receipt is None else self.receipt.fragment(level, links)
        return f"<p{anchor}>{escaped(self._summary)}</p><table><tr>{head}</tr>{body}</table>{below}"

    def plot(self, path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """Readout and concept's share against perplexity and repetition, by strength.

        Args:
            path: Also write it there (.png, .svg, .pdf).

        Raises:
            BackendError: matplotlib is not installed.
        """
        figure = new_figure(7.5, 5.2, show)
        effect = figure.subplots()
        cost = effect.twinx()
        at = [row.strength for row in self.strengths]
        rows = [row for row in self.table if row["what"] == "steered"]
        effect.plot(at, [row["readout"] for row in rows], "o-", color="tab:blue", label="readout / maximum")
        effect.plot(at, [row["concept"] for row in rows], "s--", color="tab:cyan", label="concept's tokens")
        cost.plot(at, [row["perplexity"] for row in rows], "^-", color="tab:red", label="perplexity")
        limit = self.max_perplexity * self.unsteered.perplexity
        cost.axhline(limit, color="tab:red", linestyle=":", label="limit of perplexity")
        if self.random is not None and self.best is not None:
            random = self._row("", None, self.random, None)
            marks = {"color": "black", "linestyle": "none", "markersize": 9, "fillstyle": "none"}
            effect.plot(
                [self.best], [random["readout"]], marker="D", label="readout, random direction", **marks
            )
            cost.plot(
                [self.best], [random["perplexity"]], marker="v", label="perplexity, random direction", **marks
            )
        prompt = self._row("", None, self.prompting, None)
        effect.axhline(prompt["readout"], color="tab:blue", linestyle=":", label="readout, prompt instead")
        if self.range is not None:
            effect.axvspan(*self.range, color="tab:green", alpha=0.12, label="works")
        cost.set_yscale("log")
        plain_log_ticks(cost.yaxis)
        effect.set_xlabel(f"strength ({self.units})")
        effect.set_ylabel("effect")
        cost.set_ylabel("perplexity to the unsteered model (log scale)")
        effect.set_title(f"feature {self.feature}")
        lines, names = effect.get_legend_handles_labels()
        more, others = cost.get_legend_handles_labels()
        figure.legend([*lines, *more], [*names, *others], fontsize=8, ncols=3, loc="outside lower center")
        return finished(figure, path, show)


def _size(written: Written) -> float:
    return abs(float(written.readout.mean()))


def _mean(values: np.ndarray) -> float:
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else float("nan")


def _number(key: str, form: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: "" if row[key] is None else format(row[key], form)


COLUMNS: tuple[tuple[str, int, Callable[[dict[str, Any]], str]], ...] = (
    ("what", 16, lambda row: row["what"]),
    ("strength", 8, _number("strength", "g")),
    ("readout", 7, _number("readout", ".3f")),
    ("concept", 7, _number("concept", ".3f")),
    ("perplexity", 10, _number("perplexity", ".1f")),
    ("repeats", 7, _number("repetition", ".2f")),
    ("KL", 6, _number("kl", ".3f")),
    ("works", 5, lambda row: "yes" if row["shows"] and row["fluent"] else ""),
)
"""Title, width and content of each column of the table."""
