"""Stitching: whether a feature of a wide SAE, added to a narrow one, lowers its error, and whether cosine says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..anatomy.session import Model
from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap
from ..core.options import names_options
from ..errors import InputError
from ..sae import SAE, SAECollection
from ..variants import Temporal
from ..viz.lines import LinesView
from ..viz.plotting import Plotted, new_figure
from .neighbours import cosine_neighbours
from .widths import pair_of, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 4096
"""Tokens that are encoded at once."""
_CELLS = 1 << 22
"""Numbers that are gathered at once."""


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Stitching(LinesView, Plotted):
    """What adding each wide feature to the narrow SAE does to its error; made by `stitching`.

    `plot` shows the change of the error by cosine, a point for each judged feature.

    Attributes:
        narrow: Width of the SAE that is added to.
        wide: Width of the SAE whose features are added.
        mse: Of the narrow SAE: mean over tokens of the squared length of what it leaves.
        delta: float64, (wide,): change of that where the feature alone is added, in the same unit; below 0 where it
            helps. NaN for features that were not judged.
        cosine: float64, (wide,): the largest cosine with a narrow feature's decoder row.
        counts: int64, (wide,): tokens where each wide feature is active.
        min_firings: Features active on fewer tokens were not judged.
        n_tokens: Tokens.
        auc: How well a low cosine predicts that adding helps: the chance that of a feature that helps and one that does
            not, the first has the smaller cosine. The control's cosines are dealt out anew.
    """

    narrow: int
    wide: int
    mse: float
    delta: np.ndarray
    cosine: np.ndarray
    counts: np.ndarray
    min_firings: int
    n_tokens: int
    auc: Controlled

    @property
    def novel(self) -> list[int]:
        """Wide features that lower the narrow SAE's error, those that lower it most first."""
        return [int(f) for f in np.argsort(self.delta) if self.delta[f] < 0]

    @property
    def reconstruction(self) -> list[int]:
        """Wide features that do not: the narrow SAE has what they say already."""
        return np.flatnonzero(self.delta >= 0).tolist()

    @property
    def best_theta(self) -> float:
        """The cosine that tells the two apart best: features below it are taken for novel (balanced accuracy).

        NaN where all features help, or none.
        """
        judged = ~np.isnan(self.delta)
        cosine, helps = self.cosine[judged], self.delta[judged] < 0
        if helps.all() or not helps.any():
            return float("nan")
        order = np.argsort(cosine, kind="stable")
        found = np.cumsum(helps[order]) / helps.sum() - np.cumsum(~helps[order]) / (~helps).sum()
        return float(cosine[order[int(found.argmax())]])

    @property
    def _lines(self) -> list[str]:
        judged = int((~np.isnan(self.delta)).sum())
        gain = -float(self.delta[self.delta < 0].mean()) / self.mse if len(self.novel) else 0.0
        return [
            self._head,
            f"{len(self.novel)} of {judged} wide features lower the error of the narrow SAE when added alone, by"
            f" {gain:.2%} of it on average ({self.n_tokens} tokens).",
            *(
                ["All of them help, or none, so cosine has nothing to tell apart."]
                if np.isnan(self.auc.value)
                else [
                    f"AUC of a low cosine: {self.auc}",
                    f"The cosine that tells them apart best: {self.best_theta:.3f}.",
                ]
            ),
        ]

    @property
    def _head(self) -> str:
        return f"Features of {self.wide} added to {self.narrow}"

    def __repr__(self) -> str:
        return f"<Stitching {self.narrow} ← {self.wide}: {len(self.novel)} novel features>"

    def _drawn(self, show: bool) -> Figure:
        figure = new_figure(6.0, 4.2, show)
        axes, judged = figure.subplots(), ~np.isnan(self.delta)
        axes.scatter(self.cosine[judged], self.delta[judged] / self.mse, s=6, rasterized=True)
        axes.axhline(0.0, color="black", linewidth=0.8)
        axes.set_xlabel("cosine with the nearest narrow feature")
        axes.set_ylabel("change of the error, as a share")
        axes.set_title(f"{self._head}: AUC {self.auc.value:.2f}")
        return figure


