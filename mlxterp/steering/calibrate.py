"""How strongly a feature can be turned up: from where its effect shows to where the text falls apart.

`calibrate` tries strengths, measures what the model writes with the unsteered model (`trials`), and puts a random
direction and a plain prompt beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..activations.exclusions import PROSE
from ..anatomy.session import Model, session_of
from ..backends.host.finite import not_finite
from ..core import checks
from ..core.feature_ids import Feature
from ..core.numeric import log_softmax
from ..core.options import names_options
from ..core.progress import hidden
from ..edits.checks import check_feature, check_number
from ..edits.compile import source_of
from ..edits.directions import add_direction
from ..edits.edits import Edit
from ..edits.features import MAXIMA, add_feature, clamp, max_activation
from ..edits.placement import checked
from ..errors import InputError
from ..hooks.session import ModelSession
from ..lens import FeatureLogits, feature_logits
from ..sae import SAE
from .calibration import Calibration, Strength
from .gates import PARAPHRASES, UNRELATED, Controls
from .gates import receipt as measured_receipt
from .trials import Trials, check_texts, divergence, next_tokens

PROMPTS = (
    "I think that", "The next day,", "She looked at", "There was a", "It is", "When we", "He said", "They went to",
    "After that", "My friend",
)  # fmt: skip
"""Beginnings that say nothing of any concept."""
FIRST = {"max": 1.0, "norm": 0.2}
"""The strength that the search begins with, by units."""
_TRIED, _FACTOR, _KNEE = 8, 32.0, 0.2
"""Strengths tried at most, their largest factor to the first, and how nearly the one that is too strong is found."""
_LOUD = 4.0
"""Of the first strength: what the output score turns a feature up by, where no strengths are given."""
_PROMOTED = 10
_COMMON = 0.2
"""Tokens that a feature fires on so much as often as on the commonest are its concept's."""


