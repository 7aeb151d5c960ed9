"""`InterpretableModel`: the front door. It holds one `LanguageModel`; every method delegates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, cast

from ..anatomy.names import GLOBAL, ROOTS
from ..backends import load_language_model, wrap_language_model
from ..core.options import check_options, checks_options
from ..core.sites import Array
from ..core.tokens import TokenBatch, held, several, to_batch
from ..data.text import check_length, cross_entropy, decode, pieces_of
from ..edits.edits import Edit
from ..errors import BackendError, InputError
from ..tracing import generation
from ..tracing.context import innermost_trace
from ..tracing.declared import Interventions
from ..tracing.gradients import gradients
from ..tracing.proxies import ComponentProxy, LayerList
from ..tracing.trace import Trace
from .hooks import HookMethods
from .index import IndexMethods
from .patching import PatchingMethods
from .saes import SAEMethods
from .steering import SteeringMethods

_COMPAT = "; mlxterp.compat.saelens has HookedSAETransformer with it"
_ELSEWHERE = {
    "run_with_cache": f" Here: with model.trace(text) as t: …, then t.activations[name]{_COMPAT}.",
    "run_with_hooks": f" Here: model.trace(text, interventions={{name: function}}){_COMPAT}.",
    "run_with_saes": f" Here: with model.attach_sae(sae, mode='replace'): model(text){_COMPAT}.",
    "run_with_cache_with_saes": f" Here: model.attach_sae(sae), then model.trace(text){_COMPAT}.",
    "cfg": " Here: model.d_model, model.n_layers, model.n_heads, model.vocab_size.",
    "to_string": " Here: model.decode(tokens).",
    "to_single_token": " Here: model.tokenize(text), a list of ids.",
    "W_U": " Here: model.unembed(x); mlxterp.compat.saelens has the matrix.",
}
"""What users of TransformerLens and SAELens look for, and where it is."""


@checks_options
class InterpretableModel(SAEMethods, IndexMethods, SteeringMethods, PatchingMethods, HookMethods):
    """A language model whose components can be seen and edited by path.

    Args:
        model: A model of mlx-lm, a Hugging Face model (torch), or a hub repo or folder to load.
        tokenizer: What turns text into token ids; not needed when token ids are given.
        backend: For a repo or folder, "mlx" or "torch"; by default MLX where it is installed.

    Raises:
        NotALanguageModelError: The object is not a language model.
        InputError: The folder or repo cannot be found or read.
        BackendError: The library that would run it is not installed.
    """

    def __init__(self, model: Any, tokenizer: Any = None, backend: str | None = None):
        if isinstance(model, (str, os.PathLike)):
            self._start(load_language_model(model, tokenizer, backend))
            object.__setattr__(self, "name", str(model))
        else:
            self._start(wrap_language_model(model, tokenizer))

    # -- what it is ---------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """Paths that start with the wrapped model's own attribute: `model.model.layers[3]`."""
        return ComponentProxy(self._plain, "model")

    @property
    def layers(self) -> LayerList:
        """The decoder blocks."""
        return LayerList(self._plain)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._plain.model.d_model

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self._plain.model.layers)

    @property
    def n_heads(self) -> int | None:
        """Attention heads of a layer; None for a model without attention."""
        return self._plain.model.n_heads

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._plain.model.vocab_size

    def components(self) -> dict[str, str]:
        """Every component's canonical name → what it is (a module's class, or how it was found)."""
        return self._plain.table()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "_plain" not in self.__dict__:
            raise AttributeError(name)
        if name in GLOBAL:
            return innermost_trace(self._plain).read(name)
        if name in ROOTS or any(name in path.split(".") for path in self._plain.model.modules):
            return ComponentProxy(self._plain, name)
        raise AttributeError(
            f"InterpretableModel has no attribute {name!r}, and no module of this model is called so."
            f"{_ELSEWHERE.get(name, '')}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in GLOBAL:
            innermost_trace(self._plain).assign(name, value)
        else:
            object.__setattr__(self, name, value)

    def __copy__(self) -> InterpretableModel:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """`copy.deepcopy` and `pickle` take the wrapped model as it is now, all its weights, and the tokenizer.

        Raises:
            InputError: Something is attached, which belongs to this one.
        """
        if self._attachments.attached:
            raise InputError(
                f"{len(self._attachments.attached)} attached SAEs or hooks act on this model; they are not copied with"
                " it. Detach them first, and attach to the copy. For other processes it is cheaper to open the model"
                " there: InterpretableModel(name_or_folder)."
            )
        wrapped: Any = self._plain.model
        return _rebuilt, (type(self), wrapped.model, self.tokenizer, getattr(self, "name", None))

    def __repr__(self) -> str:
        lm = self._plain.model
        heads = f", {lm.n_heads} heads" if lm.n_heads else ""
        return (
            f"InterpretableModel({lm.model_type} on {lm.backend.name}: {self.n_layers} layers,"
            f" d_model {lm.d_model}{heads}, vocabulary {lm.vocab_size},"
            f" {'with' if self.tokenizer is not None else 'no'} tokenizer)"
        )

    # -- text and tokens ----------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, as the tokenizer's `encode` gives them: nothing added or removed."""
        return to_batch(text, self._tokenize).ids[0].tolist() if text else self._require_tokenize(text)

    def to_tokens(self, inputs: Any) -> Array:
        """Token ids as a native array (batch, longest); unequal texts are right-padded."""
        return self._plain.model.backend.put(self._batch(inputs, check=False).ids)

    def to_str_tokens(self, inputs: Any) -> Any:
        """The text of each token: a list for one text, a list of lists for several. Joined, they are the text.

        A character that is spread over several tokens stands with the first of them; the others are "".
        """
        tokenizer, texts = self._require_tokenizer(), several(inputs)
        batch = self._batch(inputs if texts is None else texts, check=False)
        rows = [row[:n].tolist() for row, n in zip(batch.ids, batch.lengths, strict=True)]
        pieces = [list(pieces_of(tokenizer, row)) for row in rows]
        return pieces[0] if texts is None else pieces

    def decode(self, tokens: Any) -> str:
        """The text of token ids."""
        return decode(self._require_tokenizer(), tokens)

    def _require_tokenize(self, text: str) -> list[int]:
        self._require_tokenizer()
        return self._plain.model.tokenize(text)

    def _require_tokenizer(self) -> Any:
        if self.tokenizer is None:
            to_batch("text", None)  # raises, and says what to do
        return self.tokenizer

    def _batch(self, inputs: Any, check: bool = True) -> TokenBatch:
        self._refresh()
        batch = to_batch(inputs, self._tokenize, self.vocab_size)
        if check:
            check_length(self._plain.model, int(batch.lengths.max()))
        return batch

    # -- running ------------------------------------------------------------------------------

    def __call__(self, inputs: Any) -> Array:
        """Logits (batch, positions, vocabulary), with what is attached and the open `steer` blocks; no trace acts."""
        inputs = held(inputs)
        batch = self._batch(inputs)
        return self._anatomy_for(inputs).model.forward(batch)

    def trace(
        self,
        inputs: Any,
        interventions: Interventions | None = None,
        capture: Sequence[str] | str | None = None,
        stop_after: str | None = None,
    ) -> Trace:
        """Runs `inputs` with every component in reach: use as `with model.trace(…) as t:`.

        Args:
            inputs: A string, a list of strings, token ids, a list of lists of them, or an array.
                Texts of unequal length are right-padded; each gives what it would give alone.
            interventions: {path: function or [functions]}, activation -> activation, run in order.
            capture: Keep just these components; without it everything can be read, and only what
                was read or saved is kept in memory.
            stop_after: Compute no further than this component; there are no logits then.

        Raises:
            ComponentError: A path that is unknown, ambiguous or never called.
            InputError: Empty input, unknown token ids, or a text longer than learned positions.
        """
        inputs = held(inputs)
        batch = self._batch(inputs)  # first: it notices replaced modules
        return Trace(self._anatomy_for(inputs), batch, interventions, capture, stop_after)

    def loss(self, inputs: Any) -> float:
        """Mean cross-entropy in nats per predicted token (every token but each text's first).

        Raises:
            NotFiniteError: It is NaN or infinite at some token.
        """
        inputs = held(inputs)
        batch = self._batch(inputs)
        return cross_entropy(self._anatomy_for(inputs).model, batch)

    def unembed(self, x: Any) -> Array:
        """Logits of residual-stream vectors (…, d_model): the final norm, then the head."""
        return generation.unembed(self._plain.model, x)

    def generate(
        self,
        prompt: Any,
        max_tokens: int = 100,
        interventions: Interventions | None = None,
        positions: Any = "all",
        steer: Edit | Sequence[Edit] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool = False,
        prefill_step_size: int = 2048,
    ) -> Any:
        """Continues a prompt; returns the continuation only.

        Args:
            prompt: A string or token ids; a list of them gives a list of continuations.
            interventions: As in `trace`; they act on every forward pass.
            positions: Where they act: "all", "prompt", "generated", or absolute positions as a slice
                or list (0 is the prompt's first token). A generated token is edited when it is read.
            steer: Edits of `mlxterp.steering`, as in `model.steer`; `positions` is for those that name none.
            temperature: 0, or anything below 1e-6, takes the likeliest token.
            seed: An integer in [0, 2**64) that makes sampling repeatable; the libraries' own random states are left
                alone.
            stop: Ends the text before the first of these strings.
            chat: Puts the prompt into the tokenizer's chat template, as the user's turn.

        Returns:
            str, or the list of token ids where the model has no tokenizer.

        Raises:
            InputError: A setting cannot be, before anything runs.
            NotFiniteError: The logits of a token are NaN or infinite; it says of which, and whether an edit acted.
        """
        self._refresh()
        prompt = held(prompt)
        request = generation.Request(
            max_tokens, interventions, positions, temperature, top_p, seed, stop, chat, prefill_step_size
        )
        return generation.generate(self._steered(prompt, steer, positions), prompt, request)

    def stream_generate(
        self, prompt: Any, max_tokens: int = 100, steer: Edit | Sequence[Edit] = (), **options: Any
    ) -> Iterator[Any]:
        """As `generate` for one prompt, but yields the text piece by piece."""
        self._refresh()
        known = [field.name for field in fields(generation.Request)]
        check_options(options, [*known, "prompt", "steer"], "InterpretableModel.stream_generate")
        request = generation.Request(max_tokens, **options)
        return generation.stream(self._steered(prompt, steer, request.positions), prompt, request)

    def gradients(
        self,
        inputs: Any,
        objective: Callable[[Array], Array],
        at: Sequence[str] | str,
        interventions: Interventions | None = None,
    ) -> dict[str, Any]:
        """d objective / d activation for several components in one backward pass.

        Args:
            objective: A function of the logits (batch, positions, vocabulary) that returns one
                number, such as `mlxterp.logit_difference(" Paris", " London")`. It is given them in float32.
            at: Paths of components.

        Raises:
            GradientError: A gradient is not finite.
        """
        inputs = held(inputs)
        batch = self._batch(inputs)
        return gradients(self._anatomy_for(inputs), batch, objective, at, interventions)


class _Unusable:
    """In place of a model that was unpickled where it cannot run: whatever is asked of it raises."""

    def __init__(self, reason: str):
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise BackendError(self._reason)

    def __call__(self, *_args: Any, **_options: Any) -> Any:
        raise BackendError(self._reason)


def _rebuilt(
    cls: type[InterpretableModel], model: Any, tokenizer: Any, name: str | None
) -> InterpretableModel:
    """What `pickle` makes of an `InterpretableModel`."""
    try:
        made = cls(model, tokenizer)
    except (
        BackendError
    ) as error:  # raised here, it would end a pool's worker, and who waits for it would wait for ever
        return cast(Any, _Unusable(str(error)))
    if name is not None:
        object.__setattr__(made, "name", name)
    return made
