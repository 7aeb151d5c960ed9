"""Settings of a checkpoint that change numbers, and whether the code that would run it reads them.

mlx-lm and transformers write each architecture down anew, and neither reads all settings that the other does: a
window or a scaling that one of them passes over changes every answer without a word. Both wings ask `unread` when they
load a checkpoint, and say in a `ConfigWarning` what would be passed over.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ...core.integers import is_integer, is_number

_INNER = ("text_config", "language_config", "llm_config")
ROPE = ("rope_parameters", "rope_scaling")
_NESTED = ("rope_theta", "partial_rotary_factor")
"""What newer checkpoints keep among the rotary settings."""
LOCAL_THETA = "rope_local_base_freq"
"""`rope_theta` of layers with a window, where it has a name of its own."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting under all its names; reading any of them reads it."""

    names: tuple[str, ...]
    neutral: Callable[[Any], bool]
    """Whether a value means what a model without the setting does."""
    effect: str


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or value in values


SETTINGS = (
    Setting(("attn_logit_softcapping",), _is(0), "attention scores are not capped"),
    Setting(("final_logit_softcapping",), _is(0), "logits are not capped"),
    Setting(("attention_multiplier",), _is(), "attention scores are scaled otherwise"),
    Setting(("residual_multiplier",), _is(1), "what sublayers add is not scaled"),
    Setting(("embedding_multiplier", "scale_emb"), _is(1), "embeddings are not scaled"),
    Setting(("logits_scaling", "logit_scale", "lm_head_multiplier"), _is(1), "logits are not scaled"),
    Setting(("scale_attn_weights",), _is(True), "attention scores are scaled all the same"),
    Setting(("scale_attn_by_inverse_layer_idx",), _is(False), "attention scores are not scaled by layer"),
    Setting(("clip_qkv",), _is(), "queries, keys and values are not clipped"),
    Setting(
        ("use_parallel_residual", "parallel_attn"), _is(), "blocks may add one after the other, or at once"
    ),
    Setting(("no_rope_layers", "no_rope_layer_interval"), _is(0, []), "all layers have rotary positions"),
    Setting(("use_bidirectional_attention",), _is(False), "attention looks back only"),
    Setting(("norm_topk_prob",), _is(False), "weights of experts are not normalised as asked"),
    Setting(("num_experts_per_tok", "moe_topk", "top_k_experts"), _is(), "another number of experts is used"),
    Setting(("routed_scaling_factor", "moe_router_scaling_factor"), _is(1), "experts are not scaled"),
    Setting(("partial_rotary_factor", "rotary_pct", "rope_pct"), _is(1), "all of each head is rotated"),
    Setting(("attention_chunk_size",), _is(0), "attention is not cut into chunks"),
    Setting(("alibi", "use_alibi"), _is(False), "attention has no linear biases"),
)
"""Whose value is what it says; windows, rotary scaling, activations and epsilons have rules of their own. What has
weights of its own (biases, norms of queries, an untied head) shows when those are loaded."""

_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
_FUNCTIONS = {
    "silu": {"silu", "swiglu", "SiLU", "SwiGLU", "SwitchGLU"},
    "gelu": {"gelu", "GELU", "geglu"},
    "relu": {"relu", "ReLU"},
    "relu2": {"relu2", "relu_squared", "ReLUSquared", "square"},
    "tanh": {"gelu_approx", "geglu_approx", "gelu_fast_approx", "GELU", "precise", "SwitchMLP"},
    "xielu": {"XieLU", "xielu"},
}
"""What a function is called in code."""
_SAME = {
    "swish": "silu", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh", "gelu_python_tanh": "tanh",
    "relu_squared": "relu2",
}  # fmt: skip


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the language model: those of an inner configuration come first."""
    inner = next((config[key] for key in _INNER if isinstance(config.get(key), Mapping)), {})
    whole = {**config, **inner}
    nested = {name: value for nest in ROPE for name, value in rope_of(whole, nest).items() if name in _NESTED}
    return {**nested, **whole}


def rope_of(config: Mapping[str, Any], nest: str) -> Mapping[str, Any]:
    """The rotary settings of a configuration; those of layers that look back to the beginning, where it has several."""
    inner = config.get(nest)
    if not isinstance(inner, Mapping):
        return {}
    if any(isinstance(value, Mapping) for value in inner.values()):
        chosen = inner.get("full_attention")
        return chosen if isinstance(chosen, Mapping) else {}
    return inner


def local_theta(config: Mapping[str, Any], nest: str) -> float | None:
    """`rope_theta` of the layers with a window, where the rotary settings are given by kind of layer."""
    inner = config.get(nest)
    local = inner.get("sliding_attention") if isinstance(inner, Mapping) else None
    return local.get("rope_theta") if isinstance(local, Mapping) else None


def mentioned(modules: Iterable[ModuleType]) -> frozenset[str]:
    """Names that the code of some modules reads: attributes, strings, variables, keywords.

    Fields that a class only declares do not count. Empty where there is no source.
    """
    found: set[str] = set()
    for module in modules:
        try:
            tree = ast.parse(inspect.getsource(module))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, (str, float)):
                found.add(str(node.value))
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                found.add(node.id)
            elif isinstance(node, ast.keyword) and node.arg:
                found.add(node.arg)
    return frozenset(found)


def unread(config: Mapping[str, Any], reads: Collection[str]) -> list[str]:
    """Settings whose values would change numbers and that code with these names does not read, as sentences' parts.

    Args:
        config: As `config.json` has it.
        reads: What `mentioned` found.
    """
    if not reads:
        return []
    own = flat(config)
    found = [
        f"{name}={own[name]!r} ({setting.effect})"
        for setting in SETTINGS
        for name in setting.names
        if name in own and not setting.neutral(own[name]) and not any(n in reads for n in setting.names)
    ]
    return found + _scalar(own, reads) + _epsilon(own, reads) + _activation(own, reads) + _rotary(own, reads)


def window_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens the attention of some layers looks back; None where all look back to the beginning."""
    own = flat(config)
    window, kinds = own.get("sliding_window"), own.get("layer_types")
    if not is_integer(window) or window <= 0:
        return None
    if kinds is None and own.get("use_sliding_window") is False:
        return None
    if isinstance(kinds, list) and not any("sliding" in str(kind) for kind in kinds):
        return None
    depth, first = own.get("num_hidden_layers"), own.get("max_window_layers")
    if kinds is None and is_integer(first) and is_integer(depth) and first >= depth:
        return None
    limit = own.get("max_position_embeddings")
    return None if is_integer(limit) and window >= limit else window


