"""Files that ask for more memory or time than an SAE needs are refused at once, with what to do instead."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxterp import SAE, InputError, MlxterpError, SAEError
from mlxterp.core import tensor_files
from tests.sae.test_format_settings import B_DEC, B_ENC, W_DEC, W_ENC, D, N, numbers, saelens, write

MANY = 200_000


@contextmanager
def within(seconds: float, mebibytes: float) -> Iterator[None]:
    """Generous limits; what they guard against is a hundred times as much."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
        assert time.perf_counter() - begin < seconds
        assert peak < mebibytes * 2**20
    finally:
        tracemalloc.stop()


SHAPES = {"W_enc": (D, MANY), "W_dec": (MANY, D), "b_enc": (MANY,), "b_dec": (D,), "threshold": (MANY,)}


def test_a_small_npz_of_many_zeros_is_refused_before_it_is_unpacked(tmp_path):
    arrays = {name: np.zeros(shape, np.float32) for name, shape in {**SHAPES, "W_skip": (MANY, 64)}.items()}
    np.savez_compressed(tmp_path / "params.npz", **arrays)  # type: ignore[arg-type]
    assert (tmp_path / "params.npz").stat().st_size < 2**17
    with within(5, 8), pytest.raises(SAEError, match=r"unpack to .*numpy\.savez"):
        SAE.load(tmp_path)


def sparse_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file whose numbers were never written."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("n", [10**5, 10**9, 10**13])
def test_a_sparse_safetensors_is_an_error_of_ours(tmp_path, n):
    config = {"architecture": "standard", "d_in": 1024, "d_sae": n, "metadata": {"sae_lens_version": "6.1"}}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    try:
        sparse_file(tmp_path / "sae_weights.safetensors",
                    {"W_enc": (1024, n), "b_enc": (n,), "W_dec": (n, 1024), "b_dec": (1024,)})  # fmt: skip
    except OSError:
        pytest.skip("this file system has no such large files")
    with within(5, 8), pytest.raises(SAEError, match=r"the rest is a hole|GiB as float32"):
        SAE.load(tmp_path)


def test_weights_beyond_this_machines_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    saelens(tmp_path)
    monkeypatch.setattr(tensor_files, "_memory", lambda: 1000)
    with pytest.raises(SAEError, match=r"this machine has 0\.0 GiB.*larger machine"):
        SAE.load(tmp_path)


def test_shapes_are_compared_before_numbers_are_read(tmp_path, monkeypatch):
    saelens(tmp_path, {"b_dec": np.zeros(D + 1, np.float32)})
    monkeypatch.setattr(tensor_files.np, "fromfile", lambda *_: pytest.fail("numbers were read"))
    with pytest.raises(SAEError, match="b_dec has shape"):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "{a: " * 1250,
        "[{" * 2500,
        "[a," * 1600,
        "- " * 2500,
        "? " * 2500,
        ("[" * 900 + "\n") * 5,
        "x: [" + "[" * 40 + "]" * 41,
        "".join(" " * i + "a:\n" for i in range(95)),
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 40}]\n" for i in range(1, 20)),
        "a: &a {b: 1}\nc: {<<: *a}\n",
        "k: 5\nsae: {k: 5, k: 1}\n",
        "a: " + "9" * 5000,
        "a: !!python/object/apply:os.system [x]\n",
        "#" * 300_000,
        "[a, b]",
    ],
)
def test_nested_yaml_is_refused_at_once(tmp_path, text):
    pytest.importorskip("yaml")
    write(tmp_path, {}, {"D": W_DEC, "b": B_DEC}, ("unused.json", "latest_ckpt.safetensors"))
    (tmp_path / "conf.yaml").write_text(text)
    with within(10, 64), pytest.raises(SAEError, match=r"conf\.yaml"):
        SAE.load(tmp_path)


BROKEN_JSON = [
    '"k": 5, "x": {"k": 5, "k": 5}',
    '"architecture": "topk", "k": 5, "k": 1',
    '"k": NaN',
    '"k": Infinity',
    '"k": -Infinity',
    '"k": 1e999',
    f'"k": {"9" * 5000}',
    '"x": ' + '{"a":' * 100_000,
    '"x": ' + "[" * 100_000,
    '"x": ' + "[" * 200 + "]" * 200,
    '"x": 1,',
]


@pytest.mark.parametrize("inside", BROKEN_JSON)
@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ("cfg.json", "sae_weights.safetensors"),
        ("cfg.json", "sae.safetensors"),
        ("config.json", "sae_weights.safetensors"),
        ("config.json", "weights.safetensors"),
        ("config.json", "params.safetensors"),
        ("config.json", "sae.safetensors"),
        ("hyperparams.json", "checkpoints/final.safetensors"),
    ],
)
def test_settings_of_every_format_are_read_strictly(tmp_path, config, weights, inside):
    arrays = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC, "W_E": W_ENC}
    if weights == "params.safetensors":
        arrays = {"w_enc": W_ENC, "b_enc": B_ENC, "w_dec": W_DEC, "b_dec": B_DEC, "threshold": np.abs(B_ENC)}
    (tmp_path / weights).parent.mkdir(exist_ok=True)
    save_file(arrays, tmp_path / weights)
    (tmp_path / config).write_text(f'{{"d_in": {D}, {inside}}}')
    with within(10, 64), pytest.raises(SAEError, match=rf"{config} cannot be read"):
        SAE.load(tmp_path)


