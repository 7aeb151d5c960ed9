"""A run that was interrupted goes on as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlxterp
from mlxterp import MlxterpWarning, SAEError, SAETrainConfig, train_sae
from mlxterp.training.config import ARCHITECTURES
from tests.training.interrupted import data

ROOT = Path(__file__).parents[2]


def train(folder: Path, *options: str) -> int:
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.interrupted", str(folder), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(f"{folder}.npz") as file:
        return dict(file)


def check_killed(tmp_path: Path, backend: str, architecture: str, kills: list[int]) -> None:
    options = ["--backend", backend, "--architecture", architecture]
    assert train(tmp_path / "whole", *options) == 0
    for step in kills:
        assert train(tmp_path / "cut", *options, "--kill-at", str(step)) == -9
    assert train(tmp_path / "cut", *options) == 0
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name, array in whole.items():
        np.testing.assert_array_equal(array, cut[name], err_msg=name)
    histories = [
        json.loads((tmp_path / f"{n}.run/training_history.json").read_text()) for n in ("whole", "cut")
    ]
    assert histories[0]["rows"] == histories[1]["rows"]


def test_a_killed_run_ends_with_the_very_same_weights(tmp_path, backend):
    check_killed(tmp_path, backend, "topk", [45])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_killed_ten_times_ends_with_the_very_same_weights(tmp_path, backend, architecture):
    steps = sorted(
        np.random.default_rng(len(architecture)).choice(np.arange(5, 119), 10, replace=False).tolist()
    )
    # each start takes up from a multiple of 7, so every chosen step is reached again before the next
    check_killed(tmp_path, backend, architecture, steps)


def test_ctrl_c_leaves_a_usable_sae_and_the_run_can_go_on(tmp_path, backend):
    options = ["--backend", backend, "--architecture", "batchtopk"]
    assert train(tmp_path / "sae", *options, "--kill-at", "30", "--signal", "SIGINT") == 0
    sae = mlxterp.SAE.load(tmp_path / "sae", backend=backend)
    assert sae.metadata["training"]["interrupted"] and sae.metadata["training"]["steps"] == 30
    assert np.isfinite(sae.reconstruct(data()[:50])).all()
    assert train(tmp_path / "sae", *options) == 0
    assert mlxterp.SAE.load(tmp_path / "sae").metadata["training"]["steps"] == 120
    assert train(tmp_path / "whole", *options) == 0
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "sae")
    np.testing.assert_array_equal(whole["W_dec"], cut["W_dec"])


def run(folder: Path, x: np.ndarray | None = None, **settings) -> mlxterp.SAE:
    config = SAETrainConfig(**{"d_hidden": 16, "k": 2, "batch_size": 500, **settings})
    return train_sae(data() if x is None else x, config, progress=False, save_path=folder, resume=True)


def test_a_finished_run_gives_its_sae_back(tmp_path):
    first = run(tmp_path / "sae")
    assert not (tmp_path / "sae.run/checkpoint.safetensors").exists()
    assert run(tmp_path / "sae").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 3}, r"configs.sae.k was 2 and is 3"),
        ({"seed": 9}, r"configs.sae.seed was 0 and is 9"),
        ({"x": data()[:3000]}, r"data.arrays was \[\[6000, 24\]\] and is \[\[3000, 24\]\]"),
        ({"x": data() + 1}, "data.sample was"),
    ],
)
def test_another_runs_checkpoint_is_refused_with_what_differs(tmp_path, change, message):
    run(tmp_path / "sae")
    with pytest.raises(SAEError, match=message):
        run(tmp_path / "sae", **change)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    (tmp_path / "sae.run").mkdir()
    (tmp_path / "sae.run/checkpoint.safetensors").write_bytes(b"not numbers")
    with pytest.raises(SAEError, match=r"checkpoint.safetensors is no checkpoint .* Remove it to start over"):
        run(tmp_path / "sae")


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    from mlxterp.training import folder as module

    written = []
    save = module.save_file

    def full(arrays, path, metadata):
        written.append(path)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        save(arrays, path, metadata)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(SAEError, match=r"No space left .* What was there before is still there"):
        run(tmp_path / "sae")
    monkeypatch.undo()
    kept = [p.name for p in (tmp_path / "sae.run").iterdir()]
    assert sorted(kept) == ["checkpoint.safetensors", "training_history.json"]
    assert run(tmp_path / "sae").metadata["training"]["steps"] == 12


def test_resuming_needs_a_place(tmp_path):
    with pytest.raises(mlxterp.InputError, match="resume=True needs the folder of the run"):
        train_sae(data(), SAETrainConfig(d_hidden=16, k=2), resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(mlxterp.InputError, match="is a file"):
        train_sae(data(), SAETrainConfig(d_hidden=16, k=2), save_path=tmp_path / "file")


def test_history_is_rows_of_figures_and_goes_to_functions(tmp_path):
    seen: list[dict[str, float]] = []
    config = SAETrainConfig(d_hidden=16, k=2, batch_size=500)
    train_sae(data(), config, progress=False, save_path=tmp_path / "sae", log=seen.append)
    history = json.loads((tmp_path / "sae.run/training_history.json").read_text())
    assert history["finished"] and history["rows"]["sae"] == seen
    assert [row["step"] for row in seen] == list(range(1, 13)) and seen[-1]["tokens"] == 6000
    assert set(seen[0]) == {
        "step", "tokens", "lr", "loss", "explained_variance", "l0", "dead_share", "aux_loss"
    }  # fmt: skip
    assert seen[-1]["l0"] == 2.0


def test_rows_go_to_tensorboard_and_what_is_not_installed_is_named(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    config = SAETrainConfig(d_hidden=16, k=2, batch_size=1000)
    train_sae(data(), config, progress=False, run_dir=tmp_path / "run", log="tensorboard")
    assert list((tmp_path / "run/tensorboard").iterdir())
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(mlxterp.BackendError, match="pip install wandb"):
        train_sae(data(), config, progress=False, log="wandb")
    with pytest.raises(mlxterp.InputError, match="there are 'wandb', 'tensorboard'"):
        train_sae(data(), config, progress=False, log="paper")


def test_an_interrupted_call_warns_where_it_is_made():
    import signal

    before = signal.getsignal(signal.SIGINT)

    def interrupt(row):
        if row["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(
        MlxterpWarning, match=r"Interrupted at step 3 of 12: this SAE has seen 1500 tokens"
    ) as told:
        sae = train_sae(
            data(), SAETrainConfig(d_hidden=16, k=2, batch_size=500), progress=False, log=interrupt
        )
    assert sae.metadata["training"]["tokens"] == 1500
    assert told[0].filename == __file__
    assert signal.getsignal(signal.SIGINT) is before
