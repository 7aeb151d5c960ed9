"""Trains the transcoders that ship with the demo model, one for each layer, on the stories that it was trained on.

    python tools/demo_model/train_transcoders.py --text tinystories.txt \\
        --model mlxterp/demo/model --out mlxterp/demo/transcoders

The held-out stories (the ones in `mlxterp/demo/stories.txt`) are used only to measure them.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from train_model import CONTEXT, read_stories, split

import mlxterp
from mlxterp import SAE, InterpretableModel, SAECollection, SAETrainConfig


def main() -> None:
    """Trains all at once, measures them on held-out stories and saves them in float16."""
    options = _arguments()
    training, held_out = split(read_stories(options.text), seed=0)
    model = InterpretableModel(options.model)
    jobs = {
        f"layer_{layer}": (
            f"layers.{layer}.mlp.input",
            SAETrainConfig(
                d_hidden=768, k=16, tokens=options.tokens, batch_size=2048, seed=0, target=f"layers.{layer}.mlp_out"
            ),
        )
        for layer in range(model.n_layers)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlxterp.MlxterpWarning)  # stories over 256 tokens run in windows
        trained = model.train_saes(jobs, training, context_length=CONTEXT)
    saved = {int(name.removeprefix("layer_")): _described(sae, model, held_out) for name, sae in trained.items()}
    SAECollection(saved).save(options.out, dtype="float16")


def _described(sae: SAE, model: InterpretableModel, held_out: list[str]) -> SAE:
    """As the file will hold it, with what it is worth on stories that it was not trained on."""
    sae = sae.replace(weights=sae.weights.map(lambda array: array.astype(np.float16)))
    found = sae.evaluate(model, held_out, max_tokens=20_000)
    sae.metadata |= {
        "model": "mlxterp demo model",
        "text": "TinyStories (Eldan & Li), CDLA-Sharing-1.0",
        "held_out": {
            "explained_variance": round(found.explained_variance, 4),
            "loss_recovered_mean": round(found.loss_recovered_mean, 4),
            "tokens": found.tokens,
        },
    }
    sys.stdout.write(f"{sae}\n{found}\n")
    return sae


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="stories separated by <|endoftext|>")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=400_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
