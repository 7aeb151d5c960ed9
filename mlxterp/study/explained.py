"""What a feature is said to mean, whether it holds on other texts, and the windows that could be taken for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..autointerp import Examples, Judge, Plan, Question, Scores, TokenListExplainer, TokenListJudge, collect
from ..autointerp.examples import Drawn, Sample
from ..autointerp.plan import NEGATIVES
from ..autointerp.scoring import score
from ..concepts.explanations import PERSON, Explanation
from ..core.controls import DRAWS, Controlled
from ..errors import InputError
from ..index import FeatureIndex
from ..viz.lines import Table
from .evidence import Evidence

TASKS = ("detection", "intruder")
_LEAST = 2
"""Windows of each side, at least."""
_WORDS = 5
_NO_OTHERS = "no other feature of this index fires on words"
_SHOWN = 2
"""Windows of each kind that are shown."""


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """What explanations of one feature are made from and scored on."""

    examples: Examples
    drawn: Drawn
    judge: Judge


def windows_of(index: FeatureIndex, feature: int, judge: Judge | None, seed: int) -> Windows:
    """Draws them.

    Raises:
        InputError: There are too few.
    """
    negatives = NEGATIVES if index.source is not None else ("random", "same_token")
    plan = Plan(negatives=dict.fromkeys(negatives, 5), least=_LEAST, seed=seed)
    examples = collect(index, [feature], plan, verbose=False)
    if examples[feature].reason:
        raise InputError(f"{examples[feature].reason}.")
    return Windows(examples, examples[feature], TokenListJudge() if judge is None else judge)


def words_of(feature: int, samples: tuple[Sample, ...]) -> Explanation | None:
    """The words that it fires on, as an explanation."""
    return TokenListExplainer(_WORDS).explain(feature, samples)


def said_of(index: FeatureIndex, feature: int) -> Explanation | None:
    """Its name in the index, else a person's, else what a person says, else the explanation with the best score."""
    named = index.labels.label(feature)
    if named is not None:
        return Explanation(feature, named, index.labels.source(feature) or PERSON)
    if index.source is None:
        return None
    concepts = index.source.sae.concepts
    name = concepts.name_of(feature)
    return concepts.best_explanation(feature) if name is None else Explanation(feature, name, PERSON)


def scores_of(index: FeatureIndex, told: Explanation, windows: Windows) -> Scores:
    """The explanation's scores, and beside them those of the words that the feature fires on."""
    words = words_of(told.feature_id, windows.drawn.explaining)
    several = [told] if words is None or words.text == told.text else [told, words]
    return score(index, several, windows.judge, TASKS, examples=windows.examples, verbose=False)


def shuffled(index: FeatureIndex, found: Scores, windows: Windows, seed: int) -> Controlled | None:
    """The detection score beside those of what other features fire on, judged on this feature's windows."""
    own = found[0].scores.get("detection")
    if own is None:
        return None
    feature = found[0].explanation.feature_id
    draw, others = np.random.default_rng([seed, feature]), [f for f in index.live.tolist() if f != feature]
    several = []
    for other in draw.permutation(others)[: 4 * DRAWS].tolist():
        words = [token.strip() for token, _ in index.stats(other).top_tokens[:_WORDS] if token.strip()]
        if words and len(several) < DRAWS:
            several.append(
                Explanation(feature, "fires on " + ", ".join(map(_quoted, words)), f"feature {other}")
            )
    if not several:
        return Controlled(own.value, own.interval, np.empty(0), _NO_OTHERS, seed)
    scored = score(index, several, windows.judge, ["detection"], examples=windows.examples, verbose=False)
    values = [one.scores["detection"].value for one in scored if "detection" in one.scores]
    return Controlled(own.value, own.interval, np.array(values), "what other features fire on", seed)


def hard_negatives(told: Explanation, windows: Windows) -> Evidence:
    """How often the judge takes inactive windows for active ones, by kind, and some of those.

    Raises:
        InputError: The judge answers none.
    """
    samples = [one for several in windows.drawn.draws for one in several if not one.active]
    asked = [Question("detection", told.text, one.example) for one in samples]
    answers = np.asarray(windows.judge.probabilities(asked), dtype=np.float64)
    rows, shares, shown = [], {}, []
    for kind in dict.fromkeys(one.kind for one in samples):
        mine = [(p, one) for p, one in zip(answers, samples, strict=True) if one.kind == kind]
        told_of = [p > 0.5 for p, _ in mine if not np.isnan(p)]
        shares[kind] = float(np.mean(told_of)) if told_of else float("nan")
        rows.append(
            [kind.replace("_", " "), str(len(mine)), _share(shares[kind]), str(len(mine) - len(told_of))]
        )
        fooled = [one for p, one in mine if p > 0.5]
        shown += [
            [kind.replace("_", " "), "yes" if one in fooled else "no", one.example.to_str(mark_toks=False)]
            for one in [*fooled, *(one for _, one in mine if one not in fooled)][:_SHOWN]
        ]
    hard = [shares[kind] for kind in shares if kind != "random" and not np.isnan(shares[kind])]
    if not hard:
        raise InputError("The judge answered for none of the windows that could be taken for it.")
    random = shares.get("random", float("nan"))
    return Evidence(
        "Windows where it is not active, by what speaks for it",
        (
            f"{_share(float(np.mean(hard)))} of hard windows are taken for active ones by {windows.judge.name}",
        ),
        f"any windows where it is not active: {_share(random)}",
        None,
        (
            Table(["kind", "windows", "taken for active", "no answer"], rows),
            Table(["kind", "taken for active", "window"], shown),
        ),
        {"taken_for_active": shares, "windows": len(samples)},
    )


def control_of(found: Controlled | None) -> str:
    """What scores are held against."""
    if found is None or not len(found.control):
        return f"there is none: {'it has no score by detection' if found is None else found.kind}"
    verdict = "it stands out" if found.stands_out else "no finding: the control scores as much"
    return f"detection {found} ({verdict})"


def _share(value: float) -> str:
    return "no answer" if np.isnan(value) else f"{value:.0%}"


def _quoted(word: str) -> str:
    return '"' + word.lower().replace('"', '\\"') + '"'
