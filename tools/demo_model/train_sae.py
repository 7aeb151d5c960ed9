"""Trains the SAE that ships with the demo model, on the stories that the model was trained on.

    python tools/demo_model/train_sae.py --text tinystories.txt \\
        --model mlxterp/demo/model --out mlxterp/demo/sae

The held-out stories (the ones in `mlxterp/demo/stories.txt`) are used only to measure it.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from train_model import CONTEXT, read_stories, split

import mlxterp
from mlxterp import InterpretableModel, SAETrainConfig

LAYER, COMPONENT = 1, "resid_post"


def main() -> None:
    """Trains, measures on held-out stories and saves in float16."""
    options = _arguments()
    training, held_out = split(read_stories(options.text), seed=0)
    model = InterpretableModel(options.model)
    config = SAETrainConfig(d_hidden=2048, k=16, epochs=options.epochs, batch_size=2048, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlxterp.MlxterpWarning)  # stories over 256 tokens run in windows
        sae = model.train_sae(
            LAYER, training, COMPONENT, config, context_length=CONTEXT, exclude=("first", "sinks")
        )
    # What is measured is what ships: the numbers as the file will hold them.
    sae = sae.replace(weights=sae.weights.map(lambda array: array.astype(np.float16)))
    found = sae.evaluate(model, held_out, max_tokens=sum(len(model.tokenize(text)) for text in held_out))
    sae.metadata |= {
        "model": "mlxterp demo model",
        "text": "TinyStories (Eldan & Li), CDLA-Sharing-1.0",
        "texts": len(training),
        "held_out": {
            "explained_variance": round(found.explained_variance, 4),
            "loss_recovered_mean": round(found.loss_recovered_mean, 4),
            "tokens": found.tokens,
            "features_seen": int((found.density > 0).sum()),
        },
    }
    sae.save(options.out, dtype="float16")
    sys.stdout.write(f"{sae}\n{found}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="stories separated by <|endoftext|>")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
