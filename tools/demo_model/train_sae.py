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
from train_model import read_stories, split

import mlxterp
from mlxterp import InterpretableModel, SAETrainConfig
from mlxterp.sae import explained_variance

LAYER, COMPONENT = 1, "resid_post"


def main() -> None:
    """Trains, measures on held-out stories and saves."""
    options = _arguments()
    training, held_out = split(read_stories(options.text), seed=0)
    model = InterpretableModel(options.model)
    config = SAETrainConfig(d_hidden=2048, k=16, epochs=options.epochs, batch_size=2048, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlxterp.MlxterpWarning)  # stories over 256 tokens run in windows
        sae = model.train_sae(LAYER, training, COMPONENT, config, exclude=("first", "sinks"))
    path = f"layers.{LAYER}.{COMPONENT}"
    values = [np.array(_activations(model, text, path)) for text in held_out]
    x = np.concatenate(values)
    features = sae.encode_sparse(x)
    sae.metadata |= {
        "model": "mlxterp demo model",
        "text": "TinyStories (Eldan & Li), CDLA-Sharing-1.0",
        "held_out": {
            "explained_variance": round(float(explained_variance(sae, x)), 4),
            "tokens": len(x),
            "features_seen": len(np.unique(features.indices)),
        },
    }
    sae.save(options.out)
    sys.stdout.write(f"{sae}\n{sae.metadata}\n")


def _activations(model: InterpretableModel, text: str, path: str) -> np.ndarray:
    """Of one story's first 256 tokens but BOS, (n, d_model)."""
    ids = model.tokenize(text)[:256]
    run = model.trace(ids, capture=[path], stop_after=path)
    return model.language_model.backend.get(run.activations[path])[0, 1:]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="stories separated by <|endoftext|>")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
