"""The one place that resolves names of components.

A name can be canonical (`layers.3.resid_post`, `layers.3.attn.pattern`, `embed`), a module's path or
any unambiguous end of it (`layers.3.mlp.gate_proj`, `lm_head`), or what other libraries call it
(`blocks.3.hook_resid_pre`, `transformer.h.3.attn`, `model.model.layers.3.mlp`). `ComponentNames`
turns each into one `ComponentPath`; `anatomy` says where in the model that value is. No arrays here.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.integers import as_integer
from ..core.sites import ATTENTION_PORTS
from ..errors import ComponentError

RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Canonical names of a decoder block's part in the residual stream."""
FURTHER = "further_out"
"""What a block adds after `mlp_out`, in the few architectures where it does."""
GLOBAL = ("embed", "final_norm", "logits")
"""Canonical names outside the decoder blocks."""

_ATTENTION = (
    "attn.attention",
    "self_attn",
    "attn",
    "attention",
    "self_attention",
    "linear_attn",
    "temporal_block",
    "mixer",
    "mamba",
    "conv",
    "local_mixer",
    "norm_attn_norm.attn",
    "self_attn.0",
    "time_mix",
    "attn_out",
)
_MLP = (
    "mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "mlp_block", "shared_mlp",
    "channel_mix", "ff_out", "fc2",
)  # fmt: skip
_DOWN = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "fc_out", "w2", "out_proj", "wo")
_GATE = ("gate_proj", "c_fc", "fc1", "dense_h_to_4h", "fc_in", "w1", "up_proj")
_ROOTS = {
    "model", "transformer", "language_model", "backbone", "gpt_neox", "decoder", "base_model",
    "text_model",
}  # fmt: skip
ROOTS = frozenset((*_ROOTS, "blocks", "h", "ln_final"))
"""Names that paths of other libraries begin with, written as attributes: `model.blocks[3].hook_resid_pre`."""
_BLOCK = re.compile(r"^((?:\w+\.)*?)(?:layers|blocks|block|h)\.(-?\d+)(?:\.(.*))?$")

_LENS_MLP = (("mlp.hook_post", _DOWN, "input"), ("mlp.hook_pre", _GATE, "output"))
_LENS_GLOBAL = {
    "hook_embed": "embed",
    "ln_final.hook_normalized": "final_norm",
    "ln_final": "final_norm",
}
_LENS_BLOCK = {
    "hook_resid_pre": "resid_pre",
    "hook_attn_in": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_in": "mlp.input",
    "ln1.hook_normalized": "attn.input",
    "ln2.hook_normalized": "mlp.input",
    "attn.hook_q": "attn.q",
    "attn.hook_rot_q": "attn.q",
    "attn.hook_k": "attn.k",
    "attn.hook_rot_k": "attn.k",
    "attn.hook_v": "attn.v",
    "attn.hook_z": "attn.z",
    "attn.hook_pattern": "attn.pattern",
}
_HOOKS = {
    "mlp": "hook_mlp_out", "attn": "hook_attn_out", "attn.z": "attn.hook_z", "mlp.input": "mlp.hook_in",
    **{leaf: f"hook_{leaf}" for leaf in RESIDUAL},
}  # fmt: skip
"""What TransformerLens calls a part of a block."""


@dataclass(frozen=True, slots=True)
class ComponentPath:
    """Where in the model: what a name means."""

    name: str
    """Canonical name; the same for every way of naming the component."""
    kind: str
    """"module", "residual", "head" or "global"."""
    module: str
    """Native path of the module; of the decoder block for residual and head."""
    leaf: str
    """"output" or "input"; for the other kinds the canonical leaf, such as "resid_post" or "z"."""
    layer: int | None = None
    """Decoder block, where there is one."""
    call: int | None = None
    """Only this call of a module that is called several times ("…#1")."""


