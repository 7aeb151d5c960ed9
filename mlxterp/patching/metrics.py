"""Numbers of the logits that patching compares: a logit difference, a distance to the clean run, any function.

A distance compares what two runs predict after each text's last token, in float64, averaged over the texts. As
its slope is known, its gradient is exact in both backends, however the model rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backends.base import Backend, LanguageModel
from ..core.numeric import log_softmax
from ..core.sites import Array
from ..errors import InputError
from ..tracing.gradients import in_float32
from ..tracing.objectives import LogitDifference
from .pair import Pair

Slope = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _l2(x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x - clean, axis=-1)


def _l2_slope(x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x - clean, axis=-1, keepdims=True)
    return (x - clean) / np.where(length > 0, length, 1)


def _mse(x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return np.mean((x - clean) ** 2, axis=-1)


def _mse_slope(x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return 2 * (x - clean) / x.shape[-1]


def _cosine(x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return 1 - np.sum(_unit(x) * _unit(clean), axis=-1)


def _cosine_slope(x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    a, b = _unit(x), _unit(clean)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return (a * np.sum(a * b, axis=-1, keepdims=True) - b) / np.where(length > 0, length, 1)


def _kl(x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    p, q = log_softmax(clean), log_softmax(x)
    return np.sum(np.exp(p) * (p - q), axis=-1)


def _kl_slope(x: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(x)) - np.exp(log_softmax(clean))


def _unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length > 0, length, 1)


DISTANCES: dict[str, tuple[Slope, Slope]] = {
    "l2": (_l2, _l2_slope),
    "mse": (_mse, _mse_slope),
    "cosine": (_cosine, _cosine_slope),
    "kl": (_kl, _kl_slope),
}
"""Name → distance (texts,) of logits (texts, vocabulary) to the clean ones, and its slope. "kl" is
KL(clean ‖ patched) in nats, "cosine" is 1 − cosine."""


class Metric:
    """A metric of one pair of batches.

    Args:
        given: A name of `DISTANCES`, a `LogitDifference`, or a function of logits (texts, positions, vocabulary)
            that returns one number; it is given float32.

    Raises:
        InputError: None of these.
    """

    def __init__(self, given: Any, model: LanguageModel, pair: Pair):
        self._backend, self._pair = model.backend, pair
        self._distance: tuple[Slope, Slope] | None = None
        self._on_clean: Callable[[Array], Any] = given
        self._on_corrupted: Callable[[Array], Any] = given
        self._reference: np.ndarray | None = None
        if isinstance(given, str):
            if given not in DISTANCES:
                raise InputError(
                    f"There is no metric {given!r}. Expected one of {', '.join(map(repr, DISTANCES))}, an objective"
                    " such as mlxterp.logit_difference(' Paris', ' London'), or a function of the logits."
                )
            self._distance, self.name = DISTANCES[given], given
        elif isinstance(given, LogitDifference):
            self._on_clean = given.bind(pair.clean, model.tokenizer)
            self._on_corrupted = given.bind(pair.corrupted, model.tokenizer)
            self.name = f"logit difference of {given.correct!r} and {given.wrong!r}"
        elif callable(given):
            self._on_clean = self._on_corrupted = in_float32(given, model.backend)
            self.name = getattr(given, "__name__", type(given).__name__)
        else:
            raise InputError(
                f"metric= is {type(given).__name__}; expected a name, mlxterp.logit_difference(…), or a function of"
                " logits (texts, positions, vocabulary) that returns one number."
            )

    def of_clean(self, logits: Array) -> float:
        """The clean run's value; comes first, since distances are to this run."""
        if self._distance is None:
            return _number(self._backend, self._on_clean(logits))
        self._reference = _last(self._backend, logits, self._pair.clean.last)
        return 0.0

    def later(self, logits: Array) -> Callable[[], float]:
        """The value of a corrupted or patched run, which may be computed when it is called for."""
        if self._distance is None:
            found = self._on_corrupted(logits)
            return lambda: _number(self._backend, found)
        distance, clean = self._distance[0], self._clean
        value = _finite(float(distance(self._last(logits), clean).mean()))
        return lambda: value

    def objective(self, logits: Array) -> tuple[Callable[[Array], Array], float]:
        """A function and a factor: its gradient at these logits, of the corrupted run, times the factor is the
        metric's. The factor keeps slopes near 1, where 16-bit gradients are neither lost nor infinite."""
        if self._distance is None:
            return self._on_corrupted, 1.0
        slopes = self._distance[1](self._last(logits), self._clean) / self._pair.size
        steepest = float(np.abs(slopes).max())
        factor = 2.0 ** np.floor(np.log2(steepest)) if steepest > 0 else 1.0
        backend, last = self._backend, self._pair.corrupted.last.tolist()

        def linear(x: Array) -> Array:
            terms = [
                (
                    backend.widen(x[i, n]) * backend.put_beside((slopes[i] / factor).astype(np.float32), x)
                ).sum()
                for i, n in enumerate(last)
            ]
            return sum(terms[1:], terms[0])

        return linear, float(factor)

    @property
    def _clean(self) -> np.ndarray:
        assert self._reference is not None
        return self._reference

    def _last(self, logits: Array) -> np.ndarray:
        return _last(self._backend, logits, self._pair.corrupted.last)


def _last(backend: Backend, logits: Array, last: np.ndarray) -> np.ndarray:
    """float64, (texts, vocabulary): the logits after each text's last token."""
    return np.stack([backend.get(logits[i, n]) for i, n in enumerate(last.tolist())]).astype(np.float64)


def _number(backend: Backend, value: Any) -> float:
    array = backend.get(value) if isinstance(value, backend.array_type) else np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise InputError(
            f"The metric returned {type(value).__name__} of shape {tuple(array.shape)}; it must return one number for"
            " logits (texts, positions, vocabulary)."
        )
    return _finite(float(array.reshape(())))


def _finite(number: float) -> float:
    if not np.isfinite(number):
        raise InputError(
            f"The metric is {number} for the logits of one run, so runs cannot be compared by it. It must give a finite"
            " number: mind logarithms and divisions of 0, and 16-bit logits, which overflow early."
        )
    return number
