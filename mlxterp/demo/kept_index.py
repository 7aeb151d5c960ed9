"""The index of the demo's stories with a map of its features, kept in the user's cache, so that it is built once."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from ..core.places import cache_folder
from ..errors import BackendError, FeatureIndexError, WriteError, warn
from ..geometry import decoder_map
from ..index import FeatureIndex
from ..index.folder import MAP
from . import Demo
from .choosing import story_index


def kept_index(demo: Demo, verbose: bool = True, drawn: bool = True) -> FeatureIndex:
    """The index of all stories that fit into the model's positions, from the cache; built there the first time.

    Where the cache cannot be written, an index in a temporary folder, of fewer stories.

    Args:
        drawn: Draw the map, too, where there is none.
    """
    folder = cache_folder() / f"demo-{demo.sae.fingerprint[:12]}"
    try:
        index = FeatureIndex.open(folder, demo.model, demo.sae)
    except FeatureIndexError:  # none, or not whole, or damaged
        index = _built(demo, folder, verbose)
    if drawn and index.path == folder and not (folder / MAP).is_file():
        _draw(demo, index)
    return index


def _fitting(demo: Demo) -> list[str]:
    """The stories that fit into the model's positions."""
    limit = demo.model.language_model.max_positions or math.inf
    return [story for story in demo.texts if len(demo.model.tokenize(story)) <= limit]


def _built(demo: Demo, folder: Path, verbose: bool) -> FeatureIndex:
    warn(f"building the index of the stories that come with mlxterp, once, in {folder}.")
    try:
        return demo.model.build_index(demo.sae, _fitting(demo), folder, verbose=verbose)
    except WriteError as error:
        warn(f"{error} An index of fewer stories is built in a temporary folder.")
        return story_index(demo, verbose)
    except FeatureIndexError:  # of another version of mlxterp
        shutil.rmtree(folder)
        return demo.model.build_index(demo.sae, _fitting(demo), folder, verbose=verbose)


def _draw(demo: Demo, index: FeatureIndex) -> None:
    """Draws the map: by t-SNE, which keeps eight times as many neighbours together as PCA, where it is installed."""
    warn("drawing a map of its features, once.")
    try:
        drawn = decoder_map(demo.sae, index, method="tsne")
    except BackendError:
        drawn = decoder_map(demo.sae, index, method="pca")
    drawn.save(index)
