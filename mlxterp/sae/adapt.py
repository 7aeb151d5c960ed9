"""Adapts a loaded SAE to a model.

SAEs are trained on what some library calls a hook. `adapt` finds the component of this model that carries
the same activations, and folds known differences into the SAE: weights that were centred, and a
norm whose gain the hook leaves out.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.names import hook_component
from ..backends.base import LanguageModel
from ..core.places import expanded
from ..core.rows import rows_of
from ..core.sites import Component
from ..core.tokens import TokenBatch
from ..errors import ComponentError, InputError, SAEError, warn
from .formats.fold import without_subtraction
from .model_names import same_model
from .pretrained import is_published
from .pretrained.fetch import Fetched
from .sae import SAE, opened

_CENTRED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn", "mlp")
_PROBE_TOKENS = 8
_ROOTS = ("layers.", "h.", "blocks.", "model.", "transformer.")
"""What paths begin with, also those of components that a model does not have."""
_ELSEWHERE = " (of another model)"
_FIT = 1e-3
"""A gain is believed where it explains the norm's output to this share."""


def open_sae(
    anatomy: Anatomy, source: str | Path, sae_id: str | None = None, *,
    component: str | None = None, format: str | None = None, k: int | None = None, device: str | None = None,
    norm_scaling_factor: float | None = None, revision: str | None = None, model_name: str | None = None,
) -> SAE:  # fmt: skip
    """See `InterpretableModel.load_sae`."""
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            f"Expected an SAE, its file or folder, or the name of a published one; got {type(source).__name__}."
            " mlxterp.SAE.load(path) opens one."
        )
    backend = anatomy.model.backend.name
    published = sae_id is not None or is_published(source)
    if published and not expanded(source).exists():
        sae = SAE.from_pretrained(str(source), sae_id, backend, device, k, revision)
    else:
        sae = opened(Fetched(source, format, norm_scaling_factor), backend, device, k)
    adapted = adapt(anatomy, sae, component)
    _warn_of_another(anatomy, sae, adapted, model_name)
    return adapted


def _warn_of_another(anatomy: Anatomy, sae: SAE, adapted: SAE, model_name: str | None) -> None:
    """Says so where the SAE is of another model, or was trained on another component, than it is used with."""
    said = sae.metadata.get("model")
    if model_name and isinstance(said, str) and not same_model(model_name, said):
        warn(f"This SAE was trained on {said}, and this model is {model_name}.")
    if adapted.component is not None:
        warn_of_another_place(anatomy, sae, adapted.component)


def warn_of_another_place(anatomy: Anatomy, sae: SAE, used_on: str) -> None:
    """Warns where an SAE is used on another component than it was trained on."""
    trained_on = trained_elsewhere(anatomy, sae, used_on)
    if trained_on is not None:
        own = ""
        if not trained_on.endswith(_ELSEWHERE):
            own = (
                f" For its own place leave layer= and component= out, or call with component={trained_on!r}."
            )
        warn(
            f"This SAE was trained on {trained_on}, and is used on {used_on} as asked. Its features mean something"
            f" there only if the two carry the same activations.{own}"
        )


def place_of(
    anatomy: Anatomy, sae: SAE, layer: Any = None, component: Any = None, *, leaf: str = "mlp",
    own: str | None = None, quiet: bool = False,
) -> Component:  # fmt: skip
    """Where an SAE is used: as the call says, and as the SAE says where the call does not.

    A layer alone means the part of that layer that the SAE was trained on in its own; a component alone ("mlp") is that
    of the SAE's own layer, or a whole path. Where the call contradicts the SAE's own place, the call's place wins, with
    a warning.

    Args:
        leaf: The part of a layer, where neither says.
        own: The SAE's own place; None takes what its metadata says that it was trained on.
        quiet: Do not warn.

    Raises:
        InputError: Neither says where.
        ComponentError: No such layer or component.
    """
    own = hook_component(sae.component) if own is None else own
    name = _named_place(anatomy, sae, layer, component, leaf, own)
    if name is None:
        assert own is not None
        return resolve(anatomy, sae, own)
    place = anatomy.component(name)
    if not quiet and trained_elsewhere(anatomy, sae, place.name) is not None:
        check_width(anatomy, sae, place)  # an error says more than a warning
        warn_of_another_place(anatomy, sae, place.name)
    return place


def _named_place(
    anatomy: Anatomy, sae: SAE, layer: Any, component: Any, leaf: str, own: str | None
) -> str | None:
    """The path that a call names; None where it leaves it to the SAE."""
    if component is not None and not isinstance(component, str):
        raise ComponentError(
            f"A component is named by a string, a path or its part below a layer such as 'mlp', got {component!r}."
        )
    if layer is None and component is None:
        if own is None:
            raise InputError(
                "This SAE does not say where it was trained. Name the place: layer=3, component='mlp'; or"
                " component='layers.3.mlp'."
            )
        return None
    if layer is None:
        assert component is not None
        return component if _is_whole(anatomy, component) else _in_own_layer(anatomy, sae, component, own)
    number = anatomy.names.layer(layer)
    if component is not None and _is_whole(anatomy, component):
        if anatomy.names.resolve(component).layer != number:
            raise InputError(
                f"layer={layer!r} and component={component!r} name two places. Give one of them."
            )
        return component
    return f"layers.{number}.{component or own_leaf(anatomy, sae, own) or leaf}"


