"""The Python of the README and of some guides runs as it stands, one block after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mlxterp

ROOT = Path(mlxterp.__file__).parent.parent


@pytest.mark.parametrize(
    "page", ["README.md", "docs/features.md", "docs/patching.md", "docs/steering.md", "docs/concepts.md"]
)
@pytest.mark.filterwarnings("ignore:.*longer than the model.*:mlxterp.MlxterpWarning")
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    path = ROOT / page
    if not path.is_file():
        pytest.skip("the package was installed without its pages")
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize(
    "page", ["README.md", *[f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))]]
)
def test_links_to_files_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
