"""Loads a language model of transformers from a folder or from the Hugging Face hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from ...core.quiet import quiet_loading
from ...errors import BackendError, ConfigWarning, InputError, MlxterpError, warn
from ..host.hub import asking, place_of
from ..host.settings import mentioned, unread, window_ignored, window_of, windowed_layers
from .devices import find_device
from .language_model import TorchLanguageModel

_MASKS = {
    "create_sliding_window_causal_mask": "sliding_window",
    "create_masks_for_generate": "sliding_window",
    "create_chunked_causal_mask": "attention_chunk_size",
}
"""Functions of transformers that read a setting for those who call them."""
_FEW_WORDS = 256
_TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "*.model", "*.tiktoken")


def load_language_model(
    source: str | Path, tokenizer: Any = None, device: str | None = None
) -> TorchLanguageModel:
    """A causal language model in the precision its configuration names, in evaluation mode.

    Only safetensors are read and no code of the repository is run.

    Args:
        source: A folder, or a repository on the Hugging Face hub such as "openai-community/gpt2".
        tokenizer: A tokenizer, or where to load one from; None loads it from `source`. A folder
            without tokenizer files gives a model that takes token ids only.
        device: Such as "cuda:0"; None takes CUDA, else Metal (MPS), else the CPU.

    Raises:
        BackendError: transformers is not installed, or there is no such device.
        InputError: There is no such folder or repository, or it holds no model that can be read.
    """
    try:
        from transformers import AutoModelForCausalLM, PretrainedConfig
    except ImportError as error:
        raise BackendError(
            'Loading a PyTorch model needs transformers: pip install "mlxterp[torch]".'
        ) from error
    place = place_of(source)
    try:
        with quiet_loading(), asking(place):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                place, dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            model, found = loaded
            given, _ = PretrainedConfig.get_config_dict(place)
    except Exception as error:  # its classes fail in many ways
        if isinstance(error, (MlxterpError, Warning)):
            raise
        raise InputError(
            f"No causal language model could be loaded from {place!r}. Expected a folder or a Hugging Face"
            f" repository with config.json and safetensors weights. transformers says: {error}"
        ) from error
    report_weights(model, found)
    report_ignored(model, given)
    return TorchLanguageModel(model.to(find_device(device)).eval(), _tokenizer(tokenizer, place))


def one_block_twin(source: str | Path) -> TorchLanguageModel | None:
    """A random model of the same kind and widths, with one block and few words, on the CPU; None where none is made.

    Nothing is downloaded, and torch's own random numbers stay as they are.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

    try:
        with quiet_loading(), torch.random.fork_rng(devices=[]):
            place = place_of(source)
            given, _ = PretrainedConfig.get_config_dict(place, local_files_only=True)
            if "quantization" in given or "quantization_config" in given:
                return None
            config = AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=True)
            inner = config.get_text_config()
            inner.num_hidden_layers, inner.vocab_size, inner.pad_token_id = 1, _FEW_WORDS, None
            if getattr(inner, "layer_types", None):
                inner.layer_types = inner.layer_types[:1]
            model = AutoModelForCausalLM.from_config(config, dtype=inner.dtype)
    except Exception:  # its classes fail in many ways; without a twin there is nothing to compare
        return None
    return TorchLanguageModel(model.eval(), None)


def report_weights(model: Any, found: dict[str, Any]) -> None:
    """Warns of weights that the checkpoint lacks, which are random, and of those that nothing uses."""
    for key, what in (("missing_keys", "lacks"), ("unexpected_keys", "has, and nothing uses,")):
        names = sorted(found.get(key) or ())
        if names:
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            warn(
                f"The checkpoint {what} weights of transformers' {model.config.model_type}: {shown}. What it computes"
                " differs from the model that was saved.",
                ConfigWarning,
            )


def report_ignored(model: Any, config: dict[str, Any]) -> None:
    """Warns of settings that change numbers and that transformers' code for this model does not read."""
    inner = model.config.get_text_config()
    classes = {type(model), type(model.config), type(inner), *(type(m) for m in model.modules())}
    homes = {cls.__module__ for cls in classes if cls.__module__.startswith("transformers.models.")}
    reads = set(mentioned(sys.modules[name] for name in sorted(homes)))
    for function, setting in _MASKS.items():
        reads |= {setting} if function in reads else set()
    for other, name in (inner.attribute_map or {}).items():
        reads |= {other, name} if {other, name} & reads else set()
    ignored = unread(config, reads)
    window = window_of(config)
    code = mentioned(sys.modules[name] for name in sorted(homes) if ".modeling_" in name)
    mixed = windowed_layers(config) not in (None, inner.num_hidden_layers) and "layer_types" not in code
    if window is not None and ("sliding_window" not in reads or mixed):
        ignored.append(window_ignored(window))
    if ignored:
        warn(
            f"transformers' {model.config.model_type} does not read these settings of the checkpoint, so its numbers"
            f" may differ from those of other libraries: {'; '.join(ignored)}.",
            ConfigWarning,
        )


def _tokenizer(tokenizer: Any, place: str) -> Any:
    from transformers import AutoTokenizer

    if tokenizer is not None and not isinstance(tokenizer, (str, Path)):
        return tokenizer
    where = place if tokenizer is None else place_of(tokenizer)
    if tokenizer is None and Path(where).is_dir() and not _has_tokenizer(Path(where)):
        return None
    try:
        with quiet_loading(), asking(where):
            return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"No tokenizer could be loaded from {where!r}: {error} Pass tokenizer=…, an object or where to"
            " load it from."
        ) from error


def _has_tokenizer(folder: Path) -> bool:
    return any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern))
