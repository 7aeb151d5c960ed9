"""`SAE`: the features of a component's activations, and the way back. One class for every array library.

`SAE.load` and `train_sae` make one. It keeps no state between calls: NumPy arrays go in and come
out, or arrays of MLX or PyTorch, which are computed with where they lie.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import get_backend
from ..backends.base import Backend
from ..errors import InputError, SAEError
from ..sites import Array
from ..sparse import SparseFeatures
from ..weights import NAMES, SAEWeights, TopK
from .files import read_sae, write_sae
from .placement import Placement


class SAE:
    """A sparse autoencoder.

    Args:
        weights: Of NumPy arrays; they are copied, as float32.
        activation: How pre-activations become features.
        metadata: What is known of it: "model" (name), "component" (path of its hook, such as
            "layers.10.mlp"), "training" (facts of the run), and anything else that JSON can hold.
        backend: "mlx" or "torch", for what comes as NumPy; by default MLX where it is installed.
        device: Of that backend; None takes what the library prefers.

    Raises:
        SAEError: Shapes do not belong together, k is not in [1, d_hidden], or a weight is not finite.
    """

    def __init__(
        self,
        weights: SAEWeights,
        activation: TopK,
        metadata: dict[str, Any] | None = None,
        *,
        backend: str | None = None,
        device: str | None = None,
    ):
        self._placement = Placement(weights, backend, device)
        self.activation = activation
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._fingerprint: str | None = None
        _check(self._weights, activation)

    # -- what it is ---------------------------------------------------------------------------

    @property
    def _weights(self) -> SAEWeights:
        return self._placement.weights

    @property
    def W_enc(self) -> np.ndarray:
        """float32, (d_model, d_hidden); read-only."""
        return self._weights.W_enc

    @property
    def b_enc(self) -> np.ndarray:
        """float32, (d_hidden,); read-only."""
        return self._weights.b_enc

    @property
    def W_dec(self) -> np.ndarray:
        """float32, (d_hidden, d_out); row f is the direction of feature f; read-only."""
        return self._weights.W_dec

    @property
    def b_dec(self) -> np.ndarray:
        """float32, (d_out,); read-only."""
        return self._weights.b_dec

    @property
    def d_model(self) -> int:
        """Width of the activations it takes."""
        return int(self.W_enc.shape[0])

    @property
    def d_hidden(self) -> int:
        """Number of features."""
        return int(self.W_enc.shape[1])

    @property
    def d_out(self) -> int:
        """Width of the reconstruction; d_model but for transcoders."""
        return int(self.W_dec.shape[1])

    @property
    def k(self) -> int:
        """Features active on each token, at most."""
        return self.activation.k

    @property
    def subtract_b_dec(self) -> bool:
        """Whether the encoder subtracts b_dec from its input."""
        return self._weights.subtract_b_dec

    @property
    def component(self) -> str | None:
        """Path of the component it was trained on, where the metadata says."""
        return self.metadata.get("component")

    @property
    def backend(self) -> str:
        """Where NumPy input is computed: "mlx" or "torch"."""
        return self._placement.backend

    @property
    def fingerprint(self) -> str:
        """sha256 of weights and k: equal exactly when two SAEs give equal features."""
        if self._fingerprint is None:
            digest = hashlib.sha256(f"topk {self.k} {self.subtract_b_dec}".encode())
            for name in NAMES:
                array = getattr(self._weights, name)
                digest.update(f"{name} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def __repr__(self) -> str:
        place = f" of {self.component}" if self.component else ""
        return f"SAE(topk{place}: d_model {self.d_model}, {self.d_hidden} features, k {self.k})"

    # -- features and back --------------------------------------------------------------------

    def encode(self, x: Array) -> Array:
        """Feature activations (…, d_hidden), float32, of activations (…, d_model).

        Of each token the k largest positive pre-activations remain; among equals the lowest ids.
        NumPy in, NumPy out; an array of MLX or PyTorch gives one of the same library and device.
        An SAE of `attn.z` also takes (…, heads, d_head).

        Raises:
            SAEError: The width is not d_model, or an activation is not finite.
        """
        backend, weights, rows, shape = self._rows(x)
        dense = backend.to_dense(*backend.encode(rows, weights, self.activation), self.d_hidden)
        return self._like(x, backend, dense.reshape((*shape, self.d_hidden)))

    def encode_sparse(self, x: Array) -> SparseFeatures:
        """As `encode`, with only the active features kept; a row for each token, (…) flattened.

        Tokens x d_hidden is never held.
        """
        backend, weights, rows, _ = self._rows(x)
        ids, values = backend.encode(rows, weights, self.activation)
        return SparseFeatures.from_topk(backend.get(ids), backend.get(values), self.d_hidden)

    def decode(self, features: Array | SparseFeatures, like: Array | None = None) -> Array:
        """Reconstruction (…, d_out), float32, of feature activations (…, d_hidden).

        Args:
            features: Dense (NumPy in, NumPy out; native in, native out), or sparse, which gives
                NumPy (n, d_out).
            like: The activations they came from. A TopK SAE does not need them.

        Raises:
            SAEError: The features are not this SAE's: their number is not d_hidden.
        """
        width = features.d_hidden if isinstance(features, SparseFeatures) else _width(features)
        if width != self.d_hidden:
            raise SAEError(f"Expected features of this SAE, (…, {self.d_hidden}), got {width} of them.")
        if isinstance(features, SparseFeatures):
            backend, weights = self._placement.home()
            ids, values = features.to_topk()
            native = backend.put(values, like=weights.b_dec)
            return backend.get(backend.decode(backend.put_index(ids, native), native, weights))
        backend, weights, native = self._placement.of(features)
        shape = tuple(native.shape[:-1])
        flat = native.reshape((math.prod(shape), self.d_hidden))
        out = backend.decode_dense(flat, weights)
        return self._like(features, backend, out.reshape((*shape, self.d_out)))

    def reconstruct(self, x: Array) -> Array:
        """What `decode(encode(x))` gives, (…, d_out), without dense features in between."""
        backend, weights, rows, shape = self._rows(x)
        out = backend.decode(*backend.encode(rows, weights, self.activation), weights)
        return self._like(x, backend, out.reshape((*shape, self.d_out)))

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Reconstruction (…, d_out) and features (…, d_hidden)."""
        backend, weights, rows, shape = self._rows(x)
        ids, values = backend.encode(rows, weights, self.activation)
        out = backend.decode(ids, values, weights).reshape((*shape, self.d_out))
        dense = backend.to_dense(ids, values, self.d_hidden).reshape((*shape, self.d_hidden))
        return self._like(x, backend, out), self._like(x, backend, dense)

    # -- where it is --------------------------------------------------------------------------

    def on(self, backend: str, device: str | None = None) -> SAE:
        """The same SAE, computing NumPy input with "mlx" or "torch" on that device."""
        get_backend(backend)
        return SAE(self._weights, self.activation, self.metadata, backend=backend, device=device)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the folder `path` (weights and config.json), whole or not at all; returns it.

        An SAE that was saved there before is replaced.

        Raises:
            SAEError: Something else is there, or the metadata is not JSON.
        """
        return write_sae(path, self._weights, self.activation, self.metadata)

    @staticmethod
    def load(
        path: str | os.PathLike,
        format: str | None = None,
        backend: str | None = None,
        device: str | None = None,
        k: int | None = None,
    ) -> SAE:
        """An SAE from its folder or from either file in it.

        Args:
            format: "mlxterp"; None finds out.
            backend: "mlx" or "torch"; by default MLX where it is installed.
            k: Used instead of the k in the file.

        Raises:
            SAEError: There is none, it is of another library, or it is damaged.
        """
        weights, activation, metadata = read_sae(path, format)
        activation = activation if k is None else TopK(k)
        try:
            return SAE(weights, activation, metadata, backend=backend, device=device)
        except SAEError as error:
            raise SAEError(f"{path}: {error}") from error

    # -- placing ------------------------------------------------------------------------------

    def _rows(self, x: Array) -> tuple[Backend, SAEWeights, Array, tuple[int, ...]]:
        """Native activations as rows (n, d_model), and the shape that they came in."""
        shape = tuple(getattr(x, "shape", ()))
        heads = len(shape) > 1 and shape[-1] != self.d_model and shape[-2] * shape[-1] == self.d_model
        if heads and (self.component or "").endswith(("z", "o_proj.input")):
            shape = (*shape[:-2], self.d_model)
        if not shape or shape[-1] != self.d_model:
            raise SAEError(
                f"This SAE takes activations of width {self.d_model} (…, d_model), got shape {shape}."
                f" It was trained on {self.component or 'a component that its metadata does not name'};"
                " choose that component, or an SAE of this width."
            )
        backend, weights, native = self._placement.of(x)
        native = native.reshape((math.prod(shape[:-1]), self.d_model))
        if not backend.all_finite(native):
            raise SAEError(
                f"Activations of shape {shape} hold NaN or infinite values, which have no features."
                " Run the model in float32 or bfloat16, or drop those tokens."
            )
        return backend, weights, native, shape[:-1]

    @staticmethod
    def _like(x: Array, backend: Backend, result: Array) -> Array:
        return backend.get(result) if isinstance(x, np.ndarray) else result


def _width(features: Array) -> int:
    shape = getattr(features, "shape", ())
    if not shape:
        raise InputError(f"Expected SparseFeatures or an array (…, d_hidden), got {type(features).__name__}.")
    return int(shape[-1])


def _check(weights: SAEWeights, activation: TopK) -> None:
    d_hidden, k = weights.W_enc.shape[1], activation.k
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= d_hidden:
        raise SAEError(f"k is {k!r}; with {d_hidden} features it must be an integer from 1 to {d_hidden}.")
    for name in NAMES:
        array = getattr(weights, name)
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise SAEError(
                f"{bad} of {array.size} numbers in {name} are not finite. The file is damaged or training"
                " diverged; train again with a smaller lr."
            )
