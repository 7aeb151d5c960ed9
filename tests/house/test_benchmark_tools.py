"""What compares the figures of two runs of the benchmarks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)


def _compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare", BENCHMARKS / "compare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare"] = module
    spec.loader.exec_module(module)
    return module


compare = _compare()


def written(folder: Path, name: str, rows: dict[str, Any]) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"benchmark": "encode", "rows": rows}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("mlxterp (MLX): × naive torch's speed", 1), ("mlxterp (MLX): × naive torch's peak memory", -1),
        ("mlx: add_feature: tokens/s against plain", 1), ("graph building, nothing hooked: overhead %", -1),
        ("mlx: clamp: % beyond plain and encode", -1), ("time × NumPy's product alone", -1),
        ("mlxterp, × the bare product's time", -1), ("heads", 0),
    ],
)  # fmt: skip
def test_a_name_says_whether_more_is_better(name, better):
    assert compare.direction(name) == better


def test_what_got_worse_by_more_than_its_noise_is_named(tmp_path):
    old = written(tmp_path, "old", {
        "a: × naive torch's speed": 2.0, "b: × naive torch's speed": 2.0, "c: peak memory": 1.0, "d: peak memory": 1.0,
        "recall": {"value": 0.8, "interval": [0.7, 0.9]}, "features": 20, "gone: speed": 1.0, "said": "text",
    })  # fmt: skip
    new = written(tmp_path, "new", {
        "a: × naive torch's speed": 1.85, "b: × naive torch's speed": 1.5, "c: peak memory": 1.3, "d: peak memory": 0.2,
        "recall": {"value": 0.72, "interval": [0.65, 0.8]}, "features": 10, "said": "other",
    })  # fmt: skip
    found = compare.changes(old, new, 0.1)
    assert [one.name for one in found if one.worse] == [
        "encode: b: × naive torch's speed", "encode: c: peak memory",
    ]  # fmt: skip
    assert {one.name for one in found if one.better == 0} == {"encode: features"}


def test_the_program_ends_with_1_where_something_got_worse(tmp_path):
    old, new = (written(tmp_path, name, {"x: speed": value}) for name, value in (("old", 2.0), ("new", 1.0)))
    for pair, status in (((old, new), 1), ((new, old), 0), ((old, old), 0)):
        done = subprocess.run(
            [sys.executable, BENCHMARKS / "compare.py", *pair], capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
    empty = tmp_path / "none"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "compare.py", old, empty], capture_output=True, text=True
    )
    assert done.returncode == 2


def test_the_kept_results_can_be_read():
    results = BENCHMARKS / "results"
    found = compare.changes(results, results, 0.1)
    assert len(found) > 100 and not any(one.worse for one in found)
    judged = {one.name for one in found if one.better}
    assert any("train_step" in name for name in judged) and any("encode" in name for name in judged)


def test_a_run_on_a_gpu_goes_on_where_it_was_cut_off(tmp_path):
    asked, failing = tmp_path / "asked", tmp_path / "failing"
    python = tmp_path / "python"
    python.write_text(
        f"""#!/usr/bin/env bash
echo "$@" >> {asked}
if [ "$1" = - ]; then echo "cpu no GPU"; fi
if [ -f {failing} ]; then case "$*" in *encode.py*) exit 3 ;; esac; fi
""",
        encoding="utf-8",
    )
    python.chmod(0o755)
    failing.touch()
    command = ["bash", str(BENCHMARKS / "on_gpu.sh"), str(tmp_path / "results")]
    run = lambda: subprocess.run(  # noqa: E731
        command,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "DRY": "1"},
        text=True,
        capture_output=True,
    )
    first = run()
    assert first.returncode == 1 and "encode ended with status 3" in first.stdout
    asked.write_text("")
    failing.unlink()
    second = run()
    assert second.returncode == 0 and "-- kernels: done before" in second.stdout
    lines = asked.read_text().splitlines()
    assert [line for line in lines if "benchmarks/" in line] == [
        line for line in lines if "encode.py" in line
    ]
    assert (tmp_path / "results" / "card.txt").read_text() == "no GPU\n"
