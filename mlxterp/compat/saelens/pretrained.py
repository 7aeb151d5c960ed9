"""Published SAEs and models by the names that SAELens and TransformerLens gave them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ...sae.pretrained import pretrained_saes

_NAMES = {
    "gpt2-small": "openai-community/gpt2",
    "gpt2": "openai-community/gpt2",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    **{f"gpt2-{size}": f"openai-community/gpt2-{size}" for size in ("medium", "large", "xl")},
    **{f"gemma-{size}{it}": f"google/gemma-{size}{it}"
       for size in ("2b", "7b", "2-2b", "2-9b", "2-27b") for it in ("", "-it")},
    **{f"pythia-{size}{deduped}": f"EleutherAI/pythia-{size}{deduped}"
       for size in ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
       for deduped in ("", "-deduped")},
    **{f"tiny-stories-{size}": f"roneneldan/TinyStories-{size}" for size in ("1M", "3M", "8M", "28M", "33M")},
    **{f"qwen3-{size}": f"Qwen/Qwen3-{size.upper()}" for size in ("0.6b", "1.7b", "4b", "8b", "14b")},
}  # fmt: skip
"""TransformerLens's short names of models → repositories on the hub."""


def hub_name(model_name: str) -> str:
    """The repository that a short name of TransformerLens means; folders and repositories as they are."""
    return model_name if Path(model_name).exists() else _NAMES.get(model_name, model_name)


@dataclass(frozen=True)
class PretrainedSAELookup:
    """One release of published SAEs; dictionaries are by SAE id.

    Attributes:
        release: Its name.
        repo_id: Repository on the Hugging Face hub: owner/name.
        model: As SAELens calls it, where that is a short name.
        conversion_func: Format of the files; None for SAELens's own.
        saes_map: Paths in the repository.
        expected_var_explained: As published; 1.0 where nothing is.
        expected_l0: As published; 0.0 where nothing is.
        neuronpedia_id: Names on Neuronpedia; None where an SAE is not there.
        norm_scaling_factor: What activations are multiplied by first, of the SAEs that need it.
        config_overrides: What takes precedence over the configuration in the repository.
    """

    release: str
    repo_id: str
    model: str
    conversion_func: str | None
    saes_map: dict[str, str] = field(default_factory=dict)
    expected_var_explained: dict[str, float] = field(default_factory=dict)
    expected_l0: dict[str, float] = field(default_factory=dict)
    neuronpedia_id: dict[str, str | None] = field(default_factory=dict)
    norm_scaling_factor: dict[str, float] = field(default_factory=dict)
    config_overrides: dict[str, Any] | None = None


@cache
def get_pretrained_saes_directory() -> dict[str, PretrainedSAELookup]:
    """All releases by name, from `mlxterp.pretrained_saes()`; no network is needed."""
    short = {repo: name for name, repo in reversed(_NAMES.items())}
    found: dict[str, PretrainedSAELookup] = {}
    for entry in pretrained_saes():
        lookup = found.get(entry.release)
        if lookup is None:
            loader = None if entry.loader == "saelens" else entry.loader
            lookup = found[entry.release] = PretrainedSAELookup(
                entry.release, entry.repo_id, short.get(entry.model, entry.model), loader,
                config_overrides=dict(entry.config_overrides) or None,
            )  # fmt: skip
        known = entry.variance_explained, entry.l0
        lookup.saes_map[entry.sae_id] = entry.path
        lookup.expected_var_explained[entry.sae_id] = 1.0 if known[0] is None else known[0]
        lookup.expected_l0[entry.sae_id] = 0.0 if known[1] is None else known[1]
        lookup.neuronpedia_id[entry.sae_id] = entry.neuronpedia_id
        if entry.norm_scaling_factor is not None:
            lookup.norm_scaling_factor[entry.sae_id] = entry.norm_scaling_factor
    return found
