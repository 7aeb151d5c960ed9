"""Single PyTorch files: OpenAI, Goodfire, DeepSeek (qresearch), Qwen Scope, Kissane and Mi-Crow."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ...anatomy.names import hook_component
from ...errors import SAEError
from ...variants import Activation, InputForm, ReLU, TopK
from ...weights import SAEWeights
from .parts import Parts
from .settings import Settings, one_of, setting
from .source import Arrays, Files, the_k

_LINEAR = {"encoder.weight": "n d", "encoder.bias": "n", "decoder.weight": "d n", "decoder.bias": "d"}
_OPENAI_SITES = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "attn_out",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_post_mlp": "resid_post",
}


def _file(files: Files) -> str | None:
    return files.one(".pt", ".pth")


def _holds(files: Files, *names: str) -> bool:
    name = _file(files)
    return name is not None and set(names) <= set(files.arrays(name))


def _arrays(files: Files) -> Arrays:
    name = _file(files)
    if name is None:
        raise SAEError(f"{files.path}: expected one .pt or .pth file. Give the path of the file itself.")
    return files.arrays(name)


def _layer(files: Files, pattern: str) -> str | None:
    found = files.hint(pattern, _file(files))
    return found[1] if found else None


def _resid_post(files: Files, pattern: str) -> dict[str, Any]:
    layer = _layer(files, pattern)
    return {"component": f"layers.{layer}.resid_post"} if layer else {}


# -- OpenAI -------------------------------------------------------------------------------------


def matches_openai(files: Files) -> bool:
    """Whether the files are of this format."""
    return _holds(files, "pre_bias", "latent_bias", "encoder.weight")


def read_openai(files: Files) -> Parts:
    """sparse_autoencoder of OpenAI; a TopK SAE takes its input with mean 0 and standard deviation 1."""
    arrays = _arrays(files)
    shapes = {"pre_bias": "d", "latent_bias": "n", "encoder.weight": "n d", "decoder.weight": "d n"}
    a = arrays.take(shapes)
    weights = SAEWeights(a["encoder.weight"].T, a["latent_bias"], a["decoder.weight"].T, a["pre_bias"])
    if "activation" not in arrays:
        raise SAEError(
            f"{arrays.path} lacks activation, which says how this SAE works. Known: ReLU, TopK, Identity."
        )
    kind, state = arrays["activation"], arrays.settings("activation_state_dict")
    form, activation = InputForm(), _openai_activation(files, kind, state, a["latent_bias"].size)
    if isinstance(kind, str) and kind == "TopK":
        form = InputForm("layer_norm")
    site = next((s for s in _OPENAI_SITES if files.hint(rf"/{s}")), None)
    layer = _layer(files, r"/(\d+)\.pt$")
    facts = {"model": "openai-community/gpt2"} if site else {}
    if site and layer:
        facts["component"] = hook_component(f"blocks.{layer}.{_OPENAI_SITES[site]}") or ""
    return Parts(weights, activation, facts, form)


def _openai_activation(files: Files, kind: Any, state: Settings, n: int) -> Activation:
    if isinstance(kind, str) and kind == "ReLU":
        return ReLU()
    if isinstance(kind, str) and kind == "Identity":
        return TopK(n, relu=False)
    if not isinstance(kind, str) or kind != "TopK":
        raise SAEError(f"{files.path}: unknown activation {kind!r}. Known: ReLU, TopK, Identity.")
    after = one_of(state, "postact_fn", ("ReLU", "Identity"), "ReLU", "activation_state_dict")
    return TopK(the_k(files, state, where="activation_state_dict"), relu=after == "ReLU")


# -- Goodfire, DeepSeek -------------------------------------------------------------------------


def matches_goodfire(files: Files) -> bool:
    """Whether the files are of this format."""
    return _holds(files, "encoder_linear.weight", "decoder_linear.weight")


def read_goodfire(files: Files) -> Parts:
    """The SAE that the files hold."""
    shapes = {name.replace(".", "_linear."): shape for name, shape in _LINEAR.items()}
    a = _arrays(files).take(shapes)
    weights = SAEWeights(
        a["encoder_linear.weight"].T, a["encoder_linear.bias"], a["decoder_linear.weight"].T,
        a["decoder_linear.bias"], subtract_b_dec=False,
    )  # fmt: skip
    return Parts(weights, ReLU(), _resid_post(files, r"SAE-l(\d+)\.pth?$"))


def matches_deepseek(files: Files) -> bool:
    """Whether the files are of this format."""
    return _holds(files, *_LINEAR)


def read_deepseek(files: Files) -> Parts:
    """The SAE that the files hold."""
    a = _arrays(files).take(_LINEAR)
    weights = SAEWeights(
        a["encoder.weight"].T,
        a["encoder.bias"],
        a["decoder.weight"].T,
        a["decoder.bias"],
        subtract_b_dec=False,
    )
    return Parts(weights, ReLU(), _resid_post(files, r"SAE-l(\d+)\.pth?$"))


# -- Qwen Scope, Kissane ------------------------------------------------------------------------


def matches_qwen(files: Files) -> bool:
    """Whether the files are of this format."""
    name = _file(files)
    return (
        name is not None
        and re.fullmatch(r"layer\d+\.sae\.pt", name) is not None
        and {"W_enc", "W_dec"} <= set(files.arrays(name))
    )


def read_qwen(files: Files) -> Parts:
    """Both matrices lie transposed; k is in the repository's name only."""
    a = _arrays(files).take({"W_enc": "n d", "W_dec": "d n", "b_enc": "n", "b_dec": "d"})
    said = files.hint(r"L0_(\d+)")
    k = files.k if files.k is not None else int(said[1]) if said else None
    if k is None:
        raise SAEError(
            f"{files.path}: the file does not say how many features are active on a token. The name of its repository"
            " ends in L0_<k>: pass that number, as in SAE.load(path, k=50)."
        )
    weights = SAEWeights(a["W_enc"].T, a["b_enc"], a["W_dec"].T, a["b_dec"], subtract_b_dec=False)
    return Parts(weights, TopK(k), _resid_post(files, r"layer(\d+)\.sae\.pt$"))


