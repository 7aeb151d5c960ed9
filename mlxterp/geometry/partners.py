"""`Universality`: what `universality` found: each feature's partner, by directions and by activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.controls import Controlled
from ..core.frames import data_frame
from ..viz.lines import LinesView
from ..viz.plotting import Plotted, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAR = 0.7
"""The least cosine of a feature that two SAEs share."""


@dataclass(frozen=True, eq=False, slots=True)
class Partners:
    """The partner of each feature.

    Attributes:
        ids: int64, (n,): features of the other SAE; -1 for those without one.
        values: float64, (n,): how alike the two are, 1 at most; NaN for those without one.
    """

    ids: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Universality(LinesView, Plotted):
    """How much of one SAE another has; made by `universality`. `print` and notebooks show the figures.

    `plot` shows how alike partners are: a histogram for each way of matching, with the control's mean as a line.

    Attributes:
        match: "max" or "hungarian".
        widths: Features of a and of b.
        decoder: Each feature's partner by the cosine of the decoder rows; None for SAEs of two models.
        encoder: The same by the encoder's directions.
        mmcs: Mean cosine of a feature and its partner by the decoder, beside covariance-matched directions.
        shared_share: Share of features for which decoder and encoder lead to the same partner, both with a cosine of
            at least .7.
        activation: Each feature's partner by the correlation of activations; None without activations. Features that
            never vary have none.
        correlation: Mean correlation of a feature and that partner, beside shuffled tokens.
    """

    match: str
    widths: tuple[int, int]
    decoder: Partners | None
    encoder: Partners | None
    mmcs: Controlled | None
    shared_share: Controlled | None
    activation: Partners | None
    correlation: Controlled | None

    @property
    def agreement(self) -> float | None:
        """Share of the features with both partners for which decoder and activations name the same; None without."""
        if self.decoder is None or self.activation is None:
            return None
        both = (self.decoder.ids >= 0) & (self.activation.ids >= 0)
        return float((self.decoder.ids == self.activation.ids)[both].mean()) if both.any() else None

    @property
    def left_out(self) -> int:
        """Features of a without a partner by direction: their decoder row is zero, or all of b's are taken."""
        return 0 if self.decoder is None else int((self.decoder.ids < 0).sum())

    def near(self, least: float = NEAR) -> float | None:
        """Share of the features whose partner by the decoder has at least this cosine; None without directions."""
        if self.decoder is None:
            return None
        known = self.decoder.values[~np.isnan(self.decoder.values)]
        return float((known >= least).mean())

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each feature of a, its partners and how alike they are; indexed by feature_id.

        Raises:
            BackendError: pandas is not installed.
        """
        columns: dict[str, Any] = {}
        for name in ("decoder", "encoder", "activation"):
            found = getattr(self, name)
            if found is not None:
                columns |= {f"{name}_partner": found.ids, name: found.values}
        return data_frame(columns, "feature_id")

    @property
    def _lines(self) -> list[str]:
        how = "best partner of each" if self.match == "max" else "one to one"
        lines = [self._head, f"Partners: {how} ({self.match})."]
        if self.mmcs is not None:
            lines += [
                f"decoder cosine (MMCS): {self.mmcs}",
                f"share with a cosine of at least {NEAR}: {self.near():.3f}",
                f"shared (decoder and encoder agree, both at least {NEAR}): {self.shared_share}",
            ]
        if self.correlation is not None:
            lines.append(f"correlation of activations: {self.correlation}")
        if self.agreement is not None:
            lines.append(f"Decoder and activations name the same partner for {self.agreement:.0%}.")
        if self.left_out:
            lines.append(f"{self.left_out} features have no partner by direction.")
        return lines

    @property
    def _head(self) -> str:
        return f"Universality of {self.widths[0]} features in {self.widths[1]}"

    def __repr__(self) -> str:
        return f"<{self._head}, by {self.match}>"

    def _drawn(self, show: bool) -> Figure:
        figure = new_figure(6.0, 3.8, show)
        axes = figure.subplots()
        for found, figures, name, color in (
            (self.decoder, self.mmcs, "decoder cosine", "tab:blue"),
            (self.activation, self.correlation, "correlation of activations", "tab:orange"),
        ):
            if found is None or figures is None:
                continue
            known = found.values[~np.isnan(found.values)]
            axes.hist(known, bins=40, range=(-0.1, 1.0), histtype="step", color=color, label=name)
            if len(figures.control):
                label = f"mean of the control ({figures.kind})"
                axes.axvline(figures.control_mean, color=color, linestyle=":", label=label)
        axes.set_xlabel("of a feature and its partner")
        axes.set_ylabel("features")
        figure.legend(fontsize=8, ncols=2, loc="outside lower center")
        axes.set_title(self._head)
        return figure
