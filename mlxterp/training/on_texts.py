"""Training SAEs on what components put out for texts, while the model runs, or from a store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..activations.collect import check_store, model_rows
from ..activations.rows import ModelRows
from ..activations.store import ActivationStore
from ..anatomy.anatomy import Anatomy
from ..core import checks
from ..core.options import check_options
from ..core.places import path_of
from ..core.sites import Component
from ..errors import InputError, SAEError, warn
from ..sae import SAE
from .config import SAETrainConfig
from .history import Log
from .on_arrays import BLOCK_BATCHES, check_skip, checked_every, kept_in, stored_facts
from .plan import buffered
from .rows import StoreRows
from .run import RunOptions, run
from .trainer import Job

_LEAST_CONTEXTS = 64
"""Contexts that are mixed with each other, at least."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a model's SAEs are trained, beside their configs; see `InterpretableModel.train_sae`."""

    verbose: bool = True
    context_length: int | None = None
    exclude: Iterable[str] = ("bos", "sinks")
    run_dir: str | os.PathLike | None = None
    resume: bool = False
    checkpoint_every: int | None = None
    log: Log | Sequence[Log] | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("context_length", "checkpoint_every"):
            object.__setattr__(self, name, checks.count_or_none(getattr(self, name), name))


def split_options(
    options: dict[str, Any], call: str, others: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was given beside the config: its settings, and how to train.

    Raises:
        InputError: It is neither.
    """
    settings = [field.name for field in fields(SAETrainConfig)]
    run = [field.name for field in fields(TrainOptions) if field.name != "verbose"]
    check_options(options, [*run, *settings, *others], call)
    return {n: v for n, v in options.items() if n in settings}, {n: v for n, v in options.items() if n in run}


def train_on_texts(
    anatomy: Anatomy,
    dataset: Any,
    jobs: Mapping[str, tuple[str, SAETrainConfig]],
    save_paths: Mapping[str, str | os.PathLike | None],
    options: TrainOptions,
    model_name: str | None = None,
) -> dict[str, SAE]:
    """SAEs of several components from one pass of the model, all on the same tokens.

    Args:
        dataset: Texts (see `dataset.open_texts`), or an `ActivationStore` of this model.
        jobs: Path of the component and settings of each SAE.
        save_paths: Folder of each SAE, or None.

    Raises:
        InputError, ComponentError, SAEError: See `InterpretableModel.train_sae`.
    """
    if not jobs:
        raise InputError("There is no SAE to train: an empty dictionary was given.")
    wanted: dict[str, Component] = {}
    places: dict[str, tuple[str, str | None]] = {}
    for name, (path, config) in jobs.items():
        check_skip(config, config.target is not None)
        source = anatomy.component(path)
        target = None if config.target is None else anatomy.component(config.target)
        if target is not None and target.name == source.name:
            raise SAEError(f"target={config.target!r} is the component itself; leave it out for an SAE.")
        places[name] = source.name, None if target is None else target.name
        wanted |= {place.name: place for place in (source, target) if place is not None}
    config = next(iter(jobs.values()))[1]
    rows = _rows(anatomy, dataset, list(wanted.values()), config, options)
    run_dir = options.run_dir
    paths = {}
    for name in jobs:
        paths[name], at = kept_in(save_paths.get(name), options.run_dir, options.resume and len(jobs) == 1)
        run_dir = run_dir or (at if len(jobs) == 1 else None)
    if options.resume and run_dir is None:
        raise InputError("resume=True needs the folder of the run: pass the save_path (or run_dir) it had.")
    run_jobs = {
        name: Job(
            settings, *places[name], _facts(anatomy, dataset, rows, *places[name], model_name), paths[name]
        )
        for name, (_, settings) in jobs.items()
    }
    kept = None if run_dir is None else path_of(run_dir)
    run_options = RunOptions(
        options.device,
        options.verbose,
        kept,
        options.resume,
        checked_every(options.checkpoint_every),
        options.log,
    )
    return run(run_jobs, rows, anatomy.model.backend, run_options)


def _rows(
    anatomy: Anatomy, dataset: Any, components: list[Component], config: SAETrainConfig, options: TrainOptions
) -> ModelRows | StoreRows:
    block = buffered(config, BLOCK_BATCHES)
    if isinstance(dataset, ActivationStore):
        check_store(anatomy, dataset, components)
        rows = StoreRows(dataset, [c.name for c in components], block, config.seed, config.tokens)
        if config.tokens is not None and config.tokens > rows.total:
            warn(
                f"tokens={config.tokens} asked for, {rows.total} are in the store: training on {rows.total}."
            )
        return rows
    length = options.context_length or 1
    return model_rows(
        anatomy, dataset, components, config.tokens, options.context_length, options.exclude,
        max(block, _LEAST_CONTEXTS * length), config.seed, options.verbose,
    )  # fmt: skip


def _facts(
    anatomy: Anatomy,
    dataset: Any,
    rows: ModelRows | StoreRows,
    source: str,
    target: str | None,
    name: str | None,
) -> dict[str, Any]:
    kind = anatomy.model.model_type
    facts: dict[str, Any] = {"model": name or kind, "model_type": kind, "component": source}
    if target is not None:
        facts["component_out"] = target
    if isinstance(rows, ModelRows):
        return facts | {"context_size": rows.context_length, "exclude": list(rows.excluded)}
    return stored_facts(dataset, source, target) | facts
