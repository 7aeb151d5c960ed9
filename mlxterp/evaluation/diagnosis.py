"""Why an SAE does not fit: the neighbouring layer, component or normalisation that it fits far better.

`check` asks. Every candidate is one more reconstruction of a few contexts' activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.sites import Component
from ..errors import ComponentError
from ..sae import SAE
from ..sae.adapt import read
from ..variants import InputForm
from .judgement import explained, without_sinks

_TOKENS = 1024
"""At most about so many are looked at."""
_MARGIN = 0.7
"""A neighbour is named where it leaves less than this share of the unexplained variance."""
_LEAVES = (
    "mlp", "attn", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp.input", "attn.z",
)  # fmt: skip
_SCALES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)


def likely_cause(
    anatomy: Anatomy, sae: SAE, place: Component, contexts: list[list[int]]
) -> tuple[str, bool] | None:
    """The neighbour that fits far better than this place, as a sentence, and whether it speaks against the SAE here.

    Sinks count nowhere: a few of them would decide everything.
    """
    ids = [np.array(row) for row in contexts[: max(1, _TOKENS // max(map(len, contexts)))]]
    neighbours = list(_neighbours(anatomy, sae, place))
    whole, *others = _samples(anatomy, [place, *neighbours], ids)
    x, *others = (np.concatenate([rows[1:] for rows in contexts]) for contexts in (whole, *others))
    kept = without_sinks(anatomy, place, x)
    x, *others = (rows[kept] for rows in (x, *others))
    here = _fvu(sae, x)
    candidates: list[tuple[float, str]] = []
    for other, values in zip(neighbours, others, strict=True):
        fvu = _fvu(sae, values)
        candidates.append((fvu, _elsewhere(place, other)))
    for form, words in _other_forms(sae):
        candidates.append((_fvu(sae.replace(form=form), x), f"Missing normalisation: {words}"))
    usual = float(np.sqrt(sae.d_model) / np.linalg.norm(x, axis=1).mean())
    for scale in (usual, *_SCALES):
        words = f"activations times about {scale:.3g}"
        if scale == usual:
            words = f"activations times {scale:.4g} (norm sqrt(d_model), SAELens's expected_average_only_in)"
        fvu = _fvu(sae, x * np.float32(scale))
        candidates.append((fvu, f"Missing normalisation: the SAE expects {words}"))
    best, sentence = min(candidates, key=lambda c: c[0])
    if best < _MARGIN * here:
        return f"{sentence}: FVU {best:.2f} there, {here:.2f} here.", True
    if _fvu(sae, np.concatenate(whole)) > 1 >= _fvu(sae, np.concatenate([rows[1:] for rows in whole])):
        return (
            "BOS: each text's first token alone raises FVU above 1. Leave first tokens out, as this report does."
        ), False
    return None


def _samples(anatomy: Anatomy, places: list[Component], ids: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Rows (tokens, width) of each place and context."""
    runs = [read(anatomy, places, row) for row in ids]
    return [[run[i] for run in runs] for i in range(len(places))]


def _fvu(sae: SAE, x: np.ndarray) -> float:
    return 1 - explained(sae, x, x)


def _neighbours(anatomy: Anatomy, sae: SAE, place: Component) -> Iterator[Component]:
    """The same component in other layers, and other components of this layer and its neighbours."""
    layer, leaf = _layer_and_leaf(place.name)
    if layer is None:
        return
    for other in range(len(anatomy.model.layers)):
        for name in dict.fromkeys((leaf, *(_LEAVES if abs(other - layer) <= 1 else ()))):
            component = _with_width(anatomy, f"layers.{other}.{name}", sae.d_model)
            if component is not None and component.name != place.name:
                yield component


def _with_width(anatomy: Anatomy, path: str, width: int) -> Component | None:
    """The component, where this architecture has it and it is as wide as that."""
    try:
        component = anatomy.component(path)
        return component if anatomy.width(component) == width else None
    except (ComponentError, LookupError):
        return None


def _layer_and_leaf(name: str) -> tuple[int | None, str]:
    parts = name.split(".", 2)
    if parts[0] != "layers" or len(parts) < 2:
        return None, name
    return int(parts[1]), parts[2] if len(parts) > 2 else "resid_post"


def _elsewhere(place: Component, other: Component) -> str:
    layer, leaf = _layer_and_leaf(place.name)
    other_layer, other_leaf = _layer_and_leaf(other.name)
    if leaf == other_leaf:
        return f"Wrong layer: this SAE reconstructs {other.name} far better than {place.name}"
    what = "Wrong component" if layer == other_layer else "Wrong layer and component"
    return f"{what}: this SAE reconstructs {other.name} far better than {place.name}"


def _other_forms(sae: SAE) -> Iterator[tuple[InputForm, str]]:
    for form, words in (
        (
            InputForm("layer_norm"),
            "the SAE expects each token with mean 0 and standard deviation 1 (layer_norm)",
        ),
        (
            InputForm("constant_norm"),
            "the SAE expects each token with norm sqrt(d_model) (constant_norm_rescale)",
        ),
        (InputForm(center=True), "the SAE expects each token with mean 0 (a model with centred weights)"),
        (InputForm(), "the SAE expects activations as they are, and its files say they are normalised"),
    ):
        form = replace(form, heads=sae.form.heads)
        if form != sae.form:
            yield form, words
