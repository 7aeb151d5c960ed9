"""Files of SAEs that are damaged, changed or meant harm: an error of ours, or the right numbers."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxterp import SAE, BackendError, MlxterpError, MlxterpWarning, SAEError
from tests.sae.test_formats import NOT_IN_THE_FILE, SHARED, io_of, manifest, needs_fixtures

pytestmark = needs_fixtures

Change = Callable[[Path, np.random.Generator], None]


def _any_file(folder: Path, rng: np.random.Generator, *endings: str) -> Path | None:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "io.npz")
    files = [p for p in files if not endings or p.suffix in endings]
    return files[rng.integers(len(files))] if files else None


def cut_short(folder: Path, rng: np.random.Generator) -> None:
    path = _any_file(folder, rng)
    assert path is not None
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))])


def flip_bytes_of_the_head(folder: Path, rng: np.random.Generator) -> None:
    path = _any_file(folder, rng)
    assert path is not None
    data = bytearray(path.read_bytes())
    for place in rng.integers(min(len(data), 600), size=3):
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(data))


def _rewrite(change: Callable[[dict[str, np.ndarray], str, np.random.Generator], None]) -> Change:
    def rewrite(folder: Path, rng: np.random.Generator) -> None:
        path = _any_file(folder, rng, ".safetensors", ".npz")
        if path is None:
            return cut_short(folder, rng)
        if path.suffix == ".npz":
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            arrays = load_file(path)
        change(arrays, sorted(arrays)[rng.integers(len(arrays))], rng)
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        if path.suffix == ".npz":
            np.savez(path, allow_pickle=False, **arrays)
        else:
            save_file(arrays, path)

    return rewrite


@_rewrite
def drop_an_array(arrays, name, _rng):
    del arrays[name]


@_rewrite
def rename_an_array(arrays, name, _rng):
    arrays[name + "_"] = arrays.pop(name)


@_rewrite
def transpose_an_array(arrays, name, _rng):
    arrays[name] = arrays[name].T if arrays[name].ndim > 1 else arrays[name][None]


@_rewrite
def shorten_an_array(arrays, name, _rng):
    arrays[name] = arrays[name].reshape(-1)[: max(0, arrays[name].size - 1)]


@_rewrite
def put_nan_into_an_array(arrays, name, rng):
    if arrays[name].dtype.kind == "f" and arrays[name].size:
        array = arrays[name].copy()
        array.reshape(-1)[rng.integers(array.size)] = rng.choice([np.nan, np.inf, -np.inf])
        arrays[name] = array


def change_a_setting(folder: Path, rng: np.random.Generator) -> None:
    path = _any_file(folder, rng, ".json")
    if path is None:
        return cut_short(folder, rng)
    config = json.loads(path.read_text())
    inner = config.get("trainer", config)
    key = sorted(inner)[rng.integers(len(inner))]
    strange = [None, "x", -1, 0, 1e30, [], {}, True, float("nan"), 10**30]
    inner[key] = strange[rng.integers(len(strange))]
    path.write_text(json.dumps(config))


@_rewrite
def add_an_array(arrays, name, rng):
    others = [
        "threshold",
        "k",
        "W_skip",
        "b_gate",
        "scaling_factor",
        "log_threshold",
        "topk_threshold",
        "extra",
    ]
    arrays[others[rng.integers(len(others))]] = arrays[name].copy()


@_rewrite
def make_an_array_of_integers(arrays, name, rng):
    arrays[name] = (arrays[name] * 10).astype(rng.choice([np.int8, np.int64, np.bool_]))


@_rewrite
def store_an_array_in_another_dtype(arrays, name, rng):
    arrays[name] = arrays[name].astype(rng.choice([np.float64, np.float16]))


def grow_a_file(folder: Path, rng: np.random.Generator) -> None:
    """By a hole of 2 GiB."""
    path = _any_file(folder, rng)
    assert path is not None
    with open(path, "ab") as file:
        file.truncate(2**31)


def say_a_setting_twice(folder: Path, rng: np.random.Generator) -> None:
    path = _any_file(folder, rng, ".json")
    if path is None:
        return cut_short(folder, rng)
    config = json.loads(path.read_text())
    key = sorted(config)[rng.integers(len(config))]
    path.write_text(path.read_text().rstrip()[:-1] + f", {json.dumps(key)}: 1}}")


CHANGES: list[Change] = [
    cut_short, flip_bytes_of_the_head, drop_an_array, rename_an_array, transpose_an_array, shorten_an_array,
    put_nan_into_an_array, change_a_setting, add_an_array, make_an_array_of_integers,
    store_an_array_in_another_dtype, grow_a_file, say_a_setting_twice,
]  # fmt: skip


def mutate_and_load(number: int, tmp_path: Path) -> str:
    """What came of the mutation: "refused", or "read"."""
    rng = np.random.default_rng(number)
    name = sorted(manifest())[rng.integers(len(manifest()))]
    folder = tmp_path / str(number)
    shutil.copytree(SHARED / name, folder)
    x = io_of(name)["x"]
    CHANGES[rng.integers(len(CHANGES))](folder, rng)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MlxterpWarning)
            sae = SAE.load(folder, **NOT_IN_THE_FILE.get(name, {}))
            out = sae.encode(x)
    except MlxterpError as error:
        assert len(str(error)) > 30
        return "refused"
    assert np.isfinite(out).all()
    return "read"


@pytest.mark.parametrize("number", range(60))
def test_a_changed_file_is_refused_or_read(number, tmp_path):
    assert mutate_and_load(number, tmp_path) in ("refused", "read")


@pytest.mark.slow
def test_three_hundred_changed_files_are_refused_or_read(tmp_path):
    found = [mutate_and_load(number, tmp_path) for number in range(60, 360)]
    assert found.count("refused") > 150


class Harm:
    """Unpickling this makes a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_hostile_pickle_is_refused_and_nothing_is_executed(tmp_path, zipped):
    harmed = tmp_path / "harmed"
    payload = pickle.dumps({"W_enc": Harm(str(harmed))}, protocol=2)
    path = tmp_path / "layer3.sae.pt"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
            archive.writestr("archive/version", "3\n")
    else:
        path.write_bytes(payload)
    with pytest.raises(SAEError, match="nothing was executed"):
        SAE.load(path, k=5)
    assert not harmed.exists()


