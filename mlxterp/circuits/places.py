"""Where the frozen pass of a model is cut: what enters its first block, and what its MLPs add."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.frozen import FINAL, FrozenPlaces, Hold, Key
from ..core.sites import Component, Site, at_site
from ..core.tokens import TokenBatch
from ..errors import ComponentError


def places_of(
    anatomy: Anatomy, inputs: Mapping[int, Component], outputs: Mapping[int, Component],
    skips: Mapping[Key, np.ndarray] | None = None, hold: Hold = "all", *, final: bool = False,
) -> FrozenPlaces:  # fmt: skip
    """The places of a pass that reads `inputs` and replaces `outputs`, and the output of every other layer's MLP.

    Args:
        inputs, outputs: Layer → what its transcoder reads and predicts.
        skips: Layer and call → float32 (d_in, d_out).
        final: Whether the final norm's output is read too.

    Raises:
        ComponentError: The model has no stream that enters its first block, or no final norm.
    """
    layers = range(len(anatomy.model.layers))
    replaced = {layer: found for layer in layers if (found := mlp_of(anatomy, layer)) is not None}
    read = {**inputs, FINAL[0]: anatomy.component("final_norm")} if final else dict(inputs)
    return FrozenPlaces(
        stream_of(anatomy),
        {**replaced, **outputs},
        read,
        dict(skips or {}) if hold == "all" else {},
        frozenset(_dead(anatomy, replaced)),
        hold,
    )


def stream_of(anatomy: Anatomy) -> Component:
    """What enters the first block; the embedding, where the blocks themselves are never called.

    Raises:
        ComponentError: There is neither.
    """
    if anatomy.has("layers.0"):
        return anatomy.component("layers.0.resid_pre")
    tables = [path for path, kind in anatomy.model.modules.items() if kind.endswith("Embedding")]
    if not tables:
        raise ComponentError(
            f"The blocks of this {anatomy.model.model_type} model are never called and it has no embedding, so nothing"
            " says what enters them."
        )
    return at_site("embed", Site(tables[0]))


def mlp_of(anatomy: Anatomy, layer: int) -> Component | None:
    """What the MLP of a layer adds to the stream; None where the layer has no MLP."""
    if anatomy.has(f"layers.{layer}.mlp_out"):
        return anatomy.component(f"layers.{layer}.mlp_out")
    if anatomy.has(f"layers.{layer}.attn_out"):  # a block of one sublayer, which may be an MLP
        only = anatomy.component(f"layers.{layer}.attn_out")
        kinds = [anatomy.model.modules.get(site.module, "") for site in only.sites]
        return only if len(kinds) == 1 and any(word in kinds[0].lower() for word in ("mlp", "moe")) else None
    return anatomy.component(f"layers.{layer}.mlp") if anatomy.has(f"layers.{layer}.mlp") else None


def _dead(anatomy: Anatomy, replaced: Mapping[int, Component]) -> set[str]:
    """Modules that do nothing but make what is replaced: the MLP that is added, or that a norm takes first."""
    found: set[str] = set()
    feeding: dict[str, str] = {}
    for layer, component in replaced.items():
        made, name = component.sites[-1].module, f"layers.{layer}.mlp"
        if component.name.endswith(".attn_out"):
            found.add(made)
        elif anatomy.names.knows(name) and (path := anatomy.names.resolve(name)).kind == "module":
            if made == path.module or made.startswith(f"{path.module}."):
                found.add(path.module)
            else:
                feeding[path.module] = made
    return found | _feeding(anatomy, feeding)


def _feeding(anatomy: Anatomy, pairs: Mapping[str, str]) -> set[str]:
    """Those modules whose output is just what the other module takes."""
    if not pairs:
        return set()
    model = anatomy.model
    sites = [site for module, other in pairs.items() for site in (Site(module), Site(other, "input"))]
    try:
        run = model.run(TokenBatch.from_rows([[0, 1]]), sites)
    except ComponentError:
        return set()
    return {
        module for module, other in pairs.items()
        if np.array_equal(model.backend.get(run.values[Site(module)][0]),
                          model.backend.get(run.values[Site(other, "input")][0]))
    }  # fmt: skip