@names_options
def calibrate(
    model: Model, sae: SAE, feature: Feature, strengths: Sequence[float] | None = None,
    units: Literal["raw", "max", "norm"] | None = None, *, index: Any = None, method: Literal["add", "clamp"] = "add",
    at: str | None = None, prompts: Sequence[str] = PROMPTS, neutral: Sequence[str] | None = None,
    concept: str | Sequence[str] | None = None, asking: str = "{words}.\n", max_tokens: int = 40,
    temperature: float = 0.7, seed: int = 0, max_perplexity: float = 2.0, max_repetition: float = 0.3,
    min_effect: float = 0.2, verbose: bool = True, receipt: bool = True,
    paraphrases: Sequence[str] | None = None,
) -> Calibration:  # fmt: skip
    """Tries strengths of a feature, says from which to which they work, and ends in a receipt of the best.

    The effect shows where the feature's readout, its largest activation in the unsteered model on what was written
    (mean over prompts), is above that of the unsteered text by `min_effect` of the feature's maximum (of the largest
    readout, where that is not known). The text is fluent as long as the unsteered model's perplexity on it is at most
    `max_perplexity` times that on its own text, and at most `max_repetition` more of its 3-grams repeat. The range
    goes from the weakest strength that shows to the strongest before the text falls apart; the best is the weakest
    of it with nine tenths of its largest readout. Beside it: a random direction as strong as the best strength (as
    the strongest fluent one, without a range), and the unsteered model with the concept's words in the prompt.

    The receipt has three gates at that strength: the effect; what it costs on unrelated texts; and the effect on
    paraphrases of the prompts, in a frame, and in the tokenizer's chat template. Each has 95 % intervals and a verdict,
    beside at least 20 random directions and the words in the prompt; see `Receipt`.

    Args:
        model: An `InterpretableModel` with a tokenizer.
        strengths: None searches: it doubles until the text falls apart, halves the step there twice, and goes down
            to where no effect shows; at most eight. All that are given are tried.
        units: None takes "max" where the maximum is known, else "norm"; see `add_feature`.
        index: A `FeatureIndex` of this SAE: for the maximum, and for the concept's words.
        method: "add" adds the decoder row, "clamp" sets the feature's activation.
        at: Component; None is the SAE's own.
        prompts: Each is continued once for each strength; best are beginnings of what the model usually writes.
        neutral: Texts that KL to the unsteered model, and the receipt's cost, are measured on; None takes some prose,
            and ten texts of many kinds.
        concept: Words that show the concept; None takes the tokens that the feature fires on most often (with an
            index), or the ten that its decoder row promotes.
        asking: What the prompt says instead of steering, before each of the prompts; {words} are the concept's.
        temperature, seed: Of sampling, the same for every strength.
        receipt: False leaves the receipt out, which takes about two thirds as long as a search.
        paraphrases: The prompts in other words, one for each; None has some for the default prompts only.

    Raises:
        UnknownFeatureError: `feature` lies outside [0, sae.d_hidden).
        InputError: A strength is not finite, no maximum is known for units="max", or the model has no tokenizer.

    Examples:
        >>> from mlxterp import steering
        >>> found = steering.calibrate(
        ...     model, sae, ball, [1.0, 2.0], index=index, prompts=["She saw a"], max_tokens=10, verbose=False
        ... )
        >>> [row["what"] for row in found.table]  # print(found) shows it, with what was written
        ['unsteered', 'steered', 'steered', 'random direction', 'prompt']
        >>> [gate.name for gate in found.receipt.gates]  # print(found.receipt) shows what they say
        ['effect', 'cost', 'robustness']
    """
    feature = check_feature(sae, feature)
    session = _session(model)
    session.warn_of_acts("a feature is calibrated")
    _check_asking(asking)
    receipt = checks.flag(receipt, "receipt")
    maximum = None if index is None and MAXIMA not in sae.metadata else max_activation(sae, feature, index)
    units = units or ("norm" if maximum is None else "max")
    given = _check_strengths(strengths, units, method)
    max_tokens, temperature, seed = (
        checks.count(max_tokens, "max_tokens"), checks.temperature(temperature), checks.seed(seed)
    )  # fmt: skip
    for limit in (max_perplexity, max_repetition, min_effect):
        check_number(limit, "A limit (max_perplexity, max_repetition, min_effect)")

    edit = _editor(sae, feature, units, method, index, at)
    [first] = checked(session.anatomy, [edit(1.0)])
    words = _words(session, sae, feature, index, concept)
    trials = Trials(
        session, sae, feature, source_of(sae) or str(first.component), check_texts(prompts, "prompts"), max_tokens,
        temperature, seed, _sequences_of(session, words),
    )  # fmt: skip
    other_words = _paraphrases(paraphrases, trials.prompts)
    given_neutral = None if neutral is None else check_texts(neutral, "neutral")
    texts = given_neutral or (PROSE,)
    clean = next_tokens(session, [], texts)
    start = FIRST.get(units, 1.0)
    together = given if given is not None else [start, 2 * start]
    unsteered, prompting, *written = trials.run_all(
        [([], ""), ([], _asked(asking, words)), *(([edit(strength)], "") for strength in together)], verbose
    )
    known = dict(zip(together, written, strict=True))

    def tried(strength: float) -> Strength:
        edits = [edit(strength)]
        new = known[strength] if strength in known else trials.run(edits)
        return Strength(strength, new, divergence(clean, next_tokens(session, edits, texts)))

    begun = Calibration(
        feature=feature, units=units, method=method, component=str(first.component), maximum=maximum,
        concept=words, unsteered=unsteered, strengths=(), prompting=prompting,
        output_score=0.0, max_perplexity=max_perplexity, max_repetition=max_repetition, min_effect=min_effect,
    )  # fmt: skip
    found = _searched(begun, tried, given, start, verbose)
    strongest = found.strongest_fluent or min((row.strength for row in found.strengths), key=abs)
    strength = strongest if found.best is None else found.best
    random = _random(sae, feature, units, strength, maximum, found, seed)
    loud = edit(max(given) if given is not None else _LOUD * FIRST[units])
    score = output_score(session, sae, feature, loud, at=at)
    found = replace(found, random=trials.run([random]), output_score=score)
    if not receipt:
        return found
    controls = Controls(lambda draw: _random(sae, feature, units, strength, maximum, found, seed, draw))
    made = measured_receipt(
        trials, found, strength, edit(strength), controls, _asked(asking, words), other_words,
        given_neutral or UNRELATED, verbose,
    )  # fmt: skip
    return replace(found, receipt=made)


