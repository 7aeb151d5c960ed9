"""What norms multiply and add: TransformerLens's `hook_normalized` is a norm's output before that.

Found from one pass in which the residual stream is ±64 everywhere, so that what a norm divides by is known: no
module has to be named, and the norm's epsilon is nothing beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...backends import backend_of
from ...core.sites import Array
from ...errors import ComponentError
from ...model.interpretable import InterpretableModel

_SIZE = 64.0
_FIT = 0.03
"""Share to which gain and bias must explain other rows; 16-bit models round to 0.01."""


@dataclass(frozen=True, eq=False, slots=True)
class Affine:
    """A norm's gain and bias, float32 (width,)."""

    gain: np.ndarray
    bias: np.ndarray

    def before(self, x: Array) -> Array:
        """What the norm's output was before them."""
        put = backend_of(x).put
        return (x - put(self.bias, x)) / put(self.gain, x)

    def after(self, y: Array, x: Array) -> Array:
        """The output for a value y in the place of `before(x)`; x itself where they are equal."""
        return x + (y - self.before(x)) * backend_of(x).put(self.gain, x)


def find_norms(model: InterpretableModel, names: Sequence[str]) -> dict[str, Affine]:
    """Gain and bias of the norms whose outputs are these components; what is no norm of the stream is left out."""
    d = model.d_model
    rng = np.random.default_rng(0)
    signs = rng.permutation(np.where(np.arange(d) % 2, 1.0, -1.0))
    rows = np.stack([signs, -signs, rng.standard_normal(d) + 0.5, rng.standard_normal(d) - 0.5]) * _SIZE
    rows = rows.astype(np.float32)

    def put(x: Array) -> Array:
        return backend_of(x).put(rows[:, None], x)

    trace = model.trace([[0]] * len(rows), dict.fromkeys(_stream(model), put), capture=list(names))
    get = model.language_model.backend.get
    found = {name: _affine(rows.astype(np.float64), get(trace.activations[name])[:, 0]) for name in names}
    return {name: affine for name, affine in found.items() if affine is not None}


def _stream(model: InterpretableModel) -> list[str]:
    """Components of the residual stream that can be edited."""
    keep: Callable[..., Array] = lambda x, _where, _run: x  # noqa: E731
    found = []
    for layer in range(model.n_layers):
        for leaf in ("resid_pre", "resid_mid", "resid_post"):
            try:
                component = model.anatomy.component(f"layers.{layer}.{leaf}")
                component.edits(keep, None)
            except ComponentError:
                continue
            if leaf != "resid_post" or layer == model.n_layers - 1:
                found.append(component.name)
    return found


def _affine(rows: np.ndarray, out: np.ndarray) -> Affine | None:
    if out.shape != rows.shape:
        return None
    signs = rows[0] / _SIZE
    gain, bias = signs * (out[0] - out[1]) / 2, (out[0] + out[1]) / 2
    for unit in (_rms_unit(rows[2:]), _rms_unit(rows[2:] - rows[2:].mean(axis=1, keepdims=True))):
        rest = np.linalg.norm(out[2:] - unit * gain - bias)
        if rest <= _FIT * np.linalg.norm(out[2:]) and (np.abs(gain) > 1e-6).all():
            return Affine(gain.astype(np.float32), bias.astype(np.float32))
    return None


def _rms_unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True))
