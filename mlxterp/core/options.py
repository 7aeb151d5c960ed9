"""Keyword arguments that a call does not know: what was meant, by the names of other libraries or by likeness.

`checks_options` puts the check before every public method of a class, and `check_options` says it for settings that
are handed on. Python's own message names the argument and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar

from ..errors import InputError

T = TypeVar("T", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

SYNONYMS: dict[str, tuple[str, ...]] = {
    "max_new_tokens": ("max_tokens",),
    "max_length": ("max_tokens", "context_length"),
    "n_tokens": ("max_tokens", "tokens"),
    "num_tokens": ("max_tokens", "tokens"),
    "training_tokens": ("tokens",),
    "total_training_tokens": ("tokens",),
    "temp": ("temperature",),
    "do_sample": ("temperature",),
    "stop_strings": ("stop",),
    "stop_sequences": ("stop",),
    "random_state": ("seed",),
    "random_seed": ("seed",),
    "n_features": ("d_hidden",),
    "num_features": ("d_hidden",),
    "d_sae": ("d_hidden",),
    "dict_size": ("d_hidden",),
    "n_latents": ("d_hidden",),
    "num_latents": ("d_hidden",),
    "hidden_dim": ("d_hidden",),
    "topk": ("top_k", "k"),
    "k": ("top_k",),
    "n": ("top_k",),
    "num_features_shown": ("top_k",),
    "limit": ("top_k", "n"),
    "layer_idx": ("layer", "layers"),
    "layer_index": ("layer", "layers"),
    "hook_layer": ("layer",),
    "layer": ("layers",),
    "layers": ("layer",),
    "hook_point": ("component", "at"),
    "hook_name": ("component", "at"),
    "hook": ("component", "at"),
    "module": ("component", "at"),
    "site": ("component", "at"),
    "layer_signature": ("component",),
    "feature": ("feature_id", "feature_ids"),
    "feature_idx": ("feature_id", "feature_ids", "feature"),
    "feature_id": ("feature", "feature_ids"),
    "features": ("feature_ids",),
    "neuron": ("feature_id", "neuron_idx"),
    "neuron_idx": ("feature_id", "feature"),
    "latent": ("feature_id", "feature"),
    "text": ("texts", "inputs", "prompt", "dataset"),
    "texts": ("text", "inputs", "prompt", "dataset"),
    "input": ("inputs", "prompt", "text"),
    "inputs": ("prompt", "text"),
    "prompts": ("prompt", "inputs"),
    "input_ids": ("inputs", "prompt"),
    "data": ("dataset", "texts"),
    "dataset": ("texts",),
    "learning_rate": ("lr",),
    "n_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "train_batch_size": ("batch_size",),
    "train_batch_size_tokens": ("batch_size",),
    "batch_size_tokens": ("batch_tokens",),
    "l1_coefficient": ("sparsity",),
    "l1_coeff": ("sparsity",),
    "sparsity_coefficient": ("sparsity",),
    "context_size": ("context_length",),
    "ctx_len": ("context_length",),
    "seq_len": ("context_length",),
    "max_seq_len": ("context_length",),
    "exclude_special_tokens": ("exclude",),
    "exclude_bos": ("exclude",),
    "path": ("save_path",),
    "output_dir": ("save_path", "path"),
    "save_dir": ("save_path", "path"),
    "progress": ("verbose",),
    "verbose": ("progress",),
    "show_progress": ("verbose", "progress"),
    "hooks": ("interventions",),
    "fwd_hooks": ("interventions",),
    "intervention": ("interventions",),
    "edits": ("steer", "interventions"),
    "coefficient": ("strength",),
    "multiplier": ("strength",),
    "alpha": ("strength",),
    "scale": ("strength", "factor"),
}
"""Names that other libraries (or other calls here) use → ours, the likeliest first."""
_SAID = {
    "device_map": " A model is placed by its library: load it there (transformers' device_map=…) and wrap it:"
    " InterpretableModel(model, tokenizer).",
    "torch_dtype": " Load the model in that dtype with its own library, and wrap it:"
    " InterpretableModel(model, tokenizer).",
    "quantization_config": " Load the model so with its own library, and wrap it:"
    " InterpretableModel(model, tokenizer).",
    "num_return_sequences": " Give the prompt several times: generate([prompt] * 3, …).",
}
"""What is done otherwise here."""
_SAID["dtype"] = _SAID["torch_dtype"]


def hint(name: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown name, as a sentence; which names there are, where nothing is like it."""
    names = [one for one in known if not one.startswith("_")]
    found = [ours for ours in SYNONYMS.get(name, ()) if ours in names] or get_close_matches(
        name, names, 1, 0.7
    )
    if found:
        return f" Did you mean {found[0]}=?"
    return _SAID.get(name) or f" There are: {', '.join(names) or 'none'}."


def check_options(given: Mapping[str, Any], known: Iterable[str], call: str) -> None:
    """Raises InputError where a keyword argument is none of `known`; the message says which was meant."""
    names = list(known)
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InputError(f"{call} takes no {unknown[0]}=.{hint(unknown[0], names)}")


def checked_call(function: Callable[..., Any], call: str) -> Callable[..., Any]:
    """The same function; keyword arguments that it does not know are named with what was meant."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return function
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [parameter.name for parameter in parameters if parameter.kind in named]
    shown = [name for name in known if name not in ("self", "cls")]

    @wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        for name in options:
            if name not in known:
                check_options(options, shown, call)
        return function(*arguments, **options)

    return checked


def names_options(function: F) -> F:
    """`checked_call` for a function, by its own name."""
    found: Any = checked_call(function, function.__name__)
    return found


def checks_options(cls: T) -> T:
    """Puts `checked_call` before a class's public methods (inherited ones of our own too), constructor and call."""
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        if owner.__module__.partition(".")[0] != __name__.partition(".")[0]:
            continue
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        found = vars(owner)[name]
        plain = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
        if not inspect.isfunction(plain) or hasattr(plain, "__wrapped__"):
            continue
        call = (
            cls.__name__
            if name == "__init__"
            else f"{cls.__name__}.{name}"
            if name != "__call__"
            else cls.__name__
        )
        made = checked_call(plain, call)
        if made is not plain:
            setattr(cls, name, type(found)(made) if plain is not found else made)
    return cls
