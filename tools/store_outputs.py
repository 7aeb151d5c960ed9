"""Runs a notebook from the first cell to the last and stores what its cells show.

    python tools/store_outputs.py examples/05_understanding_latents.ipynb
    EXAMPLE_MODEL=FOLDER python tools/store_outputs.py examples/10_induction_heads.ipynb

10 is stored of SmolLM2-135M-Instruct (FOLDER, or its name in the hub), all others of the embedded model. A notebook
runs in a folder of its own. What goes to stderr is left out: bars, and what the environment lacks. Cells keep their
ids, and no times are stored. A cell that raises ends the run, and the file stays as it was.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Runs, stores, and prints the time that it took."""
    parser = argparse.ArgumentParser(description="Runs a notebook and stores its outputs.")
    parser.add_argument("notebook", type=Path)
    path: Path = parser.parse_args().notebook
    notebook = nbformat.read(path, as_version=4)
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook, timeout=900, kernel_name="python3", record_timing=False,
            resources={"metadata": {"path": folder}},
        )  # fmt: skip
        client.execute(env={**os.environ, "PYTHONPATH": paths})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}
    text = nbformat.writes(notebook)
    path.write_text(text + "\n" * (not text.endswith("\n")), encoding="utf-8")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{path.name}: {len(text) / 1e6:.2f} MB, {time.perf_counter() - started:.0f} s, {cpu:.0f} s of CPU")


if __name__ == "__main__":
    main()
