"""One line of evidence: it says what it is held against, and whether it is more than that."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlxterp.core.controls import Controlled
from mlxterp.study import Evidence
from mlxterp.study.evidence import plain
from mlxterp.viz.lines import Table


@pytest.mark.parametrize(
    ("stands_out", "said"),
    [(True, "(it stands out)"), (False, "(no finding: the control shows as much)"), (None, "20 draws")],
)
def test_the_control_stands_below_the_finding_with_the_verdict(stands_out, said):
    found = Evidence("Asked", ("found <b>", "more"), "20 draws", stands_out, (Table(["a"], [["<i>"]]),))
    lines = str(found).splitlines()
    assert lines[:3] == ["Asked", "found <b>", "more"] and lines[3].endswith(said)
    html = found.fragment()
    assert "<b>" not in html and "found &lt;b&gt;" in html and "&lt;i&gt;" in html
    assert repr(found).startswith("<Evidence: Asked: ")


def test_figures_become_json():
    beside = Controlled(0.5, (0.25, 0.75), np.array([0.0, 0.125]), "random", 3)
    found = plain(
        {1: np.arange(2), "x": np.float32(0.5), "nan": float("nan"), "beside": beside, "rows": [(1, "a")]}
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "1": [0, 1], "x": 0.5, "nan": None, "rows": [[1, "a"]],
        "beside": {
            "value": 0.5, "interval": [0.25, 0.75], "control_mean": 0.0625, "control_interval": [0.003125, 0.121875],
            "draws": 2, "control": "random", "seed": 3, "stands_out": True,
        },
    }  # fmt: skip
    assert plain(Controlled(1.0, None, np.empty(0), "", 0))["control_mean"] is None