def windowed_layers(config: Mapping[str, Any]) -> int | None:
    """How many layers `layer_types` gives a window; None where it does not say."""
    kinds = flat(config).get("layer_types")
    return sum("sliding" in str(kind) for kind in kinds) if isinstance(kinds, list) else None


def window_ignored(window: int) -> str:
    """What is said of a window that is passed over."""
    return f"sliding_window={window} (texts longer than {window} tokens differ from the reference)"


def rope_type(nest: Mapping[str, Any]) -> str:
    """The kind of rotary scaling; "default" where there is none."""
    return str(nest.get("rope_type") or nest.get("type") or "default")


def _scalar(own: Mapping[str, Any], reads: Collection[str]) -> list[str]:
    name = "query_pre_attn_scalar"
    heads = own.get("num_attention_heads")
    width = own.get("head_dim") or (own.get("hidden_size", 0) // heads if heads else None)
    if own.get(name) in (None, width) or name in reads:
        return []
    return [f"{name}={own[name]} (attention scores are scaled otherwise)"]


def _epsilon(own: Mapping[str, Any], reads: Collection[str]) -> list[str]:
    given = [name for name in _EPSILONS if isinstance(own.get(name), float)]
    if not given or any(name in reads for name in given):
        return []
    own_values = {"1e-05", "1e-06"}
    return [f"{n}={own[n]} (norms use another)" for n in given if not {str(own[n])} & ({*reads} | own_values)]


def _activation(own: Mapping[str, Any], reads: Collection[str]) -> list[str]:
    given = {name: own[name] for name in _ACTIVATIONS if isinstance(own.get(name), str)}
    if not given or any(name in reads for name in (*_ACTIVATIONS, "ACT2FN")):
        return []
    name, value = next(reversed(given.items()))
    kind: str = _SAME.get(str(value), str(value))
    names: set[str] = _FUNCTIONS.get(kind, {kind})
    if kind == "relu" and _FUNCTIONS["relu2"] & {*reads}:
        names = set()  # it is a part of the square
    return [] if names & {*reads} else [f"{name}={value!r} (the MLP has another activation)"]


def _rotary(own: Mapping[str, Any], reads: Collection[str]) -> list[str]:
    found = []
    for nest in ROPE:
        kind = rope_type(rope_of(own, nest))
        if kind != "default" and not any(n in reads for n in ROPE):
            found.append(f"{nest} of type {kind!r} (rotary positions are not scaled)")
        local = local_theta(own, nest)
        if (
            local not in (None, rope_of(own, nest).get("rope_theta"))
            and not {LOCAL_THETA, "sliding_attention", *ROPE} & {*reads}
        ):  # fmt: skip
            found.append(
                f"rope_theta={local} of layers with a window (rotary positions have another base there)"
            )
    theta = own.get("rope_theta")
    if is_number(theta) and theta != 10000 and not {"rope_theta", "rotary_emb_base", *ROPE} & {*reads}:
        found.append(f"rope_theta={theta} (rotary positions have another base)")
    return found[:1]
