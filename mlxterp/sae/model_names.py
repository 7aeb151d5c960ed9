"""Whether two names of models mean the same one: owners, quantizations and folders stand around them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def same_model(one: str, other: str) -> bool:
    """Whether one name is the other with an owner, a quantization or the like around it."""
    short, long = sorted(
        (re.sub(r"[^a-z0-9]+", "", name.lower().rpartition("/")[2]) for name in (one, other)), key=len
    )
    return short in long or short.removesuffix("small") in long


def named_model(metadata: Mapping[str, Any]) -> str | None:
    """The model that an SAE's metadata name; None for a path of this machine, and for its type alone ("llama")."""
    said = metadata.get("model")
    if not isinstance(said, str) or not said or _is_path(said) or said == metadata.get("model_type"):
        return None
    return said


def _is_path(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or "\\" in name
