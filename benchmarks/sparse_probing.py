"""k-sparse probes of an SAE's features on sae-probes' labelled sets, beside random features and probes of everything.

    pip install ".[cpu,torch,probing]" pandas zstandard
    pip download --no-deps sae-probes==0.4.2 && unzip sae_probes-*.whl
    python benchmarks/sparse_probing.py demo 3m smollm2 --data sae_probes/data/cleaned_data --smollm2 FOLDER

Each model's SAE is asked about every set of `SETS` (`sae.probe`): 3m is tinystories_instruct_3m_gpt2 in ../shared,
whose SAE is trained here on 150,000 tokens of stories; smollm2 takes the SAE of layer 14 in ../shared. `--rows` texts
of each set are drawn, three tenths are tested, and the last token of each is read. One thread, torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report, results_path

from mlxterp import SAE, InterpretableModel

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = (
    "5_hist_fig_ismale", "21_headline_istrump", "87_glue_cola", "92_glue_sst2", "96_spam_is", "105_click_bait",
    "126_art_type_book",
)  # fmt: skip
KS = (1, 2, 4, 8, 16)
TOKENS_3M, LONGEST = 150_000, 400


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", choices=("demo", "3m", "smollm2"))
    parser.add_argument("--data", type=Path, required=True, help="the folder cleaned_data of sae-probes")
    parser.add_argument("--smollm2", type=Path, help="the folder of SmolLM2-135M-Instruct")
    parser.add_argument("--rows", type=int, default=400)
    options = parser.parse_args()
    sets = {name: drawn(options.data / f"{name}.csv.zst", options.rows) for name in SETS}
    rows = kept()
    notes = [
        f"{options.rows} texts of each set at most, of at most {LONGEST} characters; three tenths are tested",
        "intervals: 95 %, bootstrap over tested rows, of means over sets; random: 20 draws of as many active features",
    ]
    for name in options.models:
        begin = time.process_time()
        model, sae = opened(name, options.smollm2)
        rows |= probed(name, model, sae, sets)
        rows[f"{name}: processor seconds"] = round(time.process_time() - begin, 1)
        report("sparse_probing", rows, notes)  # after each model, so that none is lost


def kept() -> dict[str, Any]:
    """Rows of models that were measured before."""
    path = results_path("sparse_probing")
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}


def drawn(path: Path, rows: int) -> tuple[list[str], list[Any]]:
    """Texts, each once and with one label, as many of both classes, and their labels."""
    import pandas

    table: Any = pandas.read_csv(path)[["prompt", "target"]].dropna()
    table = table.drop_duplicates("prompt", keep=False)
    table = table[table["prompt"].str.len() <= LONGEST]
    half = min(rows // 2, int(table["target"].value_counts().min()))
    chosen = table.groupby("target").sample(half, random_state=0)
    return list(chosen["prompt"]), list(chosen["target"])


def opened(name: str, smollm2: Path | None) -> tuple[InterpretableModel, SAE]:
    """A model and its SAE, in torch."""
    if name == "demo":
        demo = mlxterp.load_demo("torch")
        return demo.model, demo.sae
    if name == "smollm2":
        if smollm2 is None:
            raise SystemExit("smollm2 needs --smollm2 FOLDER.")
        sae = SAE.load(SHARED / "saes" / "smollm2_l14_resid_post", backend="torch")
        return InterpretableModel(str(smollm2), backend="torch"), sae
    model = InterpretableModel(str(SHARED / "models" / "tinystories_instruct_3m_gpt2"), backend="torch")
    texts = (SHARED / "text" / "tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    config = mlxterp.SAETrainConfig(d_hidden=2048, k=16, tokens=TOKENS_3M)
    stories = [text for text in texts if text.strip()]
    return model, model.train_sae(4, stories, "resid_post", config, verbose=False)


def probed(
    name: str, model: InterpretableModel, sae: SAE, sets: dict[str, tuple[list[str], list[Any]]]
) -> dict[str, Any]:
    """Rows of one model: accuracy by k of every set and of all, beside its controls."""
    found = sae.probe(sets, model, ks=KS, verbose=False)
    rows: dict[str, Any] = {f"{name}: SAE": repr(sae)}
    for one in found.sets:
        rows[f"{name}, {one.name}"] = {
            "tested": one.n_tested,
            **{f"k = {probe.k}": figure(probe.accuracy) for probe in one.by_k},
            **{what: round(getattr(one, what).accuracy, 3) for what in ("dense", "means")},
            "chance": round(one.chance, 3),
        }
    rows[f"{name}, mean over sets"] = {
        "tested": sum(one.n_tested for one in found.sets),
        **{f"k = {k}": figure(accuracy) for k, accuracy in found.means.items()},
        **{
            what: round(float(np.mean([getattr(one, what).accuracy for one in found.sets])), 3)
            for what in ("dense", "means")
        },
        "chance": round(float(np.mean([one.chance for one in found.sets])), 3),
    }
    sys.stdout.write(f"{found}\n")
    return rows


def figure(accuracy: Any) -> dict[str, Any]:
    """A value with its interval, and its control's."""
    return {
        "value": round(accuracy.value, 3), "interval": [round(end, 3) for end in accuracy.interval],
        "random features": round(accuracy.control_mean, 3),
        "random interval": [round(end, 3) for end in accuracy.control_interval],
        "stands out": bool(accuracy.stands_out),
    }  # fmt: skip


if __name__ == "__main__":
    main()