def _is_whole(anatomy: Anatomy, component: str) -> bool:
    """Whether a component is a path by itself, not the part below a layer."""
    return anatomy.names.knows(component) or component.startswith(_ROOTS)


def _in_own_layer(anatomy: Anatomy, sae: SAE, component: str, own: str | None) -> str:
    block = None if own is None else re.match(r"layers\.(\d+)(?:\.|$)", _resolved_name(anatomy, sae, own))
    if block is None:
        raise InputError(
            f"component={component!r} is a part of every layer, and this SAE does not say which is its own. Name the"
            " layer too: layer=3."
        )
    return f"layers.{block[1]}.{component}"


def own_leaf(anatomy: Anatomy, sae: SAE, own: str | None = None) -> str | None:
    """The part of a layer that an SAE was trained on: "mlp" for layers.3.mlp; None where it does not say."""
    name = hook_component(sae.component) if own is None else own
    found = None if name is None else re.fullmatch(r"layers\.\d+\.(.+)", _resolved_name(anatomy, sae, name))
    return None if found is None else found[1]


def _resolved_name(anatomy: Anatomy, sae: SAE, name: str) -> str:
    """Its canonical name here; the name itself, of a model with other names or more layers."""
    try:
        return resolve(anatomy, sae, name).name
    except ComponentError:
        return name


def trained_elsewhere(anatomy: Anatomy, sae: SAE, used_on: str) -> str | None:
    """The component that an SAE was trained on, where that is another than this one; None where it does not say."""
    trained_on = hook_component(sae.component)
    if trained_on is None:
        return None
    try:
        place = resolve(anatomy, sae, trained_on)
        trained_on = place.name
    except ComponentError:
        place, trained_on = None, f"{sae.component}{_ELSEWHERE}"
    elsewhere = trained_on not in (used_on, f"{used_on}.resid_post") or (
        trained_on != used_on and place is not None and place.sites != anatomy.component(used_on).sites
    )  # a block's output is the residual stream after it
    return trained_on if elsewhere else None


def adapt(anatomy: Anatomy, sae: SAE, component: str | None = None) -> SAE:
    """The SAE as it works on this model, its metadata naming this model's component.

    Args:
        component: Path to use it at, instead of the hook that its metadata names.

    Raises:
        ComponentError: The model has no such component.
        SAEError: The component is not as wide as the SAE's input.
    """
    name = component or hook_component(sae.component)
    if name is None:
        return sae
    place = resolve(anatomy, sae, name)
    check_width(anatomy, sae, place)
    adapted = _without_gain(anatomy, sae, place)
    if sae.metadata.get("center_writing_weights") and _centres(anatomy.model, place):
        form = replace(adapted.form, center=True, restore=adapted.form.restore and not sae.is_transcoder)
        adapted = adapted.replace(form=form)
    adapted.metadata["component"] = place.name
    out = adapted.metadata.get("component_out")
    if isinstance(out, str):
        target = resolve(anatomy, sae, hook_component(out) or out)
        check_width(anatomy, sae, target, gives=True)
        adapted.metadata["component_out"] = target.name
    _warn_of_bos(anatomy.model, sae)
    return adapted


def check_width(anatomy: Anatomy, sae: SAE, place: Component, *, gives: bool = False) -> None:
    """Raises SAEError unless a component is as wide as what the SAE takes (or gives)."""
    found = anatomy.width(place)
    if found != (sae.d_out if gives else sae.d_model):
        raise other_width(sae, place, found, gives=gives)


def other_width(sae: SAE, place: Component, found: int, *, gives: bool = False) -> SAEError:
    """The error for an SAE on a component of another width, `found`."""
    does = f"gives {sae.d_out}" if gives else f"takes {sae.d_model}"
    trained_on = _trained_on(sae) or (f" ({sae.component})" if sae.component else "")
    output = ", name its output in metadata['component_out']" if gives else ""
    return SAEError(
        f"{place.name} puts out {found} numbers for each token, this SAE {does}. Choose the model and component that"
        f" it was trained on{trained_on}{output}, or an SAE of this width."
    )


def resolve(anatomy: Anatomy, sae: SAE, name: str) -> Component:
    """The component that an SAE's hook means in this model.

    Raises:
        ComponentError: None; the message names the hook as the file has it.
    """
    try:
        return anatomy.component(name)
    except ComponentError as error:
        joined = _by_joined_name(anatomy, name)
        if joined is not None:
            return anatomy.component(joined)
        raise ComponentError(
            f"This SAE was trained on {name!r}{_trained_on(sae)}, which this model does not have. {error}"
            " Pass component= to use it elsewhere."
        ) from error


