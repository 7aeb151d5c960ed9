"""Whether two names of models mean the same one: owners, quantizations and folders stand around them."""

from __future__ import annotations

import re
from pathlib import Path


def same_model(one: str, other: str) -> bool:
    """Whether one name is the other with an owner, a quantization or the like around it."""
    short, long = sorted(
        (re.sub(r"[^a-z0-9]+", "", name.lower().rpartition("/")[2]) for name in (one, other)), key=len
    )
    return short in long or short.removesuffix("small") in long


def are_two_models(one: object, other: object) -> bool:
    """Whether two SAEs' metadata name different models. A path of this machine names none."""
    names = [name for name in (one, other) if isinstance(name, str) and name and not _is_path(name)]
    return len(names) == 2 and not same_model(*names)


def _is_path(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or "\\" in name
