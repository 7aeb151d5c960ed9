"""`collect_activations`: what components put out for texts, on disk, in one pass over them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.activation_files import DTYPES
from ..core.digests import DIGEST, digest_of
from ..core.files import DRAFT, remove_drafts
from ..core.options import names_options
from ..core.places import path_of
from ..core.progress import hidden
from ..core.sites import Component
from ..data.contexts import open_contexts
from ..data.dataset import check_readable, open_texts
from ..errors import InputError, SAEError, warn
from .exclusions import OF_TRAINING, check_exclusions
from .fingerprint import is_same, model_fingerprint, same_fingerprint, same_weights
from .local_store import LocalStore
from .rows import ModelRows, TokenRows
from .store import (
    META,
    ActivationStore,
    DamagedError,
    bind_batches,
    collections_in,
    damaged_batches,
    read_meta,
    rows_and_exclusions,
    write_batch,
    write_meta,
    written_batches,
)

_CONTEXT = 128


@names_options
def collect_activations(
    model: Model,
    dataset: Any,
    at: Sequence[str] | str,
    path: str | os.PathLike | None = None,
    *,
    dtype: str = "float16",
    tokens: int | None = None,
    context_length: int | None = None,
    exclude: Iterable[str] = ("bos", "sinks"),
    batch_tokens: int = 65_536,
    seed: int = 0,
    progress: bool = True,
) -> ActivationStore:
    """Runs a model over texts once and keeps what components put out, mixed, in a folder.

    The same call goes on where it was interrupted, and opens the store where it is complete.

    Args:
        model: An `InterpretableModel`.
        dataset: A list of texts; the path of a text file; a Hugging Face data set or its streaming form; or a
            `HuggingFaceDataset`.
        at: Paths of components ("layers.3.mlp").
        path: The folder; by default one in `LocalStore()`, named after the components, which is printed.
        dtype: "float16", "bfloat16" or "float32".
        tokens: At most so many tokens, of texts chosen at random (of a stream: the first ones).
        context_length: Longer texts are cut into contexts of this length; None takes the smaller of 128 and
            the model's positions.
        exclude: Which tokens to leave out: "bos", "first" (of each context), "sinks" (activations more than
            ten times as long as the median on some prose); how many is in `store.meta["excluded"]`.
        batch_tokens: Tokens of a batch, about.
        seed: Decides the order.

    Raises:
        InputError: No texts, or a setting that cannot be.
        ComponentError: No such component, or it has no single value for each token.
        SAEError: Another collection is in the folder; nothing can be written there.

    Examples:
        >>> store = mlxterp.collect_activations(model, texts, ["layers.2.mlp"], "store", progress=False)
        >>> store.components, len(store)
        (('layers.2.mlp',), 7267)
    """
    batch_tokens, seed = checks.count(batch_tokens, "batch_tokens"), checks.seed(seed)
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}; activations are stored as: {', '.join(DTYPES)}.")
    session = session_of(model)
    session.warn_of_acts("its activations are collected")
    anatomy = session.anatomy
    components = _components(anatomy, at)
    rows = model_rows(
        anatomy, dataset, components, tokens, context_length, exclude, batch_tokens, seed, progress
    )
    folder = path_of(path) if path is not None else _default_path(components, progress)
    settings = _settings(anatomy, rows, components, seed, batch_tokens)
    facts = {
        "model": session.name or anatomy.model.model_type,
        "model_type": anatomy.model.model_type,
        "context_length": _length(anatomy, context_length),
    }
    widths = dict(zip(rows.names, rows.widths, strict=True))
    same_everywhere = {name: value for name, value in settings.items() if name != "probe"}
    of = digest_of({"dtype": dtype, "components": widths, **same_everywhere})
    meta = _there(anatomy, folder, widths, dtype, settings, of)
    damaged = damaged_batches(folder, widths, dtype, meta) if meta is not None else []
    if meta is not None and meta["complete"] and not damaged and DIGEST in meta:
        store = ActivationStore.open(folder)
        check_store(anatomy, store, components)
        return store
    if damaged:
        shown = ", ".join(f"batch_{i}" for i in damaged[:5]) + ", …" * (len(damaged) > 5)
        warn(f"Of the activations in {folder} {shown} was damaged or missing and is made again.")
    if meta is None or not meta["complete"]:
        write_meta(folder, widths, dtype, settings, [], False, facts)
    remove_drafts(folder)
    _write(rows, folder, damaged, dtype, seed, progress, of)
    bind_batches(folder, widths, of)
    counts, facts["excluded"] = rows_and_exclusions(folder, range(written_batches(folder)))
    if not sum(counts):
        raise InputError("No token is left: all were excluded. Give more texts, or exclude fewer.")
    write_meta(folder, widths, dtype, settings, counts, True, facts)
    return ActivationStore.open(folder)


def _components(anatomy: Anatomy, at: str | Sequence[str]) -> list[Component]:
    names = [at] if isinstance(at, str) else list(at)
    if not names:
        raise InputError("at=[] names no component. Name at least one, such as 'layers.3.mlp'.")
    return [anatomy.component(name) for name in dict.fromkeys(names)]


def _settings(
    anatomy: Anatomy, rows: ModelRows, components: Sequence[Component], seed: int, batch_tokens: int
) -> dict[str, Any]:
    """What makes a collection this one: its texts, its model, and what acts on that."""
    acts = list(anatomy.model.described)
    probe = model_fingerprint(anatomy, components)
    settings = {**rows.identity(), "seed": seed, "batch_tokens": batch_tokens, "probe": probe}
    return {**settings, "acts": acts} if acts else settings


def _write(
    rows: ModelRows, folder: Path, damaged: Sequence[int], dtype: str, seed: int, progress: bool, of: str
) -> None:
    """Every batch that is damaged, or not there yet."""
    from tqdm.auto import tqdm

    whole = [i for i in range(rows.blocks(0)) if (folder / f"batch_{i}").is_dir() and i not in damaged]
    bar = tqdm(
        total=rows.total, initial=sum(rows_and_exclusions(folder, whole)[0]), unit="tok", unit_scale=True,
        desc="Collecting activations", disable=hidden(progress),
    )  # fmt: skip
    for index in (i for i in range(rows.blocks(0)) if i not in whole):
        before = dict(rows.excluded)
        values, kinds = _mixed(rows, list(rows.token_rows(0, index)), seed, index)
        left_out = {reason: number - before[reason] for reason, number in rows.excluded.items()}
        if not len(kinds["tokens"]) and not sum(left_out.values()):
            warn(f"The stream ended after {index} of {rows.blocks(0)} batches.")
            break
        write_batch(folder, index, values, kinds, dtype, left_out, of)
        bar.update(len(kinds["tokens"]))
    bar.close()


def model_rows(
    anatomy: Anatomy, dataset: Any, components: Sequence[Component], tokens: int | None,
    context_length: int | None, exclude: Iterable[str], block_tokens: int, seed: int, progress: bool,
) -> ModelRows:  # fmt: skip
    """A model over a dataset's contexts as a source of rows.

    Raises:
        InputError: No texts, or a setting that cannot be.
    """
    tokens = checks.count_or_none(tokens, "tokens")
    block_tokens, seed = checks.count(block_tokens, "batch_tokens"), checks.seed(seed)
    exclude = check_exclusions(exclude, OF_TRAINING)
    length = _length(anatomy, context_length)
    texts = open_texts(dataset, anatomy.model)
    check_readable(texts, anatomy.model)
    contexts = open_contexts(texts, anatomy.model.tokenize, length, block_tokens, seed, tokens, progress)
    widths = [anatomy.width(component) for component in components]
    return ModelRows(anatomy.model, contexts, components, exclude, widths, length)


def check_store(anatomy: Anatomy, store: ActivationStore, components: Sequence[Component]) -> None:
    """Raises SAEError where a store lacks a component, or is of another model."""
    found = model_fingerprint(anatomy, components)
    settings = store.meta["settings"]
    for component in components:
        store.width(component.name)
        before = settings.get("probe", {}).get(component.name)
        now = found[component.name]
        if before is None or len(before) != len(now):
            raise SAEError(f"{store.path} is not a store of this model: it has no probe of {component.name}.")
        if not same_fingerprint(before, now):
            raise SAEError(
                f"{store.path} holds activations of another model ({store.meta.get('model')}), or of other weights:"
                f" on {len(now)} fixed tokens the activations of {component.name} have other lengths than here."
                " Train on a store that was collected with this model: collect_activations(model, …)."
            )
    first = components[0].name
    if not is_same(anatomy.model, settings.get("weights"), found[first], found[first], str(store.path)):
        raise SAEError(
            f"{store.path} holds activations of other weights ({store.meta.get('model')}): the digest of all parameters"
            " is another. Train on a store that was collected with this model: collect_activations(model, …)."
        )


def _length(anatomy: Anatomy, context_length: int | None) -> int:
    most = anatomy.model.max_positions
    if context_length is None:
        return min(_CONTEXT, most or _CONTEXT)
    context_length = checks.count(context_length, "context_length")
    if most is not None and context_length > most:
        raise InputError(f"context_length={context_length}, but this model was made for {most} positions.")
    return context_length


def _default_path(components: Sequence[Component], progress: bool) -> Path:
    from tqdm.auto import tqdm

    folder = LocalStore().activations_path("-".join(component.name for component in components))
    if progress:
        tqdm.write(f"The activations are kept in {folder}; path=… keeps them elsewhere.", file=sys.stderr)
    return folder


def _there(
    anatomy: Anatomy, folder: Path, widths: Mapping[str, int], dtype: str, settings: Mapping[str, Any],
    of: str,
) -> dict[str, Any] | None:  # fmt: skip
    """What `meta.json` says of this very collection, as far as it is there; None where nothing of it can be used.

    Raises:
        SAEError: Another one is there.
    """
    try:
        meta = read_meta(folder)
    except DamagedError as error:
        if collections_in(folder) != {of}:
            raise
        warn(f"The batches that are whole are kept, the others are collected again: {error}")
        return {"complete": False}
    if meta is None:
        if folder.is_dir() and any(not p.name.startswith(DRAFT) for p in folder.iterdir()):
            if collections_in(folder) != {of}:
                raise SAEError(f"{folder} holds something else. Choose another path or remove it first.")
            warn(f"{folder / META} is missing: the batches that are whole are kept.")
            return {"complete": False}
        return None
    before = {"dtype": meta["dtype"], "components": meta["components"], "probe": None, **meta["settings"]}
    now = {"dtype": dtype, "components": dict(widths), **settings}
    parts = [
        {name: described.pop(name, None) for name in ("probe", "weights")} for described in (before, now)
    ]
    differing = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted({*before, *now}) if before.get(key) != now.get(key)
    ]  # fmt: skip
    if not _same_model(anatomy, *parts):
        differing.append("the model had other weights")
    if differing:
        raise SAEError(
            f"Another collection is in {folder}: {'; '.join(differing)[:600]}. Give the same settings and texts to go"
            " on with it, or choose another path."
        )
    return meta


def _same_model(anatomy: Anatomy, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a collection was begun with this model; rounding differs from machine to machine."""
    probes, mine = before["probe"] or {}, now["probe"]
    if any(name in mine and not same_fingerprint(probe, mine[name]) for name, probe in probes.items()):
        return False
    return same_weights(anatomy.model, before["weights"]) is not False


def _mixed(
    rows: ModelRows, parts: Sequence[TokenRows], seed: int, index: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A block's activations and tokens, permuted."""
    order = np.random.default_rng([seed, 6, index]).permutation(sum(len(part.tokens) for part in parts))

    def joined(arrays: Iterable[np.ndarray], like: np.ndarray) -> np.ndarray:
        return np.concatenate([like, *arrays])[order]

    values = {
        name: joined((part.values[i] for part in parts), np.zeros((0, width), np.float32))
        for i, (name, width) in enumerate(zip(rows.names, rows.widths, strict=True))
    }
    kinds = {
        "tokens": joined((part.tokens for part in parts), np.zeros(0, np.int32)),
        "positions": joined((part.positions for part in parts), np.zeros(0, np.int64)),
        "contexts": joined((part.contexts for part in parts), np.zeros(0, np.int64)),
    }
    return values, kinds
