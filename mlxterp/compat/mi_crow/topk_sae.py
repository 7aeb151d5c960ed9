"""`TopKSae`: an SAE by Mi-Crow's constructor, which gets its weights from a state dict."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...backends import backend_of, read_torch_file
from ...core import checks
from ...core.places import expanded
from ...core.sites import Array
from ...core.sparse import SparseFeatures
from ...errors import SAEError, warn
from ...sae import SAE
from ...sae.call import SAECall
from ...sae.formats.parts import Parts
from ...sae.formats.pickled import mi_crow_parts
from ...sae.formats.source import Arrays
from ...variants import TopK
from ...weights import NAMES, SAEWeights
from ..devices import wing_for

_ENGINE = "encoder.final_block.0.weight"
"""One of the names in the state of the library that Mi-Crow builds on."""


class TopKSae(SAE):
    """A top-k SAE; it can be used once `load_state_dict` has given it weights.

    It is an `SAE`: everything that takes one takes it. `concepts` keeps what it holds when weights are loaded.

    Args:
        n_latents: Number of features.
        n_inputs: Width of the activations.
        k: Features active on a token; None takes what the state dict says.
        device: Where NumPy input is computed: "cuda", "mps", "cpu", "mlx" or None. Where there is no such device,
            another is used, with one warning. Native arrays are computed where they lie.

    Raises:
        InputError: A size below 1, or a device of no such name.
        SAEError: k is larger than the number of features.
    """

    def __init__(self, n_latents: int, n_inputs: int, k: int | None = None, device: Any = "cpu"):
        for name, size in (("n_latents", n_latents), ("n_inputs", n_inputs), ("k", 1 if k is None else k)):
            checks.count(size, name)
        self._asked_k, self._wing = k, wing_for(device)
        self._loaded = False
        d, n = int(n_inputs), int(n_latents)
        nothing = SAEWeights(_zeros(d, n), _zeros(n), _zeros(n, d), _zeros(d), subtract_b_dec=False)
        self._become(Parts(nothing, TopK(int(k or 1)), {}))

    def _become(self, parts: Parts) -> None:
        concepts = getattr(self, "_concepts", None)
        backend, device = self._wing
        SAE.__init__(
            self, parts.weights, parts.activation, parts.metadata,
            form=parts.form, backend=backend, device=device,
        )  # fmt: skip
        self._concepts = concepts

    def load_state_dict(self, state: Mapping[str, Any] | str | os.PathLike) -> None:
        """Takes the weights of a trained SAE.

        Args:
            state: What `torch.load("model.pt")` gives: Mi-Crow's own content, its engine's state, or a plain
                {"W_enc" (n_inputs, n_latents), "b_enc", "W_dec" (n_latents, n_inputs), "b_dec"}; arrays of any library.
                Or the path of such a file, of which only arrays are read (`weights_only`).

        Raises:
            SAEError: Something else, of other sizes, or nothing says k.
        """
        found = read_torch_file(expanded(state)) if isinstance(state, (str, os.PathLike)) else _plain(state)
        parts = self._parts(found)
        n_inputs, n_latents = parts.weights.W_enc.shape
        if (n_latents, n_inputs) != (self.d_hidden, self.d_model):
            raise SAEError(
                f"The state dict is of {n_latents} latents and {n_inputs} inputs, this TopKSae of {self.d_hidden} and"
                f" {self.d_model}. Make it with the sizes of the file: TopKSae({n_latents}, {n_inputs}, …)."
            )
        self._become(parts)
        self._loaded = True
        self._take_manipulations(found)

    def _parts(self, state: dict[str, Any]) -> Parts:
        path = Path("the state dict")
        if _ENGINE in state:
            state = {"sae_state_dict": state, "mi_crow_metadata": {}}
        if "sae_state_dict" in state:
            said = (state.get("mi_crow_metadata") or {}).get("k")
            if self._asked_k is not None and said not in (None, self._asked_k):
                warn(f"The state dict says k={said}; k={self._asked_k}, as TopKSae was made with, is used.")
            arrays = Arrays(path, {"mi_crow_metadata": {}, **state})
            parts = mi_crow_parts(arrays, self._asked_k)
            _refuse_rest(arrays)
            if not isinstance(parts.activation, TopK):
                raise SAEError("The state dict does not say k. Make the SAE with it: TopKSae(…, k=32).")
            return parts
        if set(NAMES) <= set(state):
            if self._asked_k is None:
                raise SAEError("A plain state dict does not say k. Make the SAE with it: TopKSae(…, k=32).")
            arrays = Arrays(path, state)
            taken = arrays.take({"W_enc": "d n", "b_enc": "n", "W_dec": "n d", "b_dec": "d"})
            _refuse_rest(arrays)
            weights = SAEWeights(taken["W_enc"], taken["b_enc"], taken["W_dec"], taken["b_dec"])
            return Parts(weights, TopK(self._asked_k), {})
        raise SAEError(
            f"Expected Mi-Crow's content of a .pt file, or {', '.join(NAMES)}; got"
            f" {', '.join(map(str, state)) or 'an empty dictionary'}."
        )

    def _take_manipulations(self, state: dict[str, Any]) -> None:
        kept = (state.get("mi_crow_metadata") or {}).get("concepts_state") or {}
        scales, added = (
            np.ravel(np.asarray(kept.get(n, 1.0), np.float64)) for n in ("multiplication", "bias")
        )
        if np.allclose(scales, 1.0) and np.allclose(added, 1.0):
            return  # as Mi-Crow leaves them where nothing is manipulated
        if len(scales) == self.d_hidden:
            self.concepts.load_manipulation_config(dict(enumerate(scales.tolist())))
        if not np.allclose(added, 0.0):
            warn(
                "This SAE was saved with numbers that Mi-Crow adds to every feature (concepts.bias); they are left"
                " out. mlxterp.steering.add_feature adds to features by name."
            )

    def eval(self) -> TopKSae:
        """Itself: there is no other mode."""
        return self

    def forward(self, x: Array) -> Array:
        """The reconstruction (…, n_inputs) of activations (…, n_inputs)."""
        return self.reconstruct(x)

    # -- only with weights --------------------------------------------------------------------

    def apply(self, x: Array, check: bool = True) -> SAECall:
        """See `SAE.apply`."""
        self._require()
        return super().apply(x, check)

    def decode(self, features: Array | SparseFeatures, like: Array | None = None) -> Array:
        """See `SAE.decode`."""
        self._require()
        return super().decode(features, like)

    def _require(self) -> None:
        if not self._loaded:
            raise SAEError(
                "This TopKSae has no weights yet: sae.load_state_dict(torch.load('sae_model.pt')) first. To train one:"
                " model.train_sae(layer, texts, component)."
            )


def _zeros(*shape: int) -> np.ndarray:
    """Zeros that take no memory."""
    zero = np.zeros((), dtype=np.float32)
    zero.flags.writeable = False
    return np.broadcast_to(zero, shape)


def _refuse_rest(arrays: Arrays) -> None:
    """Raises SAEError where the state dict holds arrays that were not used."""
    if rest := arrays.untaken():
        raise SAEError(
            f"The state dict holds {', '.join(rest)} beside the arrays of a TopKSae, so it is of another kind of SAE."
        )


def _plain(state: Any, depth: int = 4) -> dict[str, Any]:
    """A state dict with NumPy arrays of its own.

    Raises:
        SAEError: It is no dictionary.
    """
    if not isinstance(state, Mapping) or not depth:
        raise SAEError(f"Expected a state dict or the path of a .pt file, got {type(state).__name__}.")
    found: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            value = _plain(value, depth - 1)
        elif isinstance(value, np.ndarray):
            value = value.copy()
        elif hasattr(value, "shape"):
            value = np.array(backend_of(value).get(getattr(value, "data", value)))
        found[str(name)] = value
    return found
