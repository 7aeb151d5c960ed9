"""Measures the transcoders of the demo model on stories that nothing was trained on, beside controls.

    python benchmarks/demo_transcoders.py [--transcoders FOLDER] [--prompts 8] [--backend torch]

First the reconstruction of each layer: what is left unexplained (FVU), beside the best linear map from the MLP's input
to its output alone, and beside an untrained transcoder of the same shape and L0 (with the best linear map behind it).
Then attribution graphs of the first words of some stories, in all four modes of `graph.validate`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

import mlxterp
from mlxterp import SAE, AttributionGraph, InterpretableModel, SAECollection
from mlxterp.demo import FOLDER
from mlxterp.sae.untrained import untrained_variance

TOKENS = 13
"""Of a prompt, with the one that opens it."""
MEASURED = 20
"""Stories that reconstructions are measured on."""
FEATURES = 32
"""Features of a graph that are taken away."""


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transcoders", type=Path, default=FOLDER / "transcoders")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--backend", choices=mlxterp.available_backends())
    options = parser.parse_args()
    model, _, stories = mlxterp.load_demo(options.backend)
    transcoders = SAECollection.load(options.transcoders, backend=options.backend)
    _say("| layer | FVU | linear map alone | untrained | L0 | loss recovered | silent features |")
    _say("|---|---|---|---|---|---|---|")
    for sae in transcoders.values():
        _say(_reconstruction(model, sae, stories[:MEASURED]))
    graphs = [_graph(model, transcoders, story) for story in stories[MEASURED : MEASURED + options.prompts]]
    _say(
        f"\n{len(graphs)} prompts of {TOKENS} tokens, {np.mean([len(g.features) for g in graphs]):.0f} features each."
    )
    for name in ("replacement_score", "completeness_score", "law"):
        values = [getattr(graph, name) for graph in graphs]
        _say(f"{name} {np.mean(values):.3g} ({min(values):.3g} to {max(values):.3g})")
    _say("\n| held | r | least to most | shuffled | slope | same sign |")
    _say("|---|---|---|---|---|---|")
    found = [graph.validate(FEATURES) for graph in graphs]
    for number, mode in enumerate(found[0].modes):
        modes = [one.modes[number] for one in found]
        r = [one.correlation.value for one in modes]
        _say(
            f"| {mode.held} | {np.mean(r):.3f} | {min(r):.3f} to {max(r):.3f}"
            f" | {np.mean([one.correlation.control_mean for one in modes]):+.3f}"
            f" | {np.median([one.slope for one in modes]):.2f} | {np.mean([one.same_sign for one in modes]):.2f} |"
        )


def _reconstruction(model: InterpretableModel, sae: SAE, stories: list[str]) -> str:
    """One layer's row."""
    found = sae.evaluate(model, stories, max_tokens=sum(len(model.tokenize(story)) for story in stories))
    x, y = (_activations(model, sae.metadata[name], stories[:8]) for name in ("component", "component_out"))
    layer = str(sae.component).split(".")[1]
    return (
        f"| {layer} | {found.fvu:.3f} | {1 - _linear(x, y):.3f}"
        f" | {1 - untrained_variance(x, y, sae.d_hidden, found.l0):.3f} | {found.l0:.1f}"
        f" | {found.loss_recovered_mean:.3f} | {found.dead_share:.1%} |"
    )


def _activations(model: InterpretableModel, component: str, stories: list[str]) -> np.ndarray:
    """(tokens, width), without each story's first."""
    found = (model.trace(story).activations[component] for story in stories)
    return np.concatenate([np.asarray(model.language_model.backend.get(one))[0, 1:] for one in found])


def _linear(x: np.ndarray, y: np.ndarray) -> float:
    """Variance that the best linear map explains: fitted on the even tokens, measured on the odd ones."""
    ones = np.ones((len(x), 1))
    x, y = np.concatenate([x, ones], axis=1).astype(np.float64), y.astype(np.float64)
    seen, judged = x[::2], x[1::2]
    gram = seen.T @ seen + 1e-3 * np.trace(seen.T @ seen) / x.shape[1] * np.eye(x.shape[1])
    guess = judged @ np.linalg.solve(gram, seen.T @ y[::2])
    wanted = y[1::2]
    return 1 - float(((wanted - guess) ** 2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum())


def _graph(model: InterpretableModel, transcoders: SAECollection, story: str) -> AttributionGraph:
    ids = model.tokenize(story)[:TOKENS]
    return model.attribution_graph(ids, transcoders, verbose=False)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlxterp.MlxterpWarning)
        main()
