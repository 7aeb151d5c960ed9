"""Trains a `TunedLens`: all layers in one pass over each batch, by gradient descent with Nesterov's momentum.

The loss of a layer is KL(final ‖ lens), averaged over a batch's tokens. Layers do not feel each other: each has its own
gradient, cut to a length of `gradient_clip`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..activations.forward import batches_of, run_batch
from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Session
from ..backends.base import Backend
from ..core import checks
from ..core.digests import DIGEST, digest_of_arrays
from ..core.files import atomic_write, strict_json
from ..core.places import path_of
from ..core.progress import hidden
from ..core.sites import Array
from ..core.tensor_files import check_safetensors
from ..data.contexts import ListedContexts
from ..data.corpus import Corpus
from ..data.dataset import ListedTexts, texts_of
from ..errors import GradientError, InputError, SAEError, warn
from ..tracing.passes import unembed
from .comparison import lens_comparison
from .fitted_lens import model_facts
from .tuned_lens import TunedLens

_CELLS = 1 << 22
"""Logits held at once."""
_HELD_OUT, _MOST_HELD_OUT = 0.1, 50
_SAVE_EVERY = 10
Callback = Callable[[int, float], Any]


@dataclass(frozen=True, slots=True)
class TunedSettings:
    """What decides a training beside its texts."""

    num_steps: int
    learning_rate: float
    momentum: float
    max_seq_len: int
    gradient_clip: float
    batch_tokens: int
    seed: int

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "num_steps", checks.count(self.num_steps, "num_steps", 0))
        for name in ("max_seq_len", "batch_tokens"):
            set_(self, name, checks.count(getattr(self, name), name))
        for name in ("learning_rate", "gradient_clip"):
            set_(self, name, checks.finite(getattr(self, name), name, above=0.0))
        set_(self, "momentum", checks.finite(self.momentum, "momentum", 0.0, below=1.0))
        set_(self, "seed", checks.seed(self.seed))


def train_tuned_lens(
    session: Session, dataset: Any, settings: TunedSettings, *, held_out: Any = None,
    checkpoint: str | os.PathLike | None = None, verbose: bool = True, callback: Callback | None = None,
) -> TunedLens:  # fmt: skip
    """See `InterpretableModel.train_tuned_lens`."""
    from tqdm.auto import tqdm

    session.refresh()
    session.warn_of_acts("a lens is trained for it")
    anatomy = session.anatomy
    if callback is not None and not callable(callback):
        raise InputError(f"callback is {type(callback).__name__}; expected a function (step, loss).")
    texts, kept = _split(session, dataset, held_out)
    contexts = _contexts(session, texts, settings, verbose)
    _check_enough(contexts, len(texts), anatomy.model.d_model)
    facts = {
        **model_facts(session, len(anatomy.model.layers) - 1),
        "training": {
            **asdict(settings),
            "acting": list(anatomy.model.described),
            "texts": contexts.identity(),
        },
    }
    state = _State(anatomy, settings)
    file = None if checkpoint is None else path_of(checkpoint)
    if file is not None and file.exists():
        state.load(file, facts)
    with tqdm(
        total=settings.num_steps, initial=state.step, desc="Tuned lens", unit="step", disable=hidden(verbose)
    ) as bar:
        for corpus in _blocks(contexts, state.step, settings.num_steps):
            loss = state.take(corpus)
            bar.set_postfix(kl=f"{loss:.4f}")
            bar.update()
            if callback is not None:
                callback(state.step, loss)
            if file is not None and (state.step % _SAVE_EVERY == 0 or state.step == settings.num_steps):
                state.save(file, facts)
    made = state.lens({**facts, "steps": state.step, "tokens": state.tokens}, session)
    return made if kept is None else _measured(session, made, kept, settings)


class _State:
    """Maps in training, and their momentum; native float32 arrays."""

    def __init__(self, anatomy: Anatomy, settings: TunedSettings):
        self._anatomy, self._settings, self._backend = anatomy, settings, anatomy.model.backend
        model, d = anatomy.model, anatomy.model.d_model
        self._count, self._layers = (
            len(model.layers),
            len(model.layers) - 1,
        )  # the last is the model's own output
        names = [f"layers.{n}.resid_post" for n in range(self._count)]
        self._components = [anatomy.component(name) for name in names]
        self.step = self.tokens = 0
        one, zero, none = np.eye(d, dtype=np.float32), np.zeros((d, d), np.float32), np.zeros(d, np.float32)
        self._numpy = {
            key: [start] * self._layers
            for key, start in (("W", one), ("b", none), ("vW", zero), ("vb", none))
        }
        self._native: dict[str, list[Array]] = {}

    def take(self, corpus: Corpus) -> float:
        """One step on a block of contexts; its mean KL over layers."""
        model, backend = self._anatomy.model, self._backend
        sums: list[tuple[Array, Array]] | None = None
        total, tokens = 0.0, 0
        for batch in batches_of(model, corpus, self._settings.batch_tokens, quiet=True):
            values = [part.values for part in run_batch(model, batch, self._components)]
            self._put(values[0])
            for start in range(0, int(values[0].shape[0]), self._rows):
                rows = [backend.widen(x[start : start + self._rows]) for x in values]
                found, losses = self._gradients(rows)
                sums = (
                    found
                    if sums is None
                    else [(W + w, b + v) for (W, b), (w, v) in zip(sums, found, strict=True)]
                )
                backend.evaluate([x for pair in sums for x in pair])
                total, tokens = total + losses, tokens + int(rows[0].shape[0])
        assert sums is not None
        loss = total / (tokens * max(self._layers, 1))
        if not np.isfinite(loss):
            raise GradientError(
                f"The loss is not finite at step {self.step + 1}. Take a smaller learning_rate, or float32 weights."
            )
        self._update(sums, tokens)
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        return loss

    @property
    def _rows(self) -> int:
        return max(1, _CELLS // self._anatomy.model.vocab_size)

    def _gradients(self, rows: Sequence[Array]) -> tuple[list[tuple[Array, Array]], float]:
        """Of each layer's W and b, summed over rows; and the sum of all layers' losses."""
        model, found, total = self._anatomy.model, [], 0.0
        final = unembed(model, rows[-1])
        for layer in range(self._layers):
            x = rows[layer]
            moved = x @ self._native["W"][layer].T + self._native["b"][layer]
            losses, gradient = model.divergence(moved, final)
            total += float(losses.sum(dtype=np.float64))
            found.append((gradient.T @ x, gradient.sum(0)))
        return found, total

    def _update(self, sums: Sequence[tuple[Array, Array]], tokens: int) -> None:
        settings, native = self._settings, self._native
        rate = settings.learning_rate * (1 - self.step / settings.num_steps)
        for layer, (w, b) in enumerate(sums):
            gradients = {"W": w / tokens, "b": b / tokens}
            size = sum(float(self._backend.get((g * g).sum())) for g in gradients.values()) ** 0.5
            shrink = min(1.0, settings.gradient_clip / max(size, 1e-12))
            for key, gradient in gradients.items():
                gradient = gradient * shrink
                velocity = native[f"v{key}"][layer] * settings.momentum + gradient
                native[f"v{key}"][layer] = velocity
                native[key][layer] = native[key][layer] - (gradient + velocity * settings.momentum) * rate
        self._backend.evaluate([x for arrays in native.values() for x in arrays])

    def _put(self, like: Array) -> None:
        """The maps where the model's activations lie."""
        if not self._native:
            backend: Backend = self._backend
            wide = backend.widen(like)
            self._native = {
                k: [backend.put(x, like=wide) for x in arrays] for k, arrays in self._numpy.items()
            }

    def _arrays(self) -> dict[str, np.ndarray]:
        get = self._backend.get
        held = (
            {k: [get(x) for x in arrays] for k, arrays in self._native.items()}
            if self._native
            else self._numpy
        )
        d = self._anatomy.model.d_model
        shapes = {"W": (0, d, d), "vW": (0, d, d), "b": (0, d), "vb": (0, d)}
        return {
            k: np.stack(x).astype(np.float32) if x else np.zeros(shapes[k], np.float32)
            for k, x in held.items()
        }

    def lens(self, facts: Mapping[str, Any], session: Session) -> TunedLens:
        """The maps as they are now."""
        arrays, d = self._arrays(), self._anatomy.model.d_model
        weights = np.concatenate([arrays["W"], np.eye(d, dtype=np.float32)[None]])
        biases = np.concatenate([arrays["b"], np.zeros((1, d), np.float32)])
        return TunedLens(self._count, d, weights=weights, biases=biases, metadata=facts, session=session)

    def save(self, file: Path, facts: Mapping[str, Any]) -> None:
        """Writes everything that the next step depends on."""
        arrays = self._arrays()
        said = json.dumps({"step": self.step, "tokens": self.tokens, "facts": facts})
        with atomic_write(file) as draft:
            save_file(arrays, draft, {"run": said, DIGEST: digest_of_arrays(arrays, said)})

    def load(self, file: Path, facts: Mapping[str, Any]) -> None:
        """Goes on from what `save` wrote.

        Raises:
            InputError: It is damaged, or of another training.
        """
        if file.is_dir():
            raise InputError(
                f"checkpoint={str(file)!r} is a folder; expected a file, such as 'run.safetensors'."
            )
        try:
            check_safetensors(file)
            with safe_open(file, framework="np") as opened:
                header = opened.metadata() or {}
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            said = strict_json(header["run"])
            if header[DIGEST] != digest_of_arrays(arrays, header["run"]):
                raise ValueError("its digest is not that of its contents")
            kept = said["facts"]
            self.step, self.tokens = int(said["step"]), int(said["tokens"])
            self._numpy = {key: list(arrays[key]) for key in self._numpy}
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, OverflowError, SAEError) as error:
            raise InputError(
                f"{file} is no checkpoint of a tuned lens, or it is damaged: {error}. Remove it to start over."
            ) from error
        if kept != json.loads(json.dumps(facts)):
            raise InputError(
                f"{file} is of another training (other texts, settings or model). Choose another path, or remove it."
            )


