"""Trains the transcoders that ship with the demo model, one for each layer, on the stories that it was trained on.

    python tools/demo_model/train_transcoders.py --text tinystories.txt \\
        --model mlxterp/demo/model --out mlxterp/demo/transcoders --run transcoders

The held-out stories (the ones in `mlxterp/demo/stories.txt`) are used only to measure them, as
`benchmarks/demo_transcoders.py` does. A run that was interrupted goes on with the same command.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from train_model import CONTEXT, read_stories, split

import mlxterp
from mlxterp import InterpretableModel, SAECollection, SAETrainConfig


def main() -> None:
    """Trains and saves in float16."""
    options = _arguments()
    training, held_out = split(read_stories(options.text), seed=0)
    model = InterpretableModel(options.model, backend=options.backend)
    config = SAETrainConfig(
        d_hidden=options.features, k=options.k, epochs=1, batch_size=256, seed=0, tokens=options.tokens
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlxterp.MlxterpWarning)  # stories over 256 tokens run in windows
        trained = model.train_transcoders(
            training, skip=options.skip, config=config, context_length=CONTEXT, exclude=(),
            save_path=options.run, resume=options.run is not None, checkpoint_every=15, verbose=False,
        )  # fmt: skip
    rounded = {}
    for layer, sae in trained.items():
        # What is measured is what ships: the numbers as the file will hold them.
        rounded[layer] = sae.replace(weights=sae.weights.map(lambda array: array.astype(np.float16)))
        rounded[layer].metadata |= {
            "model": "mlxterp demo model", "text": "TinyStories (Eldan & Li), CDLA-Sharing-1.0", "texts": len(training),
        }  # fmt: skip
        sys.stdout.write(f"{sae.metadata['training']['summary']}\n")
    for layer, sae in rounded.items():
        found = sae.evaluate(model, held_out, max_tokens=2048)
        sae.metadata["held_out"] = {
            "fvu": round(found.fvu, 4), "l0": round(found.l0, 2),
            "loss_recovered_mean": round(found.loss_recovered_mean, 4), "tokens": found.tokens,
        }  # fmt: skip
        sys.stdout.write(f"layer {layer}: {sae.metadata['held_out']}, dead {found.dead_share:.3f}\n")
    SAECollection(rounded).save(options.out, dtype="float16")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="stories separated by <|endoftext|>")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="folder of the run, to go on where it was interrupted")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=110_000)
    parser.add_argument("--skip", action="store_true", help="a linear path beside the features")
    parser.add_argument("--backend", default="torch", help="on a CPU the faster one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
