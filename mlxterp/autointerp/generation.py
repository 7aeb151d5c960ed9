"""Generation test and sensitivity: texts are written, and our own model and SAE say on which of them a feature fires.

Their truth is exact. The generation test asks for texts that fit an explanation and for near misses; what fires on the
first and not on the second is described by it. Sensitivity (Tian et al., "Measuring Sparse Autoencoder Feature
Sensitivity", 2025) shows examples and no explanation: the share of texts like these on which the feature fires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from ..concepts.explanations import Explanation, Score
from ..core.controls import bootstrap
from ..errors import warn
from ..index.feature_index import FeatureIndex
from ..index.peaks import attached, peaks_on
from ..index.windows import Windows
from . import measures
from .examples import Drawn, Examples, Sample
from .feature_score import Detail
from .writers import Writer
from .written_texts import Wanted

TESTS = ("generation", "sensitivity")
"""Scorers that need a writer, and no judge."""
TEXTS = 10
"""That should fire, and as many near misses, over all draws."""
TESTED_BY = "tested_by"
"""In the provenance of an explanation that was chosen among candidates by a generation test: who wrote its texts."""
_LIKE, _EXAMPLES = 3, 8
"""Windows that show what kind of texts are wanted; that sensitivity shows."""
_WINDOWS = 200
"""Of the index, on which chance is measured."""
_OTHERS = 20
"""Explanations whose texts are the control, at most."""
Job = Sequence[tuple[Wanted, ...]]
"""What is wanted for one explanation: for each draw texts that should fire and, in the generation test, near misses."""


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """What a feature did on texts that were written.

    Attributes:
        fitting: float32, (texts,): its largest activation on each text that should fire; 0 where it does not.
        near: float32, (texts,): the same of the near misses.
        draws: int64, (texts,): the draw of each fitting text, then of each near miss.
        lost: Fitting texts and near misses that were asked for and not written.
    """

    fitting: np.ndarray
    near: np.ndarray
    draws: np.ndarray
    lost: tuple[int, int] = (0, 0)

    @property
    def active(self) -> np.ndarray:
        """bool, (texts,): which should fire."""
        return np.arange(len(self.draws)) < len(self.fitting)

    @property
    def fires(self) -> np.ndarray:
        """bool, (texts,): on which it does."""
        return np.concatenate([self.fitting, self.near]) != 0

    @property
    def credit(self) -> np.ndarray:
        """float64, (texts,): 1 where it does what it should."""
        return (self.fires == self.active).astype(np.float64)

    @property
    def precision(self) -> float:
        """Share of the fitting texts on which it fires; NaN without any."""
        return float((self.fitting != 0).mean()) if len(self.fitting) else float("nan")

    @property
    def recall(self) -> float:
        """Share of fitting texts among those on which it fires; NaN where it never does."""
        return float(self.active[self.fires].mean()) if self.fires.any() else float("nan")

    @property
    def f1(self) -> float:
        """Of the two: 0 where it fires on no fitting text, NaN without any."""
        n = len(self.fitting)
        return 2 * int((self.fitting != 0).sum()) / (n + int(self.fires.sum())) if n else float("nan")


@dataclass(frozen=True, eq=False, slots=True)
class Texts:
    """Texts that were written, and what features do on them."""

    written: Mapping[int, list[str]]
    """By `id` of what was wanted."""
    rows: Mapping[str, int]
    columns: Mapping[int, int]
    peaks: np.ndarray
    """float32, (rows, columns)."""

    def tested(self, feature: int, job: Job) -> Outcome:
        """What a feature does on the texts of a job, its own or another's."""
        sides = [
            [(text, k) for k, draw in enumerate(job) for text in self._of(draw, side)] for side in (0, 1)
        ]
        asked = [sum(draw[side].n for draw in job if side < len(draw)) for side in (0, 1)]
        column = self.columns[feature]
        fitting, near = (self.peaks[[self.rows[text] for text, _ in side], column] for side in sides)
        draws = np.array([k for side in sides for _, k in side], dtype=np.int64)
        return Outcome(fitting, near, draws, (asked[0] - len(fitting), asked[1] - len(near)))

    def _of(self, draw: tuple[Wanted, ...], side: int) -> list[str]:
        return self.written[id(draw[side])] if side < len(draw) else []


def written(
    index: FeatureIndex, features: Sequence[int], jobs: Sequence[Job], writer: Writer, seed: int
) -> Texts:
    """Has the texts of all jobs written in one call, and runs the model once on all of them.

    Raises:
        FeatureIndexError: The index has no model and SAE attached.
    """
    attached(index)
    flat = [wanted for job in jobs for draw in job for wanted in draw]
    longest = max((wanted.max_tokens for wanted in flat), default=1)
    replies = writer.write([wanted.prompt for wanted in flat], longest, seed=seed) if flat else []
    texts = {id(wanted): wanted.read(reply) for wanted, reply in zip(flat, replies, strict=True)}
    for job in jobs:
        _once(job, texts)
    every = list(dict.fromkeys(text for several in texts.values() for text in several))
    ids = list(dict.fromkeys(features))
    peaks = peaks_on(index, every, ids)
    return Texts(
        texts,
        {text: row for row, text in enumerate(every)},
        {feature: column for column, feature in enumerate(ids)},
        peaks,
    )


def _once(job: Job, texts: dict[int, list[str]]) -> None:
    """Leaves out a text of a job that an earlier draw, or the other side, has too."""
    seen: set[str] = set()
    for draw in job:
        for wanted in draw:
            texts[id(wanted)] = [text for text in texts[id(wanted)] if text not in seen]
            seen.update(texts[id(wanted)])


