"""The self-test passes on a sound machine, and a machine that computes wrongly fails it without stopping it."""

from __future__ import annotations

import importlib
import json
from typing import Any

import numpy as np
import pytest

from mlxterp import BackendError, InputError
from mlxterp.cli import main
from mlxterp.demo import selftest as module
from mlxterp.demo import selftest_subject
from mlxterp.demo.selftest import Checked, SelfTest, selftest


def test_every_wing_passes_and_the_report_holds_all_figures(tmp_path, capsys):
    report = tmp_path / "selftest.json"
    assert main(["selftest", "--report", str(report)]) == 0
    written, shown = json.loads(report.read_text()), capsys.readouterr().out
    assert written["passed"] and "all passed" in shown
    wings = {check["wing"] for check in written["checks"]}
    assert "mlx" in wings or "torch" in wings
    for wing in wings:
        named = " ".join(check["name"] for check in written["checks"] if check["wing"] == wing)
        assert all(
            word in named for word in ("select", "decode", "SAE features", "greedy", "steered", "together")
        )
        assert written["ratios"][f"{wing}: three texts together against one by one"] > 0
    assert written["machine"]["cores"]
    assert main(["selftest", "--report", str(report)]) == 2  # it is there already


def test_a_kernel_that_answers_wrongly_or_not_at_all_is_named(backend, monkeypatch):
    kernels = importlib.import_module(f"mlxterp.backends.{backend}.kernels")
    real = kernels.select

    def wrong(scores: Any, k: int) -> Any:
        ids, values = real(scores, k)
        return ids * 0, values

    def broken(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(kernels, "select", wrong)
    monkeypatch.setattr(kernels, "decode", broken)
    monkeypatch.setattr(module, "_model", lambda _wing: ([], {}))
    found = selftest(backend, verbose=False)
    assert not found.passed and [one.passed for one in found.checks] == [False, False]
    assert found.checks[0].difference > 0.9
    assert "no such kernel" in found.checks[1].error
    assert "FAILED" in str(found) and "no such kernel" in found.fragment()
    assert found.to_dict()["checks"][1]["difference"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_model_that_cannot_be_opened_is_a_failed_check(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(selftest_subject, "FOLDER", tmp_path)
    found = selftest(backend, verbose=False)
    assert [one.name for one in found.checks if not one.passed] == ["the embedded model on this machine"]


def test_differences_are_shares_of_the_largest_value():
    assert module._apart(np.array([1.0, 4.0]), np.array([1.0, 5.0])) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="1 values that are not finite"):
        module._apart(np.array([np.nan, 4.0]), np.array([1.0, 5.0]))
    assert Checked("mlx", "cpu", "x", 1e-3, 2e-3).passed
    assert not Checked("mlx", "cpu", "x", float("nan"), 2e-3).passed
    assert not Checked("mlx", "cpu", "x", 0.0, 0.0, "ValueError: no").passed


def test_another_backend_is_refused():
    with pytest.raises(InputError, match="there are: mlx, torch"):
        selftest("jax")


def test_without_a_wing_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BackendError, match=r"pip install"):
        selftest()


def test_it_is_a_picture():
    found = SelfTest(
        (Checked("mlx", "metal", "logits with the CPU's", 1e-4, 2e-3),), {"mlx: a": 2.0}, {"cores": 8}, 1.0
    )
    assert "1 checks, all passed" in str(found) and "2.00 ×" in found.fragment()
