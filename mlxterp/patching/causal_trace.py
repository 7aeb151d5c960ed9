"""Causal tracing: which states bring an answer back after the subject was drowned in noise.

The prompt runs with Gaussian noise on the embeddings of the subject, which takes the answer away; then again and again,
each time with the clean state of one place put back. Many restorations and draws of the noise share a pass.
Method: Meng et al. (2022), "Locating and Editing Factual Associations in GPT" (ROME), whose noise has three times the
standard deviation of embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..backends.host.finite import not_finite
from ..core import checks
from ..core.controls import MOST_DRAWS
from ..core.numeric import log_softmax
from ..core.options import names_options
from ..core.positions import checked_slice, integers
from ..core.progress import hidden
from ..core.sites import Array, Component, Run, SiteEdit, Where, unique_sites
from ..core.tokens import TokenBatch
from ..data.text import pieces_of
from ..errors import ComponentError, InputError
from ..hooks.session import ModelSession
from ..tracing.objectives import token_given, token_id
from .activation import per_pass
from .causal_map import CausalTrace

KINDS = {"hidden": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}
"""What is restored → the component below a layer."""
_SAMPLE, _ROW = 4096, 64
"""Tokens that the standard deviation of embeddings is taken over, and how many of them are in a row."""


@names_options
def causal_trace(
    model: Model,
    prompt: Any,
    subject: Any,
    target: int | str | None = None,
    noise: float = 3.0,
    draws: int = 10,
    kind: str = "hidden",
    window: int = 10,
    *,
    layers: int | Iterable[int] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    verbose: bool = False,
) -> CausalTrace:
    """Probability of the answer with the clean state of each layer and token restored, after noise on the subject.

    Args:
        model: An `InterpretableModel`, with what acts on it.
        prompt: One text, or its token ids; the answer is the token after it.
        subject: Text that stands in the prompt exactly once, or positions of its tokens.
        target: Token id or text of one token; None takes what the model says.
        noise: Standard deviation of the noise, in standard deviations of the model's embeddings.
        draws: Of the noise, at least 2; each serves all places.
        kind: "hidden" restores the stream after a layer; "mlp" and "attn" what their sublayers add to it.
        window: Layers around the named one that are restored together, for "mlp" and "attn".
        layers: Layer numbers; None takes all.
        seed: Of the noise.
        batch_size: Restorations in one pass; None takes what fits about 4,096 tokens.
        verbose: Show a bar where the output is a terminal.

    Raises:
        InputError: A subject that is not in the prompt or is in it twice, a target of several tokens, no noise.
        ComponentError: A layer has no such sublayer, or it cannot be edited.
        NotFiniteError: Logits are NaN or infinite.

    Examples:
        >>> found = model.causal_trace("Lily lost her red ball. Lily was very", " lost", " sad", draws=3)
        >>> found.restored.shape  # draws, layers, tokens
        (3, 4, 10)
        >>> found.top(1)[0][:3]  # the layer, position and token that bring back most
        (3, 9, ' very')
    """
    session = session_of(model, ModelSession)
    batch = session.batch(prompt)
    if len(batch.lengths) != 1:
        raise InputError(f"causal_trace takes one prompt, got {len(batch.lengths)}. Ask for each of them.")
    noise, seed = checks.finite(noise, "noise", above=0.0), checks.seed(seed)
    draws = checks.count(draws, "draws", 2, MOST_DRAWS, hint="The interval is over draws.")
    kind, window = checks.choice(kind, "kind", KINDS), checks.count(window, "window")
    anatomy = session.anatomy
    tokens = pieces_of(session.tokenizer, batch.ids[0].tolist())
    places = subject_positions(subject, tokens)
    asked = None if target is None else token_id(token_given(target, "target"), session.tokenizer)
    chosen = anatomy.chosen_layers(layers)
    tracer = _Tracer(anatomy, batch, places, kind, window if kind != "hidden" else 1, noise, draws, seed)
    clean = tracer.clean()
    answer = int(clean.argmax()) if asked is None else asked
    if not 0 <= answer < len(clean):
        raise InputError(f"target is {answer}; this model has tokens 0 to {len(clean) - 1}.")
    low = tracer.probabilities([_Place(draw, None, 0) for draw in range(draws)], answer, batch_size, False)
    restored = np.repeat(low[:, None, None], len(chosen), axis=1).repeat(len(tokens), axis=2)
    first = int(places.min())  # before it nothing was changed, so there is nothing to restore
    todo = [
        _Place(draw, layer, position)
        for layer in chosen for position in range(first, len(tokens)) for draw in range(draws)
    ]  # fmt: skip
    found = tracer.probabilities(todo, answer, batch_size, verbose)
    restored[:, :, first:] = np.moveaxis(found.reshape(len(chosen), len(tokens) - first, draws), 2, 0)
    return CausalTrace(
        tokens=tokens, subject=tuple(places.tolist()), target=answer, target_text=_text(session, batch, answer),
        kind=kind, window=tracer.window, layers=chosen, high=float(clean[answer]), low=low, restored=restored,
        noise=noise, std=tracer.std, seed=seed,
    )  # fmt: skip


def subject_positions(subject: Any, tokens: Sequence[str]) -> np.ndarray:
    """int64: positions of the subject's tokens, ascending.

    Args:
        subject: Text, or positions (negative ones count from the end).
        tokens: The text of each token of the prompt.

    Raises:
        InputError: The text is not there, or several times; a position is outside.
    """
    n = len(tokens)
    if not isinstance(subject, str):
        wanted = np.arange(n)[checked_slice(subject)] if isinstance(subject, slice) else integers(subject)
        if not wanted.size or ((wanted < -n) | (wanted >= n)).any():
            raise InputError(f"subject={subject!r}: expected positions 0 to {n - 1}, or text of the prompt.")
        return np.unique(wanted % n)
    text = "".join(tokens)
    starts = [i for i in range(len(text)) if subject and text.startswith(subject, i)]
    if len(starts) != 1:
        ends = np.cumsum([len(token) for token in tokens])
        at = [int(np.searchsorted(ends, i, side="right")) for i in starts]
        said = (
            f"stands {len(starts)} times in the prompt, at positions {at}"
            if starts
            else "is not in the prompt"
        )
        raise InputError(
            f"subject={subject!r} {said}. Give text that is in it exactly once, or positions of its tokens:"
            f" subject={at[-1:] or [0]}; model.to_str_tokens(prompt) shows them."
        )
    ends = np.cumsum([len(token) for token in tokens])
    begins = ends - [len(token) for token in tokens]
    return np.flatnonzero((begins < starts[0] + len(subject)) & (ends > starts[0]) & (ends > begins))


@dataclass(frozen=True, slots=True)
class _Place:
    """One run: a draw of the noise, and where the clean state is put back (nowhere without a layer)."""

    draw: int
    layer: int | None
    position: int


class _Tracer:
    """Runs of one prompt with noise on its subject."""

    def __init__(
        self, anatomy: Anatomy, batch: TokenBatch, subject: np.ndarray, kind: str, window: int, noise: float,
        draws: int, seed: int,
    ):  # fmt: skip
        self.anatomy, self.batch, self.window = anatomy, batch, window
        self._name = KINDS[kind]
        self._embed = anatomy.component("embed")
        self.std = embedding_std(anatomy, self._embed)
        n, width = int(batch.lengths[0]), anatomy.model.d_model
        self._noise = np.zeros((draws, n, width), dtype=np.float32)
        for draw in range(draws):
            drawn = np.random.default_rng([seed, draw]).standard_normal((len(subject), width))
            self._noise[draw, subject] = noise * self.std * drawn
        self._components: dict[int, Component] = {}
        self._clean: dict[int, Array] = {}

    def clean(self) -> np.ndarray:
        """float64, (vocabulary,): probabilities after the prompt as it is. Keeps the clean states."""
        layers = range(len(self.anatomy.model.layers))
        self._components = {n: self.anatomy.component(f"layers.{n}.{self._name}") for n in layers}
        run = self.anatomy.model.run(self.batch, unique_sites(self._components.values()))
        for layer, component in self._components.items():
            value = component.read(run)
            if isinstance(value, list) or tuple(value.shape) != self._shape(1):
                raise ComponentError(
                    f"{component.name} is not one value (1, positions, {self.anatomy.model.d_model}) of a pass, so it"
                    " cannot be restored token by token."
                )
            self._clean[layer] = value
        self.anatomy.model.backend.evaluate([*self._clean.values(), run.logits])
        return self._last(run.logits)[0]

    def probabilities(
        self, places: Sequence[_Place], answer: int, batch_size: int | None, verbose: bool
    ) -> np.ndarray:
        """float64, (places,): probability of the answer in each run."""
        size = per_pass(self.anatomy.model.vocab_size, self.batch.ids.shape[1], batch_size)
        found = []
        from tqdm.auto import tqdm

        with tqdm(total=len(places), desc="tracing", disable=hidden(verbose)) as bar:
            for start in range(0, len(places), size):
                part = places[start : start + size]
                ids = np.repeat(self.batch.ids, len(part), axis=0)
                batch = TokenBatch(ids, np.repeat(self.batch.lengths, len(part)))
                logits = self.anatomy.model.run(batch, edits=self._edits(part)).logits
                found.append(self._last(logits)[:, answer])
                bar.update(len(part))
        return np.concatenate(found)

    def _edits(self, places: Sequence[_Place]) -> list[SiteEdit]:
        backend = self.anatomy.model.backend
        noise = self._noise[[place.draw for place in places]]

        def noisy(x: Array, _where: Where, _run: Run) -> Array:
            return x + backend.put(noise, x)

        edits = list(self._embed.edits(noisy, None))
        rows = np.array([-1 if place.layer is None else place.layer for place in places])
        at = np.array([place.position for place in places])
        for layer, component in self._components.items():
            meant = (rows >= 0) & (abs_window(rows, layer, self.window))
            if not meant.any():
                continue
            mask = np.zeros((len(places), noise.shape[1], 1), dtype=bool)
            mask[meant, at[meant]] = True
            edits += component.edits(self._restoring(mask, self._clean[layer]), None)
        return edits

    def _restoring(self, mask: np.ndarray, clean: Array) -> Any:
        where = self.anatomy.model.backend.where

        def restored(x: Array, _where: Where, _run: Run) -> Array:
            return where(mask, clean, x)

        return restored

    def _last(self, logits: Array) -> np.ndarray:
        """float64, (rows, vocabulary): probabilities after the last token."""
        last = self.anatomy.model.backend.get(logits[:, int(self.batch.lengths[0]) - 1])
        if not np.isfinite(last).all():
            raise not_finite("The logits", "after the prompt", True)
        return np.exp(log_softmax(last))

    def _shape(self, rows: int) -> tuple[int, int, int]:
        return rows, int(self.batch.lengths[0]), self.anatomy.model.d_model


def abs_window(layers: np.ndarray, layer: int, window: int) -> np.ndarray:
    """Which of the named layers have `layer` among the `window` layers around them (one more below than above)."""
    return (layer >= layers - window // 2) & (layer < layers - window // 2 + window)


def embedding_std(anatomy: Anatomy, embed: Component) -> float:
    """Standard deviation of the numbers in the embeddings of tokens: of all, or of 4,096 drawn once for all."""
    model = anatomy.origin.model
    ids = np.arange(model.vocab_size)
    if len(ids) > _SAMPLE:
        ids = np.sort(np.random.default_rng(0).choice(ids, _SAMPLE, replace=False))
    row = min(_ROW, model.max_positions or _ROW)
    rows = [ids[i : i + row].tolist() for i in range(0, len(ids), row)]
    batch = TokenBatch.from_rows(rows)
    run = model.run(batch, embed.sites, stop_after=embed.sites)
    values = model.backend.get(embed.read(run)).astype(np.float64)
    real = np.arange(batch.ids.shape[1]) < batch.lengths[:, None]
    return float(values[real].std())


def _text(session: ModelSession, batch: TokenBatch, token: int) -> str:
    return pieces_of(session.tokenizer, [*batch.ids[0].tolist(), token])[-1]
