"""`train_transcoders`: a transcoder for each layer's MLP, all from one pass of the model over the texts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..core.files import atomic_write
from ..core.integers import as_integer
from ..core.places import beside, path_of
from ..errors import ComponentError, InputError, SAEError
from ..sae import SAE, SAECollection
from ..sae.manifest import MANIFEST, SIZES, check_target, entry_of, manifest
from ..training.config import SAETrainConfig, config_of
from ..training.on_texts import TrainOptions, split_options, train_on_texts
from .places import mlp_of

_PARAMETERS = ("texts", "layers", "skip", "config", "save_path", "verbose")


def train_transcoders(
    model: Model, texts: Any, layers: Any = "all", skip: bool = True,
    config: SAETrainConfig | Mapping[str, Any] | None = None, save_path: str | os.PathLike | None = None,
    verbose: bool = True, **options: Any,
) -> SAECollection:  # fmt: skip
    """Trains a transcoder for the MLP of each layer, all from one pass of the model over the texts.

    Each reads what its layer's MLP reads and predicts what the MLP adds to the stream: what `attribution_graph` takes.
    All see the same tokens; memory is that of all layers at once. A run that was interrupted goes on with
    `resume=True`; ctrl-C stops after the step under way and gives the transcoders as they are.

    Args:
        texts: As `train_sae` takes them: texts, files, data sets, or a store of these layers' activations.
        layers: "all" (that have an MLP), one, or several; negative ones from the end.
        skip: Whether each has a linear path from input to output beside its features (Paulo et al. 2025), which leaves
            less to the features. It stays live in a graph.
        config: Settings of all, as `SAETrainConfig` or a dictionary. architecture="batchtopk" gives JumpReLU
            transcoders, which circuit-tracer reads too: `collection.save(path, format="circuit_tracer")`.
        save_path: A folder for all; `SAECollection.load(save_path)` opens it again. Checkpoints are kept beside it, in
            save_path + ".run".
        verbose: Show a bar where the output is a terminal.
        options: `context_length`, `exclude`, `run_dir`, `resume`, `checkpoint_every`, `log`, `device` as in
            `train_sae`; and settings of the config beside it, which win over it.

    Returns:
        An `SAECollection`: layer → transcoder.

    Raises:
        InputError: No texts, no layers, a layer twice, or a setting that cannot be.
        ComponentError: No such layer, or one that has no MLP.
        SAEError: As `train_sae` says; the config names a target; or something else is in `save_path`.

    Examples:
        >>> transcoders = model.train_transcoders(texts[:20], d_hidden=64, k=8, epochs=1, verbose=False)
        >>> transcoders.layers, transcoders[2].component, transcoders[2].is_transcoder
        ([0, 1, 2, 3], 'layers.2.mlp.input', True)
    """
    settings, options = split_options(options, "train_transcoders", _PARAMETERS)
    made = replace(config_of(config, settings), skip=skip)
    if made.target is not None:
        raise SAEError(
            f"target={made.target!r} is one component, and each layer's transcoder predicts its own MLP. Leave it out;"
            " for others: model.train_transcoder(from_layer, to_layer, texts)."
        )
    session = session_of(model)
    session.refresh()
    session.warn_of_acts("transcoders are trained")
    jobs = _jobs(session.anatomy, _chosen(session.anatomy, layers), made)
    folder = None if save_path is None else path_of(save_path)
    if folder is not None:
        _check_folder(folder, jobs)
        options.setdefault("run_dir", beside(folder, ".run"))
    paths = {name: None if folder is None else folder / name for name in jobs}
    trained = train_on_texts(
        session.anatomy, texts, jobs, paths, TrainOptions(verbose=verbose, **options), session.name
    )
    if folder is not None and session.anatomy.model.backend.group().rank == 0:
        _write_main_file(folder, trained)
    return SAECollection({_layer(name): sae for name, sae in trained.items()})


def _chosen(anatomy: Anatomy, layers: Any) -> list[int]:
    """Numbers of the layers, ascending."""
    every = range(len(anatomy.model.layers))
    if isinstance(layers, str):
        if layers != "all":
            raise InputError(f"layers is {layers!r}; it must be 'all', a number or several numbers.")
        found = [layer for layer in every if mlp_of(anatomy, layer) is not None]
        if not found:
            raise ComponentError(f"No layer of this {anatomy.model.model_type} model has an MLP.")
        return found
    if as_integer(layers) is None and not isinstance(layers, Iterable):
        raise InputError(f"layers is {type(layers).__name__}; it must be 'all', a number or several numbers.")
    given: list[Any] = [layers] if as_integer(layers) is not None else list(layers)
    found = sorted(anatomy.names.layer(one) for one in given)
    if not found:
        raise InputError("layers= is empty. Name at least one, or leave it out for all.")
    if twice := [one for one, other in pairwise(found) if one == other]:
        raise InputError(f"layers= names layer {twice[0]} twice.")
    return found


def _jobs(
    anatomy: Anatomy, layers: Iterable[int], config: SAETrainConfig
) -> dict[str, tuple[str, SAETrainConfig]]:
    """What each transcoder reads, and its settings, by name."""
    jobs = {}
    for layer in layers:
        output, source = mlp_of(anatomy, layer), f"layers.{layer}.mlp.input"
        if output is None or not anatomy.has(source):
            others = [n for n in range(len(anatomy.model.layers)) if anatomy.has(f"layers.{n}.mlp.input")]
            raise ComponentError(
                f"Layer {layer} of this {anatomy.model.model_type} model has no MLP whose input can be read. Layers"
                f" that have one: layers={others}."
            )
        jobs[f"layer_{layer}"] = source, replace(config, target=output.name)
    return jobs


def _layer(name: str) -> int:
    return int(name.removeprefix("layer_"))


def _check_folder(folder: Path, names: Iterable[str]) -> None:
    """Raises SAEError where something else is in the folder than these transcoders."""
    if not folder.is_dir():
        check_target(folder)
        return
    visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if others := sorted(visible - {MANIFEST, *names}):
        raise SAEError(
            f"{folder} holds {', '.join(others[:3])}, which would be mixed with these transcoders. Choose another path"
            " or remove it first."
        )


def _write_main_file(folder: Path, trained: Mapping[str, SAE]) -> None:
    entries = [
        entry_of(_layer(name), folder / name, sae.component, [getattr(sae, size) for size in SIZES])
        for name, sae in trained.items()
    ]
    with atomic_write(folder / MANIFEST, error=SAEError) as draft:
        draft.write_text(manifest(entries), encoding="utf-8", newline="\n")
