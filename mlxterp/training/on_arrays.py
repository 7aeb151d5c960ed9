"""`train_sae`: an SAE of activations at hand."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ..activations.store import ActivationStore
from ..backends import get_backend
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.options import check_options
from ..core.places import beside, path_of
from ..core.sites import Array
from ..errors import InputError, SAEError, warn
from ..sae import SAE
from .config import SAETrainConfig, config_of
from .history import Log
from .plan import buffered
from .rows import ArrayRows, Rows, StoreRows
from .run import RunOptions, run
from .trainer import Job

_CHECKED = 8192
BLOCK_BATCHES = 8
"""Batches that the mixing buffer holds."""
_ARRAY_BATCHES = 2
"""The same of an array, whose rows are mixed before."""


def train_sae(
    x: Array | ActivationStore,
    config: SAETrainConfig | Mapping[str, Any] | None = None,
    backend: str | None = None,
    *,
    target: Array | None = None,
    component: str | None = None,
    device: str | None = None,
    metadata: dict[str, Any] | None = None,
    progress: bool = True,
    save_path: str | os.PathLike | None = None,
    run_dir: str | os.PathLike | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    log: Log | Sequence[Log] | None = None,
    **settings: Any,
) -> SAE:
    """Trains an SAE on activations (n, d_model), one pass over them for each epoch.

    Batch size, epochs and learning rate follow the number of rows where the config leaves them open
    (`plan.run_length`); `sae.metadata["training"]` says what they were, and in its "summary" how good the SAE is and
    what would help.

    Ctrl-C stops after the step under way and returns (and saves) the SAE as it is. Processes started by
    `mlx.launch` or `torchrun` train one SAE together, each on its share of every batch.

    Args:
        x: NumPy (a memory map is read block by block), an array of MLX or PyTorch, or an `ActivationStore`.
        config: Settings, as `SAETrainConfig` or a dictionary.
        backend: "mlx" or "torch"; by default MLX where it is installed.
        target: What to predict instead of x, (n, d_out): the SAE becomes a transcoder. Of a store, config.target
            names it.
        component: Which of a store's components to read; not needed where it holds one.
        metadata: Goes into the SAE's; "training" is added.
        progress: Show a bar where the output is a terminal.
        save_path: The folder to save the SAE in.
        run_dir: The folder of checkpoints and `training_history.json`; by default save_path + ".run".
        resume: Go on from the run's last checkpoint, if there is one, as if it had not been interrupted.
        checkpoint_every: Steps; None makes about twenty checkpoints over the run.
        log: Where a row of figures goes now and then: "wandb", "tensorboard", or a function of the row.
        settings: Settings of the config beside it: `train_sae(x, d_hidden=128)`. They win over the config's.

    Raises:
        InputError: There is no such setting.
        SAEError: x is not (n, d_model), holds NaN or infinite values, k does not fit, the loss stops being
            finite, or a run that goes on had other settings or data.

    Examples:
        >>> x = mlxterp.collect_activations(model, texts, ["layers.2.mlp"], "store", progress=False)  # or an array
        >>> trained = mlxterp.train_sae(x, d_hidden=256, k=8, epochs=1, progress=False)
        >>> print(trained)
        SAE(topk of layers.2.mlp: d_model 192, 256 features, k 8)
    """
    check_options(settings, [*_SETTINGS, *_PARAMETERS], "train_sae")
    config = config_of(config, settings)
    engine = get_backend(backend)
    block = buffered(config, BLOCK_BATCHES)
    facts = dict(metadata or {})
    if isinstance(x, ActivationStore):
        source, predicted = _names_in(x, component, config, target)
        rows: Rows = StoreRows(x, [n for n in (source, predicted) if n], block, config.seed, config.tokens)
        facts = stored_facts(x, source, predicted) | facts
    else:
        arrays = _arrays(x, target, config)
        source, predicted = "the activations", "the target" if len(arrays) > 1 else None
        block = buffered(config, _ARRAY_BATCHES)
        names = ("the activations", "the target")[: len(arrays)]
        rows = ArrayRows(arrays, names, block, config.seed, config.tokens)
    check_skip(config, predicted is not None)
    if config.tokens is not None and config.tokens > rows.total:
        warn(f"tokens={config.tokens} asked for, {rows.total} are there: training on {rows.total}.")
    paths = kept_in(save_path, run_dir, resume)
    job = Job(config, source, predicted, facts, paths[0])
    options = RunOptions(device, progress, paths[1], resume, checked_every(checkpoint_every), log)
    return run({"sae": job}, rows, engine, options)["sae"]


_SETTINGS = [field.name for field in fields(SAETrainConfig)]
_PARAMETERS = [name for name in inspect.signature(train_sae).parameters if name != "settings"]


def stored_facts(store: ActivationStore, source: str, target: str | None) -> dict[str, Any]:
    """What an SAE's metadata should tell of the store it was trained on."""
    facts = {
        "model": store.meta.get("model"),
        "model_type": store.meta.get("model_type"),
        "component": source,
        "context_size": store.meta.get("context_length"),
        "exclude": store.meta["settings"].get("exclude"),
    }
    return facts if target is None else {**facts, "component_out": target}