def _kissane_config(files: Files) -> str | None:
    name = _file(files)
    config = f"{name.rpartition('.')[0]}_cfg.json" if name else None
    return config if config in files.names else None


def matches_kissane(files: Files) -> bool:
    """Whether the files are of this format."""
    if files.chosen is not None and files.chosen.endswith("_cfg.json"):
        return any(
            f"{files.chosen.removesuffix('_cfg.json')}{ending}" in files.names for ending in (".pt", ".pth")
        )
    return _kissane_config(files) is not None and _holds(files, "W_enc", "W_dec", "b_enc", "b_dec")


def read_kissane(files: Files) -> Parts:
    """The SAE that the files hold."""
    if files.chosen is not None and files.chosen.endswith("_cfg.json"):
        stem = files.chosen.removesuffix("_cfg.json")
        ending = next(ending for ending in (".pt", ".pth") if f"{stem}{ending}" in files.names)
        files = files.at(files.folder / f"{stem}{ending}")
    name = _kissane_config(files)
    config = files.config(name) if name else Settings({})
    sizes = {
        "d": setting(config, "act_size", int, None, name or ""),
        "n": setting(config, "dict_size", int, None, name or ""),
    }
    a = _arrays(files).take({"W_enc": "d n", "b_enc": "n", "W_dec": "n d", "b_dec": "d"}, sizes)
    hook = config.get("act_name")
    if hook is None and (layer := _layer(files, r"_L(\d+)_")):
        hook = f"blocks.{layer}.attn.hook_z"
    facts = {"hook": hook, "component": hook_component(hook), "prepend_bos": True}
    heads = isinstance(hook, str) and hook.endswith("hook_z")
    metadata = {key: value for key, value in facts.items() if value is not None}
    weights = SAEWeights(a["W_enc"], a["b_enc"], a["W_dec"], a["b_dec"])
    return Parts(weights, ReLU(), metadata, InputForm(heads=heads))


# -- Mi-Crow ------------------------------------------------------------------------------------


def matches_mi_crow(files: Files) -> bool:
    """Whether the files are of this format."""
    return _holds(files, "sae_state_dict", "mi_crow_metadata")


def read_mi_crow(files: Files) -> Parts:
    """The SAE that the files hold."""
    return mi_crow_parts(_arrays(files), files.k)


def mi_crow_parts(arrays: Arrays, given_k: int | None = None) -> Parts:
    """An SAE from what Mi-Crow writes: decoder rows are normalised and multiplied by e^multiplier; nothing is added or
    subtracted.

    Args:
        given_k: Used instead of the k that stands there.
    """
    facts, inner = arrays.settings("mi_crow_metadata"), arrays.inner("sae_state_dict")
    encoder, dictionary = "encoder.final_block.0", "dictionary._weights"
    sizes = {
        "n": setting(facts, "n_latents", int, None, "mi_crow_metadata"),
        "d": setting(facts, "n_inputs", int, None, "mi_crow_metadata"),
    }
    a = inner.take({f"{encoder}.weight": "n d", f"{encoder}.bias": "n", dictionary: "n d"}, sizes)
    norms = np.linalg.norm(a[dictionary], axis=1, keepdims=True) + np.float32(1e-8)
    W_dec = a[dictionary] / norms * np.float32(np.exp(inner.number("dictionary.multiplier")))
    b_dec = np.zeros(W_dec.shape[1], dtype=np.float32)
    weights = SAEWeights(a[f"{encoder}.weight"].T, a[f"{encoder}.bias"], W_dec, b_dec, subtract_b_dec=False)
    k = given_k if given_k is not None else setting(facts, "k", int, None, "mi_crow_metadata")
    return Parts(weights, TopK(k) if k is not None else ReLU(), _mi_crow_metadata(facts))


def _mi_crow_metadata(facts: Settings) -> dict[str, Any]:
    """The layer's signature is a class name and a module's path, all joined by "_"."""
    signature = facts.get("layer_signature")
    found = {"model": facts.get("model_id"), "hook": signature}
    place = re.search(r"_(?:layers|h|blocks)_(\d+)(?:_(.+))?$", str(signature or ""))
    if place:
        rest = place[2]
        found["component"] = (
            f"layers.{place[1]}.{rest.replace('self_attn_', 'self_attn.') if rest else 'resid_post'}"
        )
    return {key: value for key, value in found.items() if value is not None}
