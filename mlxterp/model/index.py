"""How an `InterpretableModel` builds a `FeatureIndex`."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.places import expanded
from ..errors import InputError
from ..index import BuildOptions, FeatureIndex, Source, build
from ..index.building import build_together
from ..index.remote import copied, is_url, refuse_index
from ..index.source import source_for
from ..sae import SAE, SAECollection
from ..sae.manifest import Key, folder_names
from .facade import Facade


def build_index(
    self: Facade,
    sae: SAE | str | Path,
    texts: Any,
    path: str | os.PathLike | None = None,
    n_examples: int = 20,
    exclude: Iterable[str] | str = ("bos", "sinks"),
    *,
    layer: int | None = None,
    component: str | None = None,
    seed: int = 0,
    shard_tokens: int | None = None,
    workers: int | None = None,
    verbose: bool = True,
) -> FeatureIndex:
    """Runs the model over texts once, and keeps which features are active where: an answer for every feature.

    The index is written shard by shard. The same call goes on where it was interrupted, and opens the index
    where it is complete. Texts longer than the model's positions run in overlapping windows (`index.windowed`
    says how many). Memory does not grow with the texts; on disk it takes 8 bytes for each active feature of a
    token, about 20 for the token, and the texts.

    Args:
        texts: A list, column, array or generator of texts, or of rows of token ids; a table with one column of
            text; the path of a text file (or its fsspec URL); a Hugging Face data set or its streaming form; or a
            `HuggingFaceDataset`.
        path: The folder, or an fsspec URL that the finished index is copied to; None makes a temporary folder,
            gone with the index.
        n_examples: Examples that are shown of a feature where nothing else is asked.
        exclude: Tokens that do not count: "bos", the tokenizer's beginning-of-text token; "sinks", whose
            activation is over ten times as long as the median on some prose. () counts every token, as
            `get_top_texts_for_feature` does. `index.excluded` says how many were left out.
        layer, component: Where the SAE is used ("mlp" of layer 3; or component="layers.3.mlp"); None takes the
            SAE's own, and a layer alone the part that the SAE was trained on in its own.
        seed: Decides which tokens co-activation is counted on.
        shard_tokens: Tokens of a shard, at most; None takes 65,536, or fewer for an SAE with many active features.
        workers: So many processes, by Ray (`pip install "mlxterp[ray]"`), each with the model; the model must
            have been loaded from a repo or folder.
        verbose: Show a bar where the output is a terminal.

    Raises:
        InputError: No texts, or a setting that cannot be.
        ComponentError: No such component.
        SAEError: The component is not as wide as the SAE's input.
        FeatureIndexError: The folder holds something else; nothing can be written there.

    Examples:
        >>> index = model.build_index(sae, texts, "story_index", verbose=False)
        >>> index.n_texts, index.n_tokens, index.excluded
        (40, 7267, {'bos': 40, 'sinks': 0})
    """
    self.session.warn_of_acts("its features are indexed")
    options = BuildOptions(n_examples, exclude, seed, shard_tokens, verbose, workers)
    source = source_for(self.session, sae, component, layer)
    if path is not None and not is_url(path):
        build(source, texts, expanded(path), options)
        return FeatureIndex.open(path).attach(self.session, source.sae)
    if path is not None:
        refuse_index(str(path))  # before the model runs over all the texts
    folder = Path(tempfile.mkdtemp(prefix="mlxterp-index-"))
    try:
        build(source, texts, folder, options)
        index = FeatureIndex.open(folder).attach(self.session, source.sae)
        if path is not None:
            copied(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(index, shutil.rmtree, folder, ignore_errors=True)
    return index


def build_indexes(
    self: Facade,
    saes: Mapping[Key, SAE | str | Path],
    texts: Any,
    path: str | os.PathLike,
    n_examples: int = 20,
    exclude: Iterable[str] | str = ("bos", "sinks"),
    *,
    layer: int | None = None,
    component: str | None = None,
    seed: int = 0,
    shard_tokens: int | None = None,
    workers: int | None = None,
    verbose: bool = True,
) -> dict[Key, FeatureIndex]:
    """A `FeatureIndex` of each SAE over the same texts, in a folder of its own within `path`: the model runs once.

    Every index answers as one that `build_index` makes alone; with `shard_tokens` its files are the very same. The same
    call goes on where it was interrupted, and makes only those that are not there. Memory is that of one index, and of
    the SAEs, which are all open: the more there are, the fewer tokens a shard has.

    Args:
        saes: {key: SAE or path of one}, or an `SAECollection`.
        texts, n_examples, exclude, seed, shard_tokens, verbose: As in `build_index`; texts are read once.
        path: The folder of the indexes' folders, which bear the keys' names.
        layer, component: Where all of them are used; None takes each SAE's own place.
        workers: As in `build_index`; with workers the indexes are built one after the other.

    Raises:
        InputError: There are no SAEs or no texts, or `path` is no folder.
        ComponentError, SAEError, FeatureIndexError: As `build_index` says.

    Examples:
        >>> deeper = sae.replace()
        >>> deeper.metadata["component"] = "layers.2.resid_post"
        >>> indexes = model.build_indexes({1: sae, 2: deeper}, texts[:5], "of_layers", verbose=False)
        >>> {layer: index.component for layer, index in indexes.items()}
        {1: 'layers.1.resid_post', 2: 'layers.2.resid_post'}
    """
    self.session.warn_of_acts("its features are indexed")
    options = BuildOptions(n_examples, exclude, seed, shard_tokens, verbose, workers)
    collection = saes if isinstance(saes, SAECollection) else SAECollection(saes)
    if not isinstance(path, (str, os.PathLike)) or is_url(path):
        raise InputError(f"Indexes of several SAEs are built in a folder, got {path!r}.")
    folders = {key: expanded(path) / name for key, name in folder_names(collection).items()}
    sources = {key: source_for(self.session, collection[key], component, layer) for key in folders}
    build_together(list(sources.values()), texts, list(folders.values()), options)
    return {
        key: FeatureIndex.open(folder).attach(self.session, sources[key].sae)
        for key, folder in folders.items()
    }


def index_source(
    self: Facade,
    sae: SAE | str | Path,
    component: str | None = None,
    layer: int | None = None,
    quiet: bool = False,
) -> Source:
    """The model, an SAE and the component whose features an index holds; warns where it is not the SAE's own."""
    return source_for(self.session, sae, component, layer, quiet)
