"""The passes over contexts that an evaluation is made of, and the sums they leave behind.

`measure` runs the model on each batch as it is, with the reconstruction in the component's place, with
zeros there, and with the mean activation there. One batch's logits are held at a time. Each context's
first token counts nowhere and is never replaced: it has nothing before it, and often a norm far from
all others'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.base import Backend
from ..backends.host.finite import not_finite
from ..core.numeric import log_softmax
from ..core.rows import rows_of
from ..core.sites import Array, Component, Run, unique_sites
from ..core.sparse import SparseFeatures
from ..core.tokens import TokenBatch
from ..errors import InputError
from ..sae import SAE
from ..tracing.declared import declared_edits
from ..variants import Temporal
from .subject import Subject

_BLOCK = 2**22
"""So many float64 probabilities are held at once."""


class Sums:
    """Sums that grow batch by batch, in float64, over all tokens but each context's first.

    y is what the component puts out for a token, r its reconstruction.
    """

    def __init__(self, mean: np.ndarray, d_hidden: int):
        self.mean = mean
        """(d_out,): of y."""
        self.n = 0
        """Tokens."""
        self.error = self.square = self.variance = 0.0
        """|y - r|², |y|², |y - mean|²."""
        self.rebuilt = self.inner = 0.0
        """|r|², <y, r>."""
        self.cosine = self.l2_ratio = 0.0
        """cos(y, r), |r| / |y|; a token where they divide by 0 adds 0."""
        self.strength = 0.0
        """|f| of all features."""
        self.active = np.zeros(d_hidden, dtype=np.int64)
        """Tokens on which each feature is active."""
        self.losses: dict[str, float] = dict.fromkeys(("clean", "sae", "zero", "mean"), 0.0)
        """-log p(next token), nats."""
        self.divergences: dict[str, float] = dict.fromkeys(("clean", "sae", "zero", "mean"), 0.0)
        """KL(p_clean || p), nats."""

    def add(self, y: np.ndarray, r: np.ndarray, features: SparseFeatures) -> None:
        """Adds tokens: y and r (n, d_out), float64."""
        self.n += len(y)
        square, rebuilt, inner = (y * y).sum(axis=1), (r * r).sum(axis=1), (y * r).sum(axis=1)
        self.error += float(((y - r) ** 2).sum())
        self.square += float(square.sum())
        self.variance += float(((y - self.mean) ** 2).sum())
        self.rebuilt += float(rebuilt.sum())
        self.inner += float(inner.sum())
        self.cosine += _sum_of_ratios(inner, np.sqrt(square * rebuilt))
        self.l2_ratio += _sum_of_ratios(np.sqrt(rebuilt), np.sqrt(square))
        self.strength += float(np.abs(features.values).sum(dtype=np.float64))
        self.active += np.bincount(features.indices, minlength=len(self.active))


def _sum_of_ratios(above: np.ndarray, below: np.ndarray) -> float:
    return float(np.divide(above, below, out=np.zeros_like(above), where=below > 0).sum())


def measure(subject: Subject) -> Sums:
    """Runs all contexts.

    Raises:
        InputError: The component does not vary over these tokens.
    """
    mean = means_of(subject.anatomy, [subject.target], subject.batches())[0]
    sums = Sums(mean, subject.sae.d_hidden)
    for batch in subject.batches():
        _add_batch(subject, batch, sums)
    check_varies(sums, subject.target.name)
    return sums


def check_varies(sums: Sums, name: str) -> None:
    """Raises InputError where there is nothing to explain."""
    if sums.variance <= 1e-9 * sums.square:
        raise InputError(
            f"{name} does not vary over {sums.n} tokens, so there is nothing to explain. Give more texts."
        )


def means_of(
    anatomy: Anatomy, targets: Sequence[Component], batches: Iterable[TokenBatch]
) -> list[np.ndarray]:
    """float64, (d_out,) each: means of components over the tokens that count."""
    total, n, sites = [np.zeros(1)] * len(targets), 0, unique_sites(targets)
    for batch in batches:
        run, chosen = anatomy.model.run(batch, sites, stop_after=sites), counted(batch)
        found = [rows_at(anatomy, target, run, batch)[chosen] for target in targets]
        total = [
            before + rows.sum(axis=0, dtype=np.float64) for before, rows in zip(total, found, strict=True)
        ]
        n += int(chosen.sum())
    return [summed / n for summed in total]


def _add_batch(subject: Subject, batch: TokenBatch, sums: Sums) -> None:
    anatomy, sae, target = subject.anatomy, subject.sae, subject.target
    run = anatomy.model.run(batch, [*subject.place.sites, *target.sites])
    x, y = (rows_at(anatomy, at, run, batch) for at in (subject.place, target))
    mask = real(batch)
    features, rebuilt = _applied(sae, x, mask, batch.lengths)
    add_rebuilt(anatomy, target, batch, run, sums, y, features, rebuilt)


def add_rebuilt(
    anatomy: Anatomy, target: Component, batch: TokenBatch, run: Run, sums: Sums, y: np.ndarray,
    features: SparseFeatures, rebuilt: np.ndarray,
) -> None:  # fmt: skip
    """Adds a batch, and what the model loses with the target replaced.

    Args:
        run: Of the batch as it is.
        y: float32, (batch, positions, d_out): the target.
        features, rebuilt: Of the tokens that are no padding, in order.
    """
    model, backend, mask, chosen = anatomy.model, anatomy.model.backend, real(batch), counted(batch)
    replacement = np.zeros((*mask.shape, rebuilt.shape[1]), dtype=np.float32)
    replacement[mask] = rebuilt
    kept = features.take(np.flatnonzero(chosen[mask]))
    sums.add(y[chosen].astype(np.float64), replacement[chosen].astype(np.float64), kept)
    clean = _loss(backend, run.logits, batch)
    if not np.isfinite(clean):
        raise not_finite("The logits", "on the evaluation's texts", bool(model.described))
    sums.losses["clean"] += clean
    for key, value in (("sae", replacement), ("zero", np.zeros_like(sums.mean)), ("mean", sums.mean)):
        new = np.broadcast_to(value.astype(np.float32), replacement.shape)
        edits = declared_edits(anatomy, {target.name: _putting(backend, new, chosen)})
        logits = model.run(batch, edits=edits).logits
        sums.losses[key] += _loss(backend, logits, batch)
        sums.divergences[key] += _divergence(backend, run.logits, logits, batch)


def real(batch: TokenBatch) -> np.ndarray:
    """Booleans (batch, positions): no padding."""
    return np.arange(batch.ids.shape[1]) < batch.lengths[:, None]


def counted(batch: TokenBatch) -> np.ndarray:
    """Booleans (batch, positions): no padding and no context's first token."""
    chosen = real(batch)
    chosen[:, 0] = False
    return chosen


