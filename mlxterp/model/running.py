"""How an `InterpretableModel` runs: traces, losses, gradients, generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core import checks
from ..core.options import check_options
from ..core.sites import Array
from ..core.tokens import held, several
from ..edits.edits import Edit
from ..hooks.session import ModelSession
from ..tracing import generation, passes
from ..tracing.declared import Interventions
from ..tracing.gradients import gradients as gradients_at
from ..tracing.trace import Trace
from . import prompts as of_prompts
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
    max_tokens: int | Sequence[int] = 100,
    interventions: Interventions | Sequence[Interventions | None] | None = None,
    positions: Any = "all",
    steer: Edit | Sequence[Any] | None = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | Sequence[int | None] | None = None,
    stop: str | Sequence[Any] | None = None,
    chat: bool = False,
    prefill_step_size: int = 2048,
    batch_tokens: int | None = None,
    verbose: bool = True,
) -> Any:
    """Continues a prompt; returns the continuation only.

    A list of prompts is continued together, one pass for a token of each, and every text is the one that its prompt
    gives alone: edits, hooks and attached SAEs never see padding. For several prompts `max_tokens`, `seed`,
    `interventions`, `steer` and `stop` are one value for all, or a list with one for each prompt (None for none).

    Args:
        prompt: A string or token ids; a list of them gives a list of continuations.
        interventions: As in `trace`; they act on every forward pass.
        positions: Where they act: "all", "prompt", "prompt[1:]" (without its first token), "generated", or absolute
            positions as a slice or list (0 is the prompt's first token). A generated token is edited when it is read.
        steer: Edits of `mlxterp.steering`, as in `model.steer`; `positions` is for those that name none. For several
            prompts a list holds one entry for each, an edit, a list of edits, or None; a list of one edit is for all.
        temperature: 0, or anything below 1e-6, takes the likeliest token.
        seed: An integer in [0, 2**64) that makes sampling repeatable; the libraries' own random states are left
            alone. Of several prompts each is sampled as alone, so equal prompts with one seed give equal texts.
        stop: Ends the text before the first of these strings. For several prompts a list of strings is for all;
            one entry for each prompt is a list of lists, strings among None.
        chat: Puts the prompt into the tokenizer's chat template, as the user's turn.
        batch_tokens: At most so many tokens, prompts and continuations, are held at a time; None goes by the memory
            that is free.
        verbose: Whether a bar shows how many of several prompts are finished, where it takes longer.

    Returns:
        str, or the list of token ids where the model has no tokenizer. Of several prompts one that could not go on,
        or was not finished when Ctrl-C came, has None, with a warning that names it.

    Raises:
        InputError: A setting cannot be, before anything runs.
        NotFiniteError: The logits of a token are NaN or infinite; it says of which, and whether an edit acted.

    Examples:
        >>> model.generate("Once upon a time there was a little", max_tokens=3)
        'girl named Lily'
        >>> edit = mlxterp.steering.add_feature(sae, ball, 2.0, units="max", index=index)
        >>> model.generate(["She saw a", "She saw a"], max_tokens=1, steer=[None, edit])
        ['big', 'ball']
    """
    self.session.refresh()
    most = checks.count_or_none(batch_tokens, "batch_tokens")
    prompt = held(prompt)
    prompts = several(prompt)
    settings: tuple[Any, ...] = (
        max_tokens, interventions, positions, temperature, top_p, seed, stop, chat, prefill_step_size,
    )  # fmt: skip
    if prompts is None:
        request = generation.Request(*settings)
        edits = self.session.edits([] if steer is None else steer, positions=positions)
        running = _running(self.session, prompt, request, edits)
        pieces = list(generation.stream(running, prompt, request, [edit.positions for edit in edits]))
        return pieces if self.session.tokenizer is None else "".join(pieces)
    requests = of_prompts.requests(len(prompts), *settings)
    each = of_prompts.edits_of(self.session, steer, len(prompts), positions)
    return of_prompts.generated(self.session, prompts, requests, each, most, verbose)


def stream_generate(
    self: Facade, prompt: Any, max_tokens: int = 100, steer: Edit | Sequence[Edit] = (), **options: Any
) -> Iterator[Any]:
    """As `generate` for one prompt, but yields the text piece by piece."""
    self.session.refresh()
    known = [field.name for field in fields(generation.Request)]
    check_options(options, [*known, "prompt", "steer"], "InterpretableModel.stream_generate")
    request = generation.Request(max_tokens, **options)
    edits = self.session.edits(steer, positions=request.positions)
    running = _running(self.session, prompt, request, edits)
    return generation.stream(running, prompt, request, [edit.positions for edit in edits])


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


def _running(
    session: ModelSession, prompt: Any, request: generation.Request, edits: Sequence[Edit]
) -> Anatomy:
    """The components for one prompt. Watchers are told its text; for a chat, the text that the template made."""
    return session.running(None if request.chat else prompt, edits)
