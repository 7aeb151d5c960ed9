"""What `mlxterp selftest` compares: the embedded model and SAE on one device of one wing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np

from . import FOLDER

Wing = Literal["mlx", "torch"]
WINGS: tuple[Wing, ...] = ("mlx", "torch")
TEXTS = (
    "Lily was very sad because she lost her red ball. She looked",
    "Once upon a time, there was a big dog named Max. Max liked to play in the",
    "Tom and Sue went to the park.",
)
_TOKENS = 24
_ROUNDS = 3
_FEATURE = 741


class Subject:
    """The embedded model and SAE on one device, and what they give for fixed texts."""

    def __init__(self, wing: Wing, device: str | None):
        from ..backends import load_language_model
        from ..model.interpretable import InterpretableModel
        from ..sae import SAE
        from ..steering import add_feature

        self.wing: Wing = wing
        if wing == "torch":
            from ..backends.torch import loading

            opened = loading.load_language_model(FOLDER / "model", None, device)
        else:
            opened = load_language_model(FOLDER / "model", None, wing)
        self.model = InterpretableModel(
            cast(Any, opened).model
        )  # without its tokenizer it takes and gives token ids
        self.prompts = [list(opened.tokenize(text)) for text in TEXTS]
        self.sae = SAE.load(FOLDER / "sae", backend=wing, device=device if wing == "torch" else None)
        self.edit = add_feature(self.sae, _FEATURE, 4.0)
        self.parts: dict[str, Callable[[], np.ndarray]] = {
            "activations of every component": self.activations,
            "attention patterns": self.patterns,
            "logits": lambda: self.logits(self.prompts[1]),
            "logits of a steered model": lambda: self.logits(self.prompts[1], steered=True),
        }

    def numbers(self, array: Any) -> np.ndarray:
        return np.asarray(self.model.language_model.backend.get(array), dtype=np.float64)

    def activations(self) -> np.ndarray:
        found = self.model.trace(self.prompts[0]).activations
        calls = [value for name in found for value in _each(found[name])]
        return np.concatenate([_unit(self.numbers(value)) for value in calls])

    def patterns(self) -> np.ndarray:
        names = [f"layers.{i}.attn.pattern" for i in range(self.model.n_layers)]
        with self.model.trace(self.prompts[1]) as trace:
            found = [trace.read(name) for name in names]
        return np.concatenate([self.numbers(one).ravel() for one in found])

    def logits(self, text: Any, steered: bool = False) -> np.ndarray:
        if not steered:
            return self.numbers(self.model.trace(text).output)[0]
        with self.model.steer(self.edit):
            return self.numbers(self.model.trace(text).output)[0]

    def rows(self) -> Any:
        return self.model.trace(self.prompts[0]).activations[self.sae.component or ""][0]

    def features_twice(self) -> tuple[np.ndarray, np.ndarray]:
        """Of a text's tokens, by the wing and by NumPy in float64 from the same activations."""
        rows = self.rows()
        x = self.numbers(rows)
        pre = np.maximum(
            (x - self.sae.subtract_b_dec * self.sae.b_dec) @ self.sae.W_enc.astype(np.float64)
            + self.sae.b_enc,
            0,
        )
        k = self.sae.k or 1
        smallest = np.sort(pre, axis=1)[:, -k, None]
        return self.sae.encode_sparse(rows).to_dense().astype(np.float64), np.where(pre >= smallest, pre, 0)

    def texts(self, steered: bool) -> list[list[int]]:
        """Continuations, one after the other."""
        steer = [self.edit] if steered else None
        return [list(self.model.generate(ids, max_tokens=_TOKENS, steer=steer)) for ids in self.prompts]

    def together(self) -> list[list[int]]:
        return [list(ids) for ids in self.model.generate(self.prompts, max_tokens=_TOKENS, verbose=False)]

    def shortfall(self, made: list[list[int]], steered: bool) -> float:
        """How far the logit of a generated token lies below the largest, at most, as a share of the largest size.

        One pass reads each whole text, so that ties, which rounding may decide either way, count nothing.
        """
        worst = 0.0
        for prompt, chosen in zip(self.prompts, made, strict=True):
            logits = self.logits([*prompt, *chosen][:-1], steered)[len(prompt) - 1 :]
            reached = np.take_along_axis(logits, np.array(chosen)[:, None], axis=1)[:, 0]
            worst = max(worst, float((logits.max(axis=1) - reached).max(initial=0) / np.abs(logits).max()))
        return worst

    def speeds(self, cpu: Subject, wing: Wing, device: str) -> dict[str, float]:
        """How many times as fast this device is as the CPU, and together as alone."""
        text = [token for ids in self.prompts for token in ids] * 3
        alone, together = _seconds(lambda: self.texts(False)), _seconds(self.together)
        found = {f"{wing}: three texts together against one by one": alone / together}
        if device == "cpu":
            return found
        jobs = {"a pass over a text": lambda who: who.logits(text), "a text": lambda who: who.texts(False)}
        for name, job in jobs.items():
            fast = _seconds(lambda job=job: job(self))
            with on_cpu(wing):
                slow = _seconds(lambda job=job: job(cpu))
            found[f"{wing}: {name}, {device} against the CPU"] = slow / fast
        return found


def _each(value: Any) -> list[Any]:
    """A component's outputs: some have several, some are called twice."""
    return [one for part in value for one in _each(part)] if isinstance(value, (list, tuple)) else [value]


def _unit(array: np.ndarray) -> np.ndarray:
    """Flat, in units of its largest value, so that no component hides behind a larger one."""
    return array.ravel() / (np.abs(array).max() or 1)


def backend_of_wing(wing: Wing) -> Any:
    """What its arrays are made and read by."""
    from ..backends import get_backend

    return get_backend(wing)


def kernels_of(wing: Wing) -> Any:
    """Its GPU kernels, and their plain twins."""
    if wing == "torch":
        from ..backends.torch import kernels
    else:
        from ..backends.mlx import kernels
    return kernels


def device_of(wing: Wing) -> str:
    """The device that the wing takes by itself: "metal", "cuda", "mps" or "cpu"."""
    if wing == "torch":
        from ..backends.torch.devices import best_device
    else:
        backend_of_wing(wing)  # gives MLX a fast BLAS first
        from ..backends.mlx.devices import best_device
    return best_device()


def put(wing: Wing, array: np.ndarray) -> Any:
    """On the device that the wing takes by itself."""
    native = backend_of_wing(wing).put(array)
    return native.to(device_of(wing)) if wing == "torch" else native


@contextmanager
def on_cpu(wing: Wing) -> Iterator[None]:
    """MLX computes on the CPU meanwhile; torch's arrays know where they are."""
    if wing == "torch":
        yield
        return
    from ..backends.mlx import devices

    with devices.on_cpu():
        yield


def _seconds(job: Callable[[], Any]) -> float:
    """Of the quickest of some runs, by the clock."""
    job()
    found = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        job()
        found.append(time.perf_counter() - start)
    return min(found)
