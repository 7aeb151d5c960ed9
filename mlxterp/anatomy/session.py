"""`Session`: a model as the rooms below the front door take it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, overload

from ..backends.base import LanguageModel
from ..errors import InputError
from .anatomy import Anatomy


class Session(ABC):
    """A language model, its components, and what acts on it. `InterpretableModel` holds one, as `session`."""

    name: str | None
    """The repo or folder that the model was loaded from."""

    @property
    @abstractmethod
    def plain(self) -> Anatomy:
        """The model's components, run as if nothing acted on it."""

    @property
    @abstractmethod
    def anatomy(self) -> Anatomy:
        """The model's components, run with what acts on it.

        Detectors and text tracking see nothing: they need the texts of a call.
        """

    @property
    def lenses(self) -> Mapping[str, Any]:
        """Lenses of this model that were last fitted or loaded, by name; a session that holds none gives none."""
        return {}

    @abstractmethod
    def refresh(self) -> None:
        """Notices modules that were replaced after wrapping (LoRA, quantizing), and a model that was cast or moved."""

    @abstractmethod
    def warn_of_acts(self, what: str) -> None:
        """Warns where an attached SAE or hook, or an open `steer` block, changes the model.

        Args:
            what: What happens meanwhile ("its features are indexed").
        """

    @property
    @abstractmethod
    def language_model(self) -> LanguageModel:
        """The model that runs, with what acts on it."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer given or loaded; None without one."""

    @property
    @abstractmethod
    def tokenize(self) -> Callable[[str], list[int]] | None:
        """Text → token ids, as the tokenizer's `encode` gives them; None without a tokenizer."""


class HasSession(Protocol):
    """An `InterpretableModel`, as the rooms below it see it."""

    @property
    def session(self) -> Session: ...


Model = HasSession | Session
"""What a function takes that users call with an `InterpretableModel`."""
S = TypeVar("S", bound=Session)


@overload
def session_of(model: Model) -> Session: ...
@overload
def session_of(model: Model, kind: type[S]) -> S: ...
def session_of(model: Any, kind: type[Any] = Session) -> Any:
    """The session that an `InterpretableModel` holds, refreshed; a session is its own.

    Raises:
        InputError: It is something else.
    """
    held: Any = model if isinstance(model, Session) else getattr(model, "session", None)
    if not isinstance(held, kind):
        raise InputError(f"Expected an InterpretableModel, got {type(model).__name__}.")
    held.refresh()
    return held
