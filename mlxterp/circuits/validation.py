"""`Validation`: what a graph predicts of taking features away, beside what the model does, as a table.

The modes are those of circuit-tracer: everything held (its `constrained_layers`), attention and norms, attention alone
(its `freeze_attention`), and nothing. Each figure stands beside the same with the predictions dealt out anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap
from ..core.frozen import Hold
from ..errors import InputError
from ..viz.lines import LinesView, Table
from .effects import total_effects
from .nodes import Node
from .protocols import Graph

MODES: tuple[tuple[Hold, str, str], ...] = (
    ("all", "everything", "direct"), ("attention+norms", "attention and norms", "total"),
    ("attention", "attention", "total"), ("nothing", "nothing (live)", "total"),
)  # fmt: skip
_LARGE = 0.05
"""Effects below this share of the largest do not count for signs."""


@dataclass(frozen=True, eq=False, slots=True)
class Mode:
    """One way of holding the model.

    Attributes:
        held: What is held, in words.
        predicts: "direct" or "total": effects by edges into the outputs, or by all paths.
        correlation: Of predicted and measured effects over features and outputs, beside predictions that are dealt out
            anew over the features; the interval is over features.
        slope: Measured by predicted effect, by least squares through 0.
        same_sign: Share of the measured effects above 5 % of the largest that have the predicted sign.
        worst: The largest difference, relative to the largest measured effect.
        predicted: float64, (features, outputs).
        measured: float64, (features, outputs).
    """

    held: str
    predicts: str
    correlation: Controlled
    slope: float
    same_sign: float
    worst: float
    predicted: np.ndarray
    measured: np.ndarray


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Validation(LinesView):
    """What a graph predicts and what the model does; made by `graph.validate`. `print` and notebooks show the table.

    Attributes:
        modes: Everything held, attention and norms, attention, nothing.
        features: The features that were taken away, by the size of their effects.
        outputs: What was measured.
    """

    modes: tuple[Mode, ...]
    features: tuple[Node, ...]
    outputs: tuple[Node, ...]

    def __repr__(self) -> str:
        return f"Validation({len(self.features)} features, {len(self.outputs)} outputs)"

    @property
    def _lines(self) -> Sequence[str]:
        return (
            f"Effects of taking away {len(self.features)} features on {len(self.outputs)} outputs",
            "predicted by the graph, and measured with this much of the model held as it is in the prompt",
        )

    @property
    def _tables(self) -> Sequence[Table]:
        rows = [
            [
                one.held, one.predicts, f"{one.correlation.value:.3f}", _interval(one.correlation.interval),
                f"{one.correlation.control_mean:.3f} {_interval(one.correlation.control_interval)}",
                f"{one.slope:.2f}", f"{one.same_sign:.2f}", f"{one.worst:.1e}",
            ]
            for one in self.modes
        ]  # fmt: skip
        return (Table(("held", "predicted", "r", "95 %", "shuffled", "slope", "sign", "worst"), rows),)


def validate(graph: Graph, n: int, seed: int) -> Validation:
    """See `AttributionGraph.validate`."""
    n, seed, live = checks.count(n, "n"), checks.seed(seed), graph.live
    if live is None:
        raise InputError("This graph comes from a file, without its model. Make it anew to validate it.")
    count = len(graph.features)
    if count != len(live.made.features):
        raise InputError(
            f"This graph holds {count} of the {len(live.made.features)} active features, so effects by all paths are"
            " not known. Validate the whole graph (without max_features, not pruned)."
        )
    total = total_effects(graph.matrix, live.made.activations, count).T
    direct = graph.matrix[count:, :count].T.astype(np.float64)
    chosen = np.argsort(-np.abs(total).sum(axis=1), kind="stable")[:n]
    modes = []
    for hold, held, predicts in MODES:
        predicted = -(direct if predicts == "direct" else total)[chosen]
        modes.append(
            _mode(held, predicts, predicted, live.effects(chosen[:, None].tolist(), -1.0, hold), seed)
        )
    return Validation(
        modes=tuple(modes), features=tuple(graph.features[i] for i in chosen), outputs=graph.outputs
    )


def _mode(held: str, predicts: str, predicted: np.ndarray, measured: np.ndarray, seed: int) -> Mode:
    draw, largest = np.random.default_rng(seed), float(np.abs(measured).max())
    pairs = np.stack([predicted, measured], axis=1)
    control = np.array([_r(np.stack([draw.permutation(predicted), measured], axis=1)) for _ in range(DRAWS)])
    correlation = Controlled(
        _r(pairs), bootstrap(pairs, _r, seed=seed, n=200), control, "shuffled features", seed
    )
    large = np.abs(measured) > _LARGE * largest
    square = float((predicted**2).sum())
    return Mode(
        held, predicts, correlation, float((predicted * measured).sum() / square) if square else float("nan"),
        float((np.sign(predicted) == np.sign(measured))[large].mean()) if large.any() else float("nan"),
        float(np.abs(predicted - measured).max() / largest) if largest else float("nan"), predicted, measured,
    )  # fmt: skip


def _r(pairs: np.ndarray) -> float:
    """The correlation of predicted and measured effects, (features, 2, outputs)."""
    predicted, measured = pairs[:, 0].ravel(), pairs[:, 1].ravel()
    if predicted.size < 2 or not predicted.std() or not measured.std():
        return float("nan")
    return float(np.corrcoef(predicted, measured)[0, 1])


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:.2f}, {ends[1]:.2f}]"
