"""What a feature says in words: its decoder row through the model's final norm and head (logit lens).

`feature_logits` gives the tokens that a feature promotes and suppresses, `random_direction_baseline` what
a random direction would show in its place. The lens is linear: a direction d of the residual stream
gives head(gain · d), for LayerNorm with d's mean taken away first. Biases are left out, a cap on the
logits is undone, a scale of the logits is the head's, and each direction's mean over the vocabulary is
taken away. The unit is logits per unit of the feature's activation, at a final residual stream whose root
mean square (LayerNorm: standard deviation) is 1; divide by the stream's own to get its direct effect.

The logit lens is nostalgebraist's (2020); statistics of decoder rows follow Bloom and Lin, "Understanding
SAE Features with the Logit Lens" (2024).
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.base import LanguageModel
from ..backends.host.finite import not_finite
from ..core import checks
from ..core.feature_ids import feature_id, is_several
from ..core.numeric import largest, moments
from ..core.quiet import quiet
from ..core.tokens import Tokenize
from ..data.text import TokenTexts
from ..errors import InputError, SAEError, warn
from ..sae import SAE
from ..tracing.passes import unembed
from .linear_part import LinearPart, Shape, find_shape, probes
from .writing import stream_directions, written_component

_CELLS = 1 << 22
"""Logits held at once."""
_ROWS = 2048
"""Decoder rows held at once."""
_NOT_LINEAR = 0.05
"""How far from additive a head may look: rounding gives up to 0.005 in 16 bit, 0.02 with 4-bit weights."""
_HEADS: weakref.WeakKeyDictionary[LanguageModel, tuple[bytes, Shape, np.ndarray]] = (
    weakref.WeakKeyDictionary()
)
"""What stands around each model's head and its bias, with a digest of what the head said of a direction then."""

TokenLogits = tuple[tuple[str, float], ...]
Spread = tuple[tuple[int, ...], tuple[float, ...]]
"""Counts of bins, and their edges."""


@dataclass(frozen=True, slots=True)
class FeatureLogits:
    """Tokens that a feature promotes and suppresses; also unpacks as `promoted, suppressed`.

    Logits are per unit of activation at a final residual stream of root mean square 1, with their mean over
    the vocabulary taken away (see `mlxterp.lens`).

    Attributes:
        feature_id: The feature.
        promoted: (token, logit), largest first; among equals the lower token id. Empty for a direction of zeros.
        suppressed: (token, logit), smallest first.
        promoted_ids: Token ids of `promoted`.
        suppressed_ids: Token ids of `suppressed`.
        mean: Of the logits over the vocabulary, before it was taken away.
        sd: Standard deviation of the logits over the vocabulary.
        skew: Third standardised moment: positive where few tokens are promoted strongly; 0 for a direction of
            zeros.
        kurtosis: Fourth standardised moment: 3 for a normal distribution, more where a few tokens stand out.
        maximum: The largest logit.
        minimum: The smallest logit.
        strength: Norm of the decoder row.
        relative_strength: `strength` as a multiple of the mean norm of the SAE's decoder rows.
        histogram: How the logits are spread over the vocabulary: tokens in each of some bins of one width, and the
            edges of the bins, one more; None where nobody asked for bins.
    """

    feature_id: int
    promoted: TokenLogits
    suppressed: TokenLogits
    promoted_ids: tuple[int, ...]
    suppressed_ids: tuple[int, ...]
    mean: float
    sd: float
    skew: float
    kurtosis: float
    maximum: float
    minimum: float
    strength: float
    relative_strength: float
    histogram: Spread | None = None

    def __iter__(self) -> Iterator[TokenLogits]:
        return iter((self.promoted, self.suppressed))

    def __str__(self) -> str:
        rows = [f"Feature {self.feature_id}: what it promotes and suppresses, logits per unit of activation"]
        for i in range(len(self.promoted)):
            (up, high), (down, low) = self.promoted[i], self.suppressed[i]
            rows.append(f"  [{high:+8.3f}] {up!r:<20} [{low:+8.3f}] {down!r}")
        rows.append(f"  sd {self.sd:.3g}, skew {self.skew:.2f}, kurtosis {self.kurtosis:.1f} (normal: 3)")
        strength = f"{self.relative_strength:.3f} (normalized), norm {self.strength:.3g}"
        return "\n".join([*rows, f"  Feature Direction Strength: {strength}"])


