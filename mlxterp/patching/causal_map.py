"""`CausalTrace`: what each restored state brings back, as arrays, as a map of layers and tokens, and in words."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from ..core.controls import bootstrap
from ..core.frames import data_frame
from ..viz.escaping import escaped, own_token, token_line
from ..viz.grid import Cell, Grid
from ..viz.page import Links
from ..viz.palette import steps_of
from ..viz.plotting import finished, heatmap
from ..viz.spans import bold, wants_color
from ..viz.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WHAT = {"hidden": "the stream after a layer", "mlp": "what MLPs add", "attn": "what attention adds"}
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class CausalTrace(View):
    """Probability of an answer with states restored; made by `causal_trace`.

    A notebook shows it by itself; `print` shows it in the terminal.

    Attributes:
        tokens: Text of each token of the prompt.
        subject: Positions of the tokens that got noise.
        target: Token id of the answer.
        target_text: Its text.
        kind: "hidden", "mlp" or "attn".
        window: Layers that are restored together.
        layers: Numbers of the layers, in the order given.
        high: Probability of the answer after the prompt as it is.
        low: float64, (draws,): with the noise, nothing restored.
        restored: float64, (draws, layers, tokens): with the noise and one place restored.
        noise: Standard deviation of the noise, in standard deviations of embeddings.
        std: Standard deviation of the embeddings.
        seed: Of the noise.
    """

    tokens: tuple[str, ...]
    subject: tuple[int, ...]
    target: int
    target_text: str
    kind: str
    window: int
    layers: tuple[int, ...]
    high: float
    low: np.ndarray
    restored: np.ndarray
    noise: float
    std: float
    seed: int

    @property
    def effects(self) -> np.ndarray:
        """float64, (layers, tokens): probability that a place brings back, mean over draws (the indirect effect)."""
        return (self.restored - self.low[:, None, None]).mean(axis=0)

    @property
    def intervals(self) -> np.ndarray:
        """float64, (layers, tokens, 2): 95 % of `effects`, bootstrap over draws."""
        each = self.restored - self.low[:, None, None]
        draws = len(each)
        drawn = np.random.default_rng(self.seed).integers(0, draws, (_RESAMPLES, draws))
        counts = np.stack([np.bincount(row, minlength=draws) for row in drawn])
        means = counts @ each.reshape(draws, -1) / draws
        low, high = np.quantile(means, [0.025, 0.975], axis=0)
        return np.stack([low, high], axis=-1).reshape(*each.shape[1:], 2)

    @property
    def low_interval(self) -> tuple[float, float]:
        """95 % of the probability with the noise, bootstrap over draws."""
        return bootstrap(self.low, seed=self.seed)

    def top(self, k: int = 5) -> list[tuple[int, int, str, float, tuple[float, float]]]:
        """The places that bring back most: (layer, position, token, effect, its interval), highest first."""
        effects, intervals = self.effects, self.intervals
        order = np.argsort(-effects, axis=None, kind="stable")[: checks.count(k, "k")]
        found = []
        for at in order.tolist():
            i, j = divmod(at, len(self.tokens))
            low, high = intervals[i, j].tolist()
            found.append((self.layers[i], j, self.tokens[j], float(effects[i, j]), (low, high)))
        return found

    def to_pandas(self) -> Any:
        """A data frame with a row for each layer and token: effect, ends of its interval, restored probability.

        Raises:
            BackendError: pandas is not installed.
        """
        layers, tokens = len(self.layers), len(self.tokens)
        intervals = self.intervals.reshape(-1, 2)
        return data_frame({
            "layer": np.repeat(self.layers, tokens),
            "position": np.tile(np.arange(tokens), layers),
            "token": list(self.tokens) * layers,
            "subject": np.tile(np.isin(np.arange(tokens), self.subject), layers),
            "effect": self.effects.ravel(),
            "low": intervals[:, 0],
            "high": intervals[:, 1],
            "probability": self.restored.mean(axis=0).ravel(),
        })  # fmt: skip

    # -- to look at -----------------------------------------------------------------------------

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; its heading is of this `level`."""
        anchor = f' id="{element_id}"' if element_id else ""
        told = "".join(f"<p>{escaped(line)}</p>" for line in self._facts())
        return (
            f'<section class="mxt-panel"{anchor} aria-label="Causal trace">'
            f'<h{level} class="mxt-title">{escaped(self._title())}</h{level}>{told}{self._grid().html()}</section>'
        )

    def plot(self, path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """A heat map of layers and tokens: the probability that each place brings back.

        Args:
            path: Where to save it (.png, .svg, .pdf, …).
            show: Open a window. (A notebook shows the figure by itself.)

        Raises:
            BackendError: matplotlib is not installed.
        """
        names = [f"{token_line(token.strip(' ') or token)}{'*' if i in self.subject else ''}"
                 for i, token in enumerate(self.tokens)]  # fmt: skip
        scale = self._scale()
        figure = heatmap(
            self.effects, [str(n) for n in self.layers], names, limits=(-scale, scale),
            label="probability brought back", title=self._title(), show=show,
        )  # fmt: skip
        figure.axes[0].set(xlabel="token (* has noise)", ylabel="layer")
        return finished(figure, path, show)

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: a row for each layer, the last on top.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        return "\n".join([bold(self._title(), wants_color(color)), *self._facts(), *self._grid().lines()])

    def __repr__(self) -> str:
        return f"CausalTrace({self.kind}: {self.restored.shape} restored, {self.high:.3f} → {self.low.mean():.3f})"

    def _title(self) -> str:
        return f"Causal trace of {token_line(self.target_text)!r}: {_WHAT[self.kind]}"

    def _facts(self) -> list[str]:
        low, (a, b) = float(self.low.mean()), self.low_interval
        named = ", ".join(token_line(self.tokens[i]) for i in self.subject)
        clear = self.intervals[..., 0] > 0
        together = f", {self.window} layers together" if self.window > 1 else ""
        return [
            f"probability {self.high:.3f} as it is; {low:.3f} [{a:.3f}, {b:.3f}] with noise of {self.noise:g} standard"
            f" deviations on {named} ({len(self.low)} draws, seed {self.seed}){together}",
            f"{int(clear.sum())} of {clear.size} places bring some of it back with their whole 95 % interval; by chance"
            f" about {0.025 * clear.size:.0f} would",
        ]

    def _scale(self) -> float:
        return float(np.abs(self.effects).max()) or 1.0

    def _grid(self) -> Grid:
        effects, intervals = self.effects, self.intervals
        steps = np.where(np.abs(effects) >= 0.0005, steps_of(effects, self._scale()), 0)
        rows = [
            (
                str(layer),
                [
                    Cell(
                        f"{effects[i, j]:+.2f}", int(steps[i, j]),
                        f"layer {layer}: {effects[i, j]:+.4f} [{intervals[i, j, 0]:+.4f}, {intervals[i, j, 1]:+.4f}]",
                    )
                    for j in range(len(self.tokens))
                ],
            )
            for i, layer in enumerate(self.layers)
        ]  # fmt: skip
        columns = [
            (f"{j}{'*' if j in self.subject else ''}", token or own_token(token))
            for j, token in enumerate(self.tokens)
        ]
        return Grid("layer", columns, rows)
