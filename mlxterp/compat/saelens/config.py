"""`cfg` of models and SAEs: what TransformerLens's and SAELens's users read there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...anatomy.names import hook_component, hook_name
from ...model.interpretable import InterpretableModel
from ...sae import SAE
from ...sae.formats.settings import SAELENS_NORMALISATIONS
from .names import HookTable


@dataclass(slots=True)
class HookedTransformerConfig:
    """Facts of a model; only `default_prepend_bos` has an effect when it is changed.

    Attributes:
        model_name: Repository or folder it was loaded from, or its type.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        n_heads: Attention heads of a layer; None without attention.
        d_head: Width of one head; None for a model without attention that can be read.
        n_key_value_heads: Where heads are grouped; else None.
        d_mlp: Width of the MLP's hidden layer; None where none can be read.
        d_vocab: Tokens that can be read.
        d_vocab_out: Tokens that can be predicted.
        n_ctx: Longest text that the model was made for; None where it does not say.
        device: "cpu", "cuda:0"; "gpu" or "cpu" for MLX, whose arrays are where its default device is.
        dtype: Of the residual stream ("float32").
        default_prepend_bos: Whether text gets the tokenizer's BOS in front, where it has one.
        tokenizer_prepends_bos: Whether the tokenizer puts its BOS in front by itself.
    """

    model_name: str
    n_layers: int
    d_model: int
    n_heads: int | None
    d_head: int | None
    n_key_value_heads: int | None
    d_mlp: int | None
    d_vocab: int
    d_vocab_out: int
    n_ctx: int | None
    device: str
    dtype: str
    default_prepend_bos: bool = True
    tokenizer_prepends_bos: bool = False


def model_config(model: InterpretableModel, hooks: HookTable, prepends: bool) -> HookedTransformerConfig:
    """The facts of a model, from one pass over one token."""
    lm, places = model.language_model, hooks.places
    wanted = {
        key: next((place.component for name, place in places.items() if name.endswith(end)), None)
        for key, end in (("z", ".attn.hook_z"), ("v", ".attn.hook_v"), ("mlp", ".mlp.hook_post"))
    }
    start = "layers.0.resid_pre"
    trace = model.trace([0], capture=[start, *(name for name in wanted.values() if name)])
    shapes = {key: tuple(trace.activations[name].shape) for key, name in wanted.items() if name}
    stream = trace.activations[start]
    heads = shapes["z"][1] if "z" in shapes else lm.n_heads
    grouped = shapes["v"][1] if "v" in shapes and shapes["v"][1] != heads else None
    return HookedTransformerConfig(
        model_name=model.name or lm.model_type, n_layers=model.n_layers, d_model=model.d_model, n_heads=heads,
        d_head=shapes["z"][-1] if "z" in shapes else None, n_key_value_heads=grouped,
        d_mlp=shapes["mlp"][-1] if "mlp" in shapes else None, d_vocab=model.vocab_size,
        d_vocab_out=model.vocab_size, n_ctx=lm.max_positions, device=lm.backend.device(stream),
        dtype=str(stream.dtype).rpartition(".")[2], tokenizer_prepends_bos=prepends,
    )  # fmt: skip


class SAEMetadata:
    """What an SAE's files say of it, as attributes and by key; None for what they do not say."""

    def __init__(self, **facts: Any):
        self.__dict__.update(facts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.__dict__[key] = value

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def __contains__(self, key: str) -> bool:
        return key in self.__dict__

    def get(self, key: str, default: Any = None) -> Any:
        """The fact, or `default` where the files do not say."""
        return self.__dict__.get(key, default)

    def to_dict(self) -> dict[str, Any]:
        """All that is known."""
        return dict(self.__dict__)

    def __repr__(self) -> str:
        return f"SAEMetadata({self.__dict__})"


class Architecture(str):
    """The name of an architecture; also when it is called, as in SAELens 6."""

    __slots__ = ()

    def __call__(self) -> str:
        return str(self)


class SAEConfig:
    """Settings of an SAE: those of SAELens 6, and beside them what it kept here before ("hook_name", "hook_layer").

    What files say of the SAE's origin stands in `metadata`; `to_dict()` gives everything.
    """

    architecture: Architecture
    """"standard", "topk", "jumprelu", "gated", …"""
    d_in: int
    d_sae: int
    hook_name: str | None
    """Where it reads, by TransformerLens's name; None where the files do not say."""
    hook_layer: int | None
    metadata: SAEMetadata

    def __init__(self, **settings: Any):
        self.__dict__.update(settings)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"cfg has no {name!r}; it has {', '.join(self.__dict__)}. See also cfg.metadata."
        )

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries."""
        return {**self.__dict__, "architecture": str(self.architecture), "metadata": self.metadata.to_dict()}

    def __repr__(self) -> str:
        return f"SAEConfig({self.__dict__})"


_ARCHITECTURES = {
    "relu": "standard",
    "tanh_relu": "tanh-relu",
    "abs_topk": "abstopk",
    "batch_topk": "batchtopk",
}


def sae_config(sae: SAE, device: str) -> SAEConfig:
    """The settings of an SAE of this library."""
    facts = sae.metadata
    hook = _hook(facts.get("hook"), facts.get("component"))
    out = _hook(None, facts.get("component_out"))
    layer = (hook or "").split(".")[1] if (hook or "").startswith("blocks.") else None
    name = facts.get("architecture") or _ARCHITECTURES.get(sae.activation.name, sae.activation.name)
    kwargs = {"center_writing_weights": True} if facts.get("center_writing_weights") else {}
    known = {
        "model_name": facts.get("model"), "hook_name": hook, "hook_name_out": out,
        "hook_layer": None if layer is None else int(layer), "hook_head_index": facts.get("hook_head_index"),
        "context_size": facts.get("context_size"), "prepend_bos": facts.get("prepend_bos"),
        "dataset_path": facts.get("dataset"), "neuronpedia_id": facts.get("neuronpedia_id"),
        "model_from_pretrained_kwargs": kwargs,
    }  # fmt: skip
    rest = {
        key: value for key, value in facts.items() if key not in ("model", "hook", "dataset", "architecture")
    }
    settings = {
        "architecture": Architecture(name), "d_in": sae.d_model, "d_sae": sae.d_hidden, "d_out": sae.d_out,
        "dtype": "float32", "device": device, "apply_b_dec_to_input": sae.subtract_b_dec,
        "normalize_activations": SAELENS_NORMALISATIONS[sae.form.normalize],
        "reshape_activations": "hook_z" if sae.form.heads else "none",
        "activation_fn_str": "topk" if sae.activation.name == "topk" else sae.activation.name,
        **({} if sae.k is None else {"k": sae.k}),
    }  # fmt: skip
    said = {key: value for key, value in {**rest, **known}.items() if value is not None}
    return SAEConfig(**settings, **known, metadata=SAEMetadata(**said))


def _hook(hook: Any, component: Any) -> str | None:
    """A place by TransformerLens's name: the file's own, unless the SAE is used elsewhere since."""
    if isinstance(hook, str) and hook_component(hook) == component:
        return hook
    found = hook_name(component if isinstance(component, str) else None)
    return found or (hook if isinstance(hook, str) else component if isinstance(component, str) else None)
