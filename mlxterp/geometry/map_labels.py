"""What the points of a map are called: labels that were given or that the SAEs have, and the tokens they promote."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..backends.host.conversion import to_numpy
from ..concepts.registry import FeatureRegistry
from ..core.feature_ids import feature_id
from ..core.numeric import largest
from ..data.text import TokenTexts
from ..errors import InputError
from ..index import FeatureIndex
from ..lens.feature_logits import direction_logits
from ..sae import SAE
from .decoder_rows import DecoderRows
from .labels import documents_of

TOKENS = 10
"""Of each point, where a model is given."""


def labels_of(found: DecoderRows, given: Any) -> tuple[str, ...]:
    """The label of each row; "" where it has none.

    Args:
        given: None takes those in `sae.concepts`; else {(width, feature): text}, {feature: text} or a registry for one
            SAE, a `FeatureIndex`, or {width: any of these}.

    Raises:
        InputError: It is something else, or does not say of which width.
        UnknownFeatureError: An SAE has no such feature.
    """
    known: dict[tuple[int, int], str] = {}
    for width, said in _by_width(given, found.saes).items():
        for feature, text in _entries(said, found.saes[width]):
            known[width, feature] = text
    pairs = zip(found.width.tolist(), found.feature_id.tolist(), strict=True)
    return tuple(known.get(pair, "") for pair in pairs)


def _by_width(given: Any, saes: Mapping[int, SAE]) -> dict[int, Any]:
    if given is None:
        return dict.fromkeys(saes)
    if isinstance(given, FeatureIndex):
        own = [width for width, sae in saes.items() if sae.fingerprint == given.fingerprint]
        if not own:
            raise InputError(
                f"labels is an index of {given.sae_name}, which is none of the SAEs on this map."
            )
        return {own[0]: given}
    if isinstance(given, FeatureRegistry) or not isinstance(given, Mapping):
        return {_only(saes): given}
    if any(isinstance(key, tuple) for key in given):
        found: dict[int, dict[Any, Any]] = {}
        for key, text in given.items():
            if not isinstance(key, tuple) or len(key) != 2:
                raise InputError(f"A key of labels is {key!r}; beside (width, feature) all have that form.")
            found.setdefault(_width(key[0], saes), {})[key[1]] = text
        return found
    if given and all(
        isinstance(said, (Mapping, FeatureIndex)) and not _is_entry(said) for said in given.values()
    ):
        return {_width(width, saes): said for width, said in given.items()}
    return {_only(saes): given}


def _is_entry(said: Any) -> bool:
    """Whether it is what a registry says of one feature."""
    return isinstance(said, Mapping) and not isinstance(said, FeatureRegistry) and "name" in said


def _only(saes: Mapping[int, SAE]) -> int:
    if len(saes) > 1:
        raise InputError(
            f"labels does not say of which width its features are; the map has {list(saes)}. Give {{(width, feature):"
            " text}, or {width: labels}."
        )
    return next(iter(saes))


def _width(given: Any, saes: Mapping[int, SAE]) -> int:
    if given not in saes:
        raise InputError(f"labels names width {given!r}; the map has {list(saes)}.")
    return int(given)


def _entries(said: Any, sae: SAE) -> list[tuple[int, str]]:
    if said is None or isinstance(said, FeatureIndex):
        return documents_of(sae, said)
    if isinstance(said, FeatureRegistry):
        said.bind(sae) if said.fingerprint is not None else None
        return [(feature_id(f, sae.d_hidden), said.label(f) or "") for f in said]
    if not isinstance(said, Mapping):
        raise InputError(
            f"labels is {type(said).__name__}; give {{feature: text}} or {{(width, feature): text}}."
        )
    found = []
    for feature, text in said.items():
        text = text.get("name") if isinstance(text, Mapping) else text
        if not isinstance(text, str):
            raise InputError(f"The label of feature {feature!r} is {text!r}; expected a text.")
        found.append((feature_id(feature, sae.d_hidden), text))
    return found


def tokens_of(found: DecoderRows, model: Model | None) -> tuple[tuple[str, ...], ...]:
    """The tokens that each row promotes most, as `model.feature_logits` finds them; () without a model.

    Raises:
        SAEError: An SAE does not write to the residual stream by a linear map.
        InputError: Nothing says where it writes.
    """
    if model is None:
        return ()
    session = session_of(model)
    anatomy, tokenize = session.plain, session.tokenize
    before = [] if tokenize is None else tokenize("a")[-1:]  # so that a leading space is kept
    text = partial(TokenTexts(anatomy.model.tokenizer).after, before)
    rows: list[tuple[str, ...]] = []
    for width, sae in found.saes.items():
        decoder = sae.W_dec[found.feature_id[found.width == width]]
        for logits, _ in direction_logits(anatomy, sae, decoder):
            rows += (tuple(text(t) for t in largest(row, TOKENS).tolist()) for row in logits)
    return tuple(rows)


def scores_of(found: DecoderRows, given: Any) -> dict[str, np.ndarray]:
    """{name: float64, (n,)}: a score of each row; NaN where it has none.

    Args:
        given: {name: values}, of one SAE's features or of all widths' one after the other; or {name: {width: values}}.

    Raises:
        InputError: They are of another number of features, or no numbers.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"scores is {{name: values}}, got {type(given).__name__}.")
    return {str(name): _score(found, str(name), values) for name, values in given.items()}


def _score(found: DecoderRows, name: str, values: Any) -> np.ndarray:
    if not isinstance(values, Mapping):
        every, parts, start = _numbers(values, name), {}, 0
        if len(every) != sum(found.saes):
            raise InputError(
                f"The score {name!r} has {len(every)} values; the SAEs have {sum(found.saes)} features."
            )
        for width in found.saes:
            parts[width] = every[start : start + width]
            start += width
    else:
        parts = {_width(width, found.saes): _numbers(of, name) for width, of in values.items()}
    score = np.full(len(found.width), np.nan)
    for width, of in parts.items():
        if len(of) != width:
            raise InputError(f"The score {name!r} has {len(of)} values for width {width}.")
        own = found.width == width
        score[own] = of[found.feature_id[own]]
    return score


def score_numbers(values: Any, name: str) -> np.ndarray:
    """float64: what is given as a score.

    Raises:
        InputError: It holds something else than numbers.
    """
    try:
        return to_numpy(values).astype(np.float64, copy=False)
    except InputError as error:
        raise InputError(f"The score {name!r} is no array of numbers: {error}") from error


def _numbers(values: Any, name: str) -> np.ndarray:
    array = score_numbers(values, name)
    if array.ndim != 1:
        raise InputError(f"The score {name!r} has shape {array.shape}; give one value for each feature.")
    return array
