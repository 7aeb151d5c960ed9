"""`sae.probe`: how much of a labelled distinction a few features of an SAE hold, beside probes of the whole activation.

k-sparse probing as in sae-probes (Kantamneni et al. 2025): the k features whose mean differs most between the classes,
a logistic probe of them, its strength of regularisation chosen by the AUC on held-out training rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.controls import DRAWS, MOST_DRAWS, Controlled, bootstrap
from ..core.frames import data_frame
from ..core.integers import is_listable
from ..core.options import checks_options, names_options
from ..core.progress import hidden
from ..core.sparse import SparseFeatures
from ..errors import InputError
from ..sae import SAE
from ..sae.adapt import place_of
from ..viz.lines import LinesView, Table
from .labelled_sets import LabelledSet, labelled_set, named_sets
from .probe_fits import Fitted, chosen_fit, fitted_at

KS = (1, 2, 4, 8, 16, 32)


@names_options
def sparse_probe(
    sae: SAE, datasets: Any, model: Model | None = None, *, ks: Sequence[int] | None = None,
    component: str | None = None, position: int = -1, draws: int = DRAWS, seed: int = 0, batch_tokens: int = 8192,
    verbose: bool = True,
) -> SparseProbing:  # fmt: skip
    """Fits probes of k features, of the whole activation, of the classes' means and of random features.

    Features are ranked by the difference of their means between the classes, in units of their mean where active. The
    control takes k features at random, of those that are active on a row that is fitted, with the same regularisation.

    Args:
        sae: Whose features are probed.
        datasets: {name: set}, one set, a table (CSV, also compressed, or Parquet) or a folder of tables. A set is
            (texts, labels), a DataFrame or mapping with the columns "prompt" or "text" and "target" or "label", or
            (texts, labels, texts to test, their labels). Activations (n, d_model) stand for texts. Labels are of two
            classes; the greater one is the positive one. What is not split is: three tenths of each class are tested,
            at most 1,024 rows are fitted.
        model: An `InterpretableModel`; None where activations are given.
        ks: Numbers of features; None takes 1, 2, 4, 8, 16 and 32, or those of them that the SAE has.
        component: Where texts are read; None takes the SAE's own place.
        position: Which token of each text is read; negative ones count from its end.
        draws: Of random features, at least 20.
        seed: Of splits and draws.
        batch_tokens: Tokens that run together, about.
        verbose: Show progress.

    Raises:
        InputError: A set that is none (see `datasets`), texts without a model, or a k beyond the features.
        BackendError: scikit-learn is not installed.

    Examples:
        >>> animals = [f"He saw a {one}" for one in ("dog", "cat", "bird", "fish", "bear", "frog", "duck", "lion")]
        >>> things = [f"He saw a {one}" for one in ("car", "box", "ball", "book", "cup", "hat", "boat", "tree")]
        >>> found = sae.probe({"animals": (animals + things, [1] * 8 + [0] * 8)}, model, ks=[1, 4], verbose=False)
        >>> [row.k for row in found.sets[0].by_k]
        [1, 4]
    """
    from tqdm.auto import tqdm

    asked = [k for k in KS if k <= sae.d_hidden] if ks is None else ks if is_listable(ks) else [ks]
    ks = tuple(sorted({checks.count(k, "ks", most=sae.d_hidden) for k in asked}))
    if not ks:
        raise InputError("ks is empty; expected numbers of features, such as [1, 4, 16].")
    draws, seed = checks.count(draws, "draws", DRAWS, MOST_DRAWS), checks.seed(seed)
    position, batch_tokens = checks.integer(position, "position"), checks.count(batch_tokens, "batch_tokens")
    place = None
    if model is not None:
        place = place_of(session_of(model).anatomy, sae, component=component).name
    named = named_sets(datasets)
    found = []
    for name in tqdm(list(named), desc="sparse probing", unit="set", disable=hidden(verbose)):
        given = labelled_set(name, named[name], model, place, sae.d_model, position, seed, batch_tokens)
        found.append(_ProbedRows(sae, given, draws, seed).all(ks))
    return SparseProbing(place or sae.component or "", tuple(found), ks, draws, seed)


class _ProbedRows:
    """Codes of one set, ranked once, and what is fitted to them."""

    def __init__(self, sae: SAE, given: LabelledSet, draws: int, seed: int):
        self.given, self.draws, self.seed = given, draws, seed
        self.codes, self.test_codes = sae.encode_sparse(given.x), sae.encode_sparse(given.x_test)
        self.ranked = ranked_features(self.codes, given.y)
        self.active = np.unique(self.codes.indices)

    def all(self, ks: Sequence[int]) -> ProbedSet:
        given = self.given
        largest = max(given.y_test.mean(), 1 - given.y_test.mean())
        return ProbedSet(
            name=given.name, classes=given.classes, n_fitted=len(given.y), n_tested=len(given.y_test),
            chance=float(largest), by_k=tuple(self.of(k) for k in ks),
            dense=chosen_fit(given.x, given.y, given.x_test, given.y_test), means=means_probe(given),
        )  # fmt: skip

    def of(self, k: int) -> KProbe:
        given, features = self.given, self.ranked[:k]
        fit = chosen_fit(
            self.codes.columns(features), given.y, self.test_codes.columns(features), given.y_test
        )
        drawn = np.array([self._random(k, fit.C, i) for i in range(self.draws)])
        right = (fit.says == given.y_test).astype(float)
        accuracy = Controlled(
            fit.accuracy, bootstrap(right, seed=self.seed), drawn, "random active features", self.seed
        )
        return KProbe(k, accuracy, fit, features)

    def _random(self, k: int, C: float, draw: int) -> float:
        rng = np.random.default_rng([self.seed, k, draw])
        features = rng.choice(self.active, min(k, len(self.active)), replace=False)
        given = self.given
        return fitted_at(
            C, self.codes.columns(features), given.y, self.test_codes.columns(features), given.y_test
        ).accuracy


def ranked_features(codes: SparseFeatures, labels: np.ndarray) -> np.ndarray:
    """int64 (d_hidden,): features by the difference of their means between classes, largest first.

    Each is in units of its mean size where it is active, as in sae-probes. Equal ones, to a millionth of the
    largest, stand in the order of their ids.

    Args:
        codes: Of the rows that are fitted.
        labels: bool, (rows,).
    """
    sums = np.zeros((2, codes.d_hidden))
    of = labels[codes.row_ids].astype(np.int64)
    np.add.at(sums, (of, codes.indices), codes.values)
    sizes = np.bincount(codes.indices, np.abs(codes.values), codes.d_hidden)
    counts = np.bincount(codes.indices, codes.values != 0, codes.d_hidden)
    typical = sizes / (counts + 1e-6) + 1e-6
    n = np.array([(~labels).sum(), labels.sum()])[:, None]
    means = sums / n / typical
    apart = np.abs(means[1] - means[0])
    return np.argsort(-np.round(apart / (apart.max() or 1), 6), kind="stable")


def means_probe(given: LabelledSet) -> Fitted:
    """The direction between the classes' means, and the threshold halfway: a probe without any fitting."""
    means = [given.x[given.y == of].astype(np.float64).mean(axis=0) for of in (False, True)]
    direction = means[1] - means[0]
    score = given.x_test @ direction - (means[0] + means[1]) @ direction / 2
    return Fitted.of(score, score > 0, given.y_test, float("nan"), float("nan"))


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class KProbe:
    """A probe of k features.

    Attributes:
        k: Their number.
        accuracy: On the tested rows, with a 95 % interval over them, beside probes of k random active features.
        fit: AUC, F1, the AUC by which C was chosen, and C.
        features: int64, (k,): the features, the most telling first.
    """

    k: int
    accuracy: Controlled
    fit: Fitted
    features: np.ndarray

    def __repr__(self) -> str:
        return f"<KProbe of {self.k}: accuracy {self.accuracy.value:.3f}>"


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class ProbedSet:
    """What probes know of one set.

    Attributes:
        name: Of the set.
        classes: The negative and the positive one.
        n_fitted: Rows that were fitted.
        n_tested: Rows that were tested.
        chance: Share of the larger class among the tested rows.
        by_k: A probe for each k.
        dense: The probe of the whole activation.
        means: The classes' means and the threshold halfway between them.
    """

    name: str
    classes: tuple[str, str]
    n_fitted: int
    n_tested: int
    chance: float
    by_k: tuple[KProbe, ...]
    dense: Fitted
    means: Fitted

    def __repr__(self) -> str:
        return f"<ProbedSet {self.name}: {self.n_fitted} rows fitted, {self.n_tested} tested>"


