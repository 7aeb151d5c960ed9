"""Opens a hub repo or a folder with mlx-lm, and reports settings that mlx-lm would not read."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ...core.quiet import quiet_loading
from ...errors import BackendError, ConfigWarning, InputError, MlxterpError, warn
from ..host.hub import asking, place_of
from ..host.settings import (
    LOCAL_THETA,
    ROPE,
    local_theta,
    mentioned,
    rope_of,
    rope_type,
    unread,
    window_ignored,
    window_of,
    windowed_layers,
)
from .language_model import MLXLanguageModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "tiktoken.model",
)
"""A folder with none of these holds a model without a tokenizer, which takes token ids."""
_RENAMED = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}


def load_language_model(source: str | os.PathLike, tokenizer: Any = None) -> MLXLanguageModel:
    """A model and its tokenizer from a folder or a hub repo.

    Args:
        tokenizer: A tokenizer, or where to load one from; None loads it from `source`.

    Raises:
        InputError: Nothing is there, or mlx-lm cannot open it.
        BackendError: mlx-lm is not installed.
    """
    try:
        from mlx_lm.utils import _download as download  # the only call that keeps cache and offline mode
        from mlx_lm.utils import load_config, load_model, load_tokenizer
    except ImportError as error:
        raise BackendError(
            'Loading a model by name needs mlx-lm: pip install mlxterp (on Linux "mlxterp[cpu]" or'
            ' "mlxterp[cuda]").'
        ) from error
    place = place_of(source)
    try:
        with quiet_loading(), asking(place):
            folder = Path(download(place))
        given = load_config(folder)
        changes = lifted_settings(given)
        with quiet_loading():
            model, config = load_model(folder, model_config=changes)
    except (Exception, SystemExit) as error:  # its classes fail in many ways; one ends the program
        if isinstance(error, (MlxterpError, Warning)):
            raise
        raise InputError(f"mlx-lm cannot open {place!r}: {type(error).__name__}: {error}") from error
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = _tokenizer(place_of(tokenizer))
    elif tokenizer is None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        with quiet_loading():
            tokenizer = load_tokenizer(folder, eos_token_ids=config.get("eos_token_id"))
    report_ignored(model, given)
    return MLXLanguageModel(model, tokenizer)


def _tokenizer(place: str) -> Any:
    """The tokenizer of a folder or repository."""
    from mlx_lm.utils import _download as download
    from mlx_lm.utils import load_tokenizer

    try:
        with quiet_loading(), asking(place):
            folder = Path(
                download(place, allow_patterns=["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"])
            )
        with quiet_loading():
            return load_tokenizer(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"No tokenizer could be loaded from {place!r}: {error} Pass tokenizer=…, an object or where to load it"
            " from."
        ) from error


def lifted_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that newer checkpoints nest where mlx-lm's class for this model does not look.

    transformers 5 writes `rope_theta` and the scaling under `rope_parameters`; a class of mlx-lm that reads
    only the top level would take its default without a word. Such settings are put where the class reads
    them, with a `ConfigWarning` that says so.
    """
    from mlx_lm.utils import _get_classes

    _, args = _get_classes(config)
    reads = inspect.signature(args).parameters
    lifted: dict[str, Any] = {}
    for nest in ROPE:
        inner = rope_of(config, nest)
        if not inner or nest in reads:
            continue
        scaling = reads.get("rope_scaling")
        wanted = scaling is not None and (rope_type(inner) != "default" or scaling.default is scaling.empty)
        if wanted and config.get("rope_scaling") is None:
            lifted["rope_scaling"] = {"type": rope_type(inner), **inner}
        for key, names in _RENAMED.items():
            name = next((n for n in names if n in reads), None)
            if key in inner and name is not None and name not in config:
                lifted[name] = inner[key]
        local = local_theta(config, nest)
        if local is not None and LOCAL_THETA in reads and LOCAL_THETA not in config:
            lifted[LOCAL_THETA] = local
    if lifted:
        listed = ", ".join(f"{name}={value}" for name, value in lifted.items())
        warn(
            f"config.json nests settings where mlx-lm's {config.get('model_type')} does not look; using"
            f" {listed} from there instead of its defaults.",
            ConfigWarning,
        )
    return lifted


def report_ignored(model: Any, config: dict[str, Any]) -> None:
    """Warns of settings that change numbers and that mlx-lm's code for this model does not read."""
    from mlx_lm.models.cache import make_prompt_cache

    found = unread(config, mentioned(_architecture(type(model))))
    window = window_of(config)
    windows = sum(hasattr(cache, "max_size") for cache in make_prompt_cache(model))
    if window is not None and (windows == 0 or windows != (windowed_layers(config) or windows)):
        found.append(window_ignored(window))
    if found:
        warn(
            f"mlx-lm's {config.get('model_type')} does not read these settings of the checkpoint, so its numbers differ"
            f" from those of other libraries: {'; '.join(found)}.",
            ConfigWarning,
        )


def _architecture(cls: type) -> list[ModuleType]:
    """The module that a model's class is written in, and those of other architectures that it builds on."""
    found: dict[str, ModuleType] = {}

    def add(module: ModuleType) -> None:
        found[module.__name__] = module
        for value in list(vars(module).values()):
            home = value if isinstance(value, ModuleType) else inspect.getmodule(value)
            if home is None or home.__name__ in found or not hasattr(home, "ModelArgs"):
                continue
            if home.__name__.startswith("mlx_lm.models."):
                add(home)

    add(sys.modules[cls.__module__])
    return list(found.values())
