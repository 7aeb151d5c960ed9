"""Which sets of tokens a feature writes: `enrichment` and its result.

Each feature's logits rank the tokens, and a running sum says whether a set's tokens lie together at one end
(`running_sum`). What a score is worth only a null tells. The usual one shuffles tokens; but tokens of a set lie close
together in a model, so that random directions pass it too. The null here is therefore random directions; the other
one is shown beside it.

After Bloom and Lin, "Understanding SAE Features with the Logit Lens" (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap, group_means
from ..core.feature_ids import Feature, feature_ids, named_feature
from ..core.options import names_options
from ..edits.checks import check_feature
from ..errors import InputError
from ..sae import SAE
from ..viz.escaping import escaped, one_line
from ..viz.page import Links, feature_link
from ..viz.plotting import Plotted, new_figure
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .running_sum import benjamini_hochberg, significance_of_null
from .set_test import NULLS, Null, SetTest
from .token_sets import TokenSets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL = 0.05
"""p and q below this count."""
_LEAST = 1000
"""Draws of the null, at least, where nothing else is asked for."""
_PER_SET = 80
"""Draws for each set: one of them all can have q below `LEVEL`, even if only a quarter of its null has its sign."""
_BESIDE = 200
"""Draws of shuffled tokens where they only stand beside."""
_LARGEST_WEIGHT = 10.0
"""Beyond, one token is all of the sum."""
_SHOWN = 20
"""Rows of the table that are printed."""
_CALLED = {
    "directions": "random directions",
    "tokens": "shuffled tokens (miscalibrated: tokens of a set lie close together, so random directions pass)",
}


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Enrichment(View, Plotted):
    """Scores of features by sets of tokens, each with what chance gives. Made by `enrichment`.

    `plot` is a Manhattan plot: -log10 p of every feature by set, coloured by kind of set and filled where q < 0.05;
    small grey marks are p by the other null.

    Attributes:
        features: Ids of the features.
        sets: Names of the sets.
        groups: What kind of set each is.
        sizes: Tokens of each set.
        es: float64, (features, sets): running-sum score, in [-1, 1].
        nes: float64, (features, sets): `es` over the mean |score| of the null on the same side; NaN where the null has
            none there.
        p: float64, (features, sets): share of the null on the same side as far from 0.
        q: float64, (features, sets): p after Benjamini and Hochberg, over the sets of one feature.
        null: What the null is: "directions" (random, covariance-matched) or "tokens" (shuffled).
        beside: float64, (features, sets): p by the other null; None where it was left out.
        random: float64, (sets, 2): 2.5th and 97.5th percentile of random directions' `es`; None where left out.
        pairs: Null → share of (feature, set) pairs with p < 0.05, and the same share of random directions: what a
            null should give there is at most 0.05.
        passing: Share of features with a set at q < 0.05, and the same of random directions.
        weight: Exponent of |logit|.
        n: Draws of the null.
        sae_name: What the SAE says of itself.
        seed: Of the first draw.
    """

    features: tuple[int, ...]
    sets: tuple[str, ...]
    groups: tuple[str, ...]
    sizes: tuple[int, ...]
    es: np.ndarray
    nes: np.ndarray
    p: np.ndarray
    q: np.ndarray
    null: Null
    beside: np.ndarray | None
    random: np.ndarray | None
    pairs: Mapping[Null, Controlled]
    passing: Controlled
    weight: float
    n: int
    sae_name: str
    seed: int

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each feature and set, as dicts (for `pandas.DataFrame`), the smallest q first."""
        return [self._row(i, j) for i, j in self._order(np.arange(len(self.features)))]

    def of(self, feature: Feature) -> list[dict[str, Any]]:
        """The rows of one feature, the smallest q first; among equals the larger |NES|.

        Raises:
            InputError: It was not asked for.
        """
        wanted = named_feature(feature)
        if wanted not in self.features:
            raise InputError(
                f"Feature {feature!r} is none of those that were asked for: {_some(self.features)}."
            )
        return [self._row(i, j) for i, j in self._order(np.array([self.features.index(wanted)]))]

    def _order(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """(feature, set) by q, then by |NES|, as places in the arrays."""
        q, size = self.q[rows].ravel(), np.abs(np.nan_to_num(self.nes[rows])).ravel()
        found = np.lexsort((-size, q))
        return [(int(rows[k // len(self.sets)]), int(k % len(self.sets))) for k in found]

    def _row(self, i: int, j: int) -> dict[str, Any]:
        low, high = (None, None) if self.random is None else self.random[j].tolist()
        return {
            "feature_id": self.features[i], "set": self.sets[j], "group": self.groups[j], "size": self.sizes[j],
            "es": float(self.es[i, j]), "random_low": low, "random_high": high, "nes": float(self.nes[i, j]),
            "p": float(self.p[i, j]), "q": float(self.q[i, j]),
            f"p_{self._other}": None if self.beside is None else float(self.beside[i, j]),
        }  # fmt: skip

    # -- to look at -----------------------------------------------------------------------------------

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: how many pass, beside random directions, and the rows with the smallest q.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(row, widths) for row in cells]
        more = [self._more] if self._more else []
        return "\n".join([bold(self._heading, wants_color(color)), *self._shares, "", *lines, *more])

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page.

        Args:
            level: Of its heading.
            links: Where features are shown on the same page.
            element_id: Id of the outermost element.
        """
        anchor = f' id="{element_id}"' if element_id else ""
        head, *rows = self._cells()
        titles = "".join(f'<th scope="col">{escaped(cell)}</th>' for cell in head)
        body = "".join(
            f"<tr><td>{feature_link(self.sae_name, int(first), links)}</td>"
            + "".join(f"<td>{escaped(cell)}</td>" for cell in rest)
            + "</tr>"
            for first, *rest in rows
        )
        shares = "".join(f"<p>{escaped(line)}</p>" for line in self._shares)
        return (
            f'<section class="mxt-panel"{anchor} aria-label="Enrichment"><h{level} class="mxt-title">'
            f'{escaped(self._heading)}</h{level}>{shares}<table class="mxt-t"><thead><tr>{titles}</tr></thead>'
            f'<tbody>{body}</tbody></table><div class="mxt-foot">{escaped(self._more)}</div></section>'
        )

    def _drawn(self, show: bool) -> Figure:
        figure = new_figure(max(6.0, 2.0 + 0.24 * len(self.sets)), 5.0, show)
        axes = figure.subplots()
        aside = np.linspace(-0.3, 0.3, len(self.features)) if len(self.features) > 1 else np.zeros(1)
        if self.beside is not None:
            x = np.arange(len(self.sets)) + aside[:, None]
            axes.plot(
                x.ravel(), -np.log10(self.beside).ravel(), ".", color="0.8", markersize=3,
                label=f"p by {_CALLED[self._other].partition(' (')[0]}",
            )  # fmt: skip
        for k, group in enumerate(dict.fromkeys(self.groups)):
            places = np.array([j for j, one in enumerate(self.groups) if one == group])
            x, y = places + aside[:, None], -np.log10(self.p[:, places])
            counts = self.q[:, places] < LEVEL
            marks: dict[str, Any] = {"color": f"C{k % 10}", "linestyle": "none", "markersize": 5}
            axes.plot(x[~counts], y[~counts], marker="o", fillstyle="none", markeredgewidth=0.6, **marks)
            axes.plot(x[counts], y[counts], marker="o", label=group, **marks)
        axes.axhline(-np.log10(LEVEL), color="black", linewidth=0.6, linestyle=":")
        axes.set_xticks(range(len(self.sets)), [name.replace("$", r"\$") for name in self.sets], rotation=90)
        axes.set_ylabel(f"-log10 p by {_CALLED[self.null].partition(' (')[0]}")
        axes.set_title(f"{self._title()}: filled where q < {LEVEL:g}")
        figure.legend(fontsize=8, ncols=4, loc="outside lower center")
        return figure

    def __repr__(self) -> str:
        return f"<Enrichment of {len(self.features)} features by {len(self.sets)} sets: {self.passing}>"

    def _title(self) -> str:
        return "Token-set enrichment"

    @property
    def _other(self) -> Null:
        return "tokens" if self.null == "directions" else "directions"

    @property
    def _heading(self) -> str:
        features = f"{len(self.features)} feature{'' if len(self.features) == 1 else 's'}"
        return (
            f"Token-set enrichment of {features} of {self.sae_name} by {len(self.sets)} sets; null: {self.n}"
            f" {_CALLED[self.null]}"
        )

    @property
    def _shares(self) -> list[str]:
        lines = [f"features with a set at q < {LEVEL:g}: {self.passing}"]
        lines += [f"pairs with p < {LEVEL:g} by {_CALLED[null]}: {self.pairs[null]}" for null in self.pairs]
        return lines

    @property
    def _more(self) -> str:
        left = self.q.size - min(self.q.size, _SHOWN)
        return f"{left} more rows: .table, .of(feature)" if left else ""

    def _cells(self) -> list[list[str]]:
        """The table's head and its first rows."""
        rows = [["feature", "set", "tokens", "ES", "random 95 %", "NES", "p", "q", f"p by {self._other}"]]
        for i, j in self._order(np.arange(len(self.features)))[:_SHOWN]:
            row = self._row(i, j)
            low, high, other = row["random_low"], row["random_high"], row[f"p_{self._other}"]
            rows.append([
                str(row["feature_id"]), one_line(row["set"]), str(row["size"]), f"{row['es']:+.3f}",
                "left out" if low is None else f"{low:+.2f} … {high:+.2f}", f"{row['nes']:+.2f}", f"{row['p']:.2g}",
                f"{row['q']:.2g}", "left out" if other is None else f"{other:.2g}",
            ])  # fmt: skip
        return rows


@names_options
def enrichment(
    model: Model, sae: SAE, features: Feature | Sequence[Feature], sets: TokenSets | Mapping[str, Any], *,
    weight: float = 1.0, null: Null = "directions", n: int | None = None, control: bool = True,
    component: str | None = None, seed: int = 0,
) -> Enrichment:  # fmt: skip
    """Which sets of tokens features promote (score above 0) or suppress (below), against a null.

    Args:
        model: An `InterpretableModel`.
        features: Ids of features, or what a search returned.
        sets: `TokenSets`, or a dictionary for `TokenSets.of` with the model's tokenizer.
        weight: Exponent of |logit| in the running sum, at most 10; 0 counts a set's tokens alike.
        null: "directions": the same set by random directions with the covariance of the decoder's rows. "tokens":
            random sets of the same size by the same feature, the usual permutation test; random directions pass it far
            more often than its p says, and `pairs` shows how often.
        n: Draws of the null, at least 20; None takes 80 for each set, at least 1000.
        control: Whether random directions are tested too, and the other null (by 200 draws, if it is "tokens") shown
            beside this one.
        component: What the SAE reconstructs; None takes what its metadata says.
        seed: Of the first draw.

    Raises:
        UnknownFeatureError: One of the features is none of the SAE's.
        InputError: A feature's decoder row is zero, the sets are of another tokenizer, an argument is out of its
            range, or nothing says where the SAE writes.
        SAEError: A decoder row is not finite, or the place does not reach the residual stream by a linear map.

    Examples:
        >>> from mlxterp import geometry
        >>> sets = {"-ing": r"ing$", "names": ["Tom", "Lily", "Ben", "Anna"]}
        >>> found = geometry.enrichment(model, sae, [ball, 7], sets, n=200)
        >>> found.es.shape, sorted(row["set"] for row in found.of(ball))
        ((2, 2), ['-ing', 'names'])
    """
    session = session_of(model)
    check_feature(sae, 0)
    ids = feature_ids(features, sae.d_hidden, "features")
    _check_rows(sae, ids)
    if not isinstance(sets, TokenSets):
        sets = TokenSets.of(session.tokenizer, sets)
    anatomy = session.plain
    _check_sets(sets, anatomy.model.vocab_size)
    weight = checks.finite(weight, "weight", 0.0, _LARGEST_WEIGHT)
    null = checks.choice(null, "null", NULLS)
    control, seed = checks.flag(control, "control"), checks.seed(seed)
    draws = max(_LEAST, _PER_SET * len(sets)) if n is None else checks.count(n, "n", DRAWS)

    asked = NULLS if control else (null,)
    test = SetTest(anatomy, sae, sets, weight, component, seed)
    rows = test.random_rows(draws)
    chance = test.scores(rows) if "directions" in asked else None
    shuffles = draws if null == "tokens" else _BESIDE
    es, tested = test.run(sae.W_dec[ids], chance, shuffles if "tokens" in asked else 0)
    by_chance: dict[Null, np.ndarray] = {}  # p of random directions
    if control and chance is not None:
        by_chance["directions"] = np.stack([significance_of_null(column) for column in chance.T], axis=1)
        by_chance["tokens"] = test.run(rows[:DRAWS], None, shuffles)[1]["tokens"][1]
    nes, p = tested[null]
    return Enrichment(
        features=tuple(ids), sets=tuple(sets), groups=tuple(sets.groups[name] for name in sets),
        sizes=tuple(len(members) for members in sets.values()), es=es, nes=nes, p=p, q=benjamini_hochberg(p), null=null,
        beside=next((found for other, (_, found) in tested.items() if other != null), None),
        random=None if chance is None else np.quantile(chance, [0.025, 0.975], axis=0).T,
        pairs={one: _share(_pairs, tested[one][1], by_chance.get(one), seed) for one in asked},
        passing=_share(_passing, p, by_chance.get(null), seed), weight=weight, n=draws, sae_name=repr(sae), seed=seed,
    )  # fmt: skip


def _share(
    statistic: Callable[[np.ndarray], np.ndarray], p: np.ndarray, by_chance: np.ndarray | None, seed: int
) -> Controlled:
    """Mean of a statistic of features' p, beside that of groups of as many random directions."""
    own, groups, kind = statistic(p), np.empty(0), ""
    if by_chance is not None:
        groups = group_means(statistic(by_chance), len(own), seed=seed)
        kind = f"of {len(by_chance)} random directions, covariance"
    interval = bootstrap(own, seed=seed) if len(own) > 1 else None
    return Controlled(float(own.mean()), interval, groups, kind, seed)


def _pairs(p: np.ndarray) -> np.ndarray:
    """Share of the sets that each direction passes by p."""
    return (p < LEVEL).mean(axis=1)


def _passing(p: np.ndarray) -> np.ndarray:
    """Whether each direction passes a set by q."""
    return benjamini_hochberg(p).min(axis=1) < LEVEL


def _check_rows(sae: SAE, ids: Sequence[int]) -> None:
    zero = [i for i in ids if not sae.W_dec[i].any()]
    if zero:
        raise InputError(
            f"The decoder row of feature {_some(zero)} is zero, so it writes nothing. Leave dead features out."
        )


def _check_sets(sets: TokenSets, vocab_size: int) -> None:
    if not len(sets):
        raise InputError("There are no sets. TokenSets.standard(model.tokenizer) has some.")
    if len(sets.texts) > vocab_size:
        raise InputError(
            f"The sets are of a tokenizer of {len(sets.texts)} tokens, and the model's vocabulary has {vocab_size}."
            " Make them with model.tokenizer."
        )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A row of the table: the set's name to the left, the rest to the right."""
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    padded[1] = cells[1].ljust(widths[1])
    return "  ".join(padded)


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:_SHOWN])) + (" …" if len(ids) > _SHOWN else "")
