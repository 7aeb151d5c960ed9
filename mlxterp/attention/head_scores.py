"""`head_scores`: what every head reads on repeated random tokens, beside the same tokens shuffled; and `HeadScores`.

Olsson et al. (2022) find induction heads so; entropy, distance and the score on any repeated token are HeadVis's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.controls import Controlled, bootstrap
from ..core.frames import data_frame
from ..core.options import checks_options, names_options
from ..errors import InputError
from ..hooks.session import ModelSession
from ..viz.lines import LinesView, Table
from ..viz.page import Links
from ..viz.plotting import Plotted, finished
from ..viz.scatter import scatter_figure, scatter_svg
from . import scores
from .ov_circuit import copying as copying_of
from .random_tokens import DRAWS, RepeatedTokens, captured
from .reader import head_counts, layers_with_attention, single

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HELD = 1 << 27
"""Numbers of patterns held at once."""
_RESAMPLES = 1000
_TOLD = 20
"""Heads that `print` lists."""
CONTENT = ("induction", "duplicate_token", "repeated_token", "copying")
"""Scores that depend on which token is where: the shuffled tokens are their control."""
POSITIONAL = ("previous_token", "first_token", "current_token")
"""Scores of positions, which shuffling leaves as they are: they are held against attention to all tokens alike."""


@names_options
def head_scores(
    model: Model,
    layers: int | Iterable[int] | None = None,
    *,
    n_random_tokens: int = 50,
    n_repeats: int = 2,
    draws: int = DRAWS,
    control: bool = True,
    copying: bool = False,
    seed: int = 0,
) -> HeadScores:
    """Scores of every head on repeated random tokens, over many draws, beside shuffled ones.

    Tokens are drawn from those that are not special, all different within a draw, after what the tokenizer puts before
    any text. In the control each later repetition is in an order of its own.

    Args:
        model: An `InterpretableModel`, with what acts on it.
        layers: Layer numbers; None takes all that have attention.
        n_random_tokens: Tokens of what is repeated.
        n_repeats: How often it is said.
        draws: Of the tokens, at least 20.
        control: Whether the shuffled tokens are run too.
        copying: Whether it is looked what each head writes of what it reads, through its OV circuit; this costs a pass
            and as many logits for each head.
        seed: Of the draws.

    Raises:
        ComponentError: There is no such layer, or it has no attention.
        InputError: Too few ordinary tokens, or sequences longer than the model's positions.

    Examples:
        >>> from mlxterp import attention
        >>> found = attention.head_scores(model, n_random_tokens=20)
        >>> found.top("previous_token", 1)[0].name
        'L1H3'
    """
    session = session_of(model, ModelSession)
    session.refresh()
    anatomy, seed = session.anatomy, checks.seed(seed)
    control, copying = checks.flag(control, "control"), checks.flag(copying, "copying")
    tokens = RepeatedTokens.drawn(session, n_random_tokens, n_repeats, draws, seed)
    chosen, _ = layers_with_attention(anatomy, layers)
    counts = head_counts(anatomy, chosen)
    components = [anatomy.component(f"layers.{n}.attn.pattern") for n in chosen]

    def measured(rows: np.ndarray) -> dict[str, np.ndarray]:
        parts = []
        size = sum(counts.values()) * rows.shape[1] ** 2
        step = max(1, _HELD // size)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            found = captured(anatomy.model, part, components)
            arrays = [
                anatomy.model.backend.get(single(*pair)) for pair in zip(components, found, strict=True)
            ]
            parts.append(_scored(arrays, part, tokens))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    values = measured(tokens.rows)
    others = measured(tokens.shuffled) if control else {}
    if copying:
        first = tokens.rows[0, : tokens.prefix + tokens.period]
        values["copying"], other = copying_of(anatomy, first, tokens.prefix, chosen, counts)
        others |= {"copying": other} if control else {}
    pairs = [(layer, head) for layer in chosen for head in range(counts[layer])]
    uniform = _uniform(tokens)
    return HeadScores(
        heads=np.array(pairs, dtype=np.int64), values=values, control=others,
        chance={name: float(x[0, 0]) for name, x in uniform.items()}, n_random_tokens=tokens.period,
        n_repeats=checks.count(n_repeats, "n_repeats"), draws=len(tokens.rows), prefix=tokens.prefix, seed=seed,
    )  # fmt: skip


def _scored(
    patterns: Sequence[np.ndarray], rows: np.ndarray, tokens: RepeatedTokens
) -> dict[str, np.ndarray]:
    """Name → float64 (rows, heads of all layers)."""
    skip, period = tokens.prefix, tokens.period
    found: dict[str, list[np.ndarray]] = {}
    for whole in patterns:
        x = whole[:, :, skip:, skip:]
        of_layer = {
            "induction": scores.induction_score(x, period),
            "duplicate_token": scores.duplicate_token_score(x, period),
            "previous_token": scores.previous_token_score(x),
            "first_token": whole[:, :, max(skip, 1) :, 0].mean(axis=-1, dtype=np.float64),
            "current_token": scores.current_token_score(x),
            "repeated_token": np.stack(
                [scores.repeated_token_score(own, ids[skip:]) for own, ids in zip(x, rows, strict=True)]
            ),
            "entropy": scores.pattern_entropy(whole[:, :, skip:]),
            "distance": scores.mean_distance(x),
        }
        for name, values in of_layer.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values, axis=1) for name, values in found.items()}


def _uniform(tokens: RepeatedTokens) -> dict[str, np.ndarray]:
    """The scores of a head that reads all tokens so far alike."""
    n = tokens.rows.shape[1]
    even = np.tril(np.ones((n, n), dtype=np.float32)) / np.arange(1, n + 1, dtype=np.float32)[:, None]
    return _scored([even[None, None]], tokens.rows[:1], tokens)


@dataclass(frozen=True, slots=True)
class HeadScore:
    """A score of one head.

    Attributes:
        layer: Its layer.
        head: Its number there.
        score: Mean over the draws.
        head_type: Such as "induction"; None where none was asked for.
        interval: 95 % over the draws; None where there was one text.
        control: Mean on shuffled tokens; None without a control.
    """

    layer: int
    head: int
    score: float
    head_type: str | None = None
    interval: tuple[float, float] | None = None
    control: float | None = None

    @property
    def name(self) -> str:
        """Such as "L3H5"."""
        return f"L{self.layer}H{self.head}"


@checks_options
@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class HeadScores(LinesView, Plotted):
    """Scores of heads on repeated random tokens; made by `head_scores`.

    `plot` draws the previous-token score against the induction score.

    Attributes:
        heads: int64, (heads, 2): layer and number of each.
        values: Name of the score → float64 (draws, heads). "copying" has a row for each token of one draw.
        control: The same on shuffled tokens; empty where it was left out.
        chance: Name → the score of a head that reads all tokens so far alike.
        n_random_tokens: Tokens of what is repeated.
        n_repeats: How often it is said.
        draws: Of the tokens.
        prefix: Tokens before them, which the tokenizer puts before any text.
        seed: Of the draws.
    """

    heads: np.ndarray
    values: Mapping[str, np.ndarray]
    control: Mapping[str, np.ndarray]
    chance: Mapping[str, float]
    n_random_tokens: int
    n_repeats: int
    draws: int
    prefix: int
    seed: int

    def mean(self, score: str) -> np.ndarray:
        """float64, (heads,): mean over the draws, in the order of `heads`.

        Raises:
            InputError: There is no such score.
        """
        return self.values[self._known(score)].mean(axis=0)

    def interval(self, score: str) -> np.ndarray:
        """float64, (heads, 2): 95 %, bootstrap over the draws."""
        values = self.values[self._known(score)]
        drawn = np.random.default_rng(self.seed).integers(0, len(values), (_RESAMPLES, len(values)))
        counts = np.stack([np.bincount(row, minlength=len(values)) for row in drawn])
        means = counts @ values / len(values)
        return np.quantile(means, [0.025, 0.975], axis=0).T

    def of(self, layer: int, head: int, score: str) -> Controlled:
        """A head's score with its interval, beside its control.

        That is its score on each draw of shuffled tokens; of the positional scores, which shuffling leaves as they are,
        the score of a head that reads all tokens so far alike.

        Raises:
            InputError: There is no such head or score.
        """
        at = np.flatnonzero((self.heads == [layer, head]).all(axis=1))
        if not len(at):
            raise InputError(f"There is no head {head!r} of layer {layer!r} among these.")
        own = self.values[self._known(score)][:, at[0]]
        other = self.control[score][:, at[0]] if score in self.control else np.zeros(0)
        kind = "shuffled tokens"
        if score in POSITIONAL:
            other, kind = np.array([self.chance[score]]), "attention to all tokens alike"
        return Controlled(float(own.mean()), bootstrap(own, seed=self.seed), other, kind, self.seed)

    def top(self, score: str, k: int = 5) -> list[HeadScore]:
        """The heads of highest score, highest first; among equals the lower layer and head."""
        means, intervals = self.mean(score), self.interval(score)
        control = self.control[score].mean(axis=0) if score in self.control else None
        order = np.argsort(-means, kind="stable")[: checks.count(k, "k")]
        return [
            HeadScore(
                int(self.heads[i, 0]), int(self.heads[i, 1]), float(means[i]), score,
                (float(intervals[i, 0]), float(intervals[i, 1])), None if control is None else float(control[i]),
            )
            for i in order
        ]  # fmt: skip

    def types(self, threshold: float = 0.4) -> dict[str, list[tuple[int, int]]]:
        """Heads by type, each where its mean is above the threshold and it is more than its control shows.

        Induction and duplicate-token heads have to be above 97.5 % of the shuffled draws, the others with their whole
        interval above attention to all tokens alike. A head can be of several types; those of none are "unknown".

        Raises:
            InputError: The threshold is no share.
        """
        threshold = checks.fraction(threshold, "threshold")
        found: dict[str, list[tuple[int, int]]] = {}
        some = np.zeros(len(self.heads), dtype=bool)
        for name in ("induction", "duplicate_token", *POSITIONAL):
            is_one = (self.mean(name) > threshold) & self._above(name)
            found[name] = [tuple(pair) for pair in self.heads[is_one].tolist()]
            some |= is_one
        found["unknown"] = [tuple(pair) for pair in self.heads[~some].tolist()]
        return found

    def _above(self, name: str) -> np.ndarray:
        """bool, (heads,): which scores are more than their control."""
        if name in POSITIONAL:
            return self.interval(name)[:, 0] > self.chance[name]
        if name not in self.control:
            return np.ones(len(self.heads), dtype=bool)
        return self.mean(name) > np.quantile(self.control[name], 0.975, axis=0)

    def to_pandas(self) -> Any:
        """A data frame with a row for each head: each score's mean, ends of its interval, and mean on shuffled tokens.

        Raises:
            BackendError: pandas is not installed.
        """
        columns: dict[str, Any] = {"layer": self.heads[:, 0], "head": self.heads[:, 1]}
        for name in self.values:
            low, high = self.interval(name).T
            columns |= {name: self.mean(name), f"{name}_low": low, f"{name}_high": high}
            if name in self.control:
                columns[f"{name}_control"] = self.control[name].mean(axis=0)
        return data_frame(columns)

    def scatter(
        self,
        x: str = "previous_token",
        y: str = "induction",
        path: str | os.PathLike | None = None,
        show: bool = False,
    ) -> Figure:
        """Two scores of all heads against each other, with matplotlib; the five highest of each are named.

        Args:
            path: Also write it there (.png, .svg, .pdf, …).
            show: Open a window. (A notebook shows the figure by itself.)

        Raises:
            InputError: There is no such score.
            BackendError: matplotlib is not installed.
        """
        labels = [f"{name.replace('_', ' ')} score" for name in (x, y)]
        figure = scatter_figure(self.mean(x), self.mean(y), self._names(), labels, self._title(), show)
        return finished(figure, path, show)

    # -- to look at -----------------------------------------------------------------------------

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet: the highest heads, two scores of all heads as points, and a table of all heads."""
        labels = ["previous-token score", "induction score"]
        picture = scatter_svg(self.mean("previous_token"), self.mean("induction"), self._names(), labels)
        every = self._table(np.arange(len(self.heads)))
        told = super(HeadScores, self).fragment(level, links, element_id)
        return (
            f"{told}{picture}<details><summary>All {len(self.heads)} heads</summary>{every.html()}</details>"
        )

    def __repr__(self) -> str:
        return f"<HeadScores of {len(self.heads)} heads, {self.draws} draws>"

    def _title(self) -> str:
        return "Heads on repeated random tokens"

    @property
    def _lines(self) -> list[str]:
        beside = (
            f"control: the same tokens, later repetitions shuffled ({self.draws} draws)" if self.control
            else "no control: it was left out"
        )  # fmt: skip
        types = self.types()
        said = "; ".join(
            f"{name.replace('_', ' ')} {len(types[name])}" for name in ("induction", *POSITIONAL)
        )
        return [
            f"{len(self.heads)} heads on {self.n_random_tokens} random tokens said {self.n_repeats} times,"
            f" {self.draws} draws, seed {self.seed}",
            f"{beside}; intervals: 95 %, bootstrap over draws",
            f"heads above 0.4 and above their control: {said}",
            f"attention to all tokens alike would score: previous {self.chance['previous_token']:.3f}, first"
            f" {self.chance['first_token']:.3f}, itself {self.chance['current_token']:.3f}",
        ]

    @property
    def _tables(self) -> list[Table]:
        return [self._table(np.argsort(-self.mean("induction"), kind="stable")[:_TOLD])]

    def _table(self, which: np.ndarray) -> Table:
        shown = [
            n for n in ("duplicate_token", *POSITIONAL, "entropy", "distance", "copying") if n in self.values
        ]
        interval, mean = self.interval("induction"), self.mean("induction")
        control = self.control["induction"].mean(axis=0) if self.control else np.full(len(mean), np.nan)
        names, means = self._names(), [self.mean(name) for name in shown]
        rows = [
            (
                names[i], f"{mean[i]:.2f}", f"[{interval[i, 0]:.2f}, {interval[i, 1]:.2f}]",
                "" if np.isnan(control[i]) else f"{control[i]:.2f}", *(f"{x[i]:.2f}" for x in means),
            )
            for i in which.tolist()
        ]  # fmt: skip
        heads = ("head", "induction", "95 %", "shuffled", *(n.removesuffix("_token") for n in shown))
        return Table(heads, rows)

    def _names(self) -> list[str]:
        return [f"L{layer}H{head}" for layer, head in self.heads.tolist()]

    def _known(self, score: str) -> str:
        return checks.choice(score, "score", self.values)

    def _drawn(self, show: bool) -> Figure:
        return self.scatter(show=show)
