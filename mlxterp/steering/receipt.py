"""`Receipt`: what steering at one strength is worth, by three gates. `calibrate` ends in one; `gates` measures it.

Each gate stands beside random directions of the same length and beside the concept's words in the prompt. NumPy only:
nothing here runs a model. The gates are those of FaithSteer-BENCH (arXiv 2603.18329): control, utility, robustness, at
one strength that is fixed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.controls import bootstrap
from ..core.frames import data_frame
from ..viz.lines import LinesView, Table
from ..viz.plotting import Plotted, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW = "Fewer than two prompts or texts gave a number: no interval, so no verdict."


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Measure:
    """One figure by prompt or text: steered, along random directions, and with the words in the prompt instead.

    Attributes:
        name: What is measured.
        unit: What the rows are: "prompt" or "text".
        steered: float64, (units,): NaN where it failed.
        random: float64, (units, directions): along random directions, each unit's its own; NaN where it failed.
        prompt: float64, (units,): the same unsteered, with the concept's words before the text; NaN where it failed.
        seed: Of the intervals.
        logarithmic: Whether the values are logarithms of ratios, which are shown as ratios.
    """

    name: str
    unit: str
    steered: np.ndarray
    random: np.ndarray
    prompt: np.ndarray
    seed: int
    logarithmic: bool = False

    @property
    def value(self) -> float:
        """Mean of `steered` over the units that did not fail."""
        return _mean(self.steered)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval, bootstrap over units; NaN where fewer than two did not fail."""
        return _interval(self.steered, self.seed)

    @property
    def value_as_wrong(self) -> float:
        """The mean where a unit that failed counts as no effect, 0."""
        return float(np.nan_to_num(self.steered).mean()) if len(self.steered) else float("nan")

    @property
    def control(self) -> float:
        """Mean along random directions; each unit's directions are averaged first."""
        return _mean(self._by_unit)

    @property
    def control_interval(self) -> tuple[float, float]:
        """Its 95 % interval, bootstrap over units with their directions."""
        return _interval(self._by_unit, self.seed)

    @property
    def asked(self) -> float:
        """Mean with the words in the prompt instead."""
        return _mean(self.prompt)

    @property
    def asked_interval(self) -> tuple[float, float]:
        """Its 95 % interval, bootstrap over units."""
        return _interval(self.prompt, self.seed)

    @property
    def above(self) -> float:
        """How far `steered` is above the same unit's random directions, mean over units."""
        return _mean(self.steered - self._by_unit)

    @property
    def above_interval(self) -> tuple[float, float]:
        """Its 95 % interval, bootstrap over units: where it holds 0, the random directions show as much."""
        return _interval(self.steered - self._by_unit, self.seed)

    @property
    def failures(self) -> int:
        """Units whose steered value is missing, and runs of controls that are."""
        return sum(int(np.isnan(values).sum()) for values in (self.steered, self.random, self.prompt))

    @property
    def _by_unit(self) -> np.ndarray:
        known = np.isfinite(self.random)
        sums = np.where(known, self.random, 0).sum(axis=1)
        return np.where(known.any(axis=1), sums / np.maximum(known.sum(axis=1), 1), np.nan)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Gate:
    """One gate: its measures, and what follows from them.

    Attributes:
        name: "effect", "cost" or "robustness".
        measures: What was measured. The verdict is by the first; of "robustness", by all.
        verdict: See `Receipt`.
        reason: Why, in words.
    """

    name: str
    measures: tuple[Measure, ...]
    verdict: str
    reason: str


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Receipt(LinesView, Plotted):
    """What steering a feature at one strength is worth; `calibrate` makes it. `print` and notebooks show its gates.

    `.plot()` draws every measure with its interval, beside random directions of the same length (grey) and beside the
    concept's words in the prompt. Each gate has a verdict, by 95 % intervals over prompts or texts, paired with the
    random directions of the same prompt or text:

    - effect: "shows", where the readout rises by `min_effect` and by more than along random directions; "weak", where
      by more than those but less than `min_effect`; "none", where random directions show it too.
    - cost: on unrelated texts. "too much", where their perplexity is above `max_perplexity` times that of the
      unsteered model; else "some", or "none" where random directions move the predictions (KL) as much.
    - robustness: the effect on other forms of the prompts. "holds", where it shows on each; "partly", where on some;
      else "weak", or "none" where random directions show it on every form too.

    "unclear" is a gate whose intervals need more prompts or texts: at least two.

    Attributes:
        feature: What was steered.
        strength: How strongly, in the calibration's units.
        units: "raw", "max" or "norm".
        works: Whether that is the calibration's best strength; else none worked, and it is the strongest fluent one.
        effect: What it does.
        cost: What it costs on unrelated texts.
        robustness: What it does on other forms of the prompts.
        left_out: Forms of the prompts that were not tried, and why.
        directions: Number of random directions.
        min_effect: How far the readout must rise, as the calibration had it.
        max_perplexity: How many times as perplexing unrelated texts may be.
        seed: Of the directions, of sampling and of the intervals.
    """

    feature: int
    strength: float
    units: str
    works: bool
    effect: Gate
    cost: Gate
    robustness: Gate
    left_out: tuple[str, ...]
    directions: int
    min_effect: float
    max_perplexity: float
    seed: int

    @property
    def gates(self) -> tuple[Gate, Gate, Gate]:
        """Effect, cost, robustness."""
        return self.effect, self.cost, self.robustness

    @property
    def failures(self) -> int:
        """Runs that gave no number, steered or of a control. They are left out of means and intervals.

        Both measures of the cost are of the same runs, so each of those counts once.
        """
        written = (*self.effect.measures, *self.robustness.measures)
        cost = max((measure.failures for measure in self.cost.measures), default=0)
        return sum(measure.failures for measure in written) + cost

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each measure, as dicts (for `pandas.DataFrame`); logarithms are shown as the ratios they are of."""
        return [
            {"gate": gate.name, **_row(measure), "verdict": gate.verdict}
            for gate in self.gates
            for measure in gate.measures
        ]

    def to_pandas(self) -> Any:
        """A data frame with a row for each measure: value, control, prompt, what is above the control, intervals.

        Raises:
            BackendError: pandas is not installed.
        """
        rows = self.table
        return data_frame({name: [row[name] for row in rows] for name in rows[0]})

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{gate.name} {gate.verdict}" for gate in self.gates)
        return f"<Receipt of feature {self.feature} at {self.strength:g} {self.units}: {verdicts}>"

    def _title(self) -> str:
        return f"Receipt of feature {self.feature}"

    @property
    def _lines(self) -> list[str]:
        which = "the best strength" if self.works else "no strength works; the strongest fluent one"
        lines = [
            f"Receipt of feature {self.feature} at {self.strength:g} ({self.units}): {which}",
            *(f"{gate.name}: {gate.verdict}. {gate.reason}" for gate in self.gates),
            *self.left_out,
        ]
        if self.failures:
            lines.append(
                f"{self.failures} runs gave no number and are left out; steered runs as no effect:"
                f" {self.effect.measures[0].value_as_wrong:.3f} in place of {self.effect.measures[0].value:.3f}."
            )
        return lines

    @property
    def _tables(self) -> list[Table]:
        heads = ("gate", "measure", "steered", "random directions", "prompt", "above random", "n")
        rows = [
            (
                row["gate"], row["measure"], _shown(row, "value"), _shown(row, "random"), _shown(row, "prompt"),
                _shown(row, "above"), str(row["n"]),
            )
            for row in self.table
        ]  # fmt: skip
        return [Table(heads, rows)]

    def _drawn(self, show: bool) -> Figure:
        measures = [measure for gate in self.gates for measure in gate.measures]
        figure = new_figure(7.0, 0.8 + 0.9 * len(measures), show)
        for axes, measure in zip(np.atleast_1d(figure.subplots(len(measures))), measures, strict=True):
            row = _row(measure)
            for at, (name, color) in enumerate(
                (("prompt", "tab:orange"), ("random", "grey"), ("value", "tab:blue"))
            ):
                ends = [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]
                axes.errorbar(
                    [row[name]], [at], xerr=np.abs(np.nan_to_num(ends)), fmt="o", color=color, capsize=3
                )
            axes.set_yticks(range(3), ["prompt", "random", "steered"], fontsize=7)
            axes.set_ylim(-0.6, 2.6)
            axes.axvline(1.0 if measure.logarithmic else 0.0, color="black", linewidth=0.8)
            axes.set_title(measure.name, fontsize=8, loc="left")
        return figure


def effect_gate(measures: tuple[Measure, ...], min_effect: float) -> Gate:
    """The gate of the effect, by the first measure."""
    verdict = _effect(measures[0], min_effect)
    reasons = {
        "shows": f"It rises by at least {min_effect:g}, and by more than along random directions.",
        "weak": f"It rises by more than along random directions, but by less than {min_effect:g}.",
        "none": "Random directions of the same length show as much.",
    }
    return Gate(name="effect", measures=measures, verdict=verdict, reason=reasons.get(verdict, _FEW))


def cost_gate(divergence: Measure, perplexity: Measure, max_perplexity: float) -> Gate:
    """The gate of the cost."""
    low = divergence.above_interval[0]
    if np.isnan(perplexity.value):
        verdict, reason = "unclear", _FEW
    elif perplexity.value > np.log(max_perplexity):
        verdict, reason = "too much", f"Unrelated texts are over {max_perplexity:g} times as perplexing."
    elif np.isnan(low):
        verdict, reason = "unclear", _FEW
    elif low > 0:
        verdict, reason = "some", "It moves predictions on unrelated texts more than random directions do."
    else:
        verdict, reason = "none", "Random directions of the same length move predictions as much, or more."
    return Gate(name="cost", measures=(divergence, perplexity), verdict=verdict, reason=reason)


def robustness_gate(forms: tuple[Measure, ...], min_effect: float) -> Gate:
    """The gate of robustness: the effect on each form of the prompts."""
    found = {form.name: _effect(form, min_effect) for form in forms}
    holding = [name for name, verdict in found.items() if verdict == "shows"]
    others = set(found.values()) - {"shows"}
    if not holding and others <= {"unclear"}:
        verdict, reason = "unclear", _FEW if forms else "No other form of the prompts was tried."
    elif holding:
        verdict = "partly" if others else "holds"
        reason = f"It shows on {len(holding)} of {len(forms)} other forms of the prompts."
    elif others == {"none"}:
        verdict, reason = "none", "Random directions show as much on every other form."
    else:
        verdict, reason = "weak", f"On no other form it rises by {min_effect:g} and above random directions."
    return Gate(name="robustness", measures=forms, verdict=verdict, reason=reason)


def _effect(measure: Measure, min_effect: float) -> str:
    low = measure.above_interval[0]
    if np.isnan(low):
        return "unclear"
    if low <= 0:
        return "none"
    return "shows" if measure.value >= min_effect else "weak"


def _row(measure: Measure) -> dict[str, Any]:
    shown = np.exp if measure.logarithmic else float
    row: dict[str, Any] = {"measure": measure.name}
    for name, value, (low, high) in (
        ("value", measure.value, measure.interval), ("random", measure.control, measure.control_interval),
        ("prompt", measure.asked, measure.asked_interval), ("above", measure.above, measure.above_interval),
    ):  # fmt: skip
        row |= {
            name: float(shown(value)),
            f"{name}_low": float(shown(low)),
            f"{name}_high": float(shown(high)),
        }
    return row | {"n": int(np.isfinite(measure.steered).sum()), "failures": measure.failures}


def _shown(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if np.isnan(value):
        return ""
    return f"{value:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _mean(values: np.ndarray) -> float:
    found = _known(values)
    return float(found.mean()) if len(found) else float("nan")


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    found = _known(values)
    return bootstrap(found, seed=seed) if len(found) > 1 else (float("nan"), float("nan"))
