"""How an `InterpretableModel` is steered, and SAEs and hooks are attached to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from ..anatomy.anatomy import Anatomy
from ..edits.checks import SteeringPositions
from ..edits.edits import Edit
from ..errors import InputError
from ..hooks import AttachedHook, Hook
from ..hooks.attached_sae import AttachedSAE
from ..hooks.attachments import SteerBlock
from ..sae import SAE
from ..sae.adapt import open_sae, place_of
from .facade import Facade


def steer(
    self: Facade, *edits: Edit | Sequence[Edit], at: str | None = None, positions: SteeringPositions = None
) -> SteerBlock:
    """Within `with model.steer(edit, …):` the edits act on everything the model runs.

    On `model(tokens)`, `trace`, `loss`, `gradients`, `generate` and what runs many texts, in this thread.
    Blocks nest, in any order with `trace`; outer ones act first, and edits of one SAE at one component act
    together, in order, on one encoding of the unedited activation. They act before `interventions=`. A trace that
    is open when the block is entered takes the edits as if they were assigned there, and keeps them to its end.

    Args:
        edits: Of `mlxterp.steering`. Each acts at its own component: that its SAE was trained on, or its `at`.
        at: Component for edits that name none, instead of that of their SAE.
        positions: For edits that name none: "all", "prompt", "prompt[1:]" (without its first token), "generated", or
            positions.

    Raises:
        InputError: Something that is no edit, or one without a component.
        ComponentError: No such component.
        SAEError: A component is not as wide as the SAE or vector.
        EditError: Two edits contradict each other.

    Examples:
        >>> from mlxterp import steering
        >>> model.generate("She saw a", max_tokens=1)
        'big'
        >>> with model.steer(steering.add_feature(sae, ball, 2.0, units="max", index=index)):
        ...     model.generate("She saw a", max_tokens=1)
        'ball'
    """
    return self.session.steering(edits, at, positions)


def attach_sae(
    self: Facade,
    sae: SAE | str | Path,
    layer_signature: str | int | None = None,
    *,
    layer: int | None = None,
    component: str | None = None,
    mode: Literal["change", "replace"] = "change",
) -> AttachedSAE:
    """Lets an SAE act on every forward pass of this model, until `handle.detach()`.

    What `sae.concepts` is told to do takes effect: `manipulate_concept` scales features, and text tracking keeps
    the texts that activate them most. Attaching an SAE to a component where it is attached detaches the handle
    from before. A trace that is open goes on without it.

    Args:
        layer_signature: Path of the component, by any of its names ("transformer.h.0.attn.c_attn"); or the number
            of a layer.
        layer, component: Likewise: component "mlp" of layer 3; or component="layers.3.mlp". A layer alone means
            the component of that layer that the SAE was trained on in its own ("resid_post" where it does not
            say); with nothing given, the component that it was trained on.
        mode: "change": the activation changes only by what was manipulated, and is the very same where nothing
            is. "replace": the SAE's reconstruction takes its place (to gradients it is a constant).

    Raises:
        InputError: Nothing says where, or there is no such mode.
        ComponentError: No such component.
        SAEError: The component is not as wide as the SAE.

    Examples:
        >>> sae.concepts.enable_text_tracking(top_k=5)
        >>> with model.attach_sae(sae):  # or handle = model.attach_sae(sae), then handle.detach()
        ...     logits = model(["Lily lost her red ball.", "The dog was happy."])
        >>> [text for text, activation in sae.concepts.get_top_texts(ball)[ball]]
        ['Lily lost her red ball.']
    """
    self.session.refresh()
    sae = sae if isinstance(sae, SAE) else open_sae(self.session.plain, sae, model_name=self.session.name)
    handle = AttachedSAE(
        self.session, sae, _where(self.session.plain, sae, layer_signature, layer, component), mode
    )
    for other in self.session.attachments.attached:
        if isinstance(other, AttachedSAE) and other.sae is sae and other.component == handle.component:
            other.detach()
    self.session.attachments.attach(handle)
    sae.concepts.bind(handle.encode)
    return handle


def detach_all(self: Facade) -> None:
    """Detaches every SAE and hook; `steer` blocks stay open."""
    for handle in self.session.attachments.attached:
        handle.detach()


def add_hook(self: Facade, hook: Hook, *further: Any) -> AttachedHook:
    """Lets a `Detector` or a `Controller` act on every pass of this model, until `handle.detach()`.

    Hooks act in the order in which they were added, among attached SAEs and before `steer` blocks and
    `interventions=`; a hook that is added twice acts twice. `hook.enabled = False` pauses it. Where a hook
    raises, the call of the model ends with its exception and the model is as before.

    Raises:
        InputError: It is no hook, or cannot act at this component. A path and a function make one:
            `Controller(path, function)`.
        ComponentError: No such component, the model never calls it, or it can be read but not reached while the
            model runs.

    Examples:
        >>> detector = mlxterp.Detector("layers.1.mlp", keep=True)
        >>> with model.add_hook(detector):  # or handle = model.add_hook(detector), then handle.detach()
        ...     logits = model("Lily lost her red ball.")
        >>> detector.activations[0].shape
        (7, 192)
    """
    if further or isinstance(hook, str):
        path = hook if isinstance(hook, str) else "layers.3.mlp"
        raise InputError(
            "add_hook takes one hook of mlxterp.hooks, which holds its path and its function:"
            f" model.add_hook(Controller({path!r}, f)) changes an activation, Detector({path!r}, f) observes it."
        )
    self.session.refresh()
    handle = AttachedHook(self.session, hook)
    self.session.attachments.attach(handle)
    return handle


def without_controllers(self: Facade) -> AbstractContextManager[None]:
    """Within `with model.without_controllers():` nothing attached changes what the model computes.

    Attached controllers and SAEs pause, in this thread; detectors and text tracking go on. `steer` blocks and
    `interventions=` act as ever. It is what an A/B comparison runs the other half in.
    """
    return self.session.attachments.watching_only()


def _where(
    anatomy: Anatomy, sae: SAE, signature: str | int | None, layer: int | None, component: str | None
) -> str | None:
    """The path asked for; None where nothing is."""
    if signature is not None and (layer is not None or component is not None):
        raise InputError("Give layer_signature=, or layer= and component=, not both.")
    if isinstance(signature, str):
        return signature
    layer = layer if signature is None else signature
    if layer is None and (component is None or sae.component is None):
        return component  # the SAE's own place, or a path by itself
    own = sae.metadata.get("component_out") if sae.is_transcoder else None
    return place_of(anatomy, sae, layer, component, leaf="resid_post", own=own, quiet=True).name
