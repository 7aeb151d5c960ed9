"""The documentation holds: its Python runs as it stands, its commands are understood, its links lead somewhere.

A block that cannot run here is preceded by `<!-- not run: reason -->`; it is compiled, and what it imports of mlxterp
is there. Rows of other libraries' guides are named by comments such as `<!-- C9 -->`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import mlxterp
from mlxterp.cli.arguments import parser

ROOT = Path(mlxterp.__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
WITHOUT_PYTHON = {
    f"docs/{name}.md" for name in ("api", "architecture", "benchmarks", "coming_from", "demo_model")
}
ROWS = {
    "docs/attention.md": "U7 U8 U9",
    "docs/from_mlxterp.md": "U1 U2 U3 U4 U5 U6 U7 U8 U9 U10 U11 U12",
    "docs/patching.md": "U12",
    "docs/concepts.md": "A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13 A14 A15 A16 A17 A18 A19 A20 A21"
    " B1 B3 B4 B5 B6 B8 B9 B10 B12",
    "docs/features.md": "C5 C9 C10 C16 D4 D5 D22 E2 E3 E5 E7 E8 E10 E11 E12",
    "docs/autointerp.md": "D14 D15 D16 D17 D18 D19 D20 D21",
    "docs/study.md": "D2",
    "docs/geometry.md": "D1 D3 D6 D7 D8 D9 D10 D11 D12",
    "docs/patch_scoping.md": "D22 D23 D24 D25 D26",
}
"""Rows of the guides that users of other libraries know, and the page that answers them."""

_NOT_RUN = r"<!-- not run: (?P<reason>[^>]*?) -->"
_BLOCK = re.compile(rf"(?:{_NOT_RUN}\n+)?^```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CALL = re.compile(rf"`(?P<code>[^`]+)`(?: {_NOT_RUN})?")

pytestmark = pytest.mark.skipif(len(PAGES) == 1, reason="the package was installed without its pages")


class Block(NamedTuple):
    """Python of a page, and why it is not run (None: it is)."""

    code: str
    reason: str | None


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[Block]:
    return [Block(found["code"], found["reason"]) for found in _BLOCK.finditer(text_of(page))]


def calls_of(page: str) -> Iterator[Block]:
    """The code in the second column of a page's tables whose first column asks a question."""
    for line in text_of(page).splitlines():
        if line.startswith("|") and "?" in line.split("|")[1]:
            yield from (Block(found["code"], found["reason"]) for found in _CALL.finditer(line))


def check_without_running(block: Block, where: str) -> None:
    """Whether it is Python, says why it is not run, and imports what mlxterp has."""
    assert block.reason and len(block.reason.split()) > 2, f"{where}: a reason is a sentence"
    for node in ast.walk(ast.parse(block.code, where)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mlxterp":
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names), where


def run(blocks: list[Block], page: str, names: dict[str, object]) -> None:
    for number, block in enumerate(blocks):
        where = f"{page}, block {number}"
        if block.reason is not None:
            check_without_running(block, where)
            continue
        if "mlx_lm" in block.code or "import mlx" in block.code.replace("import mlxterp", ""):
            pytest.importorskip("mlx_lm", reason=f"{where} is about MLX")
        exec(compile(block.code, where, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in WITHOUT_PYTHON])
@pytest.mark.filterwarnings("ignore:.*longer than the model.*:mlxterp.MlxterpWarning")
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    blocks = blocks_of(page)
    assert any(block.reason is None for block in blocks)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    run(blocks, page, names)
    run(list(calls_of(page)), f"{page}, table", names)


def test_every_question_has_a_call():
    questions = [line for line in text_of("docs/questions.md").splitlines() if re.match(r"\| [^|]*\?", line)]
    assert len(questions) > 40
    assert all(_CALL.search(line) for line in questions)


@pytest.mark.parametrize("page", PAGES)
def test_the_shell_commands_of_a_page_are_understood(page):
    for block in _COMMANDS.findall(text_of(page)):
        for line in block.splitlines():
            words = shlex.split(line.split("&&")[-1], comments=True)
            if words[:1] == ["mlxterp"]:
                parser().parse_args(words[1:])  # ends the program where it is wrong


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text_of(page)):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_rows_of_other_guides_are_named_out_of_sight(page):
    text = text_of(page)
    assert set(re.findall(r"<!-- ([A-Z]\d+) -->", text)) == set(ROWS.get(page, "").split())
    assert not re.search(r"\[[A-EU]\d+[],–]", text)


def test_the_reference_has_every_public_name_once():
    pages = (ROOT / "docs" / "api").glob("*.md")
    named = [name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)]
    of_the_package = {
        f"mlxterp.{name}" for name in mlxterp.__all__ if not name.endswith(("Error", "Warning"))
    }
    assert len(set(named)) == len(named)
    assert of_the_package <= set(named), of_the_package - set(named)
    assert "mlxterp.errors" in named


def test_who_calls_a_part_of_the_ci_names_one_that_there_is():
    script = ROOT / ".ci" / "run"
    if not script.is_file():
        pytest.skip("the package was installed without its CI")
    [listed] = re.findall(r"^all=\((.*)\)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    callers = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
    called = [
        part
        for path in callers
        for call in re.findall(r"\.ci/run((?: (?:--here|[a-z]+))+)[`\n]", path.read_text(encoding="utf-8"))
        for part in call.split()
    ]
    assert {"lint", "types", "docs", "tests", "demo", "saelens"} <= set(called) <= {*listed.split(), "--here"}


def test_the_reference_knows_every_verb_of_the_public_classes():
    griffe = pytest.importorskip(
        "griffe", reason='the reference is made by griffe: pip install "mlxterp[docs]"'
    )
    extension = ROOT / "tools" / "site" / "bound_methods.py"
    read = griffe.load(
        "mlxterp", search_paths=[ROOT], extensions=griffe.load_extensions(f"{extension}:BoundMethods")
    )
    for name in mlxterp.__all__:
        cls = getattr(mlxterp, name)
        if getattr(cls, "__name__", None) != name:  # a module, or another name of a class
            continue
        for verb, value in inspect.getmembers(cls, inspect.isfunction):
            if not verb.startswith("_") and value.__module__.startswith("mlxterp"):
                assert read[name].all_members[verb].is_function, f"{name}.{verb}"
