"""On the path of the processes that tests start under `--rounding`: they round alike. See `tests/rounding.py`."""

import importlib.util
import os
from pathlib import Path

if os.environ.get("MLXTERP_TEST_ROUNDING"):
    _path = Path(__file__).resolve().parent.parent / "rounding.py"
    _spec = importlib.util.spec_from_file_location("_mlxterp_test_rounding", _path)
    assert _spec is not None and _spec.loader is not None
    _rounding = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_rounding)
    _rounding.disturb(int(os.environ["MLXTERP_TEST_ROUNDING"]))
