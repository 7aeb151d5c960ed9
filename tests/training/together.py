"""One of several processes that train an SAE together: `python -m tests.training.together …`, by a launcher."""

from __future__ import annotations

import argparse

import numpy as np

from mlxterp import SAETrainConfig, get_backend, train_sae
from tests.training.interrupted import data


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--architectures", nargs="+", required=True)
    options = parser.parse_args()
    device = "cpu" if options.backend == "torch" else None
    for architecture in options.architectures:
        config = SAETrainConfig(
            d_hidden=48, k=4, batch_size=120, tokens=6000, architecture=architecture, dead_window=0.02, seed=1
        )
        sae = train_sae(data(), config, options.backend, device=device, progress=False)
        assert sae.metadata["training"]["steps"] == 50
        group = get_backend(options.backend).group()
        np.savez(f"{options.out}-{architecture}-{group.rank}-of-{group.size}.npz", **sae.weights.arrays())


if __name__ == "__main__":
    main()
