"""`score`: what explanations are worth by a judge, with chance, intervals, draws and failures beside every figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..concepts.explanations import Explanation, Score
from ..core import checks
from ..core.options import names_options
from ..core.progress import hidden
from ..errors import InputError
from ..index.feature_index import FeatureIndex
from . import measures
from .examples import Drawn, Examples, examples_for
from .generation import TESTS, scores_by_tests
from .judges import Judge, TokenListJudge
from .plan import Plan, plan_of
from .scorers import CHANCE, CLASSES, SCORERS, Item
from .scorers import credit as credit_of
from .scores import Detail, FeatureScore, Scores
from .writers import Writer


@names_options
def score(
    index: FeatureIndex,
    explanations: Explanation | Iterable[Explanation],
    judge: Judge | None = None,
    scorers: Sequence[str] | None = None,
    *,
    writer: Writer | None = None,
    plan: Plan | None = None,
    examples: Examples | None = None,
    batch_size: int = 256,
    verbose: bool = True,
) -> Scores:
    """Scores explanations on windows that they were not made from.

    Args:
        index: Of the features; with its SAE attached, where the plan asks for neighbours.
        explanations: One or many, by people or by `explain`.
        judge: Who is asked; None takes `TokenListJudge()`, which looks for the words that an explanation lists.
        scorers: Of "detection", "fuzzing", "intruder", "generation" and "sensitivity"; None takes detection, intruder
            and, where there is a writer, generation.
        writer: Who writes the texts of "generation" and "sensitivity"; a judge that writes too, or a `CorpusWriter`.
            The index's own model and SAE are run on them.
        plan: Of the windows. None takes the one that the first explanation was made by, so that the texts that
            explained it do not score it; else `Plan()`.
        examples: What `collect` drew, in place of `plan`.
        batch_size: Questions that a judge is given at a time; no answer depends on it.
        verbose: Whether bars show how many are done.

    Returns:
        Each explanation with its scores; features with too few windows with the reason.

    Raises:
        InputError: No explanations, an unknown scorer or one that lacks its writer, `plan` and `examples` together,
            examples of another index or without one of the features, or a judge that gives something else than
            probabilities.
        UnknownFeatureError: A feature lies outside [0, d_hidden).
        FeatureIndexError: Texts are to be written, and the index has no model and SAE.

    Examples:
        >>> from mlxterp import autointerp
        >>> told = index.explain(ball, plan=autointerp.Plan(least=1), verbose=False)
        >>> found = index.score(told, scorers=["detection"], verbose=False)
        >>> found[0].scores["detection"].value > 0.5
        True
    """
    from tqdm.auto import tqdm

    several = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not several or not all(isinstance(one, Explanation) for one in several):
        raise InputError("explanations= is a list of Explanation values, as `explain` gives them.")
    tasks = _tasks(scorers, writer)
    size = checks.count(batch_size, "batch_size")
    judge = TokenListJudge() if judge is None else judge
    features = list(dict.fromkeys(one.feature_id for one in several))
    if examples is None and plan is None:
        plan = plan_of(several[0])
    drawn = examples_for(index, features, plan, examples, verbose)
    if missing := [feature for feature in features if feature not in drawn]:
        raise InputError(
            f"examples= has no windows of feature {missing[0]}; collect them for all that are explained."
        )
    written = scores_by_tests(index, several, writer, tasks, drawn)
    asked = [task for task in tasks if task in SCORERS]
    with tqdm(several, desc="score", unit="explanation", disable=hidden(verbose), delay=1.0) as bar:
        found = [
            _with(_scored(one, drawn[one.feature_id], drawn.plan.seed, judge, asked, size), more)
            for one, more in zip(bar, written, strict=True)
        ]
    name = writer.name if writer is not None and set(tasks) & set(TESTS) else ""
    return Scores(tuple(found), judge.name, drawn.plan.seed, name)


def _tasks(scorers: Sequence[str] | None, writer: Writer | None) -> list[str]:
    """The names of scorers, each once.

    Raises:
        InputError: One is unknown, or lacks its writer.
    """
    if scorers is None:
        return ["detection", "intruder", *(["generation"] if writer is not None else [])]
    several = [scorers] if isinstance(scorers, str) else list(scorers)
    tasks = list(dict.fromkeys(checks.choice(task, "A scorer", [*SCORERS, *TESTS]) for task in several))
    if writer is None and (lacking := [task for task in tasks if task in TESTS]):
        raise InputError(
            f"{lacking[0]!r} needs texts: writer=judge where the judge can write, or"
            " writer=autointerp.CorpusWriter(texts), which takes sentences that are there."
        )
    return tasks


def _with(one: FeatureScore, more: Mapping[str, tuple[Score, Detail]]) -> FeatureScore:
    """A result with those of the tests that were written."""
    if not more:
        return one
    scored = one.explanation.scored(**{task: value for task, (value, _) in more.items()})
    return FeatureScore(scored, {**one.details, **{task: detail for task, (_, detail) in more.items()}})


def _scored(
    explanation: Explanation, drawn: Drawn, seed: int, judge: Judge, tasks: Sequence[str], size: int
) -> FeatureScore:
    if drawn.reason:
        return FeatureScore(explanation, reason=drawn.reason)
    found = {}
    for task in tasks:
        draws = [
            SCORERS[task](
                explanation.text, samples, np.random.default_rng([seed, explanation.feature_id, number])
            )
            for number, samples in enumerate(drawn.draws)
        ]
        found[task] = _score(task, draws, [_answers(judge, items, size) for items in draws], seed)
    known = {task: one for task, one in found.items() if one is not None}
    scored = explanation.scored(**{task: value for task, (value, _) in known.items()})
    return FeatureScore(scored, {task: detail for task, (_, detail) in known.items()})


def _answers(judge: Judge, items: Sequence[Item], size: int) -> list[np.ndarray]:
    """Probabilities of each item's questions.

    Raises:
        InputError: The judge gives something else.
    """
    questions = [question for item in items for question in item.questions]
    parts = []
    for start in range(0, len(questions), size):
        asked = questions[start : start + size]
        given = np.asarray(judge.probabilities(asked), dtype=np.float64)
        if given.shape != (len(asked),) or ((given < 0) | (given > 1)).any():
            raise InputError(
                f"The judge {judge.name!r} gave shape {given.shape} for {len(asked)} questions; expected a probability"
                " in [0, 1], or NaN, for each."
            )
        parts.append(given)
    whole = np.concatenate(parts) if parts else np.zeros(0)
    ends = np.cumsum([len(item.questions) for item in items])
    return np.split(whole, ends[:-1]) if len(items) else []


def _score(
    task: str, draws: Sequence[Sequence[Item]], answers: Sequence[Sequence[np.ndarray]], seed: int
) -> tuple[Score, Detail] | None:
    """The score over all draws; None where nothing was judged."""
    items = [item for several in draws for item in several]
    given = [answer for several in answers for answer in several]
    which = np.array([number for number, several in enumerate(draws) for _ in several], dtype=np.int64)
    active = np.array([item.sample.active for item in items], dtype=bool)
    credit = np.array([credit_of(item, answer) for item, answer in zip(items, given, strict=True)])
    judged = ~np.isnan(credit)
    value = measures.balanced(credit[judged], active[judged])
    if not np.isfinite(value) or (CLASSES[task] == 2 and len(set(active[judged].tolist())) < 2):
        return None
    interval = measures.balanced_interval(credit[judged], active[judged], seed)
    each = [
        measures.balanced(credit[judged & (which == number)], active[judged & (which == number)])
        for number in range(len(draws))
    ]
    as_wrong = measures.balanced(np.nan_to_num(credit), active)
    kept = [k for k, one in enumerate(judged) if one]
    detail = _detail(
        task, [items[k] for k in kept], [given[k] for k in kept], credit[judged], np.array(each), as_wrong
    )
    return Score(value, CHANCE[task], interval, len(kept), len(items) - len(kept), seed), detail


def _detail(
    task: str, items: Sequence[Item], answers: Sequence[np.ndarray], credit: np.ndarray, draws: np.ndarray,
    as_wrong: float,
) -> Detail:  # fmt: skip
    kinds = [("active: " if item.sample.active else "inactive: ") + item.sample.kind for item in items]
    by_kind = {kind: float(credit[[k == kind for k in kinds]].mean()) for kind in dict.fromkeys(kinds)}
    if CLASSES[task] == 1:
        return Detail(draws, as_wrong, by_kind=by_kind)
    given, active = np.array([p[0] for p in answers]), np.array([item.sample.active for item in items])
    tenths = np.array([-1 if item.sample.tenth is None else item.sample.tenth for item in items])
    by_tenth = {int(t): float(credit[tenths == t].mean()) for t in np.unique(tenths[tenths >= 0])}
    return Detail(
        draws, as_wrong, measures.auroc(given, active), measures.precision(given, active),
        measures.recall(given, active), by_tenth, by_kind,
    )  # fmt: skip