def _editor(
    sae: SAE, feature: int, units: Any, method: str, index: Any, at: str | None
) -> Callable[[float], Edit]:
    """A function that makes the edit of a strength."""
    if method == "clamp":
        return lambda strength: clamp(sae, feature, strength, units=units, index=index, at=at)
    return lambda strength: add_feature(sae, feature, strength, units, index=index, at=at)


def _searched(
    begun: Calibration, tried: Callable[[float], Strength], given: Sequence[float] | None, first: float, verbose: bool
) -> Calibration:  # fmt: skip
    """The calibration with all strengths given, or with those that the search came by."""
    from tqdm.auto import tqdm

    total = len(given) if given is not None else None
    with tqdm(desc="calibrate", unit="strength", total=total, disable=hidden(verbose)) as bar:
        found = begun
        while total is None or len(found.strengths) < total:
            strength = next_strength(found, first) if given is None else given[len(found.strengths)]
            if strength is None:
                break
            rows = sorted((*found.strengths, tried(strength)), key=lambda row: row.strength)
            found = replace(found, strengths=tuple(rows))
            bar.update()
    return found


def next_strength(found: Calibration, first: float) -> float | None:
    """What the search tries after the strengths that it knows; None ends it.

    Doubles until the text falls apart (or halves until it does not), halves the step from the strongest fluent
    strength to the weakest that is not, and then goes down while the effect shows.
    """
    fluent = {row.strength: found.fluent(row.written) for row in found.strengths}
    if not fluent or len(fluent) >= _TRIED:
        return None if fluent else first
    low, high = min(fluent), max(fluent)
    broken = min((strength for strength, holds in fluent.items() if not holds), default=None)
    if broken is None and high < first * _FACTOR:
        return 2 * high
    if broken == low:
        return low / 2 if low > first / _FACTOR else None
    if broken is not None:
        below = max(strength for strength in fluent if strength < broken)
        if broken - below > _KNEE * broken:
            return (below + broken) / 2
    shows = found.shows(found.strengths[0].written)
    return low / 2 if shows and low > first / _FACTOR else None


@names_options
def output_score(model: Model, sae: SAE, feature: int, edit: Edit, *, at: str | None = None) -> float:
    """Whether turning a feature up promotes the tokens that its decoder row points to, in [-1, 1].

    After neutral prompts: (1 - rank/vocabulary) × probability of the likeliest of the ten tokens that the logit lens
    gives for the feature, less the same without the edit; the mean over prompts. After the output score of Arad,
    Mueller and Belinkov (2025), who pick features to steer by it.

    Args:
        edit: What turns it up.
        at: Component that the feature writes to; None is the SAE's own.
    """
    session = session_of(model, ModelSession)
    ids = np.array(_promoted(session, sae, feature, at).promoted_ids)
    before = _next(session, PROMPTS)
    with session.steering(edit):
        after = _next(session, PROMPTS)
    scores = [_rank_score(a, ids) - _rank_score(b, ids) for a, b in zip(after, before, strict=True)]
    return float(np.mean(scores))


def _promoted(session: ModelSession, sae: SAE, feature: int, at: str | None = None) -> FeatureLogits:
    tokenize = session.tokenize
    [found] = feature_logits(session.plain, sae, [feature], _PROMOTED, component=at, tokenize=tokenize)
    return found


def _next(session: ModelSession, prompts: Sequence[str]) -> np.ndarray:
    """float64, (prompts, vocabulary): probabilities of the token after each prompt."""
    batch = session.batch(list(prompts))
    model = session.running(list(prompts)).model
    logits = model.backend.get(model.forward(batch))[np.arange(len(prompts)), batch.last]
    if not np.isfinite(logits).all():
        raise not_finite("The logits", "of a prompt of the output score", bool(model.described))
    return np.exp(log_softmax(logits))


def _rank_score(probabilities: np.ndarray, ids: np.ndarray) -> float:
    best = float(probabilities[ids].max())
    return (1 - int((probabilities > best).sum()) / len(probabilities)) * best


