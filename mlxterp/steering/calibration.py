"""How strongly a feature can be turned up: from where its effect shows to where the text falls apart.

`calibrate` tries strengths, measures what the model writes with the unsteered model (`trials`), and puts a random
direction and a plain prompt beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from ..errors import InputError
from ..index.counting import PROSE
from ..sae import SAE
from .calibrated import Calibration, Strength
from .checks import check_feature, check_number
from .directions import add_direction
from .edits import Edit
from .features import MAXIMA, add_feature, clamp, max_activation
from .placing import checked
from .program import source_of
from .trials import Trials, check_prompts, kl_to_clean, log_softmax

PROMPTS = (
    "I think that", "The next day,", "She looked at", "There was a", "It is", "When we", "He said", "They went to",
    "After that", "My friend",
)  # fmt: skip
"""Beginnings that say nothing of any concept."""
GRIDS = {
    "max": (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
    "norm": (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0),
}
"""Strengths that are tried by default."""
_PROMOTED = 10
_COMMON = 0.2
"""Tokens that a feature fires on so much as often as on the commonest are its concept's."""


def calibrate(
    model: Any, sae: SAE, feature: int, strengths: Sequence[float] | None = None,
    units: Literal["raw", "max", "norm"] | None = None, *, index: Any = None, method: Literal["add", "clamp"] = "add",
    at: str | None = None, prompts: Sequence[str] = PROMPTS, neutral: Sequence[str] | None = None,
    concept: str | Sequence[str] | None = None, max_tokens: int = 40, temperature: float = 0.7, seed: int = 0,
    max_perplexity: float = 2.0, max_repetition: float = 0.3, min_effect: float = 0.2, verbose: bool = True,
) -> Calibration:  # fmt: skip
    """Tries strengths of a feature, and says from which to which they work.

    The effect shows where the feature's readout, its largest activation in the unsteered model on what was written
    (mean over prompts), is above that of the unsteered text by `min_effect` of the feature's maximum (of the largest
    readout, where that is not known). The text is fluent as long as the unsteered model's perplexity on it is at most
    `max_perplexity` times that on its own text, and at most `max_repetition` more of its 3-grams repeat. The range is
    the longest row of strengths where both hold. Beside it: a random direction as strong as the best strength, and
    the unsteered model with the concept's words in the prompt.

    Args:
        model: An `InterpretableModel` with a tokenizer.
        strengths: None takes a grid of eight.
        units: None takes "max" where the maximum is known, else "norm"; see `add_feature`.
        index: A `FeatureIndex` of this SAE: for the maximum, and for the concept's words.
        method: "add" adds the decoder row, "clamp" sets the feature's activation.
        at: Component; None is the SAE's own.
        prompts: Each is continued once for each strength.
        neutral: Texts that KL to the unsteered model is measured on; None takes some prose.
        concept: Words that show the concept; None takes the tokens that the feature fires on most often (with an
            index), or the ten that its decoder row promotes.
        temperature, seed: Of sampling; every strength has the same seeds.

    Raises:
        UnknownFeatureError: `feature` lies outside [0, sae.d_hidden).
        InputError: A strength is not finite, no maximum is known for units="max", or the model has no tokenizer.
    """
    feature = check_feature(sae, feature)
    _check_model(model)
    maximum = None if index is None and MAXIMA not in sae.metadata else max_activation(sae, feature, index)
    units = units or ("norm" if maximum is None else "max")
    grid = [
        check_number(s, "A strength") for s in (strengths if strengths is not None else GRIDS.get(units, ()))
    ]
    if not grid or method not in ("add", "clamp") or (method == "clamp" and units == "norm"):
        raise InputError(
            "Give strengths=[…]; method is 'add' (units raw, max, norm) or 'clamp' (units raw, max)."
            f" Got method={method!r}, units={units!r}, strengths={strengths!r}."
        )

    def edit(strength: float) -> Edit:
        if method == "clamp":
            return clamp(sae, feature, strength, units="max" if units == "max" else "raw", index=index, at=at)
        return add_feature(sae, feature, strength, units, index=index, at=at)

    [first] = checked(model.anatomy, [edit(grid[0])])
    words = _words(model, sae, feature, index, concept)
    trials = Trials(
        model, sae, feature, source_of(sae) or str(first.component), check_prompts(prompts), max_tokens, temperature,
        seed, _ids_of(model, words),
    )  # fmt: skip
    texts = check_prompts(neutral) if neutral is not None else (PROSE,)
    rows = [
        Strength(strength, trials.run([edit(strength)]), kl_to_clean(model, [edit(strength)], texts))
        for strength in tqdm(
            sorted(grid), desc="calibrate", unit="strength", disable=None if verbose else True
        )
    ]
    found = Calibration(
        feature=feature, units=units, method=method, component=str(first.component), maximum=maximum,
        concept=words, unsteered=trials.run([]), strengths=tuple(rows), prompting=trials.run([], _asking(words)),
        output_score=output_score(model, sae, feature, edit(max(grid)), at=at), max_perplexity=max_perplexity,
        max_repetition=max_repetition, min_effect=min_effect,
    )  # fmt: skip
    strength = max(grid) if found.best is None else found.best
    random = _random(sae, feature, units, strength, maximum, str(first.component), seed)
    return replace(found, random=trials.run([random]))


