"""`Hook`: what `model.add_hook` takes. `Detector` observes, `Controller` changes; a class can derive from both."""

from __future__ import annotations

from ..acting import Acts
from ..errors import InputError


class Hook:
    """Something that happens at one component on every pass of a model.

    Args:
        component: Path of a component, by any of its names: an output ("layers.3.mlp"), a module's input
            ("layers.3.mlp.input"), the residual stream, or a per-head value.

    Raises:
        InputError: `component` is no path.
    """

    def __init__(self, component: str):
        if not isinstance(component, str) or not component.strip():
            raise InputError(
                f"component is {component!r}; expected a path, such as 'layers.3.mlp'. model.components() lists them."
            )
        self.component = component
        """Where it acts, as it was given."""
        self.enabled = True
        """Whether it acts; may be set at any time, and counts from the next call of the model on."""

    def check(self, component: str) -> None:
        """Raises InputError where the hook cannot act at a component, given by its canonical name."""

    def acts(self, component: str) -> list[Acts]:
        """What it does in one call of the model, in order, at a component given by its canonical name."""
        return []

    def __repr__(self) -> str:
        state = "" if self.enabled else ", disabled"
        return f"<{type(self).__name__} at {self.component}{state}>"
