"""How good an SAE is on a component of a model: the usual measures, on tokens of your own.

`evaluate` makes an `SAEEvaluation`; `check` adds what may be wrong. y is what the component puts out for
a token (for a transcoder: the component it predicts), r its reconstruction, f its feature activations.
Every context's first token is left as it is and counts in no figure. Formulas are those of SAEBench's
core, with the standard explained variance.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..errors import InputError
from ..sae import SAE
from ..viz.plotting import finished, new_figure
from .subject import Subject
from .sums import Sums, measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 20


@dataclass(frozen=True, eq=False, slots=True)
class SAEEvaluation:
    """Figures of an SAE at a component of a model.

    Attributes:
        component: Path of the component.
        tokens: Number of tokens that count.
        explained_variance: 1 - sum |y - r|² / sum |y - mean y|², over all tokens at once.
        fvu: 1 - explained_variance.
        l0: Active features of a token, on average.
        l1: Sum of |f| of a token, on average; in the SAE's own scale.
        cosine: cos(y, r), on average; a token where either is 0 has 0.
        l2_ratio: |r| / |y|, on average.
        shrinkage: Relative reconstruction bias, E|r|² / E<y, r>: below 1, reconstructions are too short (NaN where
            they are 0).
        dead_share: Share of features active on none of these tokens (few tokens leave many features silent).
        density: float64, (d_hidden,): share of tokens on which each feature is active.
        loss: Cross-entropy of the model, nats for each predicted token.
        loss_with_sae: The same with the reconstruction in the component's place.
        loss_zero: The same with zeros there.
        loss_mean: The same with the component's mean over these tokens there.
        loss_recovered_zero: (loss_zero - loss_with_sae) / (loss_zero - loss); 1 is perfect.
        loss_recovered_mean: The same against the mean, which is the harder comparison.
        kl_with_sae: KL(p || p with the reconstruction), nats, on average over what is predicted at replaced tokens.
        kl_zero: KL(p || p with zeros).
        kl_mean: KL(p || p with the mean).
        kl_recovered_zero: (kl_zero - kl_with_sae) / kl_zero; 1 is perfect.
        kl_recovered_mean: The same against the mean.
    """

    component: str
    tokens: int
    explained_variance: float
    fvu: float
    l0: float
    l1: float
    cosine: float
    l2_ratio: float
    shrinkage: float
    dead_share: float
    density: np.ndarray
    loss: float
    loss_with_sae: float
    loss_zero: float
    loss_mean: float
    loss_recovered_zero: float
    loss_recovered_mean: float
    kl_with_sae: float
    kl_zero: float
    kl_mean: float
    kl_recovered_zero: float
    kl_recovered_mean: float

    def denser_than(self, share: float) -> float:
        """Share of features that are active on more than this share of tokens."""
        return float((self.density > share).mean())

    def density_histogram(
        self, bins: int | Sequence[float] | np.ndarray = _BINS
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many features have which log10 density, as (counts (bins,), edges (bins + 1,)).

        Dead features have none and are in no bin; `dead_share` counts them.

        Args:
            bins: A number of bins from one active token to all of them, or their edges.

        Raises:
            InputError: A number below 1, or edges that do not ascend.
        """
        if np.ndim(bins) == 0:
            count = checks.count(bins, "bins", hint="Or give edges that ascend.")
            lowest = min(-1, math.floor(-math.log10(self.tokens)))  # with one token there would be no range
            edges = np.linspace(lowest, 0, count + 1)
        else:
            edges = to_numpy(bins, "bins").astype(np.float64)
            if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
                raise InputError(
                    f"bins is {bins!r}; it must be a number of at least 1, or edges that ascend."
                )
        return np.histogram(np.log10(self.density[self.density > 0]), edges)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: densities as a histogram and shares of features, figures that are not finite as None."""
        counts, edges = self.density_histogram()
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found["density"] = {
            "log10_counts": counts.tolist(),
            "log10_edges": edges.tolist(),
            "above_1_percent": self.denser_than(0.01),
            "above_10_percent": self.denser_than(0.1),
        }
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}

    def __str__(self) -> str:
        return (
            f"SAE at {self.component}, {self.tokens} tokens, {len(self.density)} features\n"
            f"  explained variance {self.explained_variance:8.3f}   FVU {self.fvu:.3f}\n"
            f"  L0                 {self.l0:8.1f}   L1 {self.l1:.3g}\n"
            f"  cosine             {self.cosine:8.3f}   length {self.l2_ratio:.3f}, shrinkage {self.shrinkage:.3f}\n"
            f"  dead               {self.dead_share:8.1%}   on more than 1% of tokens {self.denser_than(0.01):.1%},"
            f" 10% {self.denser_than(0.1):.1%}\n"
            f"                        clean  with SAE      mean      zero   recovered: of mean   of zero\n"
            f"  loss               {self.loss:8.3f}  {self.loss_with_sae:8.3f}  {self.loss_mean:8.3f}"
            f"  {self.loss_zero:8.3f}   {self.loss_recovered_mean:18.3f}  {self.loss_recovered_zero:8.3f}\n"
            f"  KL                 {0:8.3f}  {self.kl_with_sae:8.3f}  {self.kl_mean:8.3f}  {self.kl_zero:8.3f}"
            f"   {self.kl_recovered_mean:18.3f}  {self.kl_recovered_zero:8.3f}"
        )

    def plot(self, path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """Densities of features and losses with replacements, side by side.

        Args:
            path: Where to save it (.png, .svg, .pdf, …).
            show: Open a window. (A notebook shows the figure by itself.)

        Raises:
            BackendError: matplotlib is not installed.
        """
        figure = new_figure(10, 3.6, show)
        left, right = figure.subplots(1, 2)
        counts, edges = self.density_histogram()
        left.stairs(counts, edges, fill=True)
        left.set(xlabel="log10 share of tokens", ylabel="features")
        left.set_title(f"density; {self.dead_share:.1%} of {len(self.density)} are dead")
        losses = (self.loss, self.loss_with_sae, self.loss_mean, self.loss_zero)
        right.bar_label(right.bar(("clean", "with SAE", "mean", "zero"), losses), fmt="%.3f")
        right.margins(y=0.1)  # room for the numbers
        right.set(ylabel="nats per token", title=f"loss; {self.loss_recovered_mean:.1%} of mean's recovered")
        figure.suptitle(f"SAE at {self.component}, {self.tokens} tokens")
        return finished(figure, path, show)


def evaluate(
    anatomy: Anatomy, sae: SAE, texts: Sequence[str], component: str | None = None, max_tokens: int = 8192
) -> SAEEvaluation:
    """Figures of an SAE at a component.

    Texts are cut into contexts of 128 tokens (or the SAE's own context size, or the model's); contexts of
    one token are left out.

    Args:
        component: Path; None takes the SAE's own.
        max_tokens: Contexts are taken in order until there are this many tokens.

    Raises:
        InputError: No texts, no text of two tokens, the SAE names no component, or the component does not
            vary over these tokens.
        SAEError: The component is not as wide as the SAE.
    """
    return evaluation_of(Subject.of(anatomy, sae, texts, component, max_tokens))


def evaluation_of(subject: Subject) -> SAEEvaluation:
    """See `evaluate`."""
    return evaluation_of_sums(subject.place.name, measure(subject))


def evaluation_of_sums(component: str, sums: Sums) -> SAEEvaluation:
    """The figures that sums make.

    Args:
        component: Path of what is read.
    """
    n = sums.n
    fvu = sums.error / sums.variance
    losses = {key: total / n for key, total in sums.losses.items()}
    kl = {key: total / n for key, total in sums.divergences.items()}
    return SAEEvaluation(
        component=component,
        tokens=n,
        explained_variance=1 - fvu,
        fvu=fvu,
        l0=float(sums.active.sum()) / n,
        l1=sums.strength / n,
        cosine=sums.cosine / n,
        l2_ratio=sums.l2_ratio / n,
        shrinkage=sums.rebuilt / sums.inner if sums.inner else float("nan"),
        dead_share=float((sums.active == 0).mean()),
        density=sums.active / n,
        loss=losses["clean"],
        loss_with_sae=losses["sae"],
        loss_zero=losses["zero"],
        loss_mean=losses["mean"],
        loss_recovered_zero=_recovered(losses, "zero"),
        loss_recovered_mean=_recovered(losses, "mean"),
        kl_with_sae=kl["sae"],
        kl_zero=kl["zero"],
        kl_mean=kl["mean"],
        kl_recovered_zero=_recovered(kl, "zero"),
        kl_recovered_mean=_recovered(kl, "mean"),
    )


def _recovered(values: dict[str, float], ablation: str) -> float:
    gap = values[ablation] - values["clean"]
    return (values[ablation] - values["sae"]) / gap if gap else float("nan")
