"""Features sorted by the shape of their logits: prediction, suppression, partition, or none of these.

`logit_classes` looks at skew and kurtosis of what each decoder row writes (`lens`), and calls extreme what few random
directions reach. Random directions therefore fall into the classes too; a class is a finding where the SAE's share
is above theirs.

The classes are those of Bloom and Lin, "Understanding SAE Features with the Logit Lens" (2024), and of Gurnee et al.,
"Universal Neurons in GPT2 Language Models" (2024), who name them for neurons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.controls import (
    DRAWS,
    KINDS,
    MOST_DRAWS,
    Controlled,
    Kind,
    bootstrap,
    draw_seed,
    group_means,
    random_like,
)
from ..core.numeric import moments
from ..core.options import names_options
from ..edits.checks import check_feature
from ..errors import InputError
from ..lens.feature_logits import direction_logits
from ..sae import SAE
from ..viz.escaping import escaped
from ..viz.page import Links, feature_link
from ..viz.plotting import Plotted, new_figure, plain_log_ticks
from ..viz.spans import bold, wants_color
from ..viz.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LogitClass = Literal["prediction", "suppression", "partition", "none"]
CLASSES: tuple[LogitClass, ...] = ("prediction", "suppression", "partition", "none")
_ROWS = 512
"""Directions of one draw of the control, at most."""
_SHOWN = 8
"""Features of a class that are named."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as extreme.

    Attributes:
        low_skew: Suppression lies below.
        high_skew: Prediction lies above.
        low_kurtosis: Partition lies below.
        high_kurtosis: Prediction and suppression lie above.
    """

    low_skew: float
    high_skew: float
    low_kurtosis: float
    high_kurtosis: float

    @staticmethod
    def of(skew: np.ndarray, kurtosis: np.ndarray, alpha: float) -> Limits:
        """What a share `alpha` of these directions passes, on each side."""
        ends = [alpha, 1 - alpha]
        return Limits(*np.quantile(skew, ends).tolist(), *np.quantile(kurtosis, ends).tolist())

    @staticmethod
    def of_normal(n: int, alpha: float) -> Limits:
        """What a share `alpha` of samples of n independent normal numbers passes, for large n."""
        z = NormalDist().inv_cdf(1 - alpha)
        skew, kurtosis = z * math.sqrt(6 / n), z * math.sqrt(24 / n)
        return Limits(-skew, skew, 3 - kurtosis, 3 + kurtosis)

    def classes(self, skew: np.ndarray, kurtosis: np.ndarray) -> np.ndarray:
        """Index in `CLASSES` of each direction; a kurtosis of 0 (a direction of zeros) is none."""
        peaked = kurtosis > self.high_kurtosis
        chosen = [
            peaked & (skew > self.high_skew), peaked & (skew < self.low_skew),
            (kurtosis < self.low_kurtosis) & (kurtosis > 0),
        ]  # fmt: skip
        return np.select(chosen, range(len(chosen)), default=len(chosen))


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class LogitClasses(View, Plotted):
    """Every feature's class by its logits, and each class's share beside that of random directions.

    Made by `logit_classes`; `print` and notebooks show the shares, `plot` skew against kurtosis of every feature, over
    that of random directions in grey, with the limits as lines.

    Attributes:
        kinds: Class of each feature, in the order of their ids.
        skew: float64, (features,): third standardised moment of each feature's logits over the vocabulary.
        kurtosis: float64, (features,): the fourth; 3 for a normal distribution; 0 for a decoder row of zeros.
        shares: Class → its share of the features; the control is its share of groups of as many random directions, by
            limits from draws that they are not of.
        limits: What counts as extreme.
        control_skew: float64, (draws, directions): of the control; of shape (0, 0) without one.
        control_kurtosis: float64, likewise.
        control: What random directions share with the decoder: "covariance", "isotropic" or "shuffled"; False without.
        alpha: Share of random directions beyond each limit.
        sae_name: What the SAE says of itself.
        seed: Of the control's draws, and of the intervals.
    """

    kinds: tuple[LogitClass, ...]
    skew: np.ndarray
    kurtosis: np.ndarray
    shares: Mapping[LogitClass, Controlled]
    limits: Limits
    control_skew: np.ndarray
    control_kurtosis: np.ndarray
    control: Kind | Literal[False]
    alpha: float
    sae_name: str
    seed: int

    @property
    def zeros(self) -> int:
        """Features whose decoder row is zero (dead ones); they are of no class."""
        return int((self.kurtosis == 0).sum())

    def features(self, kind: LogitClass) -> list[int]:
        """Ids of a class's features, the most extreme kurtosis first (the lowest for a partition).

        Raises:
            InputError: There is no such class.
        """
        kind = checks.choice(kind, "kind", CLASSES)
        ids = [i for i, one in enumerate(self.kinds) if one == kind]
        sign = 1 if kind == "partition" else -1
        return sorted(ids, key=lambda i: (sign * self.kurtosis[i], i))

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each feature, as dicts (for `pandas.DataFrame`)."""
        return [
            {"feature_id": i, "kind": kind, "skew": float(self.skew[i]), "kurtosis": float(self.kurtosis[i])}
            for i, kind in enumerate(self.kinds)
        ]

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: a line for each class.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        rows = [bold(self._heading, wants_color(color)), self._rule]
        for kind, share in self.shares.items():
            rows.append(f"  {kind:<11} {share}{self._verdict(kind)}")
        rows += [f"  {kind:<11} {self._named(kind)}" for kind in CLASSES[:3] if self.features(kind)]
        return "\n".join(rows)

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page.

        Args:
            level: Of its heading.
            links: Where features are shown on the same page.
            element_id: Id of the outermost element.
        """
        anchor = f' id="{element_id}"' if element_id else ""
        head = "".join(f'<th scope="col">{name}</th>' for name in ("class", "share; control", "features"))
        body = "".join(
            f'<tr><th scope="row" style="white-space:nowrap">{kind}</th>'
            f"<td>{escaped(str(share) + self._verdict(kind))}</td>"
            f"<td>{'' if kind == 'none' else self._named(kind, links)}</td></tr>"
            for kind, share in self.shares.items()
        )
        return (
            f'<section class="mxt-panel"{anchor} aria-label="Logit classes"><h{level} class="mxt-title">'
            f'{escaped(self._heading)}</h{level}><table class="mxt-t"><thead><tr>{head}</tr></thead>'
            f'<tbody>{body}</tbody></table><div class="mxt-foot">{escaped(self._rule)}</div></section>'
        )

    def _drawn(self, show: bool) -> Figure:
        figure = new_figure(7.5, 5.0, show)
        axes = figure.subplots()
        if self.control_skew.size:
            axes.plot(
                self.control_skew.ravel(), self.control_kurtosis.ravel(), ".", color="0.75", markersize=3,
                label=f"random directions ({self.control})",
            )  # fmt: skip
        for kind, colour in zip(CLASSES, ("tab:orange", "tab:blue", "tab:green", "0.35"), strict=True):
            ids = self.features(kind)
            size = 2 if kind == "none" else 6
            axes.plot(
                self.skew[ids],
                self.kurtosis[ids],
                ".",
                color=colour,
                markersize=size,
                label=f"{kind} ({len(ids)})",
            )
        for x in (self.limits.low_skew, self.limits.high_skew):
            axes.axvline(x, color="black", linewidth=0.6, linestyle=":")
        for y in (self.limits.low_kurtosis, self.limits.high_kurtosis):
            axes.axhline(y, color="black", linewidth=0.6, linestyle=":")
        axes.set(xlabel="skew", ylabel="kurtosis (normal: 3)", yscale="log", title=self._title())
        plain_log_ticks(axes.yaxis)
        figure.legend(fontsize=8, ncols=3, loc="outside lower center")
        return figure

    def __repr__(self) -> str:
        shares = ", ".join(f"{kind} {share.value:.3f}" for kind, share in self.shares.items())
        return f"<LogitClasses of {len(self.kinds)} features: {shares}>"

    def _title(self) -> str:
        return "Logit classes"

    @property
    def _heading(self) -> str:
        return f"Logit classes of {self.sae_name}{self._dead}"

    @property
    def _dead(self) -> str:
        if not self.zeros:
            return ""
        return f"; {self.zeros} decoder row{' is' if self.zeros == 1 else 's are'} zero and so of no class"

    @property
    def _rule(self) -> str:
        by = (
            f"{self.alpha:g} of random directions ({self.control}) lie beyond each limit"
            if self.control
            else f"no control; {self.alpha:g} of normal samples lie beyond each limit, and most random directions may"
        )
        limits = self.limits
        return (
            f"prediction: skew > {limits.high_skew:.2f}, kurtosis > {limits.high_kurtosis:.2f}; suppression: skew <"
            f" {limits.low_skew:.2f}, kurtosis > {limits.high_kurtosis:.2f}; partition: kurtosis <"
            f" {limits.low_kurtosis:.2f} ({by})"
        )

    def _verdict(self, kind: LogitClass) -> str:
        if kind == "none" or self.shares[kind].stands_out is not False:
            return ""
        return ": within what random directions have"

    def _named(self, kind: LogitClass, links: Links | None = None) -> str:
        """Ids of a class's features, as HTML or plain text."""
        ids = self.features(kind)
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        return ", ".join(feature_link(self.sae_name, i, links) for i in ids[:_SHOWN]) + more