def output_score(model: Any, sae: SAE, feature: int, edit: Edit, *, at: str | None = None) -> float:
    """Whether turning a feature up promotes the tokens that its decoder row points to, in [-1, 1].

    After neutral prompts: (1 - rank/vocabulary) × probability of the likeliest of the ten tokens that the logit lens
    gives for the feature, less the same without the edit; the mean over prompts. After the output score of Arad,
    Mueller and Belinkov (2025), who pick features to steer by it.

    Args:
        edit: What turns it up.
        at: Component that the feature writes to; None is the SAE's own.
    """
    ids = np.array(model.feature_logits(sae, feature, _PROMOTED, component=at).promoted_ids)
    before = [_next(model, prompt) for prompt in PROMPTS]
    with model.steer(edit):
        after = [_next(model, prompt) for prompt in PROMPTS]
    scores = [_rank_score(a, ids) - _rank_score(b, ids) for a, b in zip(after, before, strict=True)]
    return float(np.mean(scores))


def _next(model: Any, prompt: str) -> np.ndarray:
    return np.exp(log_softmax(model.language_model.backend.get(model(prompt))[0, -1]))


def _rank_score(probabilities: np.ndarray, ids: np.ndarray) -> float:
    best = float(probabilities[ids].max())
    return (1 - int((probabilities > best).sum()) / len(probabilities)) * best


def _check_model(model: Any) -> None:
    if not hasattr(model, "feature_logits"):
        raise InputError(f"Expected an InterpretableModel, got {type(model).__name__}.")
    if model.tokenizer is None:
        raise InputError(
            "calibrate writes and reads text, so the model needs a tokenizer: InterpretableModel(model, tokenizer=…)."
        )


def _words(
    model: Any, sae: SAE, feature: int, index: Any, concept: str | Sequence[str] | None
) -> tuple[str, ...]:
    if concept is not None:
        return (concept,) if isinstance(concept, str) else tuple(concept)
    if index is not None:
        tokens = index.stats(feature).top_tokens
        return tuple(token for token, count in tokens if count >= _COMMON * tokens[0][1])
    return tuple(token for token, _ in model.feature_logits(sae, feature, _PROMOTED).promoted)


def _ids_of(model: Any, words: Sequence[str]) -> frozenset[int]:
    """Ids of the words' last tokens, with and without a space before."""
    found = set()
    for word in words:
        for form in (word, word.strip(), " " + word.strip()):
            ids = model.tokenize(form) if form.strip() else []
            found |= {int(ids[-1])} if ids else set()
    return frozenset(found)


def _asking(words: Sequence[str]) -> str:
    """What a prompt says to bring a concept up: its words, as a title would."""
    distinct = dict.fromkeys(word.strip() for word in words if word.strip())
    return f"{', '.join(list(distinct)[:5])}.\n"


def _random(
    sae: SAE, feature: int, units: str, strength: float, maximum: float | None, component: str, seed: int
) -> Edit:
    """A random direction, as long as what the strength adds."""
    row = sae.W_dec[feature].astype(np.float64)
    draw = np.random.default_rng([seed, feature]).normal(size=row.shape)
    vector = draw / np.linalg.norm(draw) * np.linalg.norm(row)
    if units == "norm":
        return add_direction(vector, strength, component, units="norm")
    return add_direction(vector, strength * (maximum or 1.0 if units == "max" else 1.0), component)
