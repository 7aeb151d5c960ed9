"""Two widths of a family, and their features on the same tokens. Splitting and stitching ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..core import checks
from ..errors import InputError
from ..index import FeatureIndex
from ..index.by_token import texts_in
from ..sae import SAE, SAECollection
from .token_features import TokenFeatures, activations_of, features_of, run_texts, same_tokens


def pair_of(family: Any, narrow: Any, wide: Any) -> tuple[SAE, SAE]:
    """The SAEs of two widths of a family.

    Raises:
        SAEError: It has no such widths, or several components.
        InputError: It is no family, or the first width is not the smaller one.
    """
    if not isinstance(family, SAECollection):
        raise InputError(
            f"family is an SAECollection of several widths, got {type(family).__name__}:"
            " SAECollection({512: sae, …})."
        )
    narrow, wide = checks.count(narrow, "narrow"), checks.count(wide, "wide")
    if narrow >= wide:
        raise InputError(f"narrow={narrow} is to be less than wide={wide}. The family has {family.widths}.")
    two = family.at(width=narrow), family.at(width=wide)
    SAECollection(two).same_component()
    return two


def both_features(
    given: Any, small: SAE, large: SAE, model: Model | None
) -> tuple[TokenFeatures, TokenFeatures]:
    """The features of two SAEs of one component on the same tokens; `given` is as `splitting` takes it.

    Raises:
        InputError: They are of other tokens, or a width is missing.
    """
    if isinstance(given, Mapping):
        missing = [sae.d_hidden for sae in (small, large) if sae.d_hidden not in given]
        if missing:
            raise InputError(f"index has no features of width {missing[0]}; its keys are {list(given)}.")
        a, b = (features_of(given[sae.d_hidden], sae, f"index[{sae.d_hidden}]") for sae in (small, large))
        same_tokens(a, b)
        return a, b
    rows = rows_of(given, small, model, "index")
    return features_of(rows, small, "index"), features_of(rows, large, "index")


def rows_of(given: Any, sae: SAE, model: Model | None, what: str) -> np.ndarray:
    """float32, (n, d_model): activations that were given, or of texts.

    Raises:
        InputError: They are of another width, or texts came without a model.
    """
    anatomy = None if model is None else session_of(model).anatomy
    if isinstance(given, FeatureIndex):
        if given.source is None:
            raise InputError(
                f"{what} is an index of one width, opened without its model. Give one of each width, {{width: index}},"
                " or attach its model, which then reads its texts again: index.attach(model, sae)."
            )
        given, anatomy = texts_in(given), anatomy or given.source.anatomy
    if anatomy is not None:
        if sae.component is None:
            raise InputError(f"{sae!r} names no component to run the texts to. Give activations.")
        return run_texts(anatomy, given, sae.component)[0]
    given = list(given) if isinstance(given, Iterator) else given
    listed = isinstance(given, Iterable) and getattr(given, "ndim", 1) == 1
    if isinstance(given, str) or (listed and any(isinstance(one, str) for one in given)):
        raise InputError(f"{what} holds texts; they need the model: model=model.")
    return activations_of(given, sae.d_model, what, sae.component)
