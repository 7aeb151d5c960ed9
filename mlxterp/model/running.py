"""How an `InterpretableModel` runs: traces, losses, gradients, generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core.options import check_options
from ..core.sites import Array
from ..core.tokens import held, several
from ..edits.edits import Edit
from ..hooks.session import ModelSession
from ..tracing import generation, passes
from ..tracing.declared import Interventions
from ..tracing.gradients import gradients as gradients_at
from ..tracing.trace import Trace
from .facade import Facade


def trace(
    self: Facade,
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

    Examples:
        >>> with model.trace("Lily lost her red") as t:
        ...     model.layers[0].mlp.output[:, -1] *= 0  # switches the MLP off at the last token
        ...     late = model.layers[3].resid_post.save()  # reflects the edit
        >>> tuple(late.shape), tuple(t.output.shape)
        ((1, 5, 192), (1, 5, 4096))
        >>> tuple(t.activations["layers.2.attn.pattern"].shape)  # any other, after the block
        (1, 6, 5, 5)
    """
    inputs = held(inputs)
    batch = self.session.batch(inputs)  # first: it notices replaced modules
    return Trace(self.session.running(inputs), batch, interventions, capture, stop_after)


def loss(self: Facade, inputs: Any) -> float:
    """Mean cross-entropy in nats per predicted token (every token but each text's first).

    Raises:
        NotFiniteError: It is NaN or infinite at some token.

    Examples:
        >>> model.loss("Lily lost her red ball.") < model.loss("ball red her lost Lily.")
        True
    """
    inputs = held(inputs)
    batch = self.session.batch(inputs)
    return passes.cross_entropy(self.session.running(inputs).model, batch)


def unembed(self: Facade, x: Any) -> Array:
    """Logits of residual-stream vectors (…, d_model): the final norm, then the head."""
    return passes.unembed(self.session.plain.model, x)


def generate(
    self: Facade,
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

    Examples:
        >>> model.generate("Once upon a time there was a little", max_tokens=3)
        'girl named Lily'
    """
    self.session.refresh()
    prompt = held(prompt)
    request = generation.Request(
        max_tokens, interventions, positions, temperature, top_p, seed, stop, chat, prefill_step_size
    )
    edits = self.session.edits(steer, positions=positions)
    prompts = several(prompt)
    found = [
        _continued(self.session, one, request, edits) for one in ([prompt] if prompts is None else prompts)
    ]
    return found[0] if prompts is None else found


def stream_generate(
    self: Facade, prompt: Any, max_tokens: int = 100, steer: Edit | Sequence[Edit] = (), **options: Any
) -> Iterator[Any]:
    """As `generate` for one prompt, but yields the text piece by piece."""
    self.session.refresh()
    known = [field.name for field in fields(generation.Request)]
    check_options(options, [*known, "prompt", "steer"], "InterpretableModel.stream_generate")
    request = generation.Request(max_tokens, **options)
    edits = self.session.edits(steer, positions=request.positions)
    return generation.stream(_running(self.session, prompt, request, edits), prompt, request)


def gradients(
    self: Facade,
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

    Examples:
        >>> objective = mlxterp.logit_difference(" ball", " doll")
        >>> found = model.gradients("Lily lost her red", objective, ["layers.1.mlp", "layers.3.attn.z"])
        >>> {path: tuple(gradient.shape) for path, gradient in found.items()}
        {'layers.1.mlp': (1, 5, 192), 'layers.3.attn.z': (1, 6, 5, 32)}
    """
    inputs = held(inputs)
    batch = self.session.batch(inputs)
    return gradients_at(self.session.running(inputs), batch, objective, at, interventions)


def _continued(session: ModelSession, prompt: Any, request: generation.Request, edits: Sequence[Edit]) -> Any:
    """One prompt's continuation: text, or token ids where the model has no tokenizer."""
    pieces = list(generation.stream(_running(session, prompt, request, edits), prompt, request))
    return pieces if session.tokenizer is None else "".join(pieces)


def _running(
    session: ModelSession, prompt: Any, request: generation.Request, edits: Sequence[Edit]
) -> Anatomy:
    """The components for one prompt. Watchers are told its text; for a chat, the text that the template made."""
    return session.running(None if request.chat else prompt, edits)
