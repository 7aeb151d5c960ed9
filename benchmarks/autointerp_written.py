"""Generation test and sensitivity without a language model: word lists, and sentences of texts outside the index.

    pip install ".[cpu]" && python benchmarks/autointerp_written.py [--features 60] [--seeds 3]

Features of the embedded SAE, explained by `TokenListExplainer` from an index of 150 stories; `CorpusWriter` takes
sentences of the other stories, and the model and SAE say on which of them each feature fires. Beside it stand detection
on the same features, chance, and the same figures on the texts chosen for other features.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report

from mlxterp import autointerp
from mlxterp.autointerp import CorpusWriter, Plan

_STORIES = 150
_TASKS = ("detection", "generation", "sensitivity")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    warnings.simplefilter("ignore", mlxterp.MlxterpWarning)  # of features with too few windows
    model, sae, texts = mlxterp.load_demo()
    index = model.build_index(sae, [text[:700] for text in texts[:_STORIES]], verbose=False)
    rows: dict[str, Any] = {}
    for seed in range(asked.seeds):
        chosen = np.random.default_rng(seed).choice(index.live, asked.features, replace=False).tolist()
        examples = autointerp.collect(index, chosen, Plan(seed=seed), verbose=False)
        told = index.explain(chosen, examples=examples, verbose=False)
        writer = CorpusWriter(texts[_STORIES:], seed=seed)
        scores = index.score(told, scorers=_TASKS, writer=writer, examples=examples, verbose=False)
        for task in _TASKS:
            mean = scores.mean(task)
            others = [one.details[task].control for one in scores if task in one.details]
            control = np.mean(np.concatenate(others)) if sum(map(len, others)) else np.nan
            beside = "" if np.isnan(control) else f"; texts of other features {control:.3f}"
            rows[f"seed {seed}, {task}, {0 if mean is None else mean.n} features"] = f"{mean}{beside}"
    report(
        "autointerp_written",
        rows,
        ["generation: balanced accuracy; sensitivity: share of texts; 95 % over features"],
    )


if __name__ == "__main__":
    main()
