"""`ModelActivations`: `model.activations`, which saves what components put out into a `LocalStore`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..core.integers import as_integer
from ..errors import InputError, SAEError
from .collect import collect_activations
from .local_store import LocalStore
from .store import ActivationStore

Layers = int | str | Sequence[int | str]


class ModelActivations:
    """Activations of one model, as `model.activations`.

    Args:
        model: An `InterpretableModel`.
    """

    def __init__(self, model: Model):
        self._model = model

    def save(
        self,
        dataset: Any,
        layers: Layers | None = None,
        *,
        component: str | Sequence[str] | None = None,
        store: LocalStore | str | os.PathLike | None = None,
        run_id: str | None = None,
        **options: Any,
    ) -> ActivationStore:
        """Runs the model over texts once and keeps what components put out, under `activations/<run_id>/` of a store.

        It is `collect_activations`: batched, tokenised, mixed and resumable. The same call goes on where it was
        interrupted and opens the activations where they are complete.

        Args:
            dataset: A list of texts; the path of a text file; a Hugging Face data set or its streaming form; or a
                `HuggingFaceDataset`.
            layers: Numbers of layers, paths of components ("layers.3.mlp"), or several of either.
            component: With numbers of layers the component of each, "resid_post" by default, or several ("mlp",
                "attn"); without `layers` one or several paths.
            store: A `LocalStore` or its folder; None takes `LocalStore()`, which is "./store".
            run_id: Names the folder below `activations/`; None names it after the components.
            options: `dtype`, `tokens`, `context_length`, `exclude`, `batch_tokens`, `seed` and `progress` of
                `collect_activations`.

        Returns:
            The activations, memory-mapped: `store.batch(i, component)`; `train_sae` takes them. The run's id is
            `path.name`, and `LocalStore.activations(run_id)` opens them again.

        Raises:
            InputError: No component is named, no texts, or a setting that cannot be.
            ComponentError: No such component, or it has no single value for each token.
            SAEError: Other activations are saved under this id; nothing can be written there.
        """
        if "path" in options or "at" in options:
            raise InputError(
                "Name the folder by store= and run_id=, and components by layers= and component=."
            )
        anatomy = session_of(self._model).anatomy
        names = [anatomy.component(name).name for name in _names(anatomy, layers, component)]
        place = store if isinstance(store, LocalStore) else LocalStore("./store" if store is None else store)
        path = place.activations_path("-".join(dict.fromkeys(names)) if run_id is None else run_id)
        try:
            return collect_activations(self._model, dataset, names, path, **options)
        except SAEError as error:
            if run_id is None and str(error).startswith("Another collection"):
                raise SAEError(f"{error} Naming it does: run_id='…'.") from error
            raise

    def __repr__(self) -> str:
        return f"<activations of {self._model!r}: save(texts, layers=[…], store=…)>"


def _names(anatomy: Anatomy, layers: Layers | None, component: str | Sequence[str] | None) -> list[str]:
    """Paths of the components asked for.

    Raises:
        InputError: None is named, or a layer is neither a number nor a path.
    """
    parts = [component] if isinstance(component, str) else list(component or [])
    if layers is None:
        if not parts:
            raise InputError("Name what to save: layers=[3], or component='layers.3.mlp'.")
        return parts
    single = isinstance(layers, str) or as_integer(layers) is not None
    several: list[Any] = [layers] if single else list(cast("Sequence[int | str]", layers))
    if not several:
        raise InputError("layers=[] names no layer. Name at least one: layers=[3].")
    names: list[str] = []
    for layer in several:
        if isinstance(layer, str):
            if parts:
                raise InputError(
                    f"layers={layer!r} is a path already, so component={component!r} has no place."
                )
            names.append(layer)
        else:
            number = anatomy.names.layer(layer)
            names += [f"layers.{number}.{part}" for part in parts or ["resid_post"]]
    return names
