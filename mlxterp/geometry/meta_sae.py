"""`train_meta_sae`: an SAE of another SAE's decoder rows, which says what its features are made of.

After Bussmann, Leask et al., "Showing SAE Latents Are Not Atomic Using Meta-SAEs" (2024; arXiv 2502.04878). Variance
is given on rows that were held out, beside rows that share nothing with the features but their covariance: at the
sizes of a laptop both often explain as much, and then the meta-latents are no finding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap, matrix, random_like
from ..core.feature_ids import Feature, feature_id
from ..core.options import checks_options, names_options
from ..core.progress import hidden
from ..core.sparse import SparseFeatures
from ..errors import InputError, warn
from ..sae import SAE
from ..steering.vectors import SteeringVector
from ..training import SAETrainConfig, train_sae
from ..viz.lines import LinesView, Table
from .meta_pairs import Pairs, SharedPairs, shared_pairs

STEPS, LEAST_EPOCHS, CONTROL_SHARE = 300, 16, 1 / 2
"""Of the meta-SAE about so many steps, at least so many epochs; the share of them in runs that are compared."""
_BATCH, _WIDE_BATCH, _MANY = 256, 1024, 16_384
"""Rows of a step, and from how many rows on it is the second."""
_FEWEST = 20
_SAME = 1e-5
"""Unit rows as near as this are one row."""
_SHOWN, _MEMBERS = 10, 6


@names_options
def train_meta_sae(
    sae: SAE | Any, d_hidden: int | None = None, k: int = 4, *, holdout: float = 0.1, epochs: int | None = None,
    control: bool = True, draws: int = DRAWS, control_epochs: int | None = None, seed: int = 0,
    backend: str | None = None, verbose: bool = True,
) -> MetaSAE:  # fmt: skip
    """Trains a BatchTopK SAE on an SAE's decoder rows, each scaled to length 1.

    Its features are meta-latents, of which a feature has about k. The share of variance that they explain on the
    rows held out is compared with that on covariance-matched random rows: runs of `control_epochs` epochs, one on the
    features and `draws` on random rows, alike in everything else. The meta-SAE itself is trained for `epochs`.

    Args:
        sae: An SAE, or directions (n, width). Rows of zeros (dead features) and copies of an earlier row are left
            out, with a warning; a meta-SAE needs 20 others.
        d_hidden: Number of meta-latents; None takes a quarter of the rows, rounded up.
        k: Meta-latents active on a row, on average.
        holdout: Share of rows that training does not see, in (0, 1).
        epochs: None makes about 300 steps of 256 rows (of 1024, from 16,384 rows on), and at least 16 epochs. More
            explain the trained rows better and, where rows are few, those held out worse.
        control: Whether random rows are trained on too.
        draws: Of them, at least 20.
        control_epochs: None is half of `epochs`.
        seed: Of the rows held out, of training and of the first draw.
        verbose: Show a bar of the control's runs where the output is a terminal.

    Raises:
        InputError: Too few rows, a row that is not finite, more meta-latents than rows to train on, or a setting
            that cannot be.
        SAEError: k is larger than d_hidden.

    Examples:
        >>> from mlxterp import geometry
        >>> meta = geometry.train_meta_sae(sae.W_dec[:200], 32, epochs=2, control=False)
        >>> len(meta.rows), meta.sae.d_hidden
        (200, 32)
    """
    given = matrix(sae.W_dec if isinstance(sae, SAE) else sae, "The directions").astype(np.float64)
    holdout = checks.finite(holdout, "holdout", above=0.0, below=1.0)
    epochs, short = (
        checks.count_or_none(n, name) for n, name in ((epochs, "epochs"), (control_epochs, "control_epochs"))
    )
    control, draws = checks.flag(control, "control"), checks.count(draws, "draws", DRAWS)
    seed = checks.seed(seed)
    norms = np.linalg.norm(given, axis=1)
    rows = (given / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
    dead, copies = np.flatnonzero(norms == 0), _copies(rows, norms)
    used = np.setdiff1d(np.arange(len(rows)), np.concatenate([dead, copies]))
    _tell(dead, copies)
    train, held = _split(used, holdout, seed)
    d_hidden = checks.count_or_none(d_hidden, "d_hidden") or -(-len(used) // 4)
    _check_size(len(train), d_hidden)
    runs = _Runs(train, held, d_hidden, k, seed, backend)
    epochs = epochs or max(LEAST_EPOCHS, round(STEPS * runs.batch / len(train)))
    short = short or max(1, round(CONTROL_SHARE * epochs))
    meta = runs.trained(rows, epochs)
    compared, kind = meta, "covariance-matched rows"
    found = np.zeros(0)
    if control:
        compared = meta if short == epochs else runs.trained(rows, short)
        found = runs.on_random(rows, used, short, draws, verbose)
        kind += f", {short} epochs each, as for the value"
    parts = unexplained(compared, rows[held])
    variance = Controlled(share(parts), bootstrap(parts, share, seed=seed), found, kind, seed)
    return MetaSAE(
        sae=meta, rows=rows, norms=norms, codes=meta.encode_sparse(rows), component=_written(sae),
        explained_variance=variance, held_out_variance=share(unexplained(meta, rows[held])),
        train_variance=share(unexplained(meta, rows[train])), epochs=epochs,
        control_epochs=short if control else epochs, held_out=held, dead=tuple(dead.tolist()),
        copies=tuple(copies.tolist()), seed=seed,
    )  # fmt: skip


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

    def label(self, meta: Feature, labels: Mapping[Any, Any] | Sequence[str], n: int = 3) -> str:
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
        draws = checks.count(draws, "draws", DRAWS) if checks.flag(control, "control") else 0
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


# -- training -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Runs:
    """How each of the runs that are compared is made."""

    train: np.ndarray
    held: np.ndarray
    d_hidden: int
    k: int
    seed: int
    backend: str | None

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return min(_BATCH if len(self.train) < _MANY else _WIDE_BATCH, len(self.train))

    def trained(self, rows: np.ndarray, epochs: int) -> SAE:
        config = SAETrainConfig(
            d_hidden=self.d_hidden, k=self.k, architecture="batchtopk", batch_size=self.batch,
            epochs=epochs, seed=self.seed,
        )  # fmt: skip
        return train_sae(rows[self.train], config, self.backend, progress=False)

    def on_random(
        self, rows: np.ndarray, used: np.ndarray, epochs: int, draws: int, verbose: bool
    ) -> np.ndarray:
        """Variance explained on held-out rows of each draw of the control, float64 (draws,)."""
        from tqdm.auto import tqdm

        found = np.empty(draws)
        for i in tqdm(range(draws), desc="meta-SAE of random rows", unit="draw", disable=hidden(verbose)):
            random = np.zeros_like(rows)
            random[used] = random_like(rows[used], "covariance", (self.seed + i) % 2**64)
            found[i] = share(unexplained(self.trained(random, epochs), random[self.held]))
        return found


def unexplained(sae: SAE, rows: np.ndarray) -> np.ndarray:
    """float64, (rows, 2): squared error of each row's reconstruction, and its squared distance from their mean."""
    exact = rows.astype(np.float64)
    error = ((exact - np.asarray(sae.reconstruct(rows))) ** 2).sum(axis=1)
    return np.stack([error, ((exact - exact.mean(axis=0)) ** 2).sum(axis=1)], axis=1)


