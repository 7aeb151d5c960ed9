"""`InterpretableModel`: the front door."""

from .interpretable import InterpretableModel

__all__ = ["InterpretableModel"]