def generation_job(
    explanation: str, known: Sequence[Sample], like: Sequence[Sequence[Sample]], part: int | None = None
) -> Job:
    """What a generation test wants.

    Args:
        known: Windows whose texts are not to be copied.
        like: For each draw, windows that show what kind of texts these are.
        part: See `Prompt`.
    """
    n = ceil(TEXTS / len(like))
    texts = tuple(dict.fromkeys(sample.example.text for sample in known))
    job = []
    for k, samples in enumerate(like):
        shown = tuple(one.example for one in samples[:_LIKE])
        job.append(
            tuple(
                Wanted(task, n, explanation, like=shown, known=texts, draw=k, part=part)
                for task in ("fitting", "near_miss")
            )
        )
    return job


def sensitivity_job(drawn: Drawn) -> Job:
    """What sensitivity wants: texts like the positives of each draw."""
    n = ceil(TEXTS / len(drawn.draws))
    job = []
    for k, samples in enumerate(drawn.draws):
        shown = tuple(sample.example for sample in samples if sample.active)[:_EXAMPLES]
        known = tuple(dict.fromkeys(one.text for one in shown))
        job.append((Wanted("similar", n, examples=shown, known=known, draw=k),))
    return job


def scores_by_tests(
    index: FeatureIndex,
    explanations: Sequence[Explanation],
    writer: Writer | None,
    tasks: Sequence[str],
    examples: Examples,
) -> list[dict[str, tuple[Score, Detail]]]:
    """Scores by the tests among `tasks`, for each explanation; none where there are too few windows or no texts.

    Raises:
        FeatureIndexError: The index has no model and SAE attached.
    """
    found: list[dict[str, tuple[Score, Detail]]] = [{} for _ in explanations]
    kept = [i for i, one in enumerate(explanations) if not examples[one.feature_id].reason]
    if writer is None or not kept:
        return found
    seed = examples.plan.seed
    features = [explanations[i].feature_id for i in kept]
    for task in (task for task in TESTS if task in tasks):
        jobs = [_job(task, explanations[i], examples[explanations[i].feature_id]) for i in kept]
        texts = written(index, features, jobs, writer, seed)
        for place, i in enumerate(kept):
            others = [job for k, job in enumerate(jobs) if features[k] != features[place]][:_OTHERS]
            control = np.array([_value(task, texts.tested(features[place], job)) for job in others])
            own = texts.tested(features[place], jobs[place])
            chance = 0.5 if task == "generation" else _share_of_windows(index, features[place], examples)
            scored = _scored(task, own, control[~np.isnan(control)], chance, len(jobs[place]), seed)
            if scored is not None:
                found[i][task] = scored
        if lost := [i for i in kept if task not in found[i]]:
            warn(
                f"{len(lost)} of {len(kept)} explanations have no {task} score, as {writer.name} wrote no texts that"
                f" count; first for feature {explanations[lost[0]].feature_id}."
            )
    return found


def _job(task: str, explanation: Explanation, drawn: Drawn) -> Job:
    if task == "sensitivity":
        return sensitivity_job(drawn)
    inactive = [[one for one in samples if not one.active] for samples in drawn.draws]
    plain = [[one for one in samples if one.kind == "random"] or samples for samples in inactive]
    part = 0 if TESTED_BY in explanation.provenance else None
    return generation_job(explanation.text, drawn.explaining, plain, part)


def _value(task: str, own: Outcome) -> float:
    """Balanced accuracy, or the share of texts on which it fires; NaN where texts are missing."""
    if task == "sensitivity":
        return own.precision
    return measures.balanced(own.credit, own.active) if len(own.fitting) and len(own.near) else float("nan")


def _scored(
    task: str, own: Outcome, control: np.ndarray, chance: float, n_draws: int, seed: int
) -> tuple[Score, Detail] | None:
    value = _value(task, own)
    if np.isnan(value):
        return None
    each = [_value(task, _draw_of(own, k)) for k in range(n_draws)]
    n, lost = len(own.draws), sum(own.lost)
    if task == "sensitivity":
        interval = bootstrap(own.credit, seed=seed)
        as_wrong = float(own.credit.sum() / (n + lost))
        detail = Detail(np.array(each), as_wrong, recall=value, control=control)
    else:
        interval = measures.interval(measures.balanced_figure(own.credit, own.active), own.active, seed)
        missing = [np.zeros(own.lost[0]), np.zeros(own.lost[1])]
        whole = [own.credit[own.active], missing[0], own.credit[~own.active], missing[1]]
        should = np.arange(n + lost) < len(own.fitting) + own.lost[0]
        detail = Detail(
            np.array(each), measures.balanced(np.concatenate(whole), should),
            measures.auroc(np.abs(np.concatenate([own.fitting, own.near])), own.active), own.precision, own.recall,
            f1=own.f1, control=control,
        )  # fmt: skip
    return Score(value, chance, interval, n, lost, seed), detail


def _draw_of(own: Outcome, k: int) -> Outcome:
    mine, n = own.draws == k, len(own.fitting)
    return Outcome(own.fitting[mine[:n]], own.near[mine[n:]], own.draws[mine])


def _share_of_windows(index: FeatureIndex, feature: int, examples: Examples) -> float:
    """Share of windows of the index, drawn evenly, in which a feature fires."""
    plan = examples.plan
    windows = Windows(index, plan.before, plan.after)
    places = windows.any_places(np.random.default_rng(plan.seed))
    fires = [windows.is_active(feature, *place) for _, place in zip(range(_WINDOWS), places, strict=False)]
    return float(np.mean(fires)) if fires else 0.0