def read(anatomy: Anatomy, places: list[Component], ids: np.ndarray | None = None) -> list[np.ndarray]:
    """float32 rows (tokens, width) of components for a few tokens; heads stand side by side."""
    model = anatomy.model
    if ids is None:
        ids = np.random.default_rng(0).integers(0, model.vocab_size, _PROBE_TOKENS)
    sites = [site for place in places for site in place.sites]
    run = model.run(TokenBatch.from_rows([ids.tolist()]), sites, stop_after=sites)
    return [model.backend.get(rows_of(place, run, (1, len(ids)))).astype(np.float32) for place in places]


def _by_joined_name(anatomy: Anatomy, name: str) -> str | None:
    """Mi-Crow joins a module's path by "_": `layers.0.attn_c_attn` is `layers.0.attn.c_attn`."""
    block = re.fullmatch(r"layers\.(\d+)\.(\w+)", name)
    if block is None or int(block[1]) >= len(anatomy.model.layers):
        return None
    inside = anatomy.model.layers[int(block[1])] + "."
    found = [
        m
        for m in anatomy.model.modules
        if m.startswith(inside) and m[len(inside) :].replace(".", "_") == block[2]
    ]
    return found[0] if len(found) == 1 else None


def _without_gain(anatomy: Anatomy, sae: SAE, place: Component) -> SAE:
    """For a hook at a norm's output before its gain: the SAE takes the output with the gain, as the model has it."""
    hook = str(sae.metadata.get("hook") or "")
    if not hook.endswith((".ln1.hook_normalized", ".ln2.hook_normalized")):
        return sae.replace()
    if not sae.form.trivial:
        raise SAEError(
            f"This SAE normalises what {hook} carries, which {place.name} cannot give back exactly."
        )
    before = place.name.replace("mlp.input", "resid_mid").replace("attn.input", "resid_pre")
    layer = re.match(r"layers\.(\d+)\.", place.name)
    if layer is not None and before == place.name:
        before = f"layers.{layer[1]}.{'resid_mid' if '.ln2.' in hook else 'resid_pre'}"
    stream, normed = read(anatomy, [anatomy.component(before), place])
    gain, bias = _gain(stream.astype(np.float64), normed.astype(np.float64), place.name)
    w = without_subtraction(sae.weights)
    if "W_skip" in w.extra:
        raise SAEError(
            f"A skip connection at {hook} cannot be carried over to {place.name}, whose gain it lacks."
        )
    W_enc = (w.W_enc / gain[:, None]).astype(np.float32)
    b_enc = (w.b_enc - (bias / gain) @ w.W_enc).astype(np.float32)
    if sae.is_transcoder:
        return sae.replace(weights=replace(w, W_enc=W_enc, b_enc=b_enc))
    W_dec, b_dec = (w.W_dec * gain).astype(np.float32), (w.b_dec * gain + bias).astype(np.float32)
    return sae.replace(weights=replace(w, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, b_dec=b_dec))


def _gain(stream: np.ndarray, normed: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Gain and bias (d,) of the norm that makes `normed` of `stream`: RMSNorm, or else LayerNorm."""
    rms = stream / np.sqrt((stream**2).mean(axis=1, keepdims=True))
    gain = (rms * normed).sum(axis=0) / (rms**2).sum(axis=0)
    if _share(normed - rms * gain, normed) < _FIT:
        return gain, np.zeros_like(gain)
    centred = stream - stream.mean(axis=1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True))
    mean = unit.mean(axis=0)
    gain = ((unit - mean) * (normed - normed.mean(axis=0))).sum(axis=0) / ((unit - mean) ** 2).sum(axis=0)
    bias = normed.mean(axis=0) - gain * mean
    if _share(normed - unit * gain - bias, normed) < _FIT and (gain != 0).all():
        return gain, bias
    raise SAEError(
        f"This SAE was trained on a norm's output before its gain, and what enters {name} is neither an RMSNorm's"
        " nor a LayerNorm's output, so the gain cannot be taken away. Pass component= to use it elsewhere."
    )


def _share(rest: np.ndarray, whole: np.ndarray) -> float:
    return float(np.sqrt((rest**2).sum() / (whole**2).sum()))


def _centres(model: LanguageModel, place: Component) -> bool:
    """Whether centred weights would change what is here: models with LayerNorm, the residual stream."""
    layer_norms = any(name == "LayerNorm" for name in model.modules.values())
    return layer_norms and place.name.rpartition(".")[2] in (*_CENTRED, "embed")


def _warn_of_bos(model: LanguageModel, sae: SAE) -> None:
    tokenizer = model.tokenizer
    bos = getattr(tokenizer, "bos_token_id", None)
    if sae.metadata.get("prepend_bos") is not True or tokenizer is None or bos is None:
        return
    if model.tokenize("a")[:1] != [bos]:
        warn(
            "This SAE was trained on texts that begin with a BOS token, and this tokenizer adds none. Features of a"
            " text's first tokens will differ; put the BOS token in front of token ids to run as in training."
        )


def _trained_on(sae: SAE) -> str:
    model, hook = sae.metadata.get("model"), sae.metadata.get("hook")
    said = " of ".join(str(part) for part in (hook, model) if part)
    return f" ({said})" if said else ""