@dataclass(frozen=True, eq=False, slots=True)
class RandomDirections:
    """What random directions show through the lens; every array is float64 (n,), ascending.

    `maximum`, `minimum` and `sd` are those of directions of norm 1; the lens is linear, so a direction of
    another norm has that many times as much.

    Attributes:
        n: Number of directions.
        seed: What decided them.
        maximum: Largest logit of each direction.
        minimum: Smallest logit of each direction.
        sd: Standard deviation of each direction's logits.
        skew: Third standardised moment of each direction's logits.
        kurtosis: Fourth standardised moment of each direction's logits.
    """

    n: int
    seed: int
    maximum: np.ndarray
    minimum: np.ndarray
    sd: np.ndarray
    skew: np.ndarray
    kurtosis: np.ndarray

    def share_with_higher_maximum(self, feature: FeatureLogits) -> float:
        """Share of random directions as long as the feature's whose largest logit is at least the feature's.

        Near 0: the feature promotes tokens as no random direction does. Near 0.5: it is like one.
        """
        return float(np.mean(self.maximum * feature.strength >= feature.maximum))

    def share_with_higher_kurtosis(self, feature: FeatureLogits) -> float:
        """Share of random directions whose logits have at least the feature's kurtosis."""
        return float(np.mean(self.kurtosis >= feature.kurtosis))

    def quantiles(self, shares: Sequence[float] = (0.05, 0.5, 0.95)) -> dict[str, tuple[float, ...]]:
        """Quantiles of each statistic over the directions."""
        names = ("maximum", "minimum", "sd", "skew", "kurtosis")
        return {name: tuple(np.quantile(getattr(self, name), shares).tolist()) for name in names}

    def __repr__(self) -> str:
        return f"RandomDirections({self.n} of norm 1, seed {self.seed})"

    def __str__(self) -> str:
        rows = [f"{self.n} random directions of norm 1: 5 %, median, 95 %"]
        rows += [f"  {name:<9}" + "".join(f"{x:9.3f}" for x in q) for name, q in self.quantiles().items()]
        return "\n".join(rows)


def feature_logits(
    anatomy: Anatomy,
    sae: SAE,
    feature_ids: Sequence[int],
    top_k: int = 10,
    *,
    component: str | None = None,
    tokenize: Tokenize | None = None,
    bins: int | None = None,
) -> list[FeatureLogits]:
    """What each feature promotes and suppresses; see `InterpretableModel.feature_logits`.

    Features go through the head a few at a time: memory does not grow with their number.

    Args:
        bins: Of `histogram`; None makes none.
    """
    ids = _checked_ids(sae, feature_ids)
    top_k = checks.count(top_k, "top_k")
    bins = None if bins is None else checks.count(bins, "bins")
    norms = sae.decoder_norms
    typical = norms.mean() or 1.0  # nothing but zeros
    before = tokenize("a")[-1:] if tokenize is not None else []  # so that a leading space is kept
    text = partial(TokenTexts(anatomy.model.tokenizer).after, before)
    found: list[FeatureLogits] = []
    for start in range(0, len(ids), _ROWS):
        for logits, means in direction_logits(anatomy, sae, sae.W_dec[ids[start : start + _ROWS]], component):
            for row, mean in zip(logits, means, strict=True):
                feature = ids[len(found)]
                strength = (float(norms[feature]), float(norms[feature] / typical))
                spread = None if bins is None else _spread(row, bins)
                found.append(_describe(feature, row, float(mean), top_k, text, (*strength, spread)))
    return found


