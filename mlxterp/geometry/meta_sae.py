"""`MetaSAE`: what an SAE's features are made of, in parts that features share: what `train_meta_sae` gives.

After Bussmann, Leask et al., "Showing SAE Latents Are Not Atomic Using Meta-SAEs" (2024; arXiv 2502.04878). Variance
is given on rows that were held out, beside rows that share nothing with the features but their covariance: at the
sizes of a laptop both often explain as much, and then the meta-latents are no finding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, MOST_DRAWS, Controlled
from ..core.feature_ids import Feature, feature_id, named_feature
from ..core.integers import is_listable
from ..core.options import checks_options
from ..core.sparse import SparseFeatures
from ..errors import InputError
from ..sae import SAE
from ..steering.vectors import SteeringVector
from ..viz.lines import LinesView, Table
from .meta_pairs import Pairs, SharedPairs, shared_pairs

_SHOWN, _MEMBERS = 10, 6


@checks_options
@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class MetaSAE(LinesView):
    """What features are made of; made by `train_meta_sae`. `print` and notebooks show the largest meta-latents.

    A feature's unit row is `sae.b_dec + sum of weight × sae.W_dec[meta] + residual`.

    Attributes:
        sae: The meta-SAE: of width d_out, with a feature for each meta-latent, whose rows have length 1.
        rows: float32, (features, width): decoder rows of length 1; zeros for dead features.
        norms: float64, (features,): length of each decoder row.
        codes: Meta-latents of every feature, those left out of training too.
        component: Path of the component that the features write to; None where that is not known.
        explained_variance: Share of variance explained on the rows held out, after `control_epochs` epochs, beside
            covariance-matched rows; 95 % interval over held-out rows.
        held_out_variance: The same of `sae`, trained to the end.
        train_variance: The same on the rows it was trained on, which says little.
        epochs: Of `sae`.
        control_epochs: Of the runs that `explained_variance` compares.
        held_out: int64: features that training did not see, ascending.
        dead: Features with a row of zeros: left out, and without meta-latents.
        copies: Features with the direction of an earlier one: left out of training and of the rows held out.
        seed: Of everything.
    """

    sae: SAE
    rows: np.ndarray
    norms: np.ndarray
    codes: SparseFeatures
    component: str | None
    explained_variance: Controlled
    held_out_variance: float
    train_variance: float
    epochs: int
    control_epochs: int
    held_out: np.ndarray
    dead: tuple[int, ...]
    copies: tuple[int, ...]
    seed: int

    @property
    def l0(self) -> float:
        """Meta-latents of a feature, on average over those that are not dead."""
        return len(self.codes.indices) / max(1, self.codes.n - len(self.dead))

    def decompose(self, feature: Feature) -> list[tuple[int, float]]:
        """Meta-latents of a feature, the heaviest first: (meta-latent, weight of its unit row).

        Raises:
            UnknownFeatureError: There is no such feature.
            InputError: It is dead: its row is zero.
        """
        ids, weights = self.codes.row(self._feature(feature))
        return _ranked(ids, weights)

    def members(self, meta: Feature) -> list[tuple[int, float]]:
        """Features that have a meta-latent, the heaviest first: (feature, weight of its unit row).

        Raises:
            UnknownFeatureError: There is no such meta-latent.
        """
        ids, weights = self.codes.transpose().row(self._meta(meta))
        return _ranked(ids, weights)

    def residual(self, feature: Feature) -> np.ndarray:
        """float32, (width,): what no meta-latent explains of a feature's unit row.

        Raises:
            UnknownFeatureError: There is no such feature.
            InputError: It is dead.
        """
        return self._off(self._feature(feature))

    def explained(self, feature: Feature) -> float:
        """Share of a feature's unit row, around the mean row, that its meta-latents explain: 1 - |residual|² / |row|².

        Raises:
            UnknownFeatureError: There is no such feature.
            InputError: It is dead.
        """
        feature = self._feature(feature)
        around = self.rows[feature].astype(np.float64) - self.sae.b_dec
        return 1 - float(np.sum(self._off(feature).astype(np.float64) ** 2) / max(around @ around, 1e-20))

    def without(self, feature: Feature, meta: Feature) -> SteeringVector:
        """A feature's decoder row, in its own length, less what one meta-latent adds to it.

        Steering with it does what the feature does but for that part: everything else of the row stays.

        Raises:
            UnknownFeatureError: There is no such feature or meta-latent.
            InputError: The feature is dead or does not have that meta-latent, or directions were given instead of an
                SAE, so that no component is known.
        """
        feature, meta = self._feature(feature), self._meta(meta)
        weights = dict(self.decompose(feature))
        if meta not in weights:
            has = ", ".join(map(str, weights)) or "none"
            raise InputError(f"Feature {feature} has no part of meta-latent {meta}; it has: {has}.")
        if self.component is None:
            raise InputError(
                "No component is known to steer at: train_meta_sae(sae) of an SAE whose metadata name one knows it."
            )
        row = self.rows[feature].astype(np.float64) - weights[meta] * self.sae.W_dec[meta].astype(np.float64)
        facts = {"method": "meta_sae.without", "feature": feature, "meta": meta, "weight": weights[meta]}
        return SteeringVector(self.component, row * self.norms[feature], facts)

    def label(self, meta: Feature, labels: Mapping[Any, Any] | Iterable[str], n: int = 3) -> str:
        """Words that the labels of a meta-latent's members have and others lack, joined by commas; "" without labels.

        A word counts by the members' share of weight whose labels hold it, less the share of all labelled features
        whose labels do; words that are above 0, at most `n` of them.

        Args:
            labels: By feature: a dictionary of names, a `FeatureRegistry`, or a list with one for each feature.

        Raises:
            UnknownFeatureError: There is no such meta-latent.
            InputError: `labels` is something else.
        """
        named, n = _words(labels), checks.count(n, "n")
        everywhere = Counter(word for words in named.values() for word in words)
        here: Counter[str] = Counter()
        members = [(f, weight) for f, weight in self.members(meta) if f in named]
        whole = sum(weight for _, weight in members)
        for feature, weight in members:
            here.update(dict.fromkeys(named[feature], weight / whole))
        gain = {word: part - everywhere[word] / len(named) for word, part in here.items()}
        best = sorted((word for word in gain if gain[word] > 0), key=lambda word: (-gain[word], word))
        return ", ".join(best[:n])

    def shared(self, pairs: Pairs, *, control: bool = True, draws: int = DRAWS, seed: int = 0) -> SharedPairs:
        """How many pairs of features have a meta-latent in common, beside other pairs.

        Asked of children of one parent, it tests whether what splits off keeps a part in common. The excess over
        pairs with the same cosine is what counts: alike rows share meta-latents in any case.

        Args:
            pairs: Pairs of features, or {parent: its children}, whose pairs are taken. Dead features are passed over.
            control: Whether to compare with random and cosine-matched pairs.
            draws: Of each, at least 20.

        Raises:
            UnknownFeatureError: There is no such feature.
            InputError: No pair of two features is left.
        """
        draws = checks.count(draws, "draws", DRAWS, MOST_DRAWS) if checks.flag(control, "control") else 0
        return shared_pairs(self.codes, self.rows, pairs, draws, checks.seed(seed))

    # -- shown --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<{self._lines[0]}>"

    def _title(self) -> str:
        return "Meta-SAE"

    @property
    def _lines(self) -> list[str]:
        left = [f"{len(ids)} {name}" for ids, name in ((self.dead, "dead"), (self.copies, "copies")) if ids]
        out = f" ({', '.join(left)} left out)" if left else ""
        verdict = {
            True: "above the control", None: "no control to compare with",
            False: "not above the control: these meta-latents are no finding",
        }  # fmt: skip
        return [
            f"Meta-SAE of {len(self.rows)} features{out}: {self.sae.d_hidden} meta-latents, {self.l0:.1f} of a feature",
            f"variance explained on {len(self.held_out)} held-out rows: {self.explained_variance}:"
            f" {verdict[self.explained_variance.stands_out]}",
            f"trained to the end ({self.epochs} epochs): held-out {self.held_out_variance:.3f},"
            f" trained rows {self.train_variance:.3f}",
        ]

    @property
    def _tables(self) -> list[Table]:
        by_meta = self.codes.transpose()
        counts = np.diff(by_meta.indptr)
        found = []
        for meta in np.argsort(-counts, kind="stable")[:_SHOWN].tolist():
            members = _ranked(*by_meta.row(meta))[:_MEMBERS]
            found.append([str(meta), str(counts[meta]), ", ".join(f"{f} ({w:.2f})" for f, w in members)])
        return [Table(_HEADS, found)]

    # -- helpers ------------------------------------------------------------------------------

    def _feature(self, given: Feature) -> int:
        feature = feature_id(given, len(self.rows))
        if not self.norms[feature]:
            raise InputError(
                f"Feature {feature} is dead: its decoder row is zero, so it has no meta-latents."
            )
        return feature

    def _meta(self, given: Feature) -> int:
        return feature_id(given, self.sae.d_hidden, whose="this meta-SAE")

    def _off(self, feature: int) -> np.ndarray:
        ids, weights = self.codes.row(feature)
        return self.rows[feature] - self.sae.b_dec - weights @ self.sae.W_dec[ids]


_HEADS = ("meta-latent", "members", "heaviest members (weight)")


def _ranked(ids: np.ndarray, weights: np.ndarray) -> list[tuple[int, float]]:
    order = np.lexsort((ids, -np.abs(weights)))
    return [(int(ids[i]), float(weights[i])) for i in order]


def _words(labels: Any) -> dict[int, frozenset[str]]:
    """Lower-case words of every label, by feature; features without a label are left out."""
    if isinstance(labels, Mapping):
        pairs: Iterable[tuple[Any, Any]] = labels.items()
    elif is_listable(labels):
        pairs = enumerate(labels)
    else:
        raise InputError(
            f"labels is {type(labels).__name__}; expected {{feature: label}}, or a list of labels."
        )
    found = {}
    for feature, label in pairs:
        text = label.get("name") if isinstance(label, Mapping) else label
        if (known := named_feature(feature)) is None:
            raise InputError(f"labels has the key {feature!r}; expected the numbers of features.")
        if text is not None and not isinstance(text, str):
            raise InputError(f"The label of feature {feature} is {text!r}; expected a text.")
        if words := re.findall(r"\w+", (text or "").lower()):
            found[known] = frozenset(words)
    return found
