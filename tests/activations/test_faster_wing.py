"""The note that torch would be faster: measured once, kept, and said of clear differences only."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import mlxterp
from mlxterp.activations import faster_wing
from mlxterp.activations.faster_wing import VARIABLE, note, note_faster_wing
from mlxterp.backends import one_block_twin

FOLDER = Path(mlxterp.__file__).parent / "demo" / "model"


@pytest.fixture(scope="module")
def model() -> mlxterp.InterpretableModel:
    if sys.platform != "linux" or len(mlxterp.available_backends()) < 2:
        pytest.skip("it compares both libraries on a Linux CPU")
    return mlxterp.InterpretableModel(FOLDER, backend="mlx")


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The file that times are kept in; nothing was measured before."""
    monkeypatch.setattr(faster_wing, "_tried", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")
    return tmp_path / "mlxterp" / "faster_wing.json"


def test_only_a_clear_difference_is_said():
    assert note(1.0, 0.9, "gpt2") is None and note(1.0, 2.0, "gpt2") is None
    said = note(3.0, 1.5, "gpt2")
    assert said is not None and "2.0 times" in said and "InterpretableModel('gpt2', backend='torch')" in said


@pytest.mark.filterwarnings("ignore:On this machine torch runs:mlxterp.MlxterpWarning")
def test_times_are_measured_once_and_kept(model, kept):
    note_faster_wing(model.anatomy, str(FOLDER))
    [(key, times)] = json.loads(kept.read_text()).items()
    assert key.startswith("llama, 192 wide; mlx ") and all(0 < one < 5 for one in times)
    before = kept.stat().st_mtime_ns
    note_faster_wing(model.anatomy, str(FOLDER))
    assert kept.stat().st_mtime_ns == before
    kept.write_text("no JSON")
    note_faster_wing(model.anatomy, str(FOLDER))
    assert kept.read_text() == "no JSON"  # once in a process
    faster_wing._tried.clear()
    note_faster_wing(model.anatomy, str(FOLDER))
    assert list(json.loads(kept.read_text())) == [key]


def test_it_is_said_once_in_a_process_and_nothing_is_switched(model, kept, recwarn):
    note_faster_wing(model.anatomy, str(FOLDER))
    [(key, _)] = json.loads(kept.read_text()).items()
    recwarn.clear()
    faster_wing._told.discard(key)
    kept.write_text(json.dumps({key: [2.0, 1.0]}))
    for _ in range(2):
        note_faster_wing(model.anatomy, str(FOLDER))
    assert [str(one.message).partition(":")[0] for one in recwarn] == [
        "On this machine torch runs a block of this kind of model 2.0 times as fast as MLX"
    ]
    assert model.language_model.backend.name == "mlx"


def test_it_is_silent_where_it_is_not_wanted_or_torch_cannot_open_the_model(
    model, kept, monkeypatch, tmp_path
):
    note_faster_wing(model.anatomy, None)
    monkeypatch.setenv(VARIABLE, "None")
    note_faster_wing(model.anatomy, str(FOLDER))
    monkeypatch.setenv(VARIABLE, "")
    note_faster_wing(mlxterp.InterpretableModel(FOLDER, backend="torch").anatomy, str(FOLDER))
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    config = json.loads((FOLDER / "config.json").read_text()) | {
        "quantization": {"bits": 4, "group_size": 64}
    }
    (quantized / "config.json").write_text(json.dumps(config))
    assert one_block_twin(str(quantized)) is None
    note_faster_wing(model.anatomy, str(quantized))
    note_faster_wing(model.anatomy, str(tmp_path / "nowhere"))
    assert not kept.exists()


def test_a_twin_has_one_block_of_the_same_width(model):
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    twin = one_block_twin(str(FOLDER))
    assert torch.equal(torch.rand(2), expected)  # its weights took no random number of the user's
    assert twin is not None and twin.d_model == model.d_model and twin.backend.name == "torch"
    assert mlxterp.InterpretableModel(twin.model).n_layers == 1  # type: ignore[attr-defined]
