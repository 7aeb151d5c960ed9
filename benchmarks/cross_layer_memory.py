"""Memory of a graph with a cross-layer transcoder of many gigabytes: only the rows of active features are read.

    python benchmarks/cross_layer_memory.py [--gigabytes 4] [--work FOLDER]

Writes a set in circuit-tracer's layout (float16) for the demo model, makes a graph of it, and deletes it. Its weights
are zeros but for 32 features of each layer, which are active on about every token. An encoder is read whole, in blocks,
as every feature's input is needed; a decoder row by row. Memory is that of the process at its peak beyond what it held
before, pages of files included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import numpy as np
from common import peak_memory, report

import mlxterp

ACTIVE = 32
Shapes = dict[str, tuple[tuple[int, ...], dict[int, np.ndarray] | np.ndarray]]
"""Name → shape, and its numbers: all, or {row: numbers} where the others are 0."""


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--backend", choices=("mlx", "torch"))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    model = mlxterp.load_demo(backend=args.backend).model
    rows: dict[str, Any] = {}
    for size in args.gigabytes:
        folder = Path(tempfile.mkdtemp(prefix="mlxterp-clt-", dir=args.work))
        try:
            written(folder, model.n_layers, model.d_model, size)
            rows |= measured(model, folder, size)
        finally:
            shutil.rmtree(folder)
    report("cross_layer_memory", rows, ["one thread; MiB beyond the process, pages of files included"])


def measured(model: Any, folder: Path, size: float) -> dict[str, Any]:
    """Of one graph."""
    whole = {
        kind: sum(file.stat().st_size for file in folder.glob(f"W_{kind}_*")) / 2**20
        for kind in ("enc", "dec")
    }
    found: list[Any] = []

    def graph() -> None:
        clt = mlxterp.CrossLayerTranscoder.load(folder)
        found.append(model.attribution_graph("Lily lost her red", clt, targets=" ball", verbose=False))

    start = time.process_time()
    peak = peak_memory(graph)
    if peak is None:
        raise SystemExit("Linux alone tells the peak of a process.")
    made = found[0]
    return {
        f"{size:g} GB: decoders MiB": whole["dec"], f"{size:g} GB: encoders MiB": whole["enc"],
        f"{size:g} GB: features": len(made.features), f"{size:g} GB: law": made.law,
        f"{size:g} GB: peak MiB": peak, f"{size:g} GB: peak / files": peak / (whole["dec"] + whole["enc"]),
        f"{size:g} GB: processor s": time.process_time() - start,
    }  # fmt: skip


# -- the files ------------------------------------------------------------------------------------


def written(folder: Path, layers: int, width: int, gigabytes: float) -> None:
    """A set of about so many gigabytes."""
    each = sum(2 * width * (1 + layers - layer) for layer in range(layers))
    n, draw = int(gigabytes * 1e9 / each), np.random.default_rng(0)
    (folder / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\n"
    )
    for layer in range(layers):
        ids = draw.choice(n, ACTIVE, replace=False)
        bias = np.full(n, -1, np.float16)
        bias[ids] = 0.5
        encoder = {int(i): draw.normal(size=width) / np.sqrt(width) for i in ids}
        decoder = {int(i): draw.normal(size=(layers - layer, width)) / width for i in ids}
        _write(folder / f"W_enc_{layer}.safetensors", {
            f"W_enc_{layer}": ((n, width), encoder), f"b_enc_{layer}": ((n,), bias),
            f"b_dec_{layer}": ((width,), np.zeros(width, np.float16)),
        })  # fmt: skip
        _write(
            folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": ((n, layers - layer, width), decoder)}
        )


def _write(path: Path, arrays: Shapes) -> None:
    """A safetensors file of float16."""
    header, start = {}, 0
    for name, (shape, _) in arrays.items():
        end = start + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        first, block = file.tell(), bytes(16 << 20)
        for done in range(0, start, len(block)):
            file.write(block[: start - done])
        for name, (shape, numbers) in arrays.items():
            at = first + header[name]["data_offsets"][0]
            if isinstance(numbers, np.ndarray):
                numbers, step = {0: numbers}, 0
            else:
                step = 2 * int(np.prod(shape[1:]))
            for row, values in numbers.items():
                file.seek(at + row * step)
                file.write(np.asarray(values, np.float16).tobytes())


if __name__ == "__main__":
    main()
