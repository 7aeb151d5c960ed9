"""What steering costs: generation with edits against plain generation, and passes of an attached SAE that tracks.

    pip install ".[cpu,torch]" && python benchmarks/steer.py

The model is the random Llama of benchmarks/trace.py (16 layers, width 256), written to a temporary folder that both
wings open; the SAE a random TopK one (16,384 features, k 32) at layer 8. Edits that read features must encode: their
row is what they take beyond plain generation that encodes one activation after each token (`sae.encode`); for a pass
over whole texts, beyond the pass and one `sae.encode_sparse` of as many activations. One thread, processor time, jobs
in turns within one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
from trace import write_checkpoint  # type: ignore[attr-defined]

import numpy as np
from common import interleaved, ratio, report

from mlxterp import SAE, InterpretableModel, available_backends
from mlxterp.steering import add_direction, add_feature, amplify, clamp
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights

WIDTH, FEATURES, K, PLACE = 256, 16_384, 32, "layers.8.resid_post"
PROMPT = list(range(10, 42))


def random_sae(backend: str) -> SAE:
    """Rows of unit length, encoder as decoder."""
    draw = np.random.default_rng(0)
    W_dec = draw.normal(size=(FEATURES, WIDTH)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    b_enc, b_dec = np.zeros(FEATURES, np.float32), np.zeros(WIDTH, np.float32)
    return SAE(
        SAEWeights(W_dec.T.copy(), b_enc, W_dec, b_dec), TopK(K), {"component": PLACE}, backend=backend
    )


def generation(model: InterpretableModel, sae: SAE, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens for each second of steered generation against plain, and what reading features costs beyond encoding."""
    prompt = PROMPT
    given: dict[str, list] = {
        "plain": [],
        "add_feature": [add_feature(sae, 5, 1.0)],
        "add_direction, norm units": [add_direction(sae.W_dec[5], 0.1, PLACE, units="norm")],
        "clamp": [clamp(sae, 5, 1.0)],
        "amplify, 8 features": [amplify(sae, f, 1.5) for f in range(8)],
    }
    jobs: dict[str, Callable[[], Any]] = {
        name: lambda edits=edits: model.generate(prompt, tokens, steer=edits) for name, edits in given.items()
    }
    jobs["plain and encode"] = lambda: generated_and_encoded(model, sae, tokens)
    times = interleaved(jobs, rounds, clock=time.process_time)
    rows: dict[str, Any] = {"plain generation: tokens/s": tokens / statistics.median(times["plain"])}
    for name in ("add_feature", "add_direction, norm units"):
        rows[f"{name}: tokens/s against plain"] = ratio(times, "plain", name)
    for name in ("clamp", "amplify, 8 features"):
        rows[f"{name}: tokens/s against plain"] = ratio(times, "plain", name)
        rows[f"{name}: % beyond plain and encode"] = 100 * (ratio(times, name, "plain and encode") - 1)
    return rows


def tracking(model: InterpretableModel, sae: SAE, rounds: int) -> dict[str, Any]:
    """A pass over 16 texts of 128 tokens with an attached SAE, tracking or manipulating."""
    draw = np.random.default_rng(1)
    texts = draw.integers(1, 4096, (16, 128)).tolist()
    backend = model.language_model.backend
    activations = backend.put(draw.normal(size=(16 * 128, WIDTH)).astype(np.float32))

    def run() -> None:
        backend.evaluate([model(texts)])

    def attached(tracks: bool) -> None:
        with model.attach_sae(sae):
            if tracks:
                sae.concepts.enable_text_tracking(top_k=10)
            else:
                sae.concepts.manipulate_concept(5, 1.5)
            run()
            sae.concepts.disable_text_tracking()
            sae.concepts.reset_manipulations()

    jobs: dict[str, Callable[[], Any]] = {
        "plain": run, "tracking": lambda: attached(True), "manipulating": lambda: attached(False),
        "plain and encode": lambda: (run(), sae.encode_sparse(activations)),
    }  # fmt: skip
    times = interleaved(jobs, rounds, clock=time.process_time)
    return {
        f"attached, {name}, 2,048 tokens: % beyond plain and encode": 100
        * (ratio(times, name, "plain and encode") - 1)
        for name in ("tracking", "manipulating")
    }


def generated_and_encoded(model: InterpretableModel, sae: SAE, tokens: int) -> None:
    """Plain generation; for the prompt and after each token an encoding of activations that are there already."""
    backend = model.language_model.backend
    draw = np.random.default_rng(2)
    whole, single = (backend.put(draw.normal(size=(n, WIDTH)).astype(np.float32)) for n in (len(PROMPT), 1))
    backend.evaluate([sae.encode(whole)])
    stream = model.language_model.stream(PROMPT, tokens)
    for _ in stream:
        backend.evaluate([sae.encode(single)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        for name in available_backends():
            model, sae = InterpretableModel(folder, backend=name), random_sae(name)
            found = generation(model, sae, args.tokens, args.rounds) | tracking(model, sae, args.rounds)
            rows |= {f"{name}: {row}": value for row, value in found.items()}
    report("steer", rows, ["processor time of one thread", "aims: add_feature >= 0.95, beyond <= 15 %"])


if __name__ == "__main__":
    main()
