"""The index of the demo's stories, kept in the user's cache, so that it is built once."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from ..core.places import cache_folder
from ..errors import FeatureIndexError, WriteError, warn
from ..index import FeatureIndex
from . import Demo
from .choosing import story_index


def stories_that_fit(demo: Demo) -> list[str]:
    """The stories that fit into the model's positions."""
    limit = demo.model.language_model.max_positions or math.inf
    return [story for story in demo.texts if len(demo.model.tokenize(story)) <= limit]


def kept_index(demo: Demo, verbose: bool = True) -> FeatureIndex:
    """The index of all stories that fit into the model's positions, from the cache; built there the first time.

    Where the cache cannot be written, an index in a temporary folder, of fewer stories.
    """
    folder = cache_folder() / f"demo-{demo.sae.fingerprint[:12]}"
    try:
        return FeatureIndex.open(folder, demo.model, demo.sae)
    except FeatureIndexError:  # none, or not whole, or damaged
        return _built(demo, folder, verbose)


def _built(demo: Demo, folder: Path, verbose: bool) -> FeatureIndex:
    warn(f"building the index of the stories that come with mlxterp, once, in {folder}.")
    try:
        return demo.model.build_index(demo.sae, stories_that_fit(demo), folder, verbose=verbose)
    except WriteError as error:
        warn(f"{error} An index of fewer stories is built in a temporary folder.")
        return story_index(demo, verbose)
    except FeatureIndexError:  # of another version of mlxterp
        shutil.rmtree(folder)
        return demo.model.build_index(demo.sae, stories_that_fit(demo), folder, verbose=verbose)
