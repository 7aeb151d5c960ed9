"""What an `InterpretableModel` shows of its own predictions: the logit lens, and patching."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict, Unpack, overload

from .. import patching
from ..core.positions import Positions
from ..errors import InputError
from ..lens import LogitLens
from ..lens.logit_lens import logit_lens as logit_lens_of
from ..lens.token_predictions import token_predictions
from ..patching import PatchingResult
from .facade import Facade

Several = list[str] | tuple[str, ...]


class PatchingOptions(TypedDict, total=False):
    """Options of both kinds of patching."""

    by: str
    positions: Positions
    plot: bool


class ActivationOptions(PatchingOptions, total=False):
    """Further options of activation patching."""

    batch_size: int | None
    verbose: bool


def logit_lens(
    self: Facade,
    text: Any,
    layers: int | Iterable[int] | None = None,
    top_k: int = 5,
    position: int | None = None,
    plot: bool = False,
) -> LogitLens:
    """What each layer would predict next, at each position: the residual stream through final norm and head.

    After the last layer these are the model's own predictions. `lens.top(layer, position)` lists tokens; a
    notebook shows the lens by itself, `print` shows it in the terminal, `.plot()` and `.to_html(path)` draw it.
    As a mapping it gives layer → position → [(token id, logit, text)]. One pass; nostalgebraist (2020).

    Args:
        text: One text, or its token ids.
        layers: Layer numbers, negative ones from the end; None means all.
        top_k: Tokens kept at each place.
        position: Only this one; negative ones count from the text's end.
        plot: Show a picture in a window at once.

    Raises:
        InputError: Several texts, a position outside the text, or `top_k` below 1.
        NotFiniteError: Logits are NaN or infinite.
        ComponentError: There is no such layer, or the model has more than one residual stream.
        BackendError: A picture was asked for and matplotlib is not installed.

    Examples:
        >>> lens = model.logit_lens("Tom was sad because he lost his")
        >>> [lens.top(layer, -1)[0].text for layer in lens.layers]  # after each layer, at the last token
        [' mom', ' mom', ' mom', ' toy']
    """
    batch = self.session.batch(text)
    lens = logit_lens_of(self.session.anatomy, batch, layers, top_k, position)
    if plot:
        lens.plot(show=True)
    return lens


def get_token_predictions(
    self: Facade,
    hidden_state: Any,
    top_k: int = 10,
    return_scores: bool = False,
    embedding_layer: Any = None,
    lm_head: Any = None,
    *,
    norm: bool = True,
) -> Any:
    """The likeliest tokens of one state of the stream, or of several.

    Args:
        hidden_state: (d_model,) or (batch, d_model).
        top_k: Tokens of each.
        return_scores: Whether each comes with its logit.
        embedding_layer: A tied embedding of the model's library, which makes logits in the model's stead.
        lm_head: A module that makes logits of states, in the model's stead.
        norm: Whether the final norm comes first, as in the model. The existing library leaves it out: norm=False. A
            head that is given gets the states as they are.

    Returns:
        For one state the ids, likeliest first, or (id, logit) pairs; for several a list of such lists.

    Raises:
        InputError: Another width, or logits that are not finite.

    Examples:
        >>> with model.trace("Once upon a time there was a little girl named") as t:
        ...     hidden = model.layers[3].output
        >>> model.token_to_str(model.get_token_predictions(hidden[0, -1], top_k=1)[0])
        ' Lily'
    """
    head = lm_head
    if embedding_layer is not None:
        if not hasattr(embedding_layer, "weight"):
            raise InputError(
                f"embedding_layer is {type(embedding_layer).__name__}; expected the model's embedding, a module with a"
                " weight (vocabulary, d_model)."
            )
        on_mlx = self.session.plain.model.backend.name == "mlx"
        head = embedding_layer.as_linear if on_mlx else lambda x: x @ embedding_layer.weight.T
    if head is not None and not callable(head):
        raise InputError(f"lm_head is {type(head).__name__}; expected a module that makes logits of states.")
    return token_predictions(self.session.anatomy, hidden_state, top_k, return_scores, norm, head)


@overload
def activation_patching(
    self: Facade, clean_text: Any, corrupted_text: Any, component: str | None = None,
    layers: int | Iterable[int] | None = None, metric: Any = "l2", **options: Unpack[ActivationOptions],
) -> PatchingResult: ...  # fmt: skip


@overload
def activation_patching(
    self: Facade, clean_text: Any, corrupted_text: Any, component: Several,
    layers: int | Iterable[int] | None = None, metric: Any = "l2", **options: Unpack[ActivationOptions],
) -> dict[str, PatchingResult]: ...  # fmt: skip


def activation_patching(
    self: Facade,
    clean_text: Any,
    corrupted_text: Any,
    component: str | Several | None = None,
    layers: int | Iterable[int] | None = None,
    metric: Any = "l2",
    *,
    by: str = "layer",
    positions: Positions = None,
    batch_size: int | None = None,
    plot: bool = False,
    verbose: bool = False,
) -> PatchingResult | dict[str, PatchingResult]:
    """How much of the clean run comes back when its activations are put into the corrupted run, place by place.

    `result.effects` is (layers,), (layers, positions) or (layers, heads): 0 is the corrupted run, 1 the clean
    one, below 0 is further away. `result.raw` holds the metric itself. Lists of texts are patched together,
    and the metric is that of the whole batch.

    Args:
        clean_text, corrupted_text: Texts or token ids, or as many of each; equally many tokens, unless
            `positions` are named.
        component: Name below a layer: "resid_pre", "resid_post", "attn_out", "mlp_out", "attn", "mlp", "attn.z",
            …; several give a dict of results. None takes "mlp", or "attn.z" by head.
        layers: Layer numbers; None means all.
        metric: `mlxterp.logit_difference(…)`; a function of float32 logits (texts, positions, vocabulary) that
            returns one number; or the distance of what is predicted after the last token to the clean run's: "l2",
            "mse", "cosine", "kl" (nats).
        by: "layer" patches a component as a whole; "position" each token of it; "head" each head.
        positions: Only these tokens; negative ones count from each text's own end.
        batch_size: Patches run in one pass; None takes what fits about 4,096 tokens. 1 gives what a run alone
            gives, bit for bit; more round differently in the last bits.
        plot: Show a picture in a window at once.
        verbose: Show a bar where the output is a terminal.

    Raises:
        InputError: Texts that do not correspond, or an argument that cannot be.
        ComponentError: No such component, or one that cannot be edited in this architecture.
        BackendError: A picture was asked for and matplotlib is not installed.

    Examples:
        >>> clean, corrupted = "Lily lost her ball because", "Tom lost his ball because"
        >>> she = mlxterp.logit_difference(" she", " he")
        >>> result = model.activation_patching(clean, corrupted, "resid_post", metric=she, by="position")
        >>> [result.tokens[place] for place in result.effects.argmax(axis=1)]  # what matters most after each layer
        ['Lily → Tom', 'Lily → Tom', 'Lily → Tom', ' because']
    """
    clean, corrupted = self.session.batch(clean_text), self.session.batch(corrupted_text)
    found = patching.activation_patching(
        self.session.anatomy, clean, corrupted, component, layers, metric,
        by=by, positions=positions, batch_size=batch_size, verbose=verbose,
    )  # fmt: skip
    return _given(found, component, plot)


@overload
def attribution_patching(
    self: Facade, clean_text: Any, corrupted_text: Any, component: str | None = None,
    layers: int | Iterable[int] | None = None, metric: Any = "l2", **options: Unpack[PatchingOptions],
) -> PatchingResult: ...  # fmt: skip


@overload
def attribution_patching(
    self: Facade, clean_text: Any, corrupted_text: Any, component: Several,
    layers: int | Iterable[int] | None = None, metric: Any = "l2", **options: Unpack[PatchingOptions],
) -> dict[str, PatchingResult]: ...  # fmt: skip


def attribution_patching(
    self: Facade,
    clean_text: Any,
    corrupted_text: Any,
    component: str | Several | None = None,
    layers: int | Iterable[int] | None = None,
    metric: Any = "l2",
    *,
    by: str = "layer",
    positions: Positions = None,
    plot: bool = False,
) -> PatchingResult | dict[str, PatchingResult]:
    """What `activation_patching` would give, to first order, for all places from one backward pass.

    (clean − corrupted) activation · gradient of the metric at the corrupted run, summed over each place (Nanda
    2023). Exact where the metric is linear in the component; check what it finds with `activation_patching`.

    Args:
        clean_text, corrupted_text, component, layers, by, positions, plot: As in `activation_patching`.
        metric: As there; a function must return a native number that has a gradient.

    Raises:
        GradientError: A gradient is not finite.
        InputError, ComponentError, BackendError: As in `activation_patching`.

    Examples:
        >>> clean, corrupted = "Lily lost her ball because", "Tom lost his ball because"
        >>> she = mlxterp.logit_difference(" she", " he")
        >>> result = model.attribution_patching(clean, corrupted, "resid_post", metric=she, by="position")
        >>> result.effects.shape  # layers, positions
        (4, 6)
    """
    clean, corrupted = self.session.batch(clean_text), self.session.batch(corrupted_text)
    found = patching.attribution_patching(
        self.session.anatomy, clean, corrupted, component, layers, metric, by=by, positions=positions
    )
    return _given(found, component, plot)


def _given(
    found: dict[str, PatchingResult], component: Sequence[str] | None, plot: bool
) -> PatchingResult | dict[str, PatchingResult]:
    """The one result for one component, else all of them by name."""
    if plot:
        for result in found.values():
            result.plot(show=True)
    if component is None or isinstance(component, str):
        (result,) = found.values()
        return result
    return found