class ComponentNames:
    """Names of one model's components.

    Args:
        modules: Native path → class name of every module.
        layers: Native paths of the decoder blocks.
    """

    def __init__(self, modules: Mapping[str, str], layers: Sequence[str]):
        self._modules = modules
        self._layers = tuple(layers)
        self._block_of = {path: i for i, path in enumerate(self._layers)}

    # -- names to places ----------------------------------------------------------------------

    def knows(self, name: str) -> bool:
        """Whether `name` means a component; costs less than an error that lists near matches."""
        if not isinstance(name, str):
            return False
        text = name.strip().partition("#")[0]
        try:
            return bool(text) and self._resolve(text) is not None
        except ComponentError:  # it fits several
            return False

    def resolve(self, name: str) -> ComponentPath:
        """The component that `name` means.

        Raises:
            ComponentError: None has that name, or a suffix fits several; near matches are listed.
        """
        if not isinstance(name, str) or not name.strip():
            raise ComponentError(f"A component is named by a string such as 'layers.3.mlp', got {name!r}.")
        text, _, number = name.strip().partition("#")
        if number and not number.isdigit():
            raise ComponentError(f"{name!r}: after '#' comes the number of a call, 0-based.")
        call = int(number) if number else None
        path = self._resolve(text)
        if path is None:
            raise ComponentError(self._unknown(text))
        if call is None:
            return path
        if path.kind != "module":
            raise ComponentError(f"{name!r}: only a module's input and output are numbered by call.")
        return ComponentPath(f"{path.name}#{call}", path.kind, path.module, path.leaf, path.layer, call)

    def layer(self, index: int) -> int:
        """A layer number (anything with an `__index__`) as an index, negative ones from the end.

        Raises:
            ComponentError: There is no such layer.
        """
        count = len(self._layers)
        number = as_integer(index)
        if number is None or not -count <= number < count:
            raise ComponentError(
                f"There is no layer {reprlib.repr(index)}: this model has {count}, numbered 0 to {count - 1}"
                f" (or -{count} to -1 from the end)."
            )
        return number % count

    def _resolve(self, text: str) -> ComponentPath | None:
        if text in GLOBAL or text in _LENS_GLOBAL:
            leaf = _LENS_GLOBAL.get(text, text)
            return ComponentPath(leaf, "global", "", leaf)
        if text in self._modules:
            return self._module(text, "output")
        block = _BLOCK.match(text)
        if block and set(block[1].split(".")) <= _ROOTS | {""}:
            return self._in_block(self.layer(int(block[2])), block[3] or "output")
        for port in ("output", "input"):
            if text.endswith("." + port):
                inner = self._resolve(text[: -len(port) - 1])
                return self._with_port(inner, port)
        return self._by_suffix(text)

    def _with_port(self, inner: ComponentPath | None, port: str) -> ComponentPath | None:
        if inner is None or port == "output":
            return inner
        return self._module(inner.module, port) if inner.kind == "module" else None

    def _in_block(self, layer: int, rest: str) -> ComponentPath | None:
        rest = _LENS_BLOCK.get(rest, rest)
        if rest == "residual":
            rest = "resid_post"
        name, path = f"layers.{layer}", self._layers[layer]
        stem, _, port = rest.rpartition(".")
        if port == "output" and stem in (*RESIDUAL, FURTHER, *(f"attn.{p}" for p in ATTENTION_PORTS)):
            rest = stem
        if rest in (*RESIDUAL, FURTHER):
            return ComponentPath(f"{name}.{rest}", "residual", path, rest, layer)
        if rest in ("output", "input"):
            return self._module(path, rest)
        head = self._head(path, rest)
        if head:
            return ComponentPath(f"{name}.attn.{head}", "head", path, head, layer)
        if port in ("output", "input") and f"{path}.{rest}" not in self._modules:
            rest = stem
        else:
            port = "output"
        for lens_name, part, lens_port in _LENS_MLP:
            if rest == lens_name:
                rest, port = self._part_of_mlp(path, part) or rest, lens_port
        module = self._below(layer, rest)
        return self._module(module, port) if module is not None else None

    def _part_of_mlp(self, block: str, names: Iterable[str]) -> str | None:
        mlp = self._role(block, _MLP)
        return next((f"{mlp}.{n}" for n in names if f"{block}.{mlp}.{n}" in self._modules), None)

    def _head(self, block: str, rest: str) -> str | None:
        stem, _, leaf = rest.rpartition(".")
        if leaf not in ATTENTION_PORTS or (stem != "attn" and f"{block}.{rest}" in self._modules):
            return None
        return leaf if stem == "attn" or stem == self._role(block, _ATTENTION) else None

    def _below(self, layer: int, rest: str) -> str | None:
        """A module of a decoder block, by its own path, by role ("attn", "mlp"), or by suffix."""
        block = self._layers[layer]
        first, _, more = rest.partition(".")
        role = self._role_path(block, first)
        if role is not None and not more:
            return role
        if f"{block}.{rest}" in self._modules:
            return f"{block}.{rest}"
        if role is not None and f"{role}.{more}" in self._modules:
            return f"{role}.{more}"
        found = [p for p in self._modules if p.startswith(block + ".") and p.endswith("." + rest)]
        if len(found) > 1:
            raise ComponentError(self._ambiguous(rest, found))
        return found[0] if found else None

    def _role_path(self, block: str, role: str) -> str | None:
        """The module that plays "attn" or "mlp" in a block."""
        if role == "attn":
            name = self._role(block, _ATTENTION) or self._role(block, _MLP)
        elif role == "self_attn":
            name = self._role(block, ("self_attn", "attn.attention", "attn", "attention"))
        elif role == "mlp":
            name = self._role(block, _MLP) or self._role(block, _ATTENTION)
        else:
            return None
        return None if name is None else f"{block}.{name}"

    def _role(self, block: str, names: Iterable[str]) -> str | None:
        return next((n for n in names if f"{block}.{n}" in self._modules), None)

    def _by_suffix(self, text: str) -> ComponentPath | None:
        found = [p for p in self._modules if p.endswith("." + text)]
        if not found:
            head, _, rest = text.partition(".")
            return self._resolve(rest) if head in _ROOTS and rest else None
        if len(found) > 1:
            shortest = min(found, key=lambda p: p.count("."))
            outside = [p for p in found if self.layer_of(p) is None]
            if len(outside) != 1 or outside[0] != shortest:
                raise ComponentError(self._ambiguous(text, found))
            found = outside
        return self._module(found[0], "output")

    # -- places to names ----------------------------------------------------------------------

    def layer_of(self, module: str) -> int | None:
        """The decoder block that a native path lies in."""
        for path, layer in self._block_of.items():
            if module == path or module.startswith(path + "."):
                return layer
        return None

    def name_of(self, module: str) -> str:
        """The canonical name of a module: below `layers.N.` in a block, else its native path."""
        layer = self.layer_of(module)
        return module if layer is None else f"layers.{layer}{module[len(self._layers[layer]) :]}"

    def _module(self, module: str, port: str) -> ComponentPath:
        layer = self.layer_of(module)
        name = self.name_of(module) + (".input" if port == "input" else "")
        return ComponentPath(name, "module", module, port, layer)

    def all_names(self) -> list[str]:
        """Canonical names of everything, blocks first to last."""
        names = ["embed"]
        for layer, block in enumerate(self._layers):
            names.append(f"layers.{layer}")
            names += [f"layers.{layer}.{leaf}" for leaf in (*RESIDUAL, FURTHER)]
            names += [f"layers.{layer}.attn.{port}" for port in ATTENTION_PORTS]
            names += [self.name_of(m) for m in self._modules if m.startswith(block + ".")]
        names += ["final_norm", "logits"]
        return names + [m for m in self._modules if self.layer_of(m) is None]

    # -- messages -----------------------------------------------------------------------------

    def _unknown(self, text: str) -> str:
        close = difflib.get_close_matches(text, self.all_names(), n=4, cutoff=0.5)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        block = _BLOCK.match(text)
        if block and not close:
            inside = self._layers[self.layer(int(block[2]))] + "."
            known = [m[len(inside) :] for m in self._modules if m.startswith(inside)]
            hint = f" This model's layers have: {', '.join((*RESIDUAL, 'attn', 'mlp', *known))}."
        return f"No component {text!r} in this model.{hint} model.components() lists every path."

    def _ambiguous(self, text: str, found: Sequence[str]) -> str:
        shown = ", ".join(self.name_of(p) for p in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        return f"{text!r} is ambiguous: it could be {shown}{more}. Give a longer path."


def hook_component(hook: Any) -> str | None:
    """The component that another library's hook name means in any model: `blocks.3.hook_resid_pre` is
    `layers.3.resid_pre`. What only a model can tell is left as it is; None for what is no name."""
    if not isinstance(hook, str) or not hook.strip():
        return None
    text = hook.strip()
    if text in _LENS_GLOBAL:
        return _LENS_GLOBAL[text]
    block = _BLOCK.match(text)
    if block is None or not set(block[1].split(".")) <= _ROOTS | {""}:
        return text
    rest = block[3] or "output"
    rest = _LENS_BLOCK.get(rest, rest)
    return f"layers.{block[2]}.{'resid_post' if rest == 'output' else rest}"


def hook_name(component: str | None) -> str | None:
    """What TransformerLens calls a component of any model; None where it has no name for it."""
    if component == "embed":
        return "hook_embed"
    block = re.fullmatch(r"layers\.(\d+)\.(.+)", component or "")
    return f"blocks.{block[1]}.{_HOOKS[block[2]]}" if block and block[2] in _HOOKS else None
