"""The section's patch scoping: its hook function, and the text that a model writes about a latent.

`InterpretableModel.patchscope` does the same for all scales at once, beside a random direction and another feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...backends import backend_of
from ...backends.host.conversion import to_vector
from ...core import checks
from ...core.feature_ids import feature_id
from ...core.integers import as_integer
from ...core.sites import Array
from ...errors import InputError
from ...patchscopes.placeholders import found_placeholder, positions_of
from ..saelens import HookedTransformer
from ..saelens.sae import as_compat

GENERATE_KWARGS: dict[str, Any] = {"temperature": 0.5, "freq_penalty": 2.0}
"""What the section gives to `generate`; `generate_patch_scoping_explanation` reads it at each call."""


def hook_fn_patch_scoping(
    activations: Array, hook: Any, seq_pos: int | Sequence[int], latent_vector: Any
) -> None:
    """Puts a vector in the place of some positions of the prompt, in place; a pass of one new token stays as it is.

    Hooked generation reads the prompt in one pass, so positions are the text's own; one outside it raises.

    Args:
        activations: Native, (batch, positions, d_model).
        hook: What the model gives to hook functions; without effect.
        seq_pos: Positions.
        latent_vector: (d_model,), an array of any library.

    Raises:
        InputError: A position lies outside the prompt, or the vector has another width.
    """
    if activations.shape[1] == 1:
        return
    length = activations.shape[1]
    backend = backend_of(activations)
    if not isinstance(latent_vector, backend.array_type):
        latent_vector = backend.put(
            to_vector(latent_vector, "latent_vector", activations.shape[2]), activations
        )
    if tuple(latent_vector.shape) != (activations.shape[2],):
        raise InputError(
            f"latent_vector has shape {tuple(latent_vector.shape)}; the activations are {activations.shape[2]} wide."
        )
    places: Any = seq_pos if as_integer(seq_pos) is None else [seq_pos]
    if isinstance(places, str) or not isinstance(places, Iterable):
        raise InputError(f"seq_pos is {seq_pos!r:.60}; expected positions of the prompt, such as [3, 7].")
    for position in places:
        place = checks.integer(position, "A position of seq_pos", -length, length - 1)
        activations[:, place] = latent_vector


def generate_patch_scoping_explanation(
    model: Any,
    sae: Any,
    prompt: str,
    latent_idx: int,
    replacement_layer: int,
    scale: float,
    max_new_tokens: int = 50,
) -> str:
    """The prompt with what a model writes when a latent's direction stands in the place of its placeholder.

    The direction has length `scale`, and replaces resid_pre of `replacement_layer` at every placeholder: the
    tokenizer's unknown token, or X where it has none of its own. Generation takes `GENERATE_KWARGS`.

    Args:
        model: A `HookedTransformer` of `mlxterp.compat.saelens`, or an `InterpretableModel`.
        sae: An SAE of `mlxterp.compat.saelens` or mlxterp.
        prompt: As the section writes it, with the turns of its chat.

    Raises:
        InputError: The prompt holds no placeholder, or a number cannot be.
        UnknownFeatureError: The SAE has no such latent.
        ComponentError: There is no such layer.
    """
    hooked = model if isinstance(model, HookedTransformer) else HookedTransformer(model)
    rows = np.asarray(as_compat(sae).sae.W_dec)
    direction = rows[feature_id(latent_idx, len(rows))].astype(np.float64)
    length = float(np.linalg.norm(direction))
    if not length:
        raise InputError(f"Latent {latent_idx} has a decoder row of zeros: it has no direction.")
    scale = checks.finite(scale, "scale", 0.0, checks.LARGEST)
    layer = checks.integer(replacement_layer, "replacement_layer")
    ids = [int(i) for i in hooked.to_tokens(prompt)[0].tolist()]
    found = positions_of(hooked.tokenizer, ids, found_placeholder(hooked.tokenizer, ids))
    backend = hooked.interpretable.language_model.backend
    function = partial(
        hook_fn_patch_scoping,
        seq_pos=list(found),
        latent_vector=backend.put((direction / length * scale).astype(np.float32)),
    )
    with hooked.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", function)]):
        return hooked.generate(prompt, max_new_tokens=max_new_tokens, **GENERATE_KWARGS)
