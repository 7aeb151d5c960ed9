"""What every part of `InterpretableModel` stands on: the language model, its components, and what acts on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..backends.base import LanguageModel
from ..core.public_names import PublicNames
from ..errors import warn
from ..features.cache import FeatureCache
from .attachments import Attachments
from .hooked_model import Effect, Watch, with_effects


class ModelCore(PublicNames):
    """Base of the methods of `InterpretableModel`."""

    name: str | None = None  # the repo or folder it was loaded from
    _plain: Anatomy
    _attachments: Attachments
    _feature_cache: FeatureCache

    def _start(self, language_model: LanguageModel) -> None:
        object.__setattr__(self, "_plain", Anatomy(language_model))
        object.__setattr__(self, "_attachments", Attachments())
        object.__setattr__(self, "_feature_cache", FeatureCache())

    @property
    def language_model(self) -> LanguageModel:
        """The model that runs, with what is attached to it and the open `steer` blocks."""
        return self.anatomy.model

    @property
    def anatomy(self) -> Anatomy:
        """Its components, run likewise. Detectors and text tracking see only calls that are given texts."""
        return with_effects(
            self._plain, [act for act in self._attachments.effects() if not isinstance(act, Watch)]
        )

    def _anatomy_for(self, inputs: Any, further: Sequence[Effect] = ()) -> Anatomy:
        """Its components, for a call that runs `inputs`; `further` acts last."""
        return with_effects(self._plain, [*self._attachments.effects(), *further], inputs)

    @property
    def feature_cache(self) -> FeatureCache:
        """Features of the texts last searched: `feature_cache.clear()` forgets them, `enabled = False` keeps none."""
        return self._feature_cache

    def warn_of_acts(self, what: str) -> None:
        """Warns where an attached SAE or hook, or an open `steer` block, changes the model.

        Args:
            what: What happens meanwhile ("its features are indexed").
        """
        effects = [act for act in self._attachments.effects() if not isinstance(act, Watch)]
        if effects:
            shown = ", ".join(repr(act) for act in effects[:3]) + (", …" if len(effects) > 3 else "")
            warn(
                f"Something acts on this model while {what}: {shown}. Detach the handle or leave the block first,"
                " unless the changed model is what you mean."
            )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer given or loaded; None without one."""
        return self._plain.model.tokenizer

    @property
    def _tokenize(self) -> Callable[[str], list[int]] | None:
        return None if self.tokenizer is None else self._plain.model.tokenize

    def _refresh(self) -> None:
        """Notices modules that were replaced after wrapping (LoRA, quantizing)."""
        if self._plain.model.refresh():
            object.__setattr__(self, "_plain", Anatomy(self._plain.model))
