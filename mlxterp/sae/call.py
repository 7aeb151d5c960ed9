"""One application of an SAE to activations: where they are computed with, in which form, and as what shape.

`SAECall` takes what the user gave apart into rows, runs the variant, and puts results back
together as they came. `SAE` makes one for each call.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from ..backends import backend_of
from ..backends.host.conversion import is_native, to_numpy
from ..core.sites import Array
from ..core.sparse import SparseFeatures
from ..errors import SAEError, warn
from ..variants import FIXED_K, Activation, BatchTopK, InputForm, MatchingPursuit, Temporal
from . import iterative
from .placement import Placement

_TOO_LARGE = (
    "A feature's activation is not finite: these activations, or the weights, are too large for float32."
)
_CHECKED = 256
"""Rows whose pre-activations are looked at together."""


class SAECall:
    """Activations x on their way through an SAE.

    Raises:
        SAEError: The width of x is not d_model, or x holds NaN or infinite values.

    Args:
        check: Whether x is looked through for values that are not finite, for which it must be computed.
    """

    def __init__(
        self, placement: Placement, activation: Activation, form: InputForm, component: str | None, x: Array,
        check: bool = True,
    ):  # fmt: skip
        self.activation, self._form = activation, form
        x = as_activations(x)
        d_model = int(placement.weights.W_enc.shape[0])
        self._shape, self._heads = _shape(
            x, d_model, form.heads or (component or "").endswith(_HEADS), component
        )
        self.backend, self.weights, native = placement.of(x)
        self.raw = native.reshape((math.prod(self._shape), d_model))
        """The activations as rows (n, d_model)."""
        if check:
            self._check_range(tuple(x.shape), placement.reach)
        if isinstance(activation, BatchTopK):
            warn(
                "This BatchTopK SAE stores no threshold, so the largest k x n activations of the n rows of one"
                " call are kept: a token's features depend on the rows it is encoded with."
            )
        self._native = not isinstance(x, np.ndarray)

    def _check_range(self, shape: tuple[int, ...], reach: float) -> None:
        """Raises SAEError where activations are not finite, or so large that pre-activations are not.

        Args:
            reach: No pre-activation is farther from 0 than this times the largest activation, biases aside.
        """
        wide = self.backend.cast(self.raw, self.weights.b_dec)
        if self.backend.all_finite(wide * max(2.0, reach)):
            return
        if not self.backend.all_finite(self.raw):
            raise SAEError(
                f"Activations of shape {shape} hold NaN or infinite values, which have no features."
                " Run the model in float32 or bfloat16, or drop those tokens."
            )
        rows = self.backend.cast(self._rows, self.weights.b_dec)
        rows = rows - self.weights.b_dec if self.weights.subtract_b_dec else rows
        for start in range(0, len(rows), _CHECKED):
            self._checked(rows[start : start + _CHECKED] @ self.weights.W_enc)

    # -- features -----------------------------------------------------------------------------

    def dense(self) -> Array:
        """Features (n, d_hidden), native.

        Raises:
            SAEError: One is not finite.
        """
        return self._checked(self._dense())

    def _checked(self, dense: Array) -> Array:
        if not self.backend.all_finite(dense):
            raise SAEError(_TOO_LARGE)
        return dense

    def _dense(self) -> Array:
        if isinstance(self.activation, MatchingPursuit):
            return self.backend.put(self._pursued.to_dense(), like=self.weights.b_dec)
        if isinstance(self.activation, Temporal):
            return self.backend.put(self._temporal[0], like=self.weights.b_dec)
        return self.backend.encode_dense(self._rows, self.weights, self.activation)

    def sparse(self) -> SparseFeatures:
        """Features of each row."""
        if isinstance(self.activation, MatchingPursuit):
            return self._pursued
        if isinstance(self.activation, Temporal):
            return SparseFeatures.from_dense(self._temporal[0])
        found = self.backend.encode_sparse(self._rows, self.weights, self.activation)
        if not np.isfinite(found.values).all():
            raise SAEError(_TOO_LARGE)
        return found

    def features(self, ids: np.ndarray) -> Array:
        """The given features (n, len(ids)), native; not checked. `ids` are distinct."""
        if isinstance(self.activation, (MatchingPursuit, Temporal)):
            return self.backend.put(self.sparse().columns(ids), like=self.weights.b_dec)
        return self.backend.encode_features(self._rows, self.weights, self.activation, ids)

    @cached_property
    def _pursued(self) -> SparseFeatures:
        assert isinstance(self.activation, MatchingPursuit)
        return iterative.matching_pursuit(*self._on_host(), self.activation)

    @cached_property
    def _temporal(self) -> tuple[np.ndarray, np.ndarray]:
        """Features and what earlier positions predict, both (n, d_hidden)."""
        assert isinstance(self.activation, Temporal)
        if not self._shape:
            raise SAEError(
                "A temporal SAE encodes a token by those before it: it takes (…, positions, d_model),"
                " got a single token."
            )
        rows, weights = self._on_host()
        texts = rows.reshape((math.prod(self._shape[:-1]), self._shape[-1], rows.shape[1]))
        found = iterative.temporal(texts, weights, self.activation)
        shape = (len(rows), weights.W_enc.shape[1])
        return found[0].reshape(shape), found[1].reshape(shape)

    def _on_host(self):
        rows = self.backend.get(self._rows).astype(np.float32)
        return rows, self.weights.map(lambda array: np.asarray(self.backend.get(array)))

    # -- the way back -------------------------------------------------------------------------

    def both(self) -> tuple[Array, Array]:
        """The reconstruction (n, d_out), before `finish`, and the features (n, d_hidden)."""
        if isinstance(self.activation, FIXED_K):
            ids, values = self.backend.encode(self._rows, self.weights, self.activation)
            dense = self.backend.to_dense(ids, values, self.weights.W_enc.shape[1])
            return self.backend.decode(ids, values, self.weights), self._checked(dense)
        dense = self.dense()
        return self.backend.decode_dense(dense, self.weights), dense

    def reconstruction(self) -> Array:
        """(n, d_out), native, before `finish`."""
        if isinstance(self.activation, (MatchingPursuit, Temporal)):
            return self.backend.decode_sparse(self.sparse(), self.weights)
        return self.backend.reconstruct(self._rows, self.weights, self.activation)

    def finish(self, out: Array) -> Array:
        """Decoded rows (n, d_out) with what depends on the input: its normalisation undone, the skip
        connection, the prediction of a temporal SAE."""
        if len(out) != len(self.raw):
            raise SAEError(f"`like` holds {len(self.raw)} tokens, the features belong to {len(out)}.")
        if isinstance(self.activation, Temporal):
            predicted = self.backend.put(self._temporal[1], like=self.weights.b_dec)
            out = (out + predicted @ self.weights.W_dec) / self.activation.scale
        if self._form.undone:
            scale, shift = self._normalized[1]
            out = out * scale + shift
        if "W_skip" in self.weights.extra:
            out = out + self.backend.cast(self.raw, self.weights.b_dec) @ self.weights.extra["W_skip"]
        return out

    @property
    def decoded_scale(self) -> Array | float:
        """What a change of the features is multiplied by once it is decoded: a number, or native (n, 1)."""
        return self._normalized[1][0] if self._form.undone else 1.0

    # -- shapes -------------------------------------------------------------------------------

    def as_given(self, rows: Array, heads: bool = False) -> Array:
        """Rows (n, width) in the shape and kind of x; with `heads`, split into heads where x was."""
        last = (
            self._heads
            if heads and self._heads and math.prod(self._heads) == rows.shape[1]
            else rows.shape[1:]
        )
        shaped = rows.reshape((*self._shape, *last))
        return shaped if self._native else self.backend.get(shaped)

    @property
    def _rows(self) -> Array:
        """What the encoder takes."""
        return self.raw if self._form.trivial else self._normalized[0]

    @cached_property
    def _normalized(self) -> tuple[Array, tuple[Array, Array]]:
        return self.backend.normalize(self.raw, self._form)


def as_activations(x: Any) -> Array:
    """An array of NumPy, MLX or PyTorch as it is; lists and whatever else holds numbers as NumPy's.

    Raises:
        SAEError: It holds something else.
    """
    if is_native(x) or (isinstance(x, np.ndarray) and x.dtype.kind in "fiubc"):
        return x
    return to_numpy(x, "What an SAE is given", SAEError)


_HEADS = (".z", "o_proj.input")


def _shape(
    x: Array, d_model: int, heads: bool, component: str | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leading shape of x, and (heads, d_head) where it comes that way, else ()."""
    shape = tuple(getattr(x, "shape", ()))
    if not isinstance(x, np.ndarray) and shape:
        backend_of(x)  # refuses what no backend knows
    if heads and len(shape) > 1 and shape[-1] != d_model and shape[-2] * shape[-1] == d_model:
        return shape[:-2], shape[-2:]
    if not shape or shape[-1] != d_model:
        raise SAEError(
            f"This SAE takes activations of width {d_model} (…, d_model), got shape {shape}."
            f" It was trained on {component or 'a component that its metadata does not name'};"
            " choose that component, or an SAE of this width."
        )
    return shape[:-1], ()
