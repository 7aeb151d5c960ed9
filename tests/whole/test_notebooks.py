"""The notebooks in `examples/` run from the first cell to the last, and show what they promise."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlxterp

ROOT = Path(mlxterp.__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SHOWS = {
    "01_discover_and_name_concepts": {"card": "text/html", "iterate": "text/html", "picture": "text/html"},
    "02_attach_sae_and_save_texts": {"sweep": "image/png"},
    "03_steer_with_calibration": {"calibrate": "text/html", "plot": "image/png", "verdict": "text/html"},
    "04_name_sae_concepts": {"test": "text/html", "picture": "text/html"},
    "05_understanding_latents": {
        "controls": "text/html", "two-widths": "text/html", "splitting": "text/html", "cards": "text/html",
        "stitching": "image/png", "toy": "text/html", "concept": "text/html", "meta": "text/html",
        "classes": "text/html", "enrichment": "image/png", "universality": "image/png",
        "labels": "text/html", "map": "text/html", "autointerp": "text/html", "scope-law": "text/html",
        "scope-scales": "image/png", "scope-latent": "text/html", "study": "text/html", "study-tokens": "text/html",
    },
    "06_logit_lens": {"one": "text/html", "many": "image/png"},
    "07_tuned_lens": {"read": "text/html", "compare": "text/html", "picture": "image/png"},
    "08_causal_tracing": {"trace": "text/html", "picture": "image/png"},
    "09_steering_vectors": {},
    "10_induction_heads": {
        "score": "text/html", "scatter": "image/png", "pattern": "image/png", "effect": "text/html",
    },
    "11_sparse_autoencoders": {"quality": "image/png", "index": "text/html"},
    "12_from_prompt_to_claim": {
        "load": "text/html", "graph": "text/html", "where": "image/png", "heads": "text/html", "looked": "text/html",
        "holds": "text/html", "effects": "image/png", "others": "text/html",
    },
}  # fmt: skip
"""Cells by their id, and what kind of picture or table each shows."""
EXPECTED = re.compile(
    r".*(TqdmWarning: IProgress not found|No optimised BLAS).*\n(  .*\n)?|\r?[^\r\n]*\[[\d:?]+[<,][^\r\n]*\]\n?"
    r"|SAE of \S+: explained variance .*\n"
    r"|.*MlxterpWarning: \d+ of \d+ features have no explanation; .*\n(  .*\n)?"
)
"""On stderr: what this environment lacks with the line of code that warned, bars, how good a trained SAE is,
and directions with too few windows."""
MOST_CODE_CELLS = 15
TUTORIALS = tuple(name for name in SHOWS if name[:2] in ("06", "07", "08", "09", "10", "11"))
"""Short ones, of the same libraries: one kernel runs them, since most of the time of each would be its imports."""
WITH_OUTPUTS = {
    "05_understanding_latents": 21, "12_from_prompt_to_claim": 13, **dict.fromkeys(TUTORIALS, MOST_CODE_CELLS),
}  # fmt: skip
"""Stored with what their cells show (`tools/store_outputs.py`), and how many code cells each may have."""
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "EXAMPLE_MODEL"}, "PYTHONPATH": str(ROOT)
}  # fmt: skip
"""Without the larger model that some outputs were stored of."""
MOST_BYTES = 1_500_000
OF_A_MACHINE = re.compile(r"/(home|Users|work|tmp|root|opt|var)/")

MINUTES = "05_understanding_latents"
"""Runs for two minutes (`-m slow`); the calls of its cells are those of the guides and of tests/compat/test_arena."""
names = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.skipif(not NOTEBOOKS, reason="the package was installed without its examples")
def test_every_notebook_is_known_and_listed():
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in NOTEBOOKS} == set(SHOWS)
    assert all(f"({path.name})" in listed for path in NOTEBOOKS)
    for target in re.findall(r"\]\(([^)]+)\)", listed):
        assert (ROOT / "examples" / target).exists(), target


@pytest.fixture(scope="module")
def kernels() -> Iterator[Callable[[], Any]]:
    """Gives the kernel of the tutorials, which starts when it is first asked for."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def started() -> Any:
            import nbclient
            import nbformat

            client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=300, kernel_name="python3")
            stack.enter_context(client.setup_kernel(env=ENVIRONMENT))
            return client

        yield started


def executed_in(client: Any, notebook: Any, folder: Path) -> None:
    """Runs a notebook in a kernel that others ran in: without their names, and in a folder of its own."""
    import nbformat

    start = nbformat.v4.new_code_cell(f"%reset -f\nimport os\nos.chdir({str(folder)!r})\ndel os")
    client.nb = nbformat.v4.new_notebook(cells=[start, *notebook.cells])
    for number, cell in enumerate(client.nb.cells):
        client.execute_cell(cell, number)  # raises where a cell does
    notebook.cells = client.nb.cells[1:]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem == MINUTES else path for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs_and_shows_what_it_promises(path, tmp_path, kernels):
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat")
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # what is stored
    if path.stem in TUTORIALS:
        executed_in(kernels(), notebook, tmp_path)
    else:
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute(env=ENVIRONMENT)  # raises where a cell does
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                assert not EXPECTED.sub("", output.text).strip(), (cell.id, output.text)
    assert_shows(notebook.cells, path.stem)


def assert_shows(cells: list[Any], name: str) -> None:
    """Every cell shows what it promises."""
    shown: dict[str, set[str]] = {}
    for cell in cells:
        for output in cell.get("outputs", ()):
            shown.setdefault(cell["id"], set()).update(output.get("data", ()))
    for cell, kind in SHOWS[name].items():
        assert kind in shown.get(cell, ()), (cell, shown.get(cell))


@names
def test_a_notebook_is_stored_clean_or_with_what_its_cells_show(path):
    code = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    assert len(code) <= WITH_OUTPUTS.get(path.stem, MOST_CODE_CELLS)
    if path.stem not in WITH_OUTPUTS:
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
        return
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < MOST_BYTES
    assert_shows(code, path.stem)
    for output in (one for cell in code for one in cell["outputs"]):
        assert output["output_type"] in ("stream", "display_data", "execute_result")
        assert output.get("name") != "stderr"
        texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k != "image/png")]
        assert not OF_A_MACHINE.search("".join("".join(text) for text in texts))


@names
def test_a_notebook_is_stored_plainly(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(cell["metadata"] == {} for cell in cells)
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z-]+", cell_id) for cell_id in ids)


@names
def test_a_notebook_uses_public_names_and_no_path_of_a_machine(path):
    for cell in cells_of(path):
        source = "".join(cell["source"])
        assert not re.search(r"/(home|Users|work|tmp|root)/", source), source
        if cell["cell_type"] == "code":
            assert not re.search(r"\._[a-z]|import _", source), source
