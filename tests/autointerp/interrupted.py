"""Explaining and scoring in processes that are killed: `python -m tests.autointerp.interrupted INDEX FOLDER SEED`.

Each child goes on with the same call until it kills itself; the last one is left to finish. What was asked of explainer
and judge is written to `asked.jsonl`, one line for each process and batch, before it is answered.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from mlxterp import FeatureIndex, autointerp

KILLS = 10
TASKS = ("detection", "fuzzing", "intruder", "simulation")
PLAN = autointerp.Plan(negatives={"random": 4, "same_token": 4}, positives={"quantile": 5}, least=2)


class Mortal:
    """What dies after so many steps."""

    def __init__(self, log: Path, steps: int):
        self.log, self.left = log, steps

    def step(self, asked: list[str]) -> None:
        with open(self.log, "a", encoding="utf-8") as out:
            out.write(json.dumps([os.getpid(), asked]) + "\n")
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalExplainer(autointerp.TokenListExplainer):
    def __init__(self, mortal: Mortal):
        super().__init__(3)
        self._mortal = mortal

    def explain(self, feature_id, samples):
        self._mortal.step([f"explain {feature_id}"])
        return super().explain(feature_id, samples)


class MortalJudge(autointerp.TokenListJudge):
    def __init__(self, mortal: Mortal):
        self._mortal = mortal

    def probabilities(self, questions):
        self._mortal.step([f"{q.task} {q.explanation} {q.text} {q.runs} {len(q.others)}" for q in questions])
        return super().probabilities(questions)

    def strengths(self, questions):
        self._mortal.step([f"{q.task} {q.explanation} {q.text}" for q in questions])
        return super().strengths(questions)


def run(index: FeatureIndex, examples: autointerp.Examples, folder: Path, log: Path, steps: int) -> None:
    """The call, from its beginning or from where it was killed."""
    mortal = Mortal(log, steps)
    told = autointerp.explain(
        index, examples, MortalExplainer(mortal), examples=examples, path=folder / "told", verbose=False
    )
    scores = autointerp.score(
        index, told, MortalJudge(mortal), TASKS, examples=examples, path=folder / "scored", batch_size=10,
        verbose=False,
    )  # fmt: skip
    scores.save(folder / "scores.json")


def child(index: FeatureIndex, examples: autointerp.Examples, folder: Path, log: Path, steps: int) -> int:
    """Runs it in a process of its own; how that ended."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            run(index, examples, folder, log, steps)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    index, folder, draw = (
        FeatureIndex.open(sys.argv[1]),
        Path(sys.argv[2]),
        np.random.default_rng(int(sys.argv[3])),
    )
    features = [int(feature) for feature in index.live[10:400:130]]
    examples = autointerp.collect(index, features, PLAN, verbose=False)
    for name in ("whole", "killed"):
        (folder / name).mkdir()
    assert child(index, examples, folder / "whole", folder / "whole.jsonl", -1) == 0
    steps = len((folder / "whole.jsonl").read_text(encoding="utf-8").splitlines())
    points = np.sort(draw.choice(np.arange(1, steps), KILLS, replace=False))
    for n in np.diff(
        points, prepend=0
    ):  # a step that was under way is done again, so each child gets this far
        assert child(index, examples, folder / "killed", folder / "killed.jsonl", int(n)) == -signal.SIGKILL
    assert child(index, examples, folder / "killed", folder / "killed.jsonl", -1) == 0


if __name__ == "__main__":
    main()
