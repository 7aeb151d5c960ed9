"""Families: SAEs of several widths at one component; where they come from, and what is asked of two widths at once.

A family is an `SAECollection` whose keys are widths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..anatomy.session import Model, session_of
from ..core import checks, feature_ids
from ..core.feature_ids import Feature
from ..core.integers import is_listable
from ..core.options import check_options, names_options
from ..core.places import beside, expanded, looks_like_path, path_of
from ..data.corpus import Corpus
from ..data.dataset import text_of
from ..data.text import pieces_of
from ..errors import InputError, SAEError
from ..features.search import encode_corpus
from ..hooks.session import ModelSession
from ..index import FeatureIndex
from ..sae import SAE, SAECollection
from ..training.config import SAETrainConfig, config_of
from ..training.on_texts import TrainOptions, split_options, train_on_texts
from .labels import Found, best_of, documents_of
from .on_text import OnText
from .token_features import TokenFeatures
from .widths import both_features

WIDTHS = (128, 512, 2048)
"""Of a family that is trained, where nothing else is asked."""
Embed = Callable[[list[str]], Any]
"""Texts → (n, size): their embeddings."""


class Firing(NamedTuple):
    """A feature of one width on the strongest tokens of a feature of another.

    Attributes:
        feature_id: The feature.
        share: Of these tokens, where it is active.
        density: Share of all tokens where it is active: what chance gives.
        mean: Its activation on these tokens, mean, in its SAE's own scale.
    """

    feature_id: int
    share: float
    density: float
    mean: float


# -- where families come from -----------------------------------------------------------------------


@names_options
def load_family(
    source: str | os.PathLike | Mapping[Any, Any] | Iterable[Any], widths: Iterable[int] | int | None = None,
    **options: Any,
) -> SAECollection:  # fmt: skip
    """SAEs of several widths at one component, under their widths, ascending.

    Args:
        source: A release of published SAEs, such as "gpt2-small-res-jb-feature-splitting"; the folder of saved SAEs; or
            SAEs (or their paths) as a dict or list.
        widths: Only these; None takes all.
        options: Of `SAECollection.from_release` or `SAECollection.load`.

    Raises:
        SAEError: There is no such release or folder, two SAEs have the same width, none has one that is asked for, or
            they are of several components; the odd one is named.

    Examples:
        >>> from mlxterp import geometry
        >>> family = geometry.load_family([sae])
        >>> family.widths, family[2048] is sae
        ([2048], True)
    """
    named = isinstance(source, (str, os.PathLike))
    published = named and not looks_like_path(source) and not expanded(source).exists()
    if published:
        collection = SAECollection.from_release(str(source), widths=widths, **options)
    elif named:
        collection = SAECollection.load(source, **options)
    else:
        check_options(options, (), "load_family")
        collection = source if isinstance(source, SAECollection) else SAECollection(source)
    family = collection.by("width")
    wanted = _widths(family, widths)
    if missing := [width for width in wanted if width not in family]:
        raise SAEError(f"There is no SAE of width {missing[0]} here; the widths are {family.widths}.")
    if not published or len(family.components) != 1:  # theirs are known without their files
        family.same_component()
    return family if len(wanted) == len(family) else SAECollection({w: family[w] for w in sorted(wanted)})


@names_options
def train_family(
    model: Model, layer: int, texts: Any, component: str = "resid_post", widths: Sequence[int] = WIDTHS,
    config: SAETrainConfig | Mapping[str, Any] | None = None, save_path: str | os.PathLike | None = None,
    verbose: bool = True, **options: Any,
) -> SAECollection:  # fmt: skip
    """Trains SAEs of several widths in one pass over the texts: all see the same batches.

    Args:
        layer, texts, component, options: As in `InterpretableModel.train_sae`, whose `dataset` are the texts.
        widths: Numbers of features, each once.
        config: Of all of them; its width gives way to `widths`.
        save_path: Each SAE is saved in the folder save_path / width; `load_family(save_path)` opens them.
        verbose: Show a bar where the output is a terminal.

    Returns:
        The SAEs by width, ascending.

    Raises:
        InputError: There are no widths, one comes twice, there are no texts, or a setting is unknown.
        SAEError: k is larger than a width, or training diverges.

    Examples:
        >>> from mlxterp import geometry
        >>> family = geometry.train_family(model, 1, texts, widths=(32, 64), k=8, epochs=1, verbose=False)
        >>> family.widths, family.same_component()
        ([32, 64], 'layers.1.resid_post')
    """
    known = ("model", "layer", "texts", "component", "widths", "config", "save_path", "verbose")
    settings, run = split_options(options, "train_family", known)
    if not is_listable(widths):
        raise InputError(f"widths are numbers of features, such as {WIDTHS}; got {widths!r}.")
    wanted = [checks.count(width, "an entry of widths") for width in widths]
    if not wanted or len(set(wanted)) != len(wanted):
        raise InputError(f"widths are numbers of features, each once, got {wanted}.")
    session = session_of(model, ModelSession)
    session.refresh()
    session.warn_of_acts("a family is trained")
    path = f"layers.{session.anatomy.names.layer(layer)}.{component}"
    made = {
        str(w): (path, config_of(config, {**settings, "d_hidden": w, "expansion_factor": None}))
        for w in sorted(wanted)
    }
    folder = None if save_path is None else path_of(save_path)
    if folder is not None:
        run.setdefault("run_dir", beside(folder, ".run"))
    paths = {name: None if folder is None else folder / name for name in made}
    found = train_on_texts(
        session.anatomy, texts, made, paths, TrainOptions(verbose=verbose, **run), session.name
    )
    return SAECollection({int(name): sae for name, sae in found.items()})


# -- what is asked of two widths ----------------------------------------------------------------------


@names_options
def firing_on(
    family: SAECollection, width: int, feature: Feature, at: int, index: Any, *, model: Model | None = None,
    n: int = 20, top_k: int = 10,
) -> list[Firing]:  # fmt: skip
    """Features of another width on the tokens where a feature is strongest.

    Those that are active there most beyond their density come first, then those that are strongest there.

    Args:
        width, feature: A feature of the SAE of this width.
        at: The width whose features are asked for.
        index: As `splitting` takes it: {width: FeatureIndex} over the same texts, activations, or texts with `model`.
        n: Strongest tokens that are looked at; of each text, where it is known, one.
        top_k: Features at most; only those that are active on one of these tokens.

    Raises:
        SAEError: The family has no such width, or its SAEs are of several components.
        UnknownFeatureError: The SAE has no such feature.
        InputError: The features are of other tokens.
    """
    one, other = _two(family, width, at)
    feature = feature_ids.feature_id(feature, one.d_hidden)
    n, top_k = checks.count(n, "n"), checks.count(top_k, "top_k")
    a, b = both_features(index, one, other, model)
    tokens = _strongest(a, feature, n)
    if not len(tokens):
        return []
    there = b.features.take(tokens)
    hits = np.bincount(there.indices, minlength=other.d_hidden)
    mean = np.bincount(there.indices, there.values, minlength=other.d_hidden) / len(tokens)
    share, density = hits / len(tokens), b.counts / b.n
    ids = np.flatnonzero(hits)
    order = ids[np.lexsort((ids, -np.abs(mean[ids]), -(share - density)[ids]))][:top_k]
    return [Firing(int(f), float(share[f]), float(density[f]), float(mean[f])) for f in order]


@names_options
def both_on(
    family: SAECollection, text: str, widths: Sequence[int] | None = None, *, model: Model, top_k: int = 3
) -> OnText:
    """The strongest features of several widths on each token of a text.

    Args:
        widths: Of the family; None takes all.
        model: An `InterpretableModel` with a tokenizer, which reads the text.
        top_k: Features of each token and width, at most.

    Raises:
        SAEError: The family has no such width, or its SAEs are of several components.
        InputError: `text` is not one text.
        NoTokenizerError: The model has no tokenizer.

    Examples:
        >>> from mlxterp import geometry
        >>> family = mlxterp.SAECollection({2048: sae})
        >>> found = geometry.both_on(family, "Lily lost her red ball.", model=model)
        >>> found.tokens[5], found.at(2048, 5)[0][0] == ball
        (' ball', True)
    """
    component = _family(family).same_component()
    saes = {width: family.at(width=width) for width in _widths(family, widths)}
    session = session_of(model)
    run, place = session.anatomy.model, session.anatomy.component(component)
    text, top_k = text_of(text, run), checks.count(top_k, "top_k")
    corpus = Corpus.from_texts([text], session.tokenize)
    found = {}
    for width, sae in saes.items():
        rows: list[list[tuple[int, float]]] = [[] for _ in corpus.tokens]
        for part in encode_corpus(run, corpus, sae, place, None):
            for i, token in enumerate(part.tokens):
                ids, values = part.features.row(i)
                best = np.lexsort((ids, -np.abs(values)))[:top_k]
                rows[token] = [(int(ids[j]), float(values[j])) for j in best]
        found[width] = rows
    names = {width: sae.concepts for width, sae in saes.items()}
    labels = {
        w: {f: names[w].label_of(f, marked=True) for row in rows for f, _ in row} for w, rows in found.items()
    }
    return OnText(text, pieces_of(run.tokenizer, corpus.tokens.tolist()), component, found, labels)


@names_options
def search(
    family: SAECollection, query: str, embed: Embed | None = None, *, widths: Sequence[int] | None = None,
    indexes: Mapping[int, FeatureIndex] | None = None, top_k: int = 10,
) -> list[Found]:  # fmt: skip
    """Features of all widths whose label is nearest to a query.

    Labels are the names and explanations in `sae.concepts` and in the indexes; a feature without one stands under the
    tokens that it fires on most often, where its index is given.

    Args:
        embed: Texts → their embeddings (n, size), which are compared by cosine; None compares words (TF-IDF).
        widths: Of the family; None takes all.
        indexes: By width.
        top_k: Features at most; without `embed` only those that share a word with the query.

    Raises:
        InputError: The query is empty, no feature has a label, or `embed` gives something else.
        SAEError: The family has no such width.
    """
    if not isinstance(query, str) or not query.strip():
        raise InputError(f"The query is {query!r}; give some words.")
    wanted, top_k = _widths(_family(family), widths), checks.count(top_k, "top_k")
    if embed is not None and not callable(embed):
        raise InputError(f"embed is {embed!r}; expected a function from texts to their embeddings (n, size).")
    if not isinstance(indexes, (Mapping, type(None))):
        raise InputError(f"indexes is {type(indexes).__name__}; expected {{width: FeatureIndex}}.")
    known = indexes or {}
    labelled = [
        (width, f, label)
        for width in wanted
        for f, label in documents_of(family.at(width=width), known.get(width))
    ]
    if not labelled:
        raise InputError(
            "No feature of this family has a label. Name some: sae.concepts.load_concepts(…); or give"
            " indexes={width: FeatureIndex}, whose tokens stand for labels."
        )
    return best_of(labelled, query, embed, top_k)


def _family(family: Any) -> SAECollection:
    if not isinstance(family, SAECollection):
        raise InputError(f"family is an SAECollection of several widths, got {type(family).__name__}.")
    return family


def _widths(family: SAECollection, given: Any) -> list[int]:
    """Widths that were asked for; of the family, for None.

    Raises:
        InputError: There are none, or one is no number.
    """
    if given is None:
        return family.widths
    several = given if is_listable(given) else [given]
    wanted = [checks.count(width, "an entry of widths") for width in several]
    if not wanted:
        raise InputError(f"widths is empty; the family has {family.widths}.")
    return wanted


def _two(family: Any, width: Any, at: Any) -> tuple[SAE, SAE]:
    two = [_family(family).at(width=checks.count(w, name)) for w, name in ((width, "width"), (at, "at"))]
    SAECollection(two).same_component()
    return two[0], two[1]


def _strongest(known: TokenFeatures, feature: int, n: int) -> np.ndarray:
    """Rows where a feature is strongest, the strongest first; of each text, where it is known, one."""
    rows, values = known.features.transpose().row(feature)
    order = np.lexsort((rows, -np.abs(values)))
    rows = rows[order]
    if known.text_ids is not None:
        _, first = np.unique(known.text_ids[rows], return_index=True)
        rows = rows[np.sort(first)]
    return rows[:n]
