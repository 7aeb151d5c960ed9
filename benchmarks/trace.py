"""What tracing costs, as ratios within one run: building the graph, a forward pass, peak memory, peers.

    python benchmarks/trace.py    # peers are measured where installed: pip install ".[cpu,torch,bench]"

The model is a random Llama (16 layers, 212 modules), written to a temporary folder that mlx-lm,
transformers, mlx-lens and nnsight all open, so that everyone runs the same weights on the same text.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import interleaved, ratio, report

from mlxterp import InterpretableModel
from mlxterp.backends.host.item_access import checked_items
from mlxterp.core.tokens import TokenBatch
from mlxterp.demo import FOLDER
from mlxterp.interventions import zero_out

import mlx.core as mx  # isort: skip  (after mlxterp, which gives it a fast BLAS)

LAYERS, LAYER = 16, 8
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": LAYERS, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "vocab_size": 4096, "max_position_embeddings": 1024, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float32",
}  # fmt: skip


def write_checkpoint(folder: Path) -> None:
    """A random model in hub layout, with the demo model's tokenizer."""
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(dict(CONFIG)))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FOLDER / "model" / name, folder / name)


def building(model: InterpretableModel, ids: list[int], rounds: int) -> dict[str, Any]:
    """Overhead of building the graph (nothing is computed), relative to the plain model."""
    lm, batch = model.language_model, TokenBatch.from_rows([ids])
    sites = model.anatomy.component(f"layers.{LAYER}.mlp").sites
    times = interleaved(
        {
            "plain": lambda: lm.forward(batch),
            "nothing": lambda: lm.run(batch),
            "one path": lambda: lm.run(batch, sites),
            "everything": lambda: lm.run(batch, everything=True),
        },
        rounds,
    )
    return {
        f"graph building, {name} hooked: overhead %": 100 * (ratio(times, name, "plain") - 1)
        for name in ("nothing", "one path", "everything")
    }


def forward(model: InterpretableModel, ids: list[int], rounds: int) -> dict[str, Any]:
    """Overhead of whole traces, logits computed, relative to the plain model."""
    tokens, path = mx.array([ids]), f"layers.{LAYER}.mlp"

    def plain() -> None:
        mx.eval(model.language_model.model(tokens))  # type: ignore[attr-defined]

    def trace(**options: Any) -> None:
        with model.trace(ids, **options):
            pass

    times = interleaved(
        {
            "plain": plain,
            "no capture": lambda: trace(capture=[]),
            "one path": lambda: trace(capture=[path]),
            "everything in reach": trace,
            "stopped after the layer": lambda: trace(capture=[path], stop_after=path),
        },
        rounds,
    )
    names = ("no capture", "one path", "everything in reach")
    rows: dict[str, Any] = {
        f"trace of {len(ids)} tokens, {n}: overhead %": 100 * (ratio(times, n, "plain") - 1) for n in names
    }
    rows["stopping after layer 8 of 16: share of a whole pass"] = ratio(
        times, "stopped after the layer", "plain"
    )
    return rows


def checking(model: InterpretableModel, ids: list[int], rounds: int) -> dict[str, Any]:
    """What it costs that indices of users' functions are checked, in processor time."""
    x, n = mx.zeros((1, len(ids), CONFIG["hidden_size"])), 1000
    backend = model.language_model.backend

    def plain() -> None:
        for _ in range(n):
            x[:, 3]

    def entered() -> None:
        for _ in range(n):
            with checked_items(backend, "x"):
                pass

    def checked() -> None:
        with checked_items(backend, "x"):
            plain()

    def change(given: Any) -> Any:
        given[:, 0] = 0
        return given

    def trace(function: Any) -> None:
        changes = {f"layers.{layer}.mlp": function for layer in range(LAYERS)}
        with model.trace(ids, changes, capture=[]):
            pass

    times = interleaved(
        {
            "index": plain, "block": entered, "checked index": checked,
            "ready": lambda: trace(zero_out(positions=[0])), "function": lambda: trace(change),
        },
        rounds, clock=time.process_time,
    )  # fmt: skip
    per = {name: statistics.median(times[name]) / n * 1e6 for name in ("index", "block", "checked index")}
    return {
        "users' functions checked: microseconds for each call": per["block"],
        "the same for each index, beyond the library's own": per["checked index"] - per["index"],
        f"trace of {len(ids)} tokens, {LAYERS} functions that write an item: × zero_out at a position": ratio(
            times, "function", "ready"
        ),
    }


