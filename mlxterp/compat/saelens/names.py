"""TransformerLens's hook names in one model: which there are, what each means here, and how it is laid out.

`HookTable` turns a name such as `blocks.3.attn.hook_z` into a `Place`: the component of this library, and how
its value becomes theirs. Per-head values are (batch, position, head, d_head) there, (batch, head, position,
d_head) here; `hook_pattern` is (batch, head, query, key) in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ...anatomy.anatomy import Anatomy
from ...anatomy.names import ComponentPath
from ...core.sites import Array
from ...errors import ComponentError
from ...model.interpretable import InterpretableModel
from .norms import Affine, find_norms

_ALIASES = {
    "attn": "pattern", "key": "k", "query": "q", "value": "v",
    "mlp_pre": "pre", "mlp_mid": "mid", "mlp_post": "post", "attn_logits": "attn_scores",
}  # fmt: skip
_IN_ATTENTION = ("q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores")
_IN_MLP = ("pre", "post", "mid", "pre_linear")
_PARTS = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """A hook's whole name from its short form: ("resid_pre", 2) is "blocks.2.hook_resid_pre".

    Also in one word ("k6", "normalized4ln1"); whole names come back as they are.
    """
    if layer is None and layer_type is None:
        if "." in name or name.startswith("hook_"):
            return name
        joined = re.match(r"([a-z_]+?)(\d+)([a-z]?.*)", name)
        if joined is not None:
            name, layer, layer_type = joined[1], joined[2], joined[3] or None
    name = _ALIASES.get(name, name)
    if name in _IN_ATTENTION:
        part = "attn"
    elif name in _IN_MLP:
        part = "mlp"
    else:
        part = _PARTS.get(layer_type or "", layer_type or "")
    if layer is None and name in ("scale", "normalized"):
        part = "ln_final"
    block = [] if layer is None else [f"blocks.{layer}"]
    return ".".join([*block, *([part] if part else []), f"hook_{name}"])


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """A hook of TransformerLens in one model."""

    name: str
    component: str
    """Path in this library."""
    layer: int
    """Decoder block; -1 for what comes before the first, the number of blocks for what comes after the last."""
    layout: str = "same"
    """"same"; "heads": positions and heads change places; "side": `heads` heads stand side by side here."""
    heads: int = 1
    norm: Affine | None = None
    """What the norm does afterwards, where the hook is before it."""

    def theirs(self, x: Array) -> Array:
        """A value of the component, as TransformerLens has it."""
        if self.norm is not None:
            return self.norm.before(x)
        if self.layout == "side":
            return x.reshape((*x.shape[:-1], self.heads, x.shape[-1] // self.heads))
        return x.swapaxes(1, 2) if self.layout == "heads" else x

    def ours(self, y: Array, x: Array) -> Array:
        """The way back: y in the place of `theirs(x)`."""
        if self.norm is not None:
            return self.norm.after(y, x)
        if self.layout == "side":
            return y.reshape(tuple(x.shape))
        return y.swapaxes(1, 2) if self.layout == "heads" else y


_BLOCK = (
    ("hook_resid_pre", "resid_pre", "same"),
    ("ln1.hook_normalized", "attn.input", "same"),
    ("attn.hook_q", "attn.q", "heads"),
    ("attn.hook_k", "attn.k", "heads"),
    ("attn.hook_v", "attn.v", "heads"),
    ("attn.hook_pattern", "attn.pattern", "same"),
    ("attn.hook_z", "attn.z", "heads"),
    ("hook_attn_out", "attn_out", "same"),
    ("hook_resid_mid", "resid_mid", "same"),
    ("ln2.hook_normalized", "mlp.input", "same"),
    ("mlp.hook_in", "mlp.input", "same"),
    ("mlp.hook_pre", "mlp.hook_pre", "same"),
    ("mlp.hook_post", "mlp.hook_post", "same"),
    ("hook_mlp_out", "mlp_out", "same"),
    ("hook_resid_post", "resid_post", "same"),
)
"""Hooks of a block in the order in which they are reached: name, component below the block, layout."""

_SWITCHED_OFF = (
    "TransformerLens has it switched off by default. Here the inputs of the sublayers are"
    " blocks.N.ln1.hook_normalized and blocks.N.ln2.hook_normalized."
)
_REFUSED = {
    "hook_attn_scores": "Scores before the softmax are not kept. Use attn.hook_pattern, or multiply hook_rot_q"
    " (hook_q without rotary embedding) by hook_rot_k yourself.",
    "hook_result": "Multiply attn.hook_z by each head's rows of the output projection.",
    "hook_scale": "Divide the norm's input by its output: hook_resid_pre and ln1.hook_normalized.",
    "hook_pos_embed": "Subtract hook_embed from blocks.0.hook_resid_pre.",
    "hook_pre_linear": "Name the module in a trace of model.interpretable: layers.N.mlp.up_proj.",
    "hook_sae_acts_pre": "Use hook_sae_acts_post, or compute (x - b_dec) @ W_enc + b_enc.",
    **dict.fromkeys(("hook_mlp_in", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input"), _SWITCHED_OFF),
}  # fmt: skip


class HookTable:
    """All hooks that one model has."""

    def __init__(self, model: InterpretableModel):
        self._model = model

    @cached_property
    def places(self) -> dict[str, Place]:
        """By name, in the order in which a pass reaches them."""
        found = {place.name: place for place in self._all()}
        normed = [place.component for name, place in found.items() if name.endswith("hook_normalized")]
        norms = find_norms(self._model, list(dict.fromkeys(normed)))
        for name in [name for name in found if name.endswith("hook_normalized")]:
            norm = norms.get(found[name].component)
            if norm is None:
                del found[name]
            else:
                found[name] = replace(found[name], norm=norm)
        return found

    def find(self, name: str) -> Place:
        """The hook of that name.

        Raises:
            ComponentError: There is none; the message says what to use instead.
        """
        place = self.places.get(name)
        if place is None:
            raise ComponentError(self.why_not(name))
        return place

    def why_not(self, name: object) -> str:
        """Why there is no such hook, and what there is."""
        leaf = str(name).rpartition(".")[2]
        if leaf in _REFUSED:
            return f"mlxterp has no hook {name!r}. {_REFUSED[leaf]}"
        if leaf == "hook_normalized":
            return (
                f"{name!r} is a norm's output before its gain, which cannot be told here: what enters that sublayer is"
                " no norm of the residual stream, or a gain is 0. Hook what enters: blocks.N.mlp.hook_in."
            )
        if self._rotary and leaf in ("hook_q", "hook_k"):
            return (
                f"This model has no projection whose output is {name!r} alone. After rotary embedding it is"
                f" {str(name).replace('hook_', 'hook_rot_')!r}."
            )
        return (
            f"This model has no hook {name!r}. model.hook_dict lists its {len(self.places)} names, such as"
            f" {', '.join(list(self.places)[1:4])}; get_act_name('resid_pre', 3) makes one."
        )

    @cached_property
    def _rotary(self) -> bool:
        modules = self._model.language_model.modules
        return any(re.search("rope|rotary", path.rpartition(".")[2]) for path in modules)

    def _all(self) -> Iterator[Place]:
        anatomy, n = self._model.anatomy, self._model.n_layers
        known = {
            name for name, what in self._model.components().items() if not what.endswith("(never called)")
        }
        if "embed" in known:
            yield Place("hook_embed", "embed", -1)
        projections = self._projections(known) if self._rotary else {}
        for layer in range(n):
            for hook, leaf, layout in _BLOCK:
                name, component = f"blocks.{layer}.{hook}", f"layers.{layer}.{leaf}"
                before = projections.get(component)
                if before is not None:
                    yield Place(name, before[0], layer, "side", before[1])
                if leaf in ("attn.q", "attn.k") and self._rotary:
                    name = name.replace("hook_", "hook_rot_")
                path = _path(anatomy, component)
                if path is not None and path.name.removesuffix(".input") in known:
                    yield Place(name, path.name, layer, layout)
        if "final_norm" in known:
            yield Place("ln_final.hook_normalized", "final_norm", n)
            yield Place("unembed.hook_in", "final_norm", n)
        yield Place("unembed.hook_out", "logits", n)

    def _projections(self, known: set[str]) -> dict[str, tuple[str, int]]:
        """For each `attn.q` and `attn.k` the module that makes it before rotary embedding, and its heads."""
        found: dict[str, str] = {}
        for layer in range(self._model.n_layers):
            for port in "qk":
                path = _path(self._model.anatomy, f"layers.{layer}.attn.{port}_proj")
                if path is not None and {path.name, f"layers.{layer}.attn.{port}"} <= known:
                    found[f"layers.{layer}.attn.{port}"] = path.name
        trace = self._model.trace([0], capture=[*found, *found.values()])
        heads = {name: int(trace.activations[name].shape[1]) for name in found}
        widths = {name: int(trace.activations[name].shape[-1]) for name in found}
        fits = {n for n in found if trace.activations[found[n]].shape[-1] == heads[n] * widths[n]}
        return {name: (module, heads[name]) for name, module in found.items() if name in fits}


def _path(anatomy: Anatomy, name: str) -> ComponentPath | None:
    try:
        return anatomy.names.resolve(name)
    except ComponentError:
        return None
