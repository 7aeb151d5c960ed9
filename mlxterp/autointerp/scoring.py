"""`score`: what explanations are worth by a judge, with chance, controls, intervals, draws and failures beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..concepts.explanations import Explanation, Score
from ..core import checks
from ..core.controls import DRAWS, Controlled
from ..core.digests import digest_of
from ..core.integers import is_listable
from ..core.options import names_options
from ..core.progress import hidden
from ..core.version import version
from ..errors import InputError
from ..index.feature_index import FeatureIndex
from ..index.peaks import attached
from .asking import Asker
from .examples import Drawn, Examples, Sample, described, examples_for
from .feature_score import Detail, FeatureScore
from .finished import Finished
from .generation import TESTS, scores_by_tests
from .judged import Judged
from .judges import Judge, PromptingJudge, TokenListJudge, check_able, check_does
from .kept_writer import KeptWriter
from .plan import Plan, plan_of
from .prompts import VERSION, rendered
from .scorers import SCORERS, Item
from .scores import Scores
from .shuffling import CONTROLS, TEXTS, Unit, applies, exchanged, held_against, units
from .writers import Writer
from .written_texts import VERSION as WRITTEN


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
    controls: bool | str | Sequence[str] = True,
    path: str | os.PathLike | None = None,
    batch_size: int = 256,
    verbose: bool = True,
) -> Scores:
    """Scores explanations on windows that they were not made from.

    Args:
        index: Of the features; with its SAE attached, where the plan asks for neighbours.
        explanations: One or many, by people or by `explain`.
        judge: Who is asked; None takes `TokenListJudge()`, which looks for the words that an explanation lists.
        scorers: Of "detection", "fuzzing", "intruder", "neighbour_precision", "simulation" (of a judge that gives
            strengths: a word list, a model here, a server with logprobs), "surprisal" (a model here), "embedding"
            (an `EmbeddingJudge`), and, of a writer, "generation" and "sensitivity". None takes detection, intruder
            and, where there is a writer, generation.
        writer: Who writes the texts of "generation" and "sensitivity"; a judge that writes too, or a `CorpusWriter`.
            The index's own model and SAE are run on them.
        plan: Of the windows. None takes the one that the first explanation was made by, so that the texts that
            explained it do not score it; else `Plan()`.
        examples: What `collect` drew, in place of `plan`.
        controls: What the scores are held against: "explanations" (those of other features) and "tokens" (windows whose
            tokens have changed places). True takes both, each on a sample of twenty explanations and draws; False none.
            What is written has a control of its own, the texts of other features, whatever is given here.
        path: A file that keeps every answer and text as it comes. The same call with it goes on after an interruption,
            and asks nothing again but what was under way.
        batch_size: Questions that a judge is given at a time. No answer depends on it, but those of a judge that is
            asked of several windows in one prompt.
        verbose: Whether bars show how many are done.

    Returns:
        Each explanation with its scores; features with too few windows with the reason.

    Raises:
        InputError: No explanations, an unknown scorer or control, a scorer that the judge cannot do or that lacks its
            writer (before anything is asked), `plan` and `examples` together, examples of another index or without one
            of the features, a judge that gives something else than asked, or a file of another call.
        UnknownFeatureError: A feature lies outside [0, d_hidden).
        FeatureIndexError: Texts are to be written, and the index has no model and SAE.

    Examples:
        >>> from mlxterp import autointerp
        >>> told = index.explain(ball, plan=autointerp.Plan(least=1), verbose=False)
        >>> found = index.score(told, scorers=["detection"], verbose=False)
        >>> found[0].scores["detection"].value > 0.5
        True
    """
    started = time.time()
    if not isinstance(explanations, Explanation) and not is_listable(explanations):
        raise InputError(
            f"explanations= is {explanations!r:.60}; expected Explanation values, as `explain` gives."
        )
    several = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not several or not all(isinstance(one, Explanation) for one in several):
        raise InputError("explanations= is a list of Explanation values, as `explain` gives them.")
    tasks, kinds = _tasks(scorers, writer), controls_of(controls)
    size = checks.count(batch_size, "batch_size")
    judge = TokenListJudge() if judge is None else judge
    check_does(
        judge, "judge", "probabilities", "TokenListJudge(), LocalJudge(model), OpenAIJudge(url, model)"
    )
    if writer is not None:
        check_does(writer, "writer", "write", "CorpusWriter(texts), or a judge that writes")
    if writer is not None and set(tasks) & {*TESTS}:
        attached(index)
    for task in asked_of(tasks):
        check_able(judge, task, SCORERS[task].answers)
    features = list(dict.fromkeys(one.feature_id for one in several))
    if examples is None and plan is None:
        plan = plan_of(several[0])
    drawn = examples_for(index, features, plan, examples, verbose)
    if missing := [feature for feature in features if feature not in drawn]:
        raise InputError(
            f"examples= has no windows of feature {missing[0]}; collect them for all that are explained."
        )
    run = _Run(index, drawn, judge, Finished(path, _about(several, drawn, judge, size)), size, writer)
    found = run.scored(several, tasks, verbose)
    scores = Scores(tuple(found), judge.name, drawn.plan.seed, provenance=run.provenance(several, tasks))
    held, without = run.controls(scores, kinds, tasks)
    return replace(
        scores, controls=held, without=without, cost=run.cost(time.time() - started), writer=run.wrote(tasks)
    )


def asked_of(tasks: Iterable[str]) -> list[str]:
    """The scorers that ask a judge."""
    return [task for task in tasks if task in SCORERS]


def _tasks(scorers: Sequence[str] | None, writer: Writer | None) -> list[str]:
    """The names of scorers, each once.

    Raises:
        InputError: One is unknown, or lacks its writer.
    """
    if scorers is None:
        return ["detection", "intruder", *(["generation"] if writer is not None else [])]
    tasks = _several(scorers, "A scorer", [*SCORERS, *TESTS])
    if not tasks:
        raise InputError("scorers= is empty. Name at least one, or leave it out.")
    if writer is None and (lacking := [task for task in tasks if task in TESTS]):
        raise InputError(
            f"{lacking[0]!r} needs texts: writer=judge where the judge can write, or"
            " writer=autointerp.CorpusWriter(texts), which takes sentences that are there."
        )
    return tasks


def controls_of(given: Any) -> list[str]:
    """The controls that `controls=` names.

    Raises:
        InputError: There is no such control.
    """
    if isinstance(given, bool):
        return list(CONTROLS) if given else []
    return _several(given, "A control", CONTROLS)


def _several(given: Any, name: str, known: Collection[str]) -> list[str]:
    names = list(given) if is_listable(given) else [given]
    return list(dict.fromkeys(checks.choice(one, name, known) for one in names))


def _about(several: Sequence[Explanation], drawn: Examples, judge: Judge, size: int) -> dict[str, Any]:
    """What answers depend on, for the file that keeps them."""
    windows = [
        [
            feature,
            [[s.example.text_id, s.example.position, s.active] for samples in one.draws for s in samples],
        ]
        for feature, one in drawn.items()
    ]
    return {
        "call": "score", "index": dict(drawn.index), "judge": judge.name, "batch_size": size,
        "explanations": digest_of({"said": [[one.feature_id, one.text] for one in several]}),
        "windows": digest_of({"drawn": windows, "before": drawn.plan.before, "after": drawn.plan.after}),
    }  # fmt: skip


class _Run:
    """One call of `score`."""

    def __init__(
        self, index: FeatureIndex, drawn: Examples, judge: Judge, finished: Finished, size: int, writer: Writer | None
    ):  # fmt: skip
        self._index, self._drawn, self._judge = index, drawn, judge
        self._asker = Asker(judge, size, finished)
        self._writer = None if writer is None else KeptWriter(writer, finished)
        self._seed = drawn.plan.seed
        self._shown: dict[str, str] = {}

    def scored(
        self, several: Sequence[Explanation], tasks: Sequence[str], verbose: bool
    ) -> list[FeatureScore]:
        from tqdm.auto import tqdm

        written = scores_by_tests(self._index, several, self._writer, tasks, self._drawn)
        with tqdm(several, desc="score", unit="explanation", disable=hidden(verbose), delay=1.0) as bar:
            return [self._feature(number, one, tasks, written[number]) for number, one in enumerate(bar)]

    def _feature(
        self, number: int, explanation: Explanation, tasks: Sequence[str], written: Mapping[str, tuple[Score, Detail]]
    ) -> FeatureScore:  # fmt: skip
        drawn = self._drawn[explanation.feature_id]
        firings = int(self._index.stats(explanation.feature_id).count)
        if drawn.reason:
            return FeatureScore(explanation, reason=drawn.reason, firings=firings)
        found = {}
        for task in tasks:
            if task in SCORERS:
                scored = self._judged(f"{number}/{task}", task, explanation, drawn).score(self._seed)
            else:
                scored = written.get(task)
            if scored is not None:
                found[task] = scored
        told = explanation.scored(**{task: value for task, (value, _) in found.items()})
        return FeatureScore(told, {task: detail for task, (_, detail) in found.items()}, "", firings)

    def _judged(self, key: str, task: str, explanation: Explanation, drawn: Drawn) -> Judged:
        """The answers on all draws."""
        items: list[Item] = []
        answers: list[np.ndarray] = []
        which: list[int] = []
        for number, samples in enumerate(drawn.draws):
            mine = self._items(task, explanation.text, explanation.feature_id, samples, number)
            items += mine
            answers += self._asker.answers(f"{key}/{number}", mine, SCORERS[task].answers)
            which += [number] * len(mine)
            if mine and task not in self._shown:
                self._shown[task] = self._rendered(mine)
        return Judged(task, items, answers, np.array(which, dtype=np.int64))

    def _rendered(self, items: Sequence[Item]) -> str:
        """The first that is asked of a draw."""
        if isinstance(self._judge, PromptingJudge):
            return self._judge.prompts([question for item in items for question in item.questions])[0]
        return rendered(items[0].questions[0])

    def _items(
        self, task: str, text: str, feature: int, samples: Sequence[Sample], number: int
    ) -> list[Item]:
        return SCORERS[task].ask(text, samples, np.random.default_rng([self._seed, feature, number]))

    # -- controls -----------------------------------------------------------------------------

    def controls(
        self, scores: Scores, kinds: Sequence[str], tasks: Sequence[str]
    ) -> tuple[dict[str, dict[str, Controlled]], dict[str, str]]:
        """Each score beside each control, and why some are missing."""
        found: dict[str, dict[str, Controlled]] = {}
        without = {CONTROLS[kind]: "it was left out (controls=)" for kind in CONTROLS if kind not in kinds}
        for kind in kinds:
            for task in [task for task in asked_of(tasks) if applies(kind, task)]:
                mean = scores.mean(task)
                if mean is None:
                    continue
                scored = [one.explanation for one in scores if task in one.details]
                several, reason = units(kind, scored, self._drawn, self._seed)
                values = [self._unit(f"{kind}/{n}/{task}", task, unit) for n, unit in enumerate(several)]
                if held := held_against(mean, values, CONTROLS[kind], self._seed):
                    found.setdefault(task, {})[kind] = held
                else:
                    without[f"{CONTROLS[kind]} ({task})"] = reason or "the judge failed on too much of it"
        for task in [task for task in scores.tasks if task in TESTS]:
            held, reason = self._by_texts(scores, task)
            if held is None:
                without[f"{TEXTS} ({task})"] = reason
            else:
                found[task] = {"texts": held}
        return found, without

    def _by_texts(self, scores: Scores, task: str) -> tuple[Controlled | None, str]:
        """A mean beside means of features on the texts that were written for others."""
        mean = scores.mean(task)
        values = [float(x) for one in scores if task in one.details for x in one.details[task].control]
        held = None if mean is None else held_against(mean, values, TEXTS, self._seed)
        return held, f"{DRAWS} are wanted, and there are {len(values)}; score more features together"

    def _unit(self, key: str, task: str, unit: Unit) -> float:
        feature = unit.explanation.feature_id
        samples = self._drawn[feature].draws[unit.number]
        items = self._items(task, unit.text, feature, samples, unit.number)
        if unit.seed is not None:
            items = exchanged(items, samples, [self._seed, unit.seed])
        answers = self._asker.answers(key, items, SCORERS[task].answers)
        return (
            Judged(task, items, answers, np.zeros(len(items), dtype=np.int64)).value
            if items
            else float("nan")
        )

    # -- where it comes from ------------------------------------------------------------------

    def provenance(self, several: Sequence[Explanation], tasks: Sequence[str]) -> dict[str, Any]:
        """All that the scores depend on."""
        return {
            "mlxterp": version(), "judge": self._judge.name, "scorers": list(tasks),
            "explainers": sorted({one.source for one in several}), "plan": asdict(self._drawn.plan),
            "seed": self._seed, "index": described(self._index),
            "prompts": {"digest": VERSION, "rendered": dict(self._shown)}, **self._writing(tasks),
        }  # fmt: skip

    def _writing(self, tasks: Iterable[str]) -> dict[str, Any]:
        """Who wrote texts, and what was asked; nothing where none were."""
        if self._writer is None or not self.wrote(tasks):
            return {}
        return {
            "writer": self._writer.name, "prompts_to_write": {"digest": WRITTEN, "rendered": dict(self._writer.shown)}
        }  # fmt: skip

    def wrote(self, tasks: Iterable[str]) -> str:
        """Who wrote texts; "" where none were."""
        return self._writer.name if self._writer is not None and {*tasks} & {*TESTS} else ""

    def cost(self, seconds: float) -> dict[str, Any]:
        """What it took."""
        who = [self._asker, *([] if self._writer is None else [self._writer])]
        tokens_in, tokens_out = (sum(one.tokens[side] for one in who) for side in (0, 1))
        return {
            "questions": sum(one.asked for one in who), "tokens_in": tokens_in, "tokens_out": tokens_out,
            "seconds": round(seconds, 3), "done": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