@names_options
def logit_classes(
    model: Model, sae: SAE, *, control: Kind | Literal[False] = "covariance", alpha: float = 0.01, draws: int = DRAWS,
    component: str | None = None, seed: int = 0,
) -> LogitClasses:  # fmt: skip
    """Sorts features by skew and kurtosis of the logits that their decoder rows write.

    A *prediction* feature promotes few tokens strongly (high skew and kurtosis), a *suppression* feature demotes few
    (low skew, high kurtosis), a *partition* feature splits the vocabulary (low kurtosis). Limits are where a share
    `alpha` of random directions lies beyond; random directions are of a class seldom, and by chance.

    Args:
        model: An `InterpretableModel`.
        control: What random directions share with the decoder rows: "covariance", "isotropic" or "shuffled"; see
            `random_like`. False leaves them out: limits are then those of normal samples, which most directions of a
            real model exceed.
        alpha: Share of random directions beyond each limit, in (0, 0.5).
        draws: Of the control, each of as many directions as the SAE has features, at most 512; at least 20.
        component: What the SAE reconstructs; None takes what its metadata says.
        seed: Of the draws, and of the intervals' resamples.

    Raises:
        InputError: An argument is out of its range, or nothing says where the SAE writes.
        SAEError: A decoder row is not finite, or the place does not reach the residual stream by a linear map.

    Examples:
        >>> from mlxterp import geometry
        >>> found = geometry.logit_classes(model, sae)
        >>> found.shares["prediction"].stands_out
        True
        >>> found.features("prediction")[:3]  # the most peaked first
        [1366, 299, 267]
    """
    session = session_of(model)
    check_feature(sae, 0)
    if control is not False and control not in KINDS:
        raise InputError(f"control={control!r}; there are: {', '.join(KINDS)}, and False for none.")
    alpha = checks.finite(alpha, "alpha", above=0.0, below=0.5)
    draws, seed = checks.count(draws, "draws", DRAWS, MOST_DRAWS), checks.seed(seed)
    anatomy = session.plain
    skew, kurtosis = _moments(anatomy, sae, sae.W_dec, component)
    if control is False:
        limits = Limits.of_normal(anatomy.model.vocab_size, alpha)
        random_skew = random_kurtosis = np.empty((0, 0))
    else:
        random_skew, random_kurtosis = _random(anatomy, sae, control, draws, component, seed)
        limits = Limits.of(random_skew, random_kurtosis, alpha)
    found, by_chance = limits.classes(skew, kurtosis), _of_random(random_skew, random_kurtosis, alpha)
    shares: dict[LogitClass, Controlled] = {
        kind: _share(found == i, by_chance == i, f"of {by_chance.size} random directions, {control}", seed)
        for i, kind in enumerate(CLASSES)
    }
    return LogitClasses(
        kinds=tuple(CLASSES[i] for i in found), skew=skew, kurtosis=kurtosis, shares=shares, limits=limits,
        control_skew=random_skew, control_kurtosis=random_kurtosis, control=control, alpha=alpha,
        sae_name=repr(sae), seed=seed,
    )  # fmt: skip


