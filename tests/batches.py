"""How far a batch of unequal texts is from single runs, for every architecture: `python -m tests.batches`.

MLX is imported first, so it keeps the BLAS of its own wheel, whose products do not depend on the number of
rows: what is left is what batching and padding do. An optimised BLAS rounds a row by how many there are.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlxterp import InterpretableModel  # isort: skip

from tests.architectures import build, model_types

ROWS = [[3, 4, 5, 9, 8], [6, 7, 8, 9, 10, 11, 12, 13], [5, 3]]
ONE_TOKEN_ONLY = {"olmo"}  # mlx-lm's own model runs no more than that


def difference(model_type: str) -> float:
    """Largest |batched - single| logit, as a share of the largest logit."""
    model = InterpretableModel(build(model_type))
    batch = model.trace(ROWS).output
    worst = 0.0
    for i, row in enumerate(ROWS):
        single = model(row)[0]
        error = mx.abs(batch[i, : len(row)] - single).max() / mx.abs(single).max()
        worst = max(worst, float(np.array(error)))
    return worst


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    for name in model_types():
        if name not in ONE_TOKEN_ONLY:
            print(name, difference(name))