def random_direction_baseline(
    anatomy: Anatomy, sae: SAE, n: int = 100, seed: int = 0, *, component: str | None = None
) -> RandomDirections:
    """See `InterpretableModel.random_direction_baseline`."""
    n, seed = checks.count(n, "n"), checks.seed(seed)
    directions = np.random.default_rng(seed).normal(size=(n, sae.d_out))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rows = [
        (row.max(), row.min(), *moments(row))
        for logits, _ in direction_logits(anatomy, sae, directions, component)
        for row in logits
    ]
    return RandomDirections(n, seed, *(np.sort(column) for column in np.array(rows).T))


# -- the lens -------------------------------------------------------------------------------------


def direction_logits(
    anatomy: Anatomy, sae: SAE, directions: np.ndarray, component: str | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What directions (n, d_out) of the place where an SAE writes say, chunk by chunk.

    Yields:
        Centred logits, float64 (rows, vocabulary), and the means that were taken away, (rows,).

    Raises:
        SAEError: A direction is not finite, or the place does not reach the residual stream by a linear map.
    """
    model = anatomy.model
    if not np.isfinite(directions).all():
        raise SAEError("A decoder row is not finite.")
    place = written_component(anatomy, sae, component)
    written = stream_directions(anatomy, place, directions)
    head = _head(model)
    rows = max(1, _CELLS // model.vocab_size)
    for start in range(0, len(written), rows):
        logits = head(written[start : start + rows])
        means = logits.mean(axis=1)
        yield logits - means[:, None], means


def _head(model: LanguageModel) -> LinearPart:
    """The linear part of final norm and head. What stands around it is found once for each model."""

    def function(rows: np.ndarray) -> np.ndarray:
        return model.backend.get(unembed(model, rows)).astype(np.float32)

    seen = function(probes(model.d_model, 1).astype(np.float32))
    if not np.isfinite(seen.max(axis=-1)).all():
        raise not_finite("The logits", "of a direction", bool(model.described))
    said = hashlib.sha256(seen.tobytes()).digest()
    known, shape, bias = _HEADS.get(model, (b"", None, None))
    if shape is None or bias is None or known != said:  # norm or head are others than they were
        shape = find_shape(function, model.d_model)
        bias = LinearPart.of(function, model.d_model, shape).bias
        _HEADS[model] = said, shape, bias
        if (error := shape.error) > _NOT_LINEAR:
            warn(
                f"What this {model.model_type} model does after its last block is not linear but for a norm (off by"
                f" {error:.0%}), so the logits of a direction are those it has alone at a root mean square of 1."
            )
    return LinearPart(function, shape, bias)


def _describe(
    feature: int,
    row: np.ndarray,
    mean: float,
    top_k: int,
    text: Callable[[int], str],
    rest: tuple[float, float, Spread | None],
) -> FeatureLogits:
    sd, skew, kurtosis = moments(row)
    high, low = (largest(row, top_k).tolist(), largest(-row, top_k).tolist()) if sd else ([], [])
    with quiet:  # entered once, not for each token
        promoted, suppressed = (tuple((text(t), float(row[t])) for t in ids) for ids in (high, low))
    return FeatureLogits(
        feature, promoted, suppressed, tuple(high), tuple(low), mean, sd, skew, kurtosis,
        float(row.max()), float(row.min()), *rest,
    )  # fmt: skip


def _spread(row: np.ndarray, bins: int) -> Spread:
    counts, edges = np.histogram(row, bins)
    return tuple(counts.tolist()), tuple(edges.tolist())


def _checked_ids(sae: SAE, feature_ids: Sequence[int]) -> list[int]:
    if not is_several(feature_ids):
        raise InputError(f"Expected a feature id or a list of them, got {feature_ids!r}.")
    return [feature_id(feature, sae.d_hidden) for feature in feature_ids]
