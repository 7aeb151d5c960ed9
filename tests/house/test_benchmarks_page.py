"""The page of benchmarks is what its script writes of the results, and results say how they came."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(path: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def results(folder: Path, rows: dict[str, Any], **facts: Any) -> Path:
    machine = {"system": "Linux", "cores": 2, "python": "3.11", "versions": {"mlx": "0.1"}}
    path = folder / "made-linux-x86_64.json"
    path.write_text(
        json.dumps({"benchmark": "made", "machine": machine, "rows": rows, "notes": ["busy"], **facts})
    )
    return path


def test_the_page_is_what_the_script_writes():
    page = script("tools/benchmarks_page.py")
    made = page.page(page.TEMPLATE.read_text(encoding="utf-8"), ROOT / "benchmarks" / "results")
    assert page.PAGE.read_text(encoding="utf-8") == made, "Run: python tools/benchmarks_page.py"


def test_every_results_file_is_on_the_page():
    page = script("tools/benchmarks_page.py")
    asked = {found[1] for found in page._DIRECTIVE.finditer(page.TEMPLATE.read_text(encoding="utf-8"))}
    kept = {path.name.split("-")[0] for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert kept - asked <= {"causal_trace", "train_defaults"}  # whose tables are in the guides


def test_a_results_file_becomes_tables_with_noise_and_what_was_not_kept(tmp_path):
    page = script("tools/benchmarks_page.py")
    rows = {
        "speed": {"value": 2.0, "interval": [1.5, 2.5]}, "time": 0.12345, "tokens": 12000, "said": "0.5 [0.4, 0.6]",
        "one": {"k = 1": {"value": 0.5, "interval": [0.25, 0.75]}, "dense": 0.75}, "two": {"k = 1": None, "dense": 1.0},
    }  # fmt: skip
    results(tmp_path, rows)
    made = page.page("Before.\n\n{{made}}\n", tmp_path)
    assert "Date: not kept. Command: not kept." in made and "| speed | 2 [1.5, 2.5] | ± 0.5 |" in made
    assert "| time | 0.123 | not kept |" in made and "| tokens | 12,000 |  |" in made and "- busy" in made
    assert "|  | k = 1 | dense |" in made and "| one | 0.5 [0.25, 0.75] | 0.75 |" in made
    results(tmp_path, rows, date="2026-01-02", command="python benchmarks/made.py")
    made = page.page("{{made | ^(speed|said)}}", tmp_path)
    assert "Date: 2026-01-02. Command: `python benchmarks/made.py`." in made
    assert "time" not in made and "4 more rows are in `benchmarks/results/made-linux-x86_64.json`" in made
    for template in ("{{other}}", "{{made | nothing}}"):
        with pytest.raises(LookupError):
            page.page(template, tmp_path)


def test_results_say_when_and_how_they_came_without_places(tmp_path, monkeypatch):
    common = script("benchmarks/common.py")
    monkeypatch.setattr(common, "RESULTS", ROOT / "benchmarks" / "results")
    folder = str(tmp_path)
    told = common.command(["/anywhere/made.py", "--rounds", "3", folder])
    assert told == "python benchmarks/made.py --rounds 3 FOLDER"
    times = {"a": [2.0, 2.2, 2.1, 2.0], "b": [1.0, 1.0, 1.0, 1.0]}
    row = common.ratio_with_noise(times, "a", "b")
    assert row["value"] == pytest.approx(2.05) == common.ratio(times, "a", "b")
    assert row["interval"] == [2.0, 2.2] and common.machine()["processor"] == common.processor()