def _split(session: Session, dataset: Any, held_out: Any) -> tuple[list[str], list[str] | None]:
    """Texts to train on, and those to measure on (None where none can be spared)."""
    model = session.plain.model
    texts = texts_of(dataset, model)
    if held_out is not None:
        return texts, texts_of(held_out, model, "held_out")
    spared = min(int(len(texts) * _HELD_OUT), _MOST_HELD_OUT)
    return (texts[:-spared], texts[-spared:]) if spared else (texts, None)


def _contexts(session: Session, texts: list[str], settings: TunedSettings, verbose: bool) -> ListedContexts:
    model = session.plain.model
    length = min(settings.max_seq_len, model.max_positions or settings.max_seq_len, settings.batch_tokens)
    encode = session.tokenize or model.tokenize
    return ListedContexts(
        ListedTexts(texts), encode, length, settings.batch_tokens, settings.seed, None, verbose
    )


def _check_enough(contexts: ListedContexts, texts: int, d_model: int) -> None:
    """Warns of tokens that are too few for a map of every layer.

    Raises:
        InputError: No text has two tokens.
    """
    if contexts.longest < 2:
        raise InputError(
            f"None of the {texts} texts has two tokens, so there is nothing to train on. Give more, and longer ones."
        )
    if contexts.tokens < d_model:
        warn(
            f"A tuned lens of {contexts.tokens} tokens is not to be trusted: each of its maps has {d_model} × {d_model}"
            " numbers. Give more texts, or longer ones."
        )


def _blocks(contexts: ListedContexts, done: int, steps: int) -> Iterator[Corpus]:
    """The block of each step that is still to do; the texts are read again as often as it takes."""
    epoch = number = 0
    for step in range(steps):
        if number == contexts.blocks(epoch):
            epoch, number = epoch + 1, 0
        if step >= done:
            yield contexts.block(epoch, number)
        number += 1


def _measured(session: Session, lens: TunedLens, texts: list[str], settings: TunedSettings) -> TunedLens:
    """The lens with its KL on held-out texts, beside the logit lens's."""
    length = max(2, min(settings.max_seq_len, 256))
    found = lens_comparison(
        session, texts, {"tuned": lens}, context_length=length, skip=0, seed=settings.seed
    )
    pairs = zip(found.layers, found.kl("logit").tolist(), found.kl("tuned").tolist(), strict=True)
    lens.metadata["held_out_kl"] = {str(layer): [before, after] for layer, before, after in pairs}
    lens.metadata["held_out_texts"] = len(texts)
    return lens