@checks_options
@dataclass(frozen=True, eq=False, slots=True, repr=False)
class SparseProbing(LinesView):
    """k-sparse probes of labelled sets; made by `sae.probe`.

    Attributes:
        component: Where activations were read; "" where they were given and the SAE does not say.
        sets: What was found for each set.
        ks: Numbers of features.
        draws: Of the control.
        seed: Of splits and draws.
        means: {k: mean accuracy over the sets, with an interval over them, beside random features}.
    """

    component: str
    sets: tuple[ProbedSet, ...]
    ks: tuple[int, ...]
    draws: int
    seed: int

    means: dict[int, Controlled] = field(init=False)

    def __post_init__(self) -> None:
        found = {}
        for i, k in enumerate(self.ks):
            values = np.array([one.by_k[i].accuracy.value for one in self.sets])
            control = np.mean([one.by_k[i].accuracy.control for one in self.sets], axis=0)
            interval = (
                bootstrap(values, seed=self.seed)
                if len(values) > 1
                else self.sets[0].by_k[i].accuracy.interval
            )
            found[k] = Controlled(
                float(values.mean()), interval, control, "random active features", self.seed
            )
        object.__setattr__(self, "means", found)

    def __repr__(self) -> str:
        return f"<SparseProbing: {len(self.sets)} sets, k {', '.join(map(str, self.ks))}>"

    def to_pandas(self) -> Any:
        """A row for each set and k: accuracy with its interval and its control's, AUC, F1, and the dense probes'.

        Raises:
            BackendError: pandas is not installed.
        """
        rows = [(one, probe) for one in self.sets for probe in one.by_k]
        numbers = [probe.accuracy for _, probe in rows]
        return data_frame(
            {
                "dataset": [one.name for one, _ in rows], "k": [probe.k for _, probe in rows],
                "accuracy": [n.value for n in numbers],
                "low": [n.interval[0] if n.interval else np.nan for n in numbers],
                "high": [n.interval[1] if n.interval else np.nan for n in numbers],
                "random_features": [n.control_mean for n in numbers],
                "auc": [probe.fit.auc for _, probe in rows], "f1": [probe.fit.f1 for _, probe in rows],
                "val_auc": [probe.fit.val_auc for _, probe in rows],
                "dense_accuracy": [one.dense.accuracy for one, _ in rows],
                "dense_auc": [one.dense.auc for one, _ in rows],
                "means_accuracy": [one.means.accuracy for one, _ in rows],
                "chance": [one.chance for one, _ in rows],
                "n_fitted": [one.n_fitted for one, _ in rows], "n_tested": [one.n_tested for one, _ in rows],
            }
        )  # fmt: skip

    def _title(self) -> str:
        return "k-sparse probing"

    @property
    def _lines(self) -> list[str]:
        dense, means, chance = np.mean(
            [(one.dense.accuracy, one.means.accuracy, one.chance) for one in self.sets], axis=0
        )
        over = f" over {len(self.sets)} sets" if len(self.sets) > 1 else ""
        return [
            f"Probes of k features{f' at {self.component}' if self.component else ''}: accuracy on held-out rows{over}",
            *(
                f"k = {k}: {found}" + ("" if found.stands_out else " (no more than random features)")
                for k, found in self.means.items()
            ),
            f"whole activation {dense:.3f}, the classes' means {means:.3f}, the larger class {chance:.3f}",
            "In the table * is what random features reach too; their column is of the largest k.",
        ]

    @property
    def _tables(self) -> list[Table]:
        heads = (
            "set",
            "fitted",
            "tested",
            *(f"k={k}" for k in self.ks),
            "random",
            "dense",
            "means",
            "chance",
        )
        rows = [
            (
                one.name, str(one.n_fitted), str(one.n_tested),
                *(f"{p.accuracy.value:.2f}{'' if p.accuracy.stands_out else '*'}" for p in one.by_k),
                f"{one.by_k[-1].accuracy.control_mean:.2f}", f"{one.dense.accuracy:.2f}", f"{one.means.accuracy:.2f}",
                f"{one.chance:.2f}",
            )
            for one in self.sets
        ]  # fmt: skip
        return [Table(heads, rows)]
