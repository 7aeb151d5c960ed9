"""Builds the table of published SAEs that ships with mlxterp, from SAELens's registry.

    python -m pip install sae-lens==6.54.12
    python tools/pretrained/build_table.py

Source: `pretrained_saes.yaml` of the package sae-lens (MIT, Copyright (c) 2023 Joseph Bloom). Only
facts are taken from it: names, places, numbers. What SAELens's loaders add in code (file names, the
hook that follows from a folder's name) is said here by rules of our own. The same registry gives the
same bytes. SAELens itself is not imported.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import yaml

OUT = Path(__file__).resolve().parents[2] / "mlxterp/sae/pretrained/table.json.gz"

LOADERS = {
    "sae_lens": "saelens",
    "gemma_2": "gemma_scope",
    "gemma_2_transcoder": "gemma_scope_transcoder",
    "gemma_3": "gemma_scope_2",
    "llama_scope": "llama_scope",
    "llama_scope_r1_distill": "llama_scope_r1",
    "dictionary_learning_1": "dictionary_learning",
    "qwen_scope": "qwen_scope",
    "mwhanna_transcoder": "circuit_tracer",
    "mntss_clt_layer_transcoder": "circuit_tracer_clt",
    "connor_rob_hook_z": "kissane",
    "temporal": "temporal",
    "goodfire": "goodfire",
    "deepseek_r1": "deepseek",
}
"""SAELens's conversion function (none is "sae_lens") and our name of the format."""

MODELS = {
    "gemma-2b": "google/gemma-2b",
    "gemma-2b-it": "google/gemma-2b-it",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-2-27b": "google/gemma-2-27b",
    "gpt2-small": "openai-community/gpt2",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-14b": "Qwen/Qwen3-14B",
}
"""TransformerLens's short names and the hub's; names with an owner are the hub's already."""

CORRECTIONS = {"gemma-scope-9b-it-res": "google/gemma-2-9b-it"}
"""Models of releases where the registry and SAELens's own loader differ; the repository says the latter."""

MODEL_KWARGS = {"circuit_tracer": {"fold_ln": False}, "circuit_tracer_clt": {"fold_ln": False}}
"""What SAELens's loaders set in code for every SAE of a format."""

FIGURES = {
    "l0": "l0",
    "variance_explained": "variance_explained",
    "neuronpedia_id": "neuronpedia",
    "norm_scaling_factor": "norm_scaling_factor",
}
"""Our optional columns and the registry's names for them."""