def peak(job: Callable[[], Any]) -> int:
    """Bytes that a job needed at its peak beyond what was there before."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    job()
    return mx.get_peak_memory() - before


def memory(model: InterpretableModel, ids: list[int]) -> dict[str, Any]:
    """Peak memory of traces relative to the plain model's."""
    tokens, path = mx.array([ids]), f"layers.{LAYER}"

    def keep_all() -> None:
        with model.trace(ids):
            values = [model.layers[i].mlp.output for i in range(LAYERS)]
            values += [model.layers[i].self_attn.output for i in range(LAYERS)]
            values += [model.layers[i].output for i in range(LAYERS)]

    def reach_for_everything() -> None:
        with model.trace(ids):
            model.layers[LAYER].output.save()

    def one_layer() -> None:
        with model.trace(ids, capture=[path]):
            pass

    plain = peak(lambda: mx.eval(model.language_model.model(tokens)))  # type: ignore[attr-defined]
    return {
        "peak memory, capturing one layer: × plain": peak(one_layer) / plain,
        "peak memory, everything in reach, one kept: × plain": peak(reach_for_everything) / plain,
        "peak memory, 48 outputs kept: × plain": peak(keep_all) / plain,
    }


def peers(
    model: InterpretableModel, folder: Path, ids: list[int], rounds: int
) -> tuple[dict[str, Any], list[str]]:
    """The same capture of one layer by mlx-lens and nnsight, against ours and the plain torch model."""
    rows: dict[str, Any] = {}
    notes: list[str] = []
    path = f"layers.{LAYER}"

    def ours() -> None:
        with model.trace(ids, capture=[path]):
            pass

    jobs: dict[str, Callable[[], Any]] = {"mlxterp": ours}
    if importlib.util.find_spec("mlx_lens"):
        jobs["mlx-lens"] = _mlx_lens(folder, ids)
    else:
        notes.append('mlx-lens is not installed: pip install ".[bench]"')
    if importlib.util.find_spec("nnsight"):
        jobs |= _torch_jobs(folder, ids)
    else:
        notes.append('nnsight is not installed: pip install ".[bench,torch]"')
    times = interleaved(jobs, rounds)
    for name in jobs:
        if name != "mlxterp":
            rows[f"capturing one layer, {name}: × mlxterp (MLX)"] = ratio(times, name, "mlxterp")
    for name in ("nnsight", "mlxterp (torch)"):
        if name in jobs:
            overhead = 100 * (ratio(times, name, "plain torch") - 1)
            rows[f"capturing one layer, {name}: overhead over plain torch %"] = overhead
    return rows, notes


def _mlx_lens(folder: Path, ids: list[int]) -> Callable[[], Any]:
    from mlx_lens import LensModel  # type: ignore[import-not-found]

    lens = LensModel(str(folder))

    def capture() -> None:
        with lens.capture(layers=[LAYER]) as captured:
            logits = lens.forward(mx.array(ids))
        mx.eval(logits, captured[LAYER])

    return capture


def _torch_jobs(folder: Path, ids: list[int]) -> dict[str, Callable[[], Any]]:
    import torch
    from nnsight import LanguageModel  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM

    raw = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    wrapped = LanguageModel(str(folder), dtype=torch.float32, dispatch=True)
    model = InterpretableModel(raw)
    tokens = torch.tensor([ids])

    def plain() -> None:
        with torch.no_grad():
            raw(tokens, use_cache=False)

    def nnsight() -> None:
        with torch.no_grad(), wrapped.trace(tokens, use_cache=False):
            captured = wrapped.model.layers[LAYER].output[0].save()  # noqa: F841
            logits = wrapped.output.logits.save()  # noqa: F841

    def ours() -> None:
        with model.trace(ids, capture=[f"layers.{LAYER}"]):
            pass

    return {"plain torch": plain, "nnsight": nnsight, "mlxterp (torch)": ours}


def main() -> None:
    """Measures everything and reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--only-checking", action="store_true", help="measure that part alone")
    options = parser.parse_args()
    ids = [(7 * i + 3) % CONFIG["vocab_size"] for i in range(options.tokens)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder)
        model = InterpretableModel(folder, backend="mlx")
        if options.only_checking:
            notes = ["processor time; others used the machine too"]
            report("trace_checking", checking(model, ids, options.rounds), notes)
            return
        rows = {
            **building(model, ids, 5 * options.rounds),
            **forward(model, ids, options.rounds),
            **memory(model, ids),
            **checking(model, ids, options.rounds),
        }
        more, notes = peers(model, folder, ids, options.rounds)
    report("trace", rows | more, notes)


if __name__ == "__main__":
    main()
