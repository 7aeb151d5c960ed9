"""`Facade`: what every verb of `InterpretableModel` stands on."""

from __future__ import annotations

from ..core.public_names import PublicNames
from ..hooks.session import ModelSession


class Facade(PublicNames):
    """Holds the model's session. The functions in the files beside this one are the methods of `InterpretableModel`."""

    session: ModelSession
    """The language model, its components, and what is attached to it: what the rooms below take."""
