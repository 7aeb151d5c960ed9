"""`ModelSession`: the language model, its components, and what is attached to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Session
from ..backends.base import LanguageModel
from ..core.tokens import TokenBatch, to_batch
from ..edits.checks import SteeringPositions
from ..edits.edits import Edit, flattened
from ..edits.placement import checked, placed
from ..errors import warn
from ..features.cache import FeatureCache
from ..lens import JacobianLens, TunedLens
from ..tracing.passes import check_length
from .attachments import Attachments, SteerBlock
from .hooked_model import Effect, Watch, with_effects
from .hooked_rows import HookedRows


class ModelSession(Session):
    """See `Session`; what `InterpretableModel` holds, and what the rooms below it take.

    Args:
        model: Loaded or wrapped by a backend.
        name: The repo or folder it was loaded from.
    """

    def __init__(self, model: LanguageModel, name: str | None = None):
        self.name = name
        self.attachments = Attachments()
        """SAEs and hooks that act until they are detached."""
        self.feature_cache = FeatureCache()
        """Features of the texts last searched."""
        self.jacobian_lens: JacobianLens | None = None
        """The one last fitted or loaded."""
        self.tuned_lens: TunedLens | None = None
        """The one last trained or loaded."""
        self._plain = Anatomy(model)

    @property
    def plain(self) -> Anatomy:
        """See `Session`."""
        return self._plain

    @property
    def lenses(self) -> Mapping[str, Any]:
        """See `Session`: "jacobian" and "tuned"."""
        held = {"jacobian": self.jacobian_lens, "tuned": self.tuned_lens}
        return {name: lens for name, lens in held.items() if lens is not None}

    @property
    def anatomy(self) -> Anatomy:
        """See `Session`."""
        return with_effects(self._plain, self._changes())

    @property
    def language_model(self) -> LanguageModel:
        """See `Session`."""
        return self.anatomy.model

    @property
    def tokenizer(self) -> Any:
        """See `Session`."""
        return self._plain.model.tokenizer

    @property
    def tokenize(self) -> Callable[[str], list[int]] | None:
        """See `Session`."""
        return None if self.tokenizer is None else self._plain.model.tokenize

    def running(self, inputs: Any, edits: Sequence[Effect] = ()) -> Anatomy:
        """The components for one call that runs `inputs`, with what acts, then `edits`. Watchers are told the texts."""
        return with_effects(self._plain, [*self.attachments.effects(), *edits], inputs)

    def running_rows(self, inputs: Sequence[Any], edits: Sequence[Sequence[Effect]]) -> Anatomy:
        """The components for one generation of several texts: what acts, then each text's own edits.

        Texts that share an edit hold the very same object.
        """
        shared = self.attachments.effects()
        if not shared and not any(edits):
            return self._plain
        watched = any(isinstance(effect, Watch) for effect in shared)
        effects = []
        for own in edits:
            fresh = self.attachments.effects() if watched else shared
            mine = [new if isinstance(old, Watch) else old for old, new in zip(shared, fresh, strict=True)]
            effects.append([*mine, *own])
        model: Any = HookedRows(self._plain, effects, inputs)
        return self._plain.run_by(model)

    def edits(
        self, edits: Edit | Sequence[Any], at: str | None = None, positions: SteeringPositions = None
    ) -> list[Edit]:
        """Edits as `model.steer` takes them, each with its component and positions.

        Raises:
            InputError, ComponentError, SAEError, EditError: See `InterpretableModel.steer`.
        """
        return checked(self._plain, placed(flattened([edits]), at, positions))

    def steering(
        self, edits: Edit | Sequence[Any], at: str | None = None, positions: SteeringPositions = None
    ) -> SteerBlock:
        """Within `with session.steering(edits):` they act on everything that runs, in this thread."""
        self.refresh()
        return self.attachments.steering(self.edits(edits, at, positions), self._plain)

    def batch(self, inputs: Any, check: bool = True) -> TokenBatch:
        """Texts or token ids as a padded batch.

        Args:
            check: Whether they are to be run, so that their length counts.

        Raises:
            InputError: Empty input, unknown token ids, or a text longer than the model's positions.
        """
        self.refresh()
        model = self._plain.model
        batch = to_batch(inputs, self.tokenize, model.vocab_size)
        if check:
            check_length(model, int(batch.lengths.max()))
        return batch

    def require_tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            NoTokenizerError: There is none.
        """
        if self.tokenizer is None:
            to_batch("text", None)  # raises, and says what to do
        return self.tokenizer

    def refresh(self) -> None:
        """See `Session`."""
        if self._plain.model.refresh():
            self._plain = Anatomy(self._plain.model)

    def warn_of_acts(self, what: str) -> None:
        """See `Session`."""
        changes = self._changes()
        if changes:
            shown = ", ".join(repr(change) for change in changes[:3]) + (", …" if len(changes) > 3 else "")
            warn(
                f"Something acts on this model while {what}: {shown}. Detach the handle or leave the block first,"
                " unless the changed model is what you mean."
            )

    def _changes(self) -> list[Effect]:
        return [effect for effect in self.attachments.effects() if not isinstance(effect, Watch)]