@names_options
def stitching(
    family: SAECollection, narrow: int, wide: int, activations: Any, *, model: Model | None = None,
    min_firings: int = 20, control: bool = True, seed: int = 0,
) -> Stitching:  # fmt: skip
    """Adds each feature of a wide SAE by itself to a narrow SAE's reconstruction, and measures the error.

    A feature that lowers it says something new; one that does not says what the narrow SAE says already. The AUC
    tells how far the cosine with the nearest narrow feature predicts which is which, on these SAEs. After Leask et al.
    (2025), whose threshold of .7 holds for their SAEs.

    Args:
        family: SAEs of one component, by width.
        narrow, wide: Two of its widths.
        activations: (…, d_model), or an `ActivationStore`; or texts, with `model`.
        min_firings: Wide features that are active on fewer tokens are not judged.
        control: Deal the cosines out anew, 20 times.
        seed: Of the control and the interval.

    Raises:
        SAEError: The family's SAEs are of several components, or it has no such width.
        InputError: The widths are not in this order, or the activations are of another width.
    """
    small, large = pair_of(family, narrow, wide)
    nearest = cosine_neighbours(large.W_dec, small.W_dec, 1)
    return stitching_of(
        small, large, nearest.cosines[:, 0], activations, model=model, min_firings=min_firings, control=control,
        seed=seed,
    )  # fmt: skip


@names_options
def stitching_of(
    small: SAE, large: SAE, cosine: np.ndarray, activations: Any, *, model: Model | None = None, min_firings: int = 20,
    control: bool = True, seed: int = 0,
) -> Stitching:  # fmt: skip
    """`stitching` of two SAEs whose cosines are known."""
    least, control, seed = (
        checks.count(min_firings, "min_firings"), checks.flag(control, "control"), checks.seed(seed)
    )  # fmt: skip
    if small.d_out != large.d_out or small.is_transcoder or isinstance(large.activation, Temporal):
        raise InputError(
            "Features are added to SAEs that rebuild what they read, token by token; these are"
            f" {small!r} and {large!r}."
        )
    rows = rows_of(activations, small, model, "activations")
    delta, counts = np.zeros(large.d_hidden), np.zeros(large.d_hidden, dtype=np.int64)
    error = 0.0
    for start in range(0, len(rows), _ROWS):
        x = rows[start : start + _ROWS]
        rest = (x - small.reconstruct(x)).astype(np.float64)
        error += float((rest**2).sum())
        call = large.apply(x)
        features, scale = call.sparse(), call.decoded_scale
        values = features.values.astype(np.float64)
        if not isinstance(scale, float):
            values *= np.asarray(call.backend.get(scale), dtype=np.float64)[features.row_ids, 0]
        step = max(1, _CELLS // large.d_out)
        for cut in range(0, len(values), step):
            part = slice(cut, cut + step)
            ids, value = features.indices[part], values[part]
            added = large.W_dec[ids] * value[:, None]
            change = np.einsum("pd,pd->p", added, added - 2 * rest[features.row_ids[part]])
            delta += np.bincount(ids, change, minlength=len(delta))
        counts += np.bincount(features.indices, minlength=len(counts))
    judged = counts >= least
    if not judged.any():
        raise InputError(
            f"No feature of the wide SAE is active on {least} of the {len(rows)} tokens. Give more texts, or a smaller"
            " min_firings."
        )
    delta = np.where(judged, delta / len(rows), np.nan)
    helps, near = delta[judged] < 0, cosine[judged]
    auc = _auc_of(np.stack([helps, near], axis=1), control, seed)
    return Stitching(
        narrow=small.d_hidden, wide=large.d_hidden, mse=error / len(rows), delta=delta, cosine=cosine, counts=counts,
        min_firings=least, n_tokens=len(rows), auc=auc,
    )  # fmt: skip


def _auc_of(units: np.ndarray, control: bool, seed: int) -> Controlled:
    """`_auc` with its interval, beside cosines dealt out anew."""
    kind, value = "cosines dealt out anew", _auc(units)
    if np.isnan(value):
        return Controlled(value, None, np.zeros(0), kind, seed)
    draw = np.random.default_rng(seed)
    dealt = [
        _auc(np.stack([units[:, 0], draw.permutation(units[:, 1])], axis=1))
        for _ in range(DRAWS if control else 0)
    ]
    return Controlled(value, bootstrap(units, _auc, seed=seed), np.array(dealt), kind, seed)


def _auc(units: np.ndarray) -> float:
    """Chance that one with the first column 1 has a smaller second column than one with 0; NaN without both."""
    helps = units[:, 0] > 0
    n, m = int(helps.sum()), int((~helps).sum())
    if not n or not m:
        return float("nan")
    values, place, counts = np.unique(units[:, 1], return_inverse=True, return_counts=True)
    del values
    ranks = np.cumsum(counts) - (counts - 1) / 2  # ties share theirs
    return float(((n + m + 1 - ranks[place])[helps].sum() - n * (n + 1) / 2) / (n * m))