def test_settings_of_an_unheard_of_size_are_refused(tmp_path):
    saelens(tmp_path)
    with open(tmp_path / "cfg.json", "wb") as file:
        file.truncate(2**31)
    with within(5, 8), pytest.raises(SAEError, match="more than the 16777216 that settings may have"):
        SAE.load(tmp_path)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.bool_])
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_integers_without_a_scale_are_no_weights(tmp_path, dtype, name):
    arrays = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    with pytest.raises(SAEError, match=rf"{name} holds (integers \(.*floating point|bool)"):
        SAE.load(saelens(tmp_path / "a", {name: (10 * arrays[name]).astype(dtype)}))
    ours = SAE.load(saelens(tmp_path / "b")).save(tmp_path / "ours")
    weights = load_file(ours / "sae.safetensors")
    save_file(weights | {name: weights[name].astype(dtype)}, ours / "sae.safetensors")
    with pytest.raises(SAEError, match=name):
        SAE.load(ours)


def test_a_home_folder_is_not_walked(tmp_path):
    for i in range(110):
        (tmp_path / f"folder{i}" / "inner").mkdir(parents=True)
        for j in range(100):
            (tmp_path / f"folder{i}" / "inner" / f"{j}.txt").touch()
    with (
        within(20, 64),
        pytest.raises(SAEError, match=r"more than 10000 .* Name the folder that holds the SAE"),
    ):
        SAE.load(tmp_path)
    saelens(tmp_path / "folder7")
    assert SAE.load(tmp_path / "folder7").d_hidden == N


def test_a_folder_that_holds_an_sae_may_hold_much_else(tmp_path):
    saelens(tmp_path)
    for i in range(11_000):
        (tmp_path / f"{i}.txt").touch()
    assert SAE.load(tmp_path).d_hidden == N


def test_a_collection_of_many_saes_asks_for_one(tmp_path):
    for i in range(25):
        saelens(tmp_path / f"layer{i:02}")
    with pytest.raises(SAEError, match="holds 20 or more SAEs: layer00, layer01"):
        SAE.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_an_error_of_ours(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(MlxterpError, match="cannot be opened"):
        SAE.load(tmp_path)
    saelens(tmp_path / "open")
    assert SAE.load(tmp_path).d_hidden == N


def torch_file(path: Path, description: bytes, numbers: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", description)
        archive.writestr("a/data/0", numbers)
    return path


def test_a_torch_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {"W_enc": torch.ones(1).expand(MANY, 4096), "W_dec": torch.ones(2, 2), "b_enc": torch.ones(2)}
    torch.save(weights, tmp_path / "layer3.sae.pt")
    with within(5, 8), pytest.raises(SAEError, match="more than the file holds"):
        SAE.load(tmp_path, k=3)
    with zipfile.ZipFile(tmp_path / "layer3.sae.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(100 * 2**20))
    with within(5, 8), pytest.raises(SAEError, match="unpack to"):
        SAE.load(tmp_path, k=3)


def test_a_torch_file_of_before_1_6_is_read_and_checked_alike(tmp_path):
    torch = pytest.importorskip("torch")
    weights: dict[str, Any] = {"W_enc": torch.tensor(W_ENC.T.copy()), "W_dec": torch.tensor(W_DEC.T.copy()),
                               "b_enc": torch.tensor(B_ENC), "b_dec": torch.tensor(B_DEC)}  # fmt: skip
    old = {"_use_new_zipfile_serialization": False}
    torch.save(weights, tmp_path / "layer3.sae.pt", **old)
    assert np.array_equal(SAE.load(tmp_path, k=3).W_enc, W_ENC)
    torch.save(weights | {"W_skip": torch.ones(2)}, tmp_path / "layer3.sae.pt", **old)
    with pytest.raises(SAEError, match="holds W_skip"):
        SAE.load(tmp_path, k=3)
    held: dict[str, Any] = {}
    for _ in range(7):
        held = {str(i): held for i in range(30)}
    torch.save(held, tmp_path / "layer3.sae.pt", **old)
    with within(10, 64), pytest.raises(SAEError, match="more entries"):
        SAE.load(tmp_path, k=3)


def test_damage_within_the_numbers_of_a_torch_file_is_found(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "layer3.sae.pt"
    weights = {"W_enc": W_ENC.T, "W_dec": W_DEC.T, "b_enc": B_ENC, "b_dec": B_DEC}
    torch.save({n: torch.tensor(np.ascontiguousarray(a)) for n, a in weights.items()}, path)
    data = bytearray(path.read_bytes())
    place = data.find(W_DEC.T.tobytes()[40:80])
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(SAEError, match="CRC"):
        SAE.load(path, k=3)


def test_a_sparse_file_of_steering_vectors_is_an_error_of_ours(tmp_path):
    from mlxterp.steering.vectors import FORMAT, VERSION, load_vectors

    path, n = tmp_path / "v.safetensors", 3 * 10**9
    entry = {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}
    header = {"__metadata__": {"format": FORMAT, "version": VERSION, "vectors": "[{}]"}, "vector.0": entry}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 4 * n)
    with within(5, 8), pytest.raises(InputError, match=r"the rest is a hole|GiB"):
        load_vectors(path)


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_loading_takes_little_more_memory_than_the_weights(tmp_path, kind):
    n = 16_384
    arrays = {"W_enc": numbers(128, n), "W_dec": numbers(n, 128), "b_enc": numbers(n), "b_dec": numbers(128)}
    if kind == "npz":
        np.savez(tmp_path / "params.npz", threshold=np.ones(n, np.float32), **arrays)  # type: ignore[arg-type]
    else:
        write(tmp_path, {"architecture": "standard"}, arrays, ("cfg.json", "sae_weights.safetensors"))
    whole = sum(array.nbytes for array in arrays.values()) / 2**20
    del arrays
    with within(60, 1.7 * whole):
        assert SAE.load(tmp_path).d_hidden == n