def _moments(
    anatomy: Anatomy, sae: SAE, rows: np.ndarray, component: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Skew and kurtosis of the logits of each of the rows (n, d_out)."""
    found = [moments(row) for logits, _ in direction_logits(anatomy, sae, rows, component) for row in logits]
    _, skew, kurtosis = np.array(found).T
    return skew, kurtosis


def _random(
    anatomy: Anatomy, sae: SAE, kind: Kind, draws: int, component: str | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Skew and kurtosis of random directions, (draws, directions)."""
    alive = sae.W_dec[sae.W_dec.any(axis=1)]
    found = [
        _moments(anatomy, sae, random_like(alive, kind, draw_seed(seed, i))[:_ROWS], component)
        for i in range(draws)
    ]
    skew, kurtosis = zip(*found, strict=True)
    return np.array(skew), np.array(kurtosis)


def _of_random(skew: np.ndarray, kurtosis: np.ndarray, alpha: float) -> np.ndarray:
    """Class of each random direction (draws, directions), by limits from the other draws, as places in `CLASSES`."""
    found = np.empty(skew.shape, dtype=np.int64)
    for i in range(len(skew)):
        limits = Limits.of(np.delete(skew, i, axis=0), np.delete(kurtosis, i, axis=0), alpha)
        found[i] = limits.classes(skew[i], kurtosis[i])
    return found


def _share(own: np.ndarray, by_chance: np.ndarray, kind: str, seed: int) -> Controlled:
    """Share of features, beside that of random directions (none, for an empty control)."""
    groups = group_means(by_chance.ravel(), len(own), seed=seed) if by_chance.size else np.empty(0)
    return Controlled(float(own.mean()), bootstrap(own, seed=seed), groups, kind, seed)
