"""Headers of files: read as the libraries do, and refused where they do not fit the file, before numbers are read."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from safetensors.numpy import save_file

from mlxterp.core.tensor_files import open_npz, open_safetensors
from mlxterp.core.torch_zip import NeedsCodeError, is_torch_zip, open_torch_zip

DTYPES = [
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "bool",
]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hn.arrays(dtype, hn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def assert_same(found: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype.name)
        np.testing.assert_array_equal(found[name].load(), array)


@given(st.dictionaries(st.text("ab.", min_size=1, max_size=3), ARRAYS, max_size=3))
@same_folder
def test_a_safetensors_file_is_read_as_it_was_written(tmp_path, arrays):
    save_file(
        {name: np.array(array, order="C") for name, array in arrays.items()}, tmp_path / "a.safetensors"
    )
    assert_same(open_safetensors(tmp_path / "a.safetensors"), arrays)


@given(st.dictionaries(st.text("ab", min_size=1, max_size=3), ARRAYS, max_size=3), st.booleans())
@same_folder
def test_an_npz_file_is_read_as_it_was_written(tmp_path, arrays, compressed):
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **arrays)
    assert_same(open_npz(tmp_path / "a.npz"), arrays)


@given(st.dictionaries(st.text("ab", min_size=1, max_size=3), ARRAYS, max_size=3))
@same_folder
def test_a_torch_file_is_read_as_it_was_written(tmp_path, arrays):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, tmp_path / "a.pt")
    assert_same(open_torch_zip(tmp_path / "a.pt"), arrays)


def test_views_parameters_and_bfloat16_of_a_torch_file_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.arange(24.0).reshape(4, 6)
    held = {
        "view": whole[1:, ::2], "turned": whole.T, "half": whole.bfloat16(), "tied": whole,
        "parameter": torch.nn.Parameter(whole), "k": 3, "name": "x", "inner": {"a": whole}, "nothing": None,
        "long": torch.tensor(2**40), "list": [1],
    }  # fmt: skip
    torch.save(held, tmp_path / "a.pt")
    found = open_torch_zip(tmp_path / "a.pt")
    for name in ("view", "turned", "half", "tied", "parameter", "long"):
        np.testing.assert_array_equal(found[name].load(), held[name].detach().float().numpy())
    np.testing.assert_array_equal(found["inner"]["a"].load(), whole.numpy())
    assert (found["k"], found["name"], found["nothing"], found["list"]) == (3, "x", None, "list")
    linear = torch.nn.Linear(3, 2)
    torch.save(linear.state_dict(), tmp_path / "a.pt")
    np.testing.assert_array_equal(
        open_torch_zip(tmp_path / "a.pt")["weight"].load(), linear.weight.detach().numpy()
    )
    torch.save(linear, tmp_path / "a.pt")
    with pytest.raises(NeedsCodeError, match=r"torch\.nn\.modules\.linear\.Linear"):
        open_torch_zip(tmp_path / "a.pt")
    torch.save(held, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert not is_torch_zip(tmp_path / "a.pt")


def header(path: Path, entries: Any, data: bytes = b"") -> Path:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: Any, start: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": entry([2**40, 2**40], 0, 8)}, "claims shape"),
        ({"a": entry([-1], 0, 8)}, "expected a list of sizes"),
        ({"a": entry([2.0], 0, 8)}, "expected a list of sizes"),
        ({"a": entry([True, 2], 0, 8)}, "expected a list of sizes"),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, "overlap"),
        ({"a": entry([2], 4, 12)}, "overlap, or leave room"),
        ({"a": entry([4], 0, 16)}, "its arrays claim 16 bytes, the file has 8"),
        ({}, "its arrays claim 0 bytes, the file has 8"),
        ({"a": entry([8], 0, 8, "F8_E4M3")}, "numbers of type"),
        (b'{"a": {"dtype": "F32"}, "a": {}}', "comes twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "a list, expected an object"),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message):
        open_safetensors(header(tmp_path / "a.safetensors", entries, bytes(8)))


def test_a_header_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for data in (b"", b"\0" * 7, struct.pack("<Q", 2**63) + b"{}"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="its header claims"):
            open_safetensors(path)


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(2**24, np.float32))
    with pytest.raises(ValueError, match="unpack to 671"):
        open_npz(path)
    np.savez(path, a=np.zeros(2**24, np.float32))  # as large as it says
    assert open_npz(path)["a"].shape == (2**24,)
    np.savez_compressed(path, a=np.zeros(2**20, np.float32))  # small things may be of zeros
    assert open_npz(path)["a"].shape == (2**20,)


def test_an_npz_that_claims_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
        )
    with pytest.raises(ValueError, match="a claims 4000000000000 bytes, the file holds 0"):
        open_npz(path)
    np.savez(path, a=np.array([object()]))
    with pytest.raises(ValueError, match="pickled"):
        open_npz(path)


def rewritten(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with its description changed."""
    target = path.with_name("b.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, change(data) if info.filename.endswith("data.pkl") else data)
    return target


def test_a_torch_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(64, 64).expand(100, 64, 64)}, path)
    with pytest.raises(ValueError, match="more than the file holds"):
        open_torch_zip(path)
    torch.save({"a": torch.ones(4096)}, path)
    twice = rewritten(path, lambda data: data.replace(struct.pack("<H", 4096), struct.pack("<H", 65000)))
    with pytest.raises(ValueError, match=r"claims shape \(65000,\)"):
        open_torch_zip(twice)
    torch.save({"a": torch.eye(3).to_sparse()}, path)
    with pytest.raises(ValueError, match="of a kind that is not read"):
        open_torch_zip(path)


@pytest.mark.parametrize(
    "description",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # remembers place 2**31 - 1
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",  # claims 2**62 bytes
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # the same, to be written into
        b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00aK\x01u\x80",
        b"",
        b".",
    ],
)
def test_a_hostile_description_costs_nothing(tmp_path, description):
    import tracemalloc

    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", description)
    tracemalloc.start()
    try:
        found = open_torch_zip(path)
        assert found == {}
    except (ValueError, EOFError, OverflowError, MemoryError, TypeError, IndexError, AttributeError) as error:
        assert not isinstance(error, NeedsCodeError)
    except Exception as error:
        assert type(error).__module__ == "_pickle" or type(error).__name__ == "UnpicklingError"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20


def test_shared_dictionaries_do_not_multiply(tmp_path):
    torch = pytest.importorskip("torch")
    held: dict[str, Any] = {}
    for _ in range(7):
        held = {str(i): held for i in range(30)}
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="more than 100000 entries"):
        open_torch_zip(tmp_path / "a.pt")


def test_a_mapped_array_is_the_one_that_is_read_and_cannot_be_written(tmp_path):
    path = tmp_path / "a.safetensors"
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((5, 3)).astype(np.float32), "b": np.zeros(0, np.float32)}
    save_file({**arrays, "h": np.ones(4, np.float16)}, path)
    found = open_safetensors(path)
    assert found["h"].map is None  # its numbers would have to be converted
    for name, array in arrays.items():
        look = found[name].map
        assert look is not None
        np.testing.assert_array_equal(look(), array)
        assert not look().flags.writeable


def test_a_file_that_was_cut_before_it_is_mapped_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": np.ones(100, np.float32)}, path)
    look = open_safetensors(path)["w"].map
    path.write_bytes(path.read_bytes()[:-8])
    assert look is not None
    with pytest.raises(ValueError, match="shorter than it was"):
        look()
