"""Loads a language model of transformers from a folder or from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.quiet import quiet_loading
from ...errors import BackendError, InputError
from ..hub import asking, place_of
from .devices import find_device
from .language_model import TorchLanguageModel

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
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise BackendError(
            'Loading a PyTorch model needs transformers: pip install "mlxterp[torch]".'
        ) from error
    place = place_of(source)
    try:
        with quiet_loading(), asking(place):
            model: Any = AutoModelForCausalLM.from_pretrained(
                place, dtype="auto", use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"No causal language model could be loaded from {place!r}. Expected a folder or a Hugging Face"
            f" repository with config.json and safetensors weights. transformers says: {error}"
        ) from error
    return TorchLanguageModel(model.to(find_device(device)).eval(), _tokenizer(tokenizer, place))


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