def share(parts: np.ndarray) -> float:
    """Share of variance explained, of what `unexplained` gives; NaN where there is no variance."""
    error, total = parts.sum(axis=0)
    return 1 - float(error / total) if total else float("nan")


def _copies(rows: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Rows of the direction of an earlier row, ascending.

    Equal rows lie together when all are sorted by where they lie along a random direction.
    """
    alive = np.flatnonzero(norms)
    exact = rows[alive].astype(np.float64)
    along = exact @ np.random.default_rng(0).normal(size=rows.shape[1]) / np.sqrt(rows.shape[1])
    order = np.argsort(along, kind="stable")
    found: list[np.ndarray] = []
    for shift in range(1, len(order)):
        near = np.flatnonzero(along[order[shift:]] - along[order[:-shift]] < _SAME)
        if not near.size:
            break
        one, other = order[near], order[near + shift]
        same = np.abs(exact[one] - exact[other]).max(axis=1) < _SAME
        found.append(np.maximum(one, other)[same])
    return alive[np.unique(np.concatenate([np.zeros(0, np.int64), *found]))]


def _tell(dead: np.ndarray, copies: np.ndarray) -> None:
    for ids, what in (
        (dead, "have a decoder row of zeros (dead)"),
        (copies, "have the direction of an earlier one"),
    ):
        if len(ids):
            shown = ", ".join(map(str, ids[:5])) + ", …" * (len(ids) > 5)
            warn(f"{len(ids)} features {what} and are left out of the meta-SAE's training: {shown}.")


def _split(used: np.ndarray, holdout: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out (at least two), both ascending."""
    if len(used) < _FEWEST:
        raise InputError(
            f"{len(used)} different rows that are not zero; a meta-SAE needs at least {_FEWEST}. Use a wider SAE."
        )
    mixed = np.random.default_rng([seed, 11]).permutation(used)
    n = min(max(2, round(holdout * len(used))), len(used) - 1)
    return np.sort(mixed[n:]), np.sort(mixed[:n])


def _check_size(rows: int, d_hidden: int) -> None:
    if d_hidden >= rows:
        raise InputError(
            f"d_hidden={d_hidden} meta-latents of {rows} rows to train on: each row could have its own, which says"
            " nothing. Ask for fewer, or hold out less."
        )


def _written(sae: Any) -> str | None:
    """The component that an SAE's rows are directions of, where its metadata say."""
    if not isinstance(sae, SAE):
        return None
    said = sae.metadata.get("component_out") or (None if sae.is_transcoder else sae.component)
    return said if isinstance(said, str) else None


def _ranked(ids: np.ndarray, weights: np.ndarray) -> list[tuple[int, float]]:
    order = np.lexsort((ids, -np.abs(weights)))
    return [(int(ids[i]), float(weights[i])) for i in order]


def _words(labels: Any) -> dict[int, frozenset[str]]:
    """Lower-case words of every label, by feature; features without a label are left out."""
    if isinstance(labels, Mapping):
        pairs: Iterable[tuple[Any, Any]] = labels.items()
    elif isinstance(labels, Sequence) and not isinstance(labels, (str, bytes)):
        pairs = enumerate(labels)
    else:
        raise InputError(
            f"labels is {type(labels).__name__}; expected {{feature: label}}, or a list of labels."
        )
    found = {}
    for feature, label in pairs:
        text = label.get("name") if isinstance(label, Mapping) else label
        if text is not None and not isinstance(text, str):
            raise InputError(f"The label of feature {feature} is {text!r}; expected a text.")
        if words := re.findall(r"\w+", (text or "").lower()):
            found[int(feature)] = frozenset(words)
    return found
