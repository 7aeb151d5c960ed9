"""What tells one model from another in the files of an index, a store or a run of training.

Weights decide by a digest of all their bytes. Where they were read by another library or in another dtype bytes cannot
be compared; then, and for settings that are no weights, a probe decides: the lengths of a component's activations on
fixed tokens, within 2 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.base import LanguageModel
from ..core.rows import rows_of
from ..core.sites import Component
from ..core.tokens import TokenBatch
from ..errors import warn

PROBE_TOKENS = 16
_SAME_MODEL = 0.02
"""Share by which the lengths of a model's activations may differ where it is the same one."""


def model_fingerprint(anatomy: Anatomy, components: Sequence[Component]) -> dict[str, list[float]]:
    """Lengths of each component's activations on the first token ids."""
    model = anatomy.model
    ids = np.arange(1, min(PROBE_TOKENS, model.vocab_size - 1) + 1) % model.vocab_size
    batch = TokenBatch.from_rows([ids[: model.max_positions].tolist()])
    sites = [site for component in components for site in component.sites]
    run = model.run(batch, capture=sites, stop_after=sites)
    lengths = {}
    for component in components:
        rows = model.backend.get(rows_of(component, run, batch.ids.shape)).astype(np.float64)
        lengths[component.name] = [round(float(n), 6) for n in np.linalg.norm(rows, axis=1)]
    return lengths


def same_fingerprint(before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether two probes are of the same model."""
    if len(before) != len(now):
        return False
    return np.allclose(before, now, rtol=_SAME_MODEL, atol=1e-4 * float(np.max(now)))


def weights_of(model: LanguageModel) -> dict[str, str] | None:
    """The digest of a model's weights, for JSON; None where they cannot be read."""
    found = model.weights_digest()
    return None if found is None else found.to_json()


def same_weights(model: LanguageModel, kept: Any) -> bool | None:
    """Whether the model has the weights that `kept` describes; None where bytes cannot tell."""
    found = model.weights_digest() if isinstance(kept, Mapping) else None
    return None if found is None else found.equals(kept)


def is_same(model: LanguageModel, kept: Any, probe: Sequence[float], now: Sequence[float], what: str) -> bool:
    """Whether a model is the one whose weights (`kept`) and probe a file holds.

    Warns where only the probes could be compared.
    """
    if not same_fingerprint(probe, now):
        return False
    same = same_weights(model, kept)
    if same is None and isinstance(kept, Mapping):
        warn(
            f"{what} was made with weights in another dtype, or by another library, so bytes could not be compared:"
            f" on {len(now)} fixed tokens this model's activations have the same lengths within {_SAME_MODEL:.0%}."
        )
    return same is not False