def _names_in(
    store: ActivationStore, component: str | None, config: SAETrainConfig, target: Array | None
) -> tuple[str, str | None]:
    if target is not None:
        raise InputError("A store's target is a component of it: SAETrainConfig(target=…).")
    if component is None:
        others = [name for name in store.components if name != config.target]
        if len(others) != 1:
            raise SAEError(
                f"Which component? This store holds: {', '.join(store.components)}. Pass component=…"
            )
        component = others[0]
    for name in (component, config.target):
        if name is not None:
            store.width(name)
    return component, config.target


def _arrays(x: Array, target: Array | None, config: SAETrainConfig) -> list[np.ndarray]:
    if config.target is not None:
        raise InputError(
            f"config.target={config.target!r} names a component, but activations were given: pass those of the"
            " component to predict as target=…"
        )
    arrays = [_as_rows(x, "the activations")]
    if target is not None:
        arrays.append(_as_rows(target, "the target"))
        if len(arrays[1]) != len(arrays[0]):
            raise SAEError(
                f"x has {len(arrays[0])} rows and target {len(arrays[1])}; they must be the same tokens."
            )
    return arrays


def check_skip(config: SAETrainConfig, transcodes: bool) -> None:
    """Raises SAEError where a skip connection was asked for without a target."""
    if config.skip and not transcodes:
        raise SAEError("skip=True is a transcoder's linear path; name what to predict: target=…")


def checked_every(steps: int | None) -> int | None:
    """Raises InputError where `checkpoint_every` is not a number of steps."""
    return checks.count_or_none(steps, "checkpoint_every")


def kept_in(
    save_path: str | os.PathLike | None, run_dir: str | os.PathLike | None, resume: bool
) -> tuple[Path | None, Path | None]:
    """Where the SAE and its run are kept.

    Raises:
        InputError: Nothing is kept, so nothing can go on; or a file is where a folder is to be.
    """
    for name, path in (("save_path", save_path), ("run_dir", run_dir)):
        if path is not None and path_of(path).is_file():
            raise InputError(f"{name}={str(path)!r} is a file; a folder is made there.")
    save = None if save_path is None else path_of(save_path)
    run_at = path_of(run_dir) if run_dir is not None else None
    if run_at is None and save is not None:
        run_at = beside(save, ".run")
    if resume and run_at is None:
        raise InputError("resume=True needs the folder of the run: pass the save_path (or run_dir) it had.")
    return save, run_at


def _as_rows(x: Array, name: str) -> np.ndarray:
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub" or isinstance(x, np.ma.MaskedArray):
        x = to_numpy(x, f"What was given as {name}", SAEError)
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "fiu":
        raise SAEError(
            f"Expected numbers (n, d_model), got {x.dtype} of shape {x.shape}. Give one row for each token."
        )
    with np.errstate(over="ignore"):  # what becomes infinite is reported by name
        for start in range(0, len(x), _CHECKED):
            checks.finite_rows(np.asarray(x[start : start + _CHECKED], dtype=np.float32), name, start)
    return x
