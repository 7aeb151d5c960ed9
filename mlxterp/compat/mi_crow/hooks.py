"""Mi-Crow's module of hooks: mlxterp's `Detector` and `Controller`, for `lm.layers.register_hook`."""

from enum import Enum

from ...hooks import Controller, Detector, Hook


class HookType(str, Enum):  # noqa: UP042 (as there: it equals its value, and prints as a member)
    """Where a hook acts: at what a layer puts out, or at what enters it."""

    FORWARD = "forward"
    PRE_FORWARD = "pre_forward"


__all__ = ["Controller", "Detector", "Hook", "HookType"]
