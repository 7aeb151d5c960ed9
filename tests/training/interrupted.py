"""A training run in a process of its own, for tests that kill it: `python -m tests.training.interrupted …`."""

from __future__ import annotations

import argparse
import os
import signal

import numpy as np

from mlxterp import SAETrainConfig, train_sae


def data() -> np.ndarray:
    rng = np.random.default_rng(7)
    return (rng.standard_normal((6000, 5)) @ rng.standard_normal((5, 24))).astype(np.float32) + 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--architecture", default="topk")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--signal", default="SIGKILL")
    options = parser.parse_args()

    def die(row: dict[str, float]) -> None:
        if row["step"] == options.kill_at:
            os.kill(os.getpid(), getattr(signal, options.signal))

    config = SAETrainConfig(
        d_hidden=48,
        k=4,
        batch_size=100,
        epochs=2,
        architecture=options.architecture,
        dead_window=0.01,
        seed=3,
    )
    device = "cpu" if options.backend == "torch" else None
    sae = train_sae(
        data(), config, options.backend, device=device, save_path=options.folder, resume=True, checkpoint_every=7,
        progress=False, log=die,
    )  # fmt: skip
    np.savez(f"{options.folder}.npz", **sae.weights.arrays())


if __name__ == "__main__":
    main()