def _session(model: Model) -> ModelSession:
    """What `calibrate` runs.

    Raises:
        InputError: It is no model, or has no tokenizer.
    """
    session = session_of(model, ModelSession)
    if session.tokenizer is None:
        raise InputError(
            "calibrate writes and reads text, so the model needs a tokenizer: InterpretableModel(model, tokenizer=…)."
        )
    return session


def _check_strengths(strengths: Any, units: str, method: str) -> list[float] | None:
    """Those given, ascending; None where they are to be searched for.

    Raises:
        InputError: They are no finite numbers, or do not fit method and units.
    """
    known = {"add": ("raw", "max", "norm"), "clamp": ("raw", "max")}
    if method not in known or units not in known[method] or (strengths is None and units not in FIRST):
        raise InputError(
            "method is 'add' (units raw, max, norm) or 'clamp' (units raw, max), and units='raw' needs strengths=[…]."
            f" Got method={method!r}, units={units!r}, strengths={strengths!r}."
        )
    if strengths is None:
        return None
    if isinstance(strengths, (str, bytes)) or not isinstance(strengths, Iterable):
        raise InputError(f"strengths= is a list of numbers, got {strengths!r}.")
    found = sorted({check_number(strength, "A strength") for strength in strengths})
    if not found:
        raise InputError("strengths= is empty. Give numbers, or None for a search.")
    return found


def _paraphrases(given: Any, prompts: Sequence[str]) -> tuple[str, ...] | None:
    """As many as the prompts; None where there are none.

    Raises:
        InputError: They are no texts, or not as many.
    """
    if given is None:
        return PARAPHRASES if tuple(prompts) == PROMPTS else None
    found = check_texts(given, "paraphrases")
    if len(found) != len(prompts):
        raise InputError(
            f"paraphrases= says each prompt in other words: {len(prompts)} prompts, but {len(found)} paraphrases."
        )
    return found


def _check_asking(asking: Any) -> None:
    if not isinstance(asking, str) or "{words}" not in asking:
        raise InputError(f"asking= is a text with {{words}} where the words belong, got {asking!r}.")


def _words(
    session: ModelSession, sae: SAE, feature: int, index: Any, concept: str | Sequence[str] | None
) -> tuple[str, ...]:
    if concept is not None:
        return check_texts(concept, "concept")
    if index is not None:
        tokens = index.stats(feature).top_tokens
        return tuple(token for token, count in tokens if count >= _COMMON * tokens[0][1])
    return tuple(token for token, _ in _promoted(session, sae, feature).promoted)


def _sequences_of(session: ModelSession, words: Sequence[str]) -> frozenset[tuple[int, ...]]:
    """Token ids that write the words, with and without a space before; specials that open a text left out."""
    tokenize = session.plain.model.tokenize
    opening = tuple(int(token) for token in tokenize(""))
    found = set()
    for word in words:
        for form in {word, word.strip(), " " + word.strip()} - {"", " "}:
            ids = tuple(int(token) for token in tokenize(form))
            found.add(ids[len(opening) :] if ids[: len(opening)] == opening else ids)
    return frozenset(found - {()})


def _asked(asking: str, words: Sequence[str]) -> str:
    """What a prompt says to bring a concept up."""
    distinct = dict.fromkeys(word.strip() for word in words if word.strip())
    return asking.replace("{words}", ", ".join(list(distinct)[:5]))


def _random(
    sae: SAE, feature: int, units: str, strength: float, maximum: float | None, found: Calibration, seed: int,
    draw: int | None = None,
) -> Edit:  # fmt: skip
    """A random direction, as long as what the strength adds.

    Args:
        draw: Which of the receipt's; None is the one that stands in the table.
    """
    row = sae.W_dec[feature].astype(np.float64)
    drawn = np.random.default_rng([seed, feature] if draw is None else [seed, feature, draw]).normal(
        size=row.shape
    )
    vector = drawn / np.linalg.norm(drawn) * np.linalg.norm(row)
    if units == "norm":
        return add_direction(vector, strength, found.component, units="norm")
    return add_direction(vector, strength * (maximum or 1.0 if units == "max" else 1.0), found.component)
