"""What a finished trace answers: `t.activations` and `t.saved_values`, by any name of a component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core.not_copied import NotCopied
from ..core.sites import Component
from ..errors import ComponentError


class Activations(NotCopied, Mapping[str, Any]):
    """A finished trace's values by any name of a component; iterates over all canonical names.

    Args:
        answer: Gives the values of components, those that were not kept from one further pass.
        captured: Names of the only components that are there; None for all.
        kept: Names of those that need not be computed again.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        answer: Callable[[Sequence[Component]], list[Any]],
        captured: Sequence[str] | None,
        kept: Sequence[str],
    ):
        self._anatomy, self._answer, self._captured, self._kept = anatomy, answer, captured, kept

    def __getitem__(self, name: str) -> Any:
        return self._answer([self._anatomy.component(name)])[0]

    def several(self, names: Sequence[str]) -> list[Any]:
        """The values of several components; those that were not kept come from one further pass."""
        return self._answer([self._anatomy.component(name) for name in names])

    def __contains__(self, name: object) -> bool:
        try:
            component = self._anatomy.component(name)  # type: ignore[arg-type]
        except ComponentError:
            return False
        return self._captured is None or component.name in self._captured

    def __iter__(self) -> Iterator[str]:
        return iter(self._anatomy.answering() if self._captured is None else self._captured)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<activations: kept {', '.join(self._kept) or 'nothing'}>"


class SavedValues(dict[str, Any]):
    """Saved values by name; every other name of the same component works too."""

    def __init__(self, anatomy: Anatomy, values: Mapping[str, Any]):
        super().__init__(values)
        self._anatomy = anatomy

    def __missing__(self, name: str) -> Any:
        resolved = self._anatomy.names.resolve(name).name
        if resolved == name or resolved not in self:
            raise ComponentError(f"{name!r} was not saved. Saved: {', '.join(self) or 'nothing'}.")
        return self[resolved]