def rows_at(anatomy: Anatomy, place: Component, run: Run, batch: TokenBatch) -> np.ndarray:
    """float32, (batch, positions, width)."""
    shape = batch.ids.shape
    rows = anatomy.model.backend.get(rows_of(place, run, shape)).astype(np.float32)
    return rows.reshape(*shape, -1)


def _applied(
    sae: SAE, x: np.ndarray, mask: np.ndarray, lengths: np.ndarray
) -> tuple[SparseFeatures, np.ndarray]:
    """Features and reconstruction of the tokens that `mask` holds; a temporal SAE takes each text by itself."""
    if isinstance(sae.activation, Temporal):
        rows = [x[row, :n] for row, n in enumerate(lengths)]
        features = SparseFeatures.concat([sae.encode_sparse(row) for row in rows])
        return features, np.concatenate([sae.reconstruct(row) for row in rows])
    features = sae.encode_sparse(x[mask])
    return features, sae.decode(features, like=x[mask])


def _putting(backend: Backend, new: np.ndarray, mask: np.ndarray) -> Callable[[Array], Array]:
    """An intervention that writes `new` (batch, positions, width) where `mask` (batch, positions) holds."""

    def put(x: Array) -> Array:
        value, where = new, mask[..., None]
        if x.ndim == 4:
            batch, heads, positions, d_head = x.shape
            value = value.reshape(batch, positions, heads, d_head).swapaxes(1, 2)
            where = mask[:, None, :, None]
        return backend.where(where, backend.put(np.ascontiguousarray(value), like=x), x)

    return put


def _loss(backend: Backend, logits: Array, batch: TokenBatch) -> float:
    """Sum of -log p over all tokens but each context's first."""
    return sum(
        float(backend.token_losses(logits[row, : n - 1], batch.ids[row, 1:n]).sum(dtype=np.float64))
        for row, n in enumerate(batch.lengths)
    )


def _divergence(backend: Backend, clean: Array, other: Array, batch: TokenBatch) -> float:
    """Sum of KL(p_clean || p_other) over what is predicted at all positions but each context's first."""
    total, step = 0.0, max(1, _BLOCK // int(clean.shape[-1]))
    for row, n in enumerate(batch.lengths.tolist()):
        for start in range(1, n, step):
            at = slice(start, min(start + step, n))
            p, q = (log_softmax(backend.get(logits[row, at])) for logits in (clean, other))
            total += float((np.exp(p) * (p - q)).sum())
    return total
