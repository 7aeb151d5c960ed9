"""`train_meta_sae`: trains an SAE on another SAE's decoder rows, and as many on random rows to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, MOST_DRAWS, Controlled, bootstrap, matrix, random_like
from ..core.options import names_options
from ..core.progress import hidden
from ..errors import InputError, warn
from ..sae import SAE
from ..training import SAETrainConfig, train_sae
from ..training.config import MOST_EPOCHS
from .meta_sae import MetaSAE

STEPS, LEAST_EPOCHS, CONTROL_SHARE = 300, 16, 1 / 2
"""Of the meta-SAE about so many steps, at least so many epochs; the share of them in runs that are compared."""
_BATCH, _WIDE_BATCH, _MANY = 256, 1024, 16_384
"""Rows of a step, and from how many rows on it is the second."""
_FEWEST = 20
_SAME = 1e-5
"""Unit rows as near as this are one row."""


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
            explain the trained rows better and, where rows are few, those held out worse. At most a million.
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
        None if n is None else checks.count(n, name, most=MOST_EPOCHS)
        for n, name in ((epochs, "epochs"), (control_epochs, "control_epochs"))
    )
    control, draws = checks.flag(control, "control"), checks.count(draws, "draws", DRAWS, MOST_DRAWS)
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
