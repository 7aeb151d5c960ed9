"""`FittedLens`: a lens that was fitted to a model, and reads its stream after a layer by a map of its own.

`JacobianLens` and `TunedLens` are two. Each gives its map (`transport`) and the layers that it has; reading a text, and
whether a model fits, is common to both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from ..activations.fingerprint import is_same, model_fingerprint, weights_of
from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, Session, session_of
from ..core.files import json_facts
from ..core.tokens import to_batch
from ..errors import InputError, warn
from ..tracing.passes import check_length
from ..viz.lines import LinesView
from .logit_lens import LogitLens, Transport, logit_lens

L = TypeVar("L", bound="FittedLens")


def checked_facts(given: Any) -> dict[str, Any]:
    """What is known of a lens, as a file gives it back.

    Raises:
        InputError: It is no dictionary, or holds what JSON cannot.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"metadata is {given!r:.60}; expected a dictionary of facts.")
    try:
        return json_facts(given or {})
    except ValueError as error:
        raise InputError(f"metadata holds what JSON cannot: {error}.") from error


class FittedLens(LinesView):
    """A lens with a map of its own for each layer."""

    __slots__ = ()
    kind: ClassVar[str]
    """Its name, for headings: "Jacobian lens"."""

    @abstractmethod
    def _held(self) -> tuple[Session | None, Mapping[str, Any]]:
        """The model that it reads texts with, None until `on(model)`; and what is known of how the lens was made."""

    @property
    @abstractmethod
    def layers(self) -> tuple[int, ...]:
        """The layers that have a map, ascending."""

    @property
    @abstractmethod
    def d_model(self) -> int:
        """Width of the residual stream."""

    @abstractmethod
    def covers(self, layer: int) -> bool:
        """Whether the stream after a layer can be read with it."""

    @abstractmethod
    def transport(self, anatomy: Anatomy) -> Transport:
        """What becomes of a layer's stream before it goes through norm and head."""

    @abstractmethod
    def _bound(self: L, session: Session) -> L:
        """The same lens with this model."""

    @abstractmethod
    def _shape_fits(self, n_layers: int) -> bool:
        """Whether a model of so many layers can be the one."""

    def on(self: L, model: Model) -> L:
        """The same lens for this model, checked to fit.

        A model of the same shape but with other weights (a fine-tuned one, say) gives a warning.

        Raises:
            InputError: The model has another width, or another number of layers.
        """
        session = session_of(model)
        session.refresh()
        of = session.plain.model
        if of.d_model != self.d_model or not self._shape_fits(len(of.layers)):
            raise InputError(
                f"This {self.kind} is of another model ({self._made_for}): it has width {self.d_model} and reads up to"
                f" layer {max(self.layers)}; this {of.model_type} model has width {of.d_model} and {len(of.layers)}"
                " layers."
            )
        self._compare(session.plain)
        return self._bound(session)

    def is_on(self, session: Session) -> bool:
        """Whether it reads texts with this model already."""
        return self._held()[0] is session

    def read(
        self, text: Any, layers: int | Iterable[int] | None, top_k: int, position: int | None
    ) -> LogitLens:
        """What the stream after each layer says of the next token by this lens; see the call of each lens."""
        anatomy, batch = self._opened(text)
        chosen = self._readable(anatomy, layers)
        return logit_lens(
            anatomy, batch, chosen, top_k, position, kind=self.kind, transport=self.transport(anatomy)
        )

    def _opened(self, text: Any) -> tuple[Anatomy, Any]:
        """The model's components, and the text as a batch."""
        session = self._of_model()
        session.refresh()
        anatomy = session.anatomy
        batch = to_batch(text, session.tokenize, anatomy.model.vocab_size)
        check_length(anatomy.model, int(batch.lengths.max()))
        return anatomy, batch

    def _of_model(self) -> Session:
        session = self._held()[0]
        if session is None:
            raise InputError(f"This {self.kind} has no model yet: lens.on(model).")
        return session

    def _readable(self, anatomy: Anatomy, layers: Any) -> tuple[int, ...]:
        if layers is None:
            return tuple(n for n in anatomy.chosen_layers(None) if self.covers(n))
        chosen = anatomy.chosen_layers(layers)
        for layer in chosen:
            if not self.covers(layer):
                raise InputError(f"This {self.kind} has no layer {layer}. It has {list(self.layers)}.")
        return chosen

    def _compare(self, anatomy: Anatomy) -> None:
        known = self._held()[1]
        probe = known.get("probe")
        if not isinstance(probe, Mapping):
            return
        now = model_fingerprint(anatomy, [anatomy.component(name) for name in probe])
        kept = known.get("weights")
        if not all(is_same(anatomy.model, kept, probe[name], now[name], "This lens") for name in probe):
            warn(
                f"This {self.kind} was fitted to a model with other weights ({self._made_for}). Of a model fine-tuned"
                " from it the lens says much the same; of another it says nothing."
            )

    @property
    def _made_for(self) -> str:
        known = self._held()[1]
        return str(known.get("model") or known.get("model_type") or "not said which")


def model_facts(session: Session, layer: int) -> dict[str, Any]:
    """What tells a lens's model from others, as JSON; the stream after `layer` is looked at."""
    plain = session.plain
    return {
        "model": session.name, "model_type": plain.model.model_type, "n_layers": len(plain.model.layers),
        "weights": weights_of(plain.model),
        "probe": model_fingerprint(plain, [plain.component(f"layers.{layer}.resid_post")]),
    }  # fmt: skip