def test_a_pickled_array_in_an_npz_is_refused(tmp_path):
    np.savez(tmp_path / "params.npz", W_enc=np.array([Harm(str(tmp_path / "harmed"))], dtype=object))
    with pytest.raises(SAEError, match="damaged"):
        SAE.load(tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_a_pt_file_without_torch_names_what_to_install(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    with pytest.raises(BackendError, match=r"mlxterp\[torch\]"):
        SAE.load(SHARED / "openai_topk", backend="mlx")


def test_what_is_missing_or_of_another_shape_is_named(tmp_path):
    folder = tmp_path / "sae"
    shutil.copytree(SHARED / "saelens_jumprelu", folder)
    arrays = load_file(folder / "sae_weights.safetensors")
    save_file({n: a for n, a in arrays.items() if n != "threshold"}, folder / "sae_weights.safetensors")
    with pytest.raises(SAEError, match="lacks threshold; it holds: W_dec, W_enc, b_dec, b_enc"):
        SAE.load(folder)
    save_file(arrays | {"b_enc": arrays["b_enc"][:-1].copy()}, folder / "sae_weights.safetensors")
    with pytest.raises(SAEError, match=r"b_enc has shape \(63,\), expected \(64\).*the config says"):
        SAE.load(folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"architecture": "fancy"}))
    with pytest.raises(SAEError, match=r"unknown architecture 'fancy'. Known: abstopk, .*gated"):
        SAE.load(folder)