def main() -> None:
    """Reads the registry, writes the table and says how many it holds."""
    options = _arguments()
    registry = yaml.load(
        options.registry.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    table = build(registry, options.source_version)
    data = json.dumps(table, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    options.out.write_bytes(gzip.compress(data, compresslevel=9, mtime=0))
    count = sum(len(release["columns"]["sae_id"]) for release in table["releases"])
    print(
        f"{options.out}: {len(table['releases'])} releases, {count} SAEs, {options.out.stat().st_size} bytes"
    )


def build(registry: dict[str, Any], source_version: str) -> dict[str, Any]:
    """The table as JSON values: a header and, for each release, what is common and columns."""
    return {
        "format": "mlxterp-pretrained-saes",
        "version": 1,
        "source": "pretrained_saes.yaml of sae-lens",
        "source_version": source_version,
        "source_license": "MIT, Copyright (c) 2023 Joseph Bloom",
        "releases": [_release(name, registry[name]) for name in sorted(registry, key=_natural)],
    }


# -- one release ------------------------------------------------------------------------------


def _release(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    loader = _known(LOADERS, facts.get("conversion_func") or "sae_lens", name)
    overrides = dict(facts.get("config_overrides") or {})
    model_kwargs = MODEL_KWARGS.get(loader, {}) | overrides.pop("model_from_pretrained_kwargs", {})
    model = facts["model"]
    release = {
        "release": name,
        "repo_id": facts["repo_id"],
        "model": CORRECTIONS.get(name) or (model if "/" in model else _known(MODELS, model, name)),
        "source_model": model,
        "loader": loader,
        "config_overrides": overrides,
        "model_kwargs": model_kwargs,
    }
    saes = sorted(facts["saes"], key=lambda sae: _natural(sae["id"]))
    return release | {"columns": _columns(loader, facts["repo_id"], saes)}


def _columns(loader: str, repo_id: str, saes: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """One list for each field, all as long as `saes`; optional ones that are empty are left out."""
    paths = [_path(loader, str(sae["path"])) for sae in saes]
    hooks = [_hooks(loader, repo_id, path, sae["id"]) for path, sae in zip(paths, saes, strict=True)]
    optional = {
        "hook": [hook for hook, _ in hooks],
        "hook_out": [out for _, out in hooks],
        **{ours: [sae.get(theirs) for sae in saes] for ours, theirs in FIGURES.items()},
    }
    filled = {name: column for name, column in optional.items() if any(x is not None for x in column)}
    return {"sae_id": [sae["id"] for sae in saes], "path": paths, **filled}


def _path(loader: str, path: str) -> str:
    """Folder or file in the repository; a CLT, which the registry gives as a layer, gets its encoder's."""
    return f"W_enc_{path}.safetensors" if loader == "circuit_tracer_clt" else path


# -- hooks ------------------------------------------------------------------------------------

HOOK = re.compile(
    r"blocks\.\d+\.(?:hook_resid_pre|hook_resid_mid|hook_resid_post|hook_attn_out|hook_mlp_out)"
)

LAYER = {
    "gemma_scope": r"layer_(\d+)",
    "gemma_scope_transcoder": r"layer_(\d+)",
    "gemma_scope_2": r"layer_(\d+)",
    "llama_scope": r"-L(\d+)[RAM]-",
    "llama_scope_r1": r"/L(\d+)R$",
    "dictionary_learning": r"resid_post_layer_(\d+)",
    "qwen_scope": r"layer(\d+)\.sae",
    "circuit_tracer": r"layer_(\d+)\.",
    "kissane": r"_L(\d+)_Hcat_z_",
    "temporal": r"layer_(\d+)/",
    "goodfire": r"-l(\d+)\.",
    "deepseek": r"-l(\d+)\.",
}
"""Where a path says the layer."""

RESIDUAL = ("llama_scope_r1", "dictionary_learning", "qwen_scope", "temporal", "goodfire", "deepseek")
"""Formats whose published SAEs all read the residual stream after a layer."""


def _hooks(loader: str, repo_id: str, path: str, sae_id: str) -> tuple[str | None, str | None]:
    """Where it reads and, of a transcoder, writes, in TransformerLens's names; None where unknown.

    A cross-layer transcoder's are said by config.yaml in its repository alone.
    """
    if loader == "circuit_tracer_clt":
        return None, None
    if loader == "saelens":
        found = HOOK.match(sae_id)
        return (found.group() if found else None), None
    if path.startswith("embedding/"):
        return "hook_embed", None
    found = re.search(LAYER[loader], path)
    if found is None:
        raise SystemExit(f"{repo_id}: the path {path!r} does not say a layer. Correct LAYER[{loader!r}].")
    block = f"blocks.{int(found.group(1))}"
    hook, out = _site(loader, repo_id, path)
    return f"{block}.{hook}", out and f"{block}.{out}"


def _site(loader: str, repo_id: str, path: str) -> tuple[str, str | None]:
    """The hook within its layer, and that of a transcoder's output."""
    if loader in RESIDUAL:
        return "hook_resid_post", None
    if loader == "kissane":
        return "attn.hook_z", None
    if loader == "gemma_scope_transcoder":
        return "ln2.hook_normalized", "hook_mlp_out"
    # With the norm's gain. SAELens calls Gemma Scope 2's hook_mlp_in, which lies before that norm.
    if loader == "circuit_tracer" or path.startswith("transcoder"):
        return "mlp.hook_in", "hook_mlp_out"
    if loader == "llama_scope":
        sublayers = {"R": "hook_resid_post", "A": "hook_attn_out", "M": "hook_mlp_out"}
        return sublayers[path.rsplit("-", 1)[0][-1]], None
    kind = path.split("/")[0] if loader == "gemma_scope_2" else repo_id.rsplit("-", 1)[1]
    sites = {"res": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out"}
    return _known(sites, kind[:3], f"{repo_id}/{path}"), None


# -- small things -----------------------------------------------------------------------------


def _known(names: dict[str, str], name: str, where: str) -> str:
    if name not in names:
        raise SystemExit(f"{where}: {name!r} is new. Known are {', '.join(names)}. Add it to this script.")
    return names[name]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which layer_2 comes before layer_10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--registry", type=Path, help="a pretrained_saes.yaml; else the installed SAELens's")
    parser.add_argument("--source-version", help="its version of sae-lens; else the installed one's")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.registry is None:
        spec = importlib.util.find_spec("sae_lens")
        if spec is None or spec.origin is None:
            parser.error("sae-lens is not installed. pip install sae-lens==6.54.12, or give --registry.")
        options.registry = Path(spec.origin).with_name("pretrained_saes.yaml")
    options.source_version = options.source_version or importlib.metadata.version("sae-lens")
    return options


if __name__ == "__main__":
    main()
