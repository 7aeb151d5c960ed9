"""SAEs of a real model: ours in both wings beside SAELens on the same tokens.

    pip install ".[cpu,torch]" && python benchmarks/train_real.py --peers PYTHON

PYTHON is the interpreter of an environment with sae-lens (see train_peers.py). The model is
tinystories_instruct_3m_gpt2 (8 layers, d_model 128) of ../shared, the text 600,000 tokens of
tinystories.txt without its last 200 stories, one pass; 4096 features, k 32, batches of 4096. The figures are
of the last 200 stories, computed alike for every SAE: SAELens's are saved by SAELens and opened by `SAE.load`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = SHARED / "models" / "tinystories_instruct_3m_gpt2"
COMPONENTS = ("layers.4.resid_post", "layers.4.mlp")
D_HIDDEN, K, BATCH = 4096, 32, 4096
TOKENS, HELD_OUT, EVALUATED = 600_000, 200, 20_000
SAELENS = ("saelens:topk", "saelens:topk:lr=1e-3:dead=50")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", help="python with sae-lens")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlxterp-train-real")
    args = parser.parse_args()
    text = (SHARED / "text" / "tinystories.txt").read_text(encoding="utf-8")
    texts = [story.strip() for story in text.split("<|endoftext|>") if story.strip()]
    model = mlxterp.InterpretableModel(str(MODEL), backend="torch")
    store = mlxterp.collect_activations(
        model, texts[:-HELD_OUT], list(COMPONENTS), args.work / "activations", dtype="float32",
        tokens=TOKENS, exclude=("first", "sinks"),
    )  # fmt: skip
    rows: dict[str, Any] = {"tokens": len(store)}
    for component in COMPONENTS:
        saes = {f"mlxterp-{wing}:topk": ours(store, component, wing) for wing in ("mlx", "torch")}
        if args.peers:
            data = as_array(store, component, args.work / f"{component}.npy")
            saes |= {run: saelens(args, run, data) for run in SAELENS}
        for name, sae in saes.items():
            rows[f"{component}: {name}"] = figures(model, sae, component, texts[-HELD_OUT:])
    report("train_real", rows, ["larger explained variance and loss recovered, and fewer dead, are better"])


def ours(store: mlxterp.ActivationStore, component: str, wing: str) -> mlxterp.SAE:
    """With our defaults."""
    config = mlxterp.SAETrainConfig(d_hidden=D_HIDDEN, k=K, batch_size=BATCH)
    device = "cpu" if wing == "torch" else None
    return mlxterp.train_sae(store, config, wing, component=component, device=device)


def saelens(args: argparse.Namespace, run: str, data: Path) -> mlxterp.SAE:
    """Trained and saved by SAELens."""
    folder = args.work / f"{data.stem}_{run.replace(':', '_').replace('=', '-')}"
    if not folder.exists():
        command = [args.peers, Path(__file__).parent / "train_peers.py", "--run", run, "--data", data]
        command += ["--d-hidden", D_HIDDEN, "--k", K, "--batch", BATCH, "--save", folder]
        command += ["--out", folder.with_name(folder.name + ".json")]
        subprocess.run([str(part) for part in command], check=True, env=dict(os.environ))
    return mlxterp.SAE.load(folder, backend="torch")


def as_array(store: mlxterp.ActivationStore, component: str, path: Path) -> Path:
    """The store's activations as one array file."""
    if not path.exists():
        np.save(path, np.concatenate([store.read(i, component) for i in range(len(store.counts))]))
    return path


def figures(
    model: mlxterp.InterpretableModel, sae: mlxterp.SAE, component: str, texts: list[str]
) -> dict[str, float]:
    """Of stories that no SAE has seen; dead features over as many tokens."""
    found = model.evaluate_sae(sae, texts, component, max_tokens=EVALUATED)
    names = (
        "explained_variance",
        "l0",
        "dead_share",
        "loss_recovered_zero",
        "loss_recovered_mean",
        "kl_with_sae",
    )
    rows = {name: round(float(getattr(found, name)), 4) for name in names}
    sys.stdout.write(f"{component}: {rows}\n")
    return rows


if __name__ == "__main__":
    main()
