"""Steering vectors and their files: round trips, the layout others read, and files that are damaged or foreign."""

from __future__ import annotations

import importlib.util
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mlxterp import BackendError, InputError
from mlxterp.steering.vectors import SteeringVector, load_vectors, save_vectors


def vector(layer: int = 3, width: int = 8, seed: int = 0, **metadata: Any) -> SteeringVector:
    values = np.random.default_rng(seed + layer).standard_normal(width)
    return SteeringVector(f"layers.{layer}.resid_post", values, metadata)


def assert_same(a: SteeringVector, b: SteeringVector) -> None:
    assert a.component == b.component and a.metadata == b.metadata
    assert np.array_equal(a.vector, b.vector)


# -- the value --------------------------------------------------------------------------------


def test_a_vector_is_a_read_only_copy_in_float32():
    given_values = np.arange(4.0)
    v = SteeringVector("layers.0.mlp", given_values)
    given_values[0] = 9
    assert v.vector.tolist() == [0, 1, 2, 3] and v.vector.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        v.vector[0] = 1
    assert np.asarray(v) is v.vector and np.array(v).flags.writeable
    assert np.asarray(v, dtype=np.float64).dtype == np.float64
    assert np.allclose(np.ones((2, 4)) + v, [[1, 2, 3, 4]] * 2)
    with pytest.raises(ValueError, match="copied"):
        np.array(v, dtype=np.float64, copy=False)


def test_norm_and_unit():
    v = SteeringVector("layers.0.mlp", [3, 4], {"method": "by hand"})
    assert v.norm == 5 and len(v) == 2
    assert np.allclose(v.unit, [0.6, 0.8]) and v.unit.metadata == v.metadata
    assert repr(v) == "SteeringVector(layers.0.mlp, width 2, norm 5, by by hand)"
    with pytest.raises(InputError, match="is zero"):
        _ = SteeringVector("layers.0.mlp", [0, 0]).unit


def test_a_vector_can_be_made_of_native_arrays(backend: str):
    if backend == "mlx":
        import mlx.core as mx

        native = mx.array([1.0, 2.0], dtype=mx.bfloat16)
    else:
        import torch

        native = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    assert SteeringVector("layers.0.mlp", native).vector.tolist() == [1, 2]


@pytest.mark.parametrize(("component", "values", "metadata", "message"), [
    ("", [1.0], {}, "component is ''"),
    (3, [1.0], {}, "component is 3"),
    ("embed", [[1.0, 2.0], [3.0, 4.0]], {}, r"shape \(2, 2\); expected a vector \(width,\)"),
    ("embed", 1.0, {}, r"shape \(\)"),
    ("embed", [], {}, r"shape \(0,\)"),
    ("embed", ["a"], {}, "expected real numbers"),
    ("embed", [1j], {}, "expected real numbers"),
    ("embed", [[1], [1, 2]], {}, "no array of numbers"),
    ("embed", [1.0, np.nan], {}, "1 of 2 numbers .* NaN"),
    ("embed", [1e300], {}, "too large for float32"),
    ("embed", [1.0], [], "expected a dictionary"),
    ("embed", [1.0], {1: 2}, "string keys"),
    ("embed", [1.0], {"a": object()}, "cannot be written as JSON"),
    ("embed", [1.0], {"a": float("nan")}, "cannot be written as JSON"),
])  # fmt: skip
def test_a_vector_that_cannot_be_is_refused_where_it_is_made(component, values, metadata, message):
    with pytest.raises(InputError, match=message):
        SteeringVector(component, values, metadata)


# -- round trips ------------------------------------------------------------------------------


@given(st.lists(st.tuples(
    st.text(min_size=1).filter(str.strip),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
), min_size=1, max_size=12))  # fmt: skip
def test_what_is_saved_in_safetensors_is_loaded(tmp_path_factory: pytest.TempPathFactory, vectors):
    path = tmp_path_factory.mktemp("vectors") / "v.safetensors"
    made = [SteeringVector(component, values, metadata) for component, values, metadata in vectors]
    assert save_vectors(made, path) == path
    for a, b in zip(made, load_vectors(path), strict=True):
        assert_same(a, b)


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=8, unique=True),
    st.dictionaries(st.text(), st.integers() | st.text(), max_size=3),
)
def test_what_is_saved_in_gguf_is_loaded(tmp_path_factory: pytest.TempPathFactory, layers, metadata):
    pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("vectors") / "v.gguf"
    made = [vector(layer, model_type="llama", **metadata) for layer in layers]
    save_vectors(made, path)
    for a, b in zip(made, load_vectors(path), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path, suffix):
    if suffix == ".gguf":
        pytest.importorskip("gguf")
    path = vector().save(tmp_path / "new" / f"v{suffix}")
    vector(seed=1).save(path)
    assert_same(load_vectors(str(path))[0], vector(seed=1))
    assert [p.name for p in path.parent.iterdir()] == [f"v{suffix}"]


def test_what_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = vector().save(tmp_path / "v.safetensors")

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("mlxterp.steering.vectors.save_file", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        vector(seed=1).save(path)
    assert_same(load_vectors(path)[0], vector())
    assert [p.name for p in tmp_path.iterdir()] == ["v.safetensors"]


# -- the layout of llama.cpp and repeng -------------------------------------------------------


def test_direction_i_is_the_output_of_block_i_and_the_fields_are_repengs(tmp_path: Path):
    gguf = pytest.importorskip("gguf")
    made = [vector(2, model_type="qwen2"), SteeringVector("layers.5", np.ones(8), {"model_type": "qwen2"})]
    reader = gguf.GGUFReader(save_vectors(made, tmp_path / "v.gguf"))

    def text(key: str) -> str:
        return bytes(reader.get_field(key).parts[-1]).decode()

    assert text("general.architecture") == "controlvector"
    assert text("controlvector.model_hint") == "qwen2"
    assert int(reader.get_field("controlvector.layer_count").parts[-1][0]) == 2
    assert [tensor.name for tensor in reader.tensors] == ["direction.2", "direction.5"]
    for tensor, v in zip(reader.tensors, made, strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(tensor.data, v.vector)
    assert [v.component for v in load_vectors(tmp_path / "v.gguf")] == [
        "layers.2.resid_post",
        "layers.5.resid_post",
    ]


def foreign(path: Path, tensors: dict[str, np.ndarray], arch: str = "controlvector", **strings: str) -> Path:
    """A GGUF file as another program writes it."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, arch)
    for key, text in strings.items():
        writer.add_string(key.replace("__", "."), text)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_repengs_files_are_read(tmp_path: Path):
    ones = np.ones(4, np.float32)
    path = foreign(
        tmp_path / "v.gguf",
        {"direction.3": ones, "direction.0": 2 * ones},
        controlvector__model_hint="mistral",
    )
    found = load_vectors(path)
    assert [v.component for v in found] == ["layers.3.resid_post", "layers.0.resid_post"]
    assert found[1].vector.tolist() == [2, 2, 2, 2]
    assert all(v.metadata == {"model_type": "mistral"} for v in found)


# -- what a format cannot hold ----------------------------------------------------------------


@pytest.mark.parametrize(("vectors", "message"), [
    ([SteeringVector("layers.3.mlp", [1.0])], "cannot hold a vector at layers.3.mlp. Save these to a .safetensors"),
    ([SteeringVector("layers.3.resid_pre", [1.0])], "at layers.3.resid_pre"),
    ([vector(0)], "no control vector for block 0"),
    ([vector(3), SteeringVector("layers.3", np.ones(8))], "layers.3 has two"),
    ([vector(3), vector(4, width=9)], "vectors of one width"),
    ([vector(3, model_type="gpt2"), vector(4, model_type="llama")], "of gpt2, llama"),
])  # fmt: skip
def test_gguf_holds_only_block_outputs_of_one_model(tmp_path: Path, vectors, message):
    pytest.importorskip("gguf")
    with pytest.raises(InputError, match=message):
        save_vectors(vectors, tmp_path / "v.gguf")
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_refused(tmp_path: Path):
    for given_vectors, said in (
        ([], "an empty list"),
        ([1], "a list with int"),
        (np.ones(3), "ndarray"),
        ("v", "str"),
    ):
        with pytest.raises(InputError, match=f"list of them, got {said}"):
            save_vectors(given_vectors, tmp_path / "v.safetensors")  # pyright: ignore[reportArgumentType]
    for name in ("v.pt", "v", "v.npz"):
        with pytest.raises(InputError, match="ends in neither"):
            vector().save(tmp_path / name)
        with pytest.raises(InputError, match="ends in neither"):
            load_vectors(tmp_path / name)
    with pytest.raises(InputError, match="Expected the path"):
        load_vectors(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="There is no file"):
        load_vectors(tmp_path / "v.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(InputError, match="There is no file"):
        load_vectors(tmp_path / "folder.gguf")


def test_without_gguf_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else real(name, *a)
    )
    said = ""
    try:  # a BackendError that leaves a test is taken for a missing wing
        vector().save(tmp_path / "v.gguf")
    except BackendError as error:
        said = str(error)
    assert 'pip install "mlxterp[gguf]"' in said
    assert not list(tmp_path.iterdir())


# -- damaged and foreign files ----------------------------------------------------------------


def refused(path: Path, message: str | None = None) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_vectors(path)
    assert path.name in str(caught.value)


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('a pickle was run')",))


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_every_piece_of_a_file_and_every_flipped_byte_is_refused_or_read(tmp_path: Path, suffix):
    if suffix == ".gguf":
        pytest.importorskip("gguf")
    path = tmp_path / f"v{suffix}"
    whole = save_vectors([vector(2, model_type="llama"), vector(3, note="é")], path).read_bytes()
    ends = len(whole) if suffix == ".safetensors" else len(whole) - 1
    for length in range(0, ends, 3):
        path.write_bytes(whole[:length])
        refused(path)
    rng = np.random.default_rng(0)
    for at in rng.integers(len(whole), size=300):
        damaged = bytearray(whole)
        damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            for v in load_vectors(path):
                assert np.isfinite(v.vector).all()
        except InputError as error:
            assert path.name in str(error)


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_pickles_and_noise_are_refused(tmp_path: Path, suffix):
    if suffix == ".gguf":
        pytest.importorskip("gguf")
    path = tmp_path / f"v{suffix}"
    for content in (pickle.dumps(Bomb()), b"", b"\x00" * 64, b"GGUF", b"{}", bytes(range(256)) * 4):
        path.write_bytes(content)
        refused(path)


def test_foreign_safetensors_are_refused(tmp_path: Path):
    path, ones = tmp_path / "v.safetensors", {"vector.0": np.ones(3, np.float32)}

    def header(version: str = "1", **entry: Any) -> dict[str, str]:
        return {"format": "mlxterp.steering", "version": version, "vectors": json.dumps([entry])}

    for arrays, metadata, message in (
        (ones, None, "header does not say format"),
        (ones, {"format": "pt"}, "header does not say format"),
        (ones, header("2", component="embed"), "version '2'"),
        (ones, {**header(), "vectors": "{"}, "no JSON"),
        (ones, {**header(), "vectors": "[" * 100_000}, "no JSON"),
        (ones, {**header(), "vectors": "[]"}, "tells of 0 vectors"),
        (ones, {**header(), "vectors": "[1]"}, "no list of vectors"),
        (ones, {"format": "mlxterp.steering", "version": "1"}, "no list of vectors"),
        ({"W": np.ones(3)}, header(component="embed"), "tells of 1 vectors; it holds W"),
        (ones, header(), "component is ''"),
        (ones, header(component="embed", metadata=[1]), "expected a dictionary"),
        ({"vector.0": np.ones((2, 2))}, header(component="embed"), "shape"),
        ({"vector.0": np.array([np.inf])}, header(component="embed"), "infinite"),
    ):
        save_file(arrays, path, metadata)
        refused(path, message)


def test_foreign_gguf_files_are_refused(tmp_path: Path):
    path, ones = tmp_path / "v.gguf", np.ones(3, np.float32)
    for tensors, arch, strings, message in (
        ({"token_embd.weight": ones}, "llama", {}, "architecture is 'llama'"),
        ({}, "controlvector", {}, "holds no vectors"),
        ({"direction.x": ones}, "controlvector", {}, "holds 'direction.x'"),
        ({"direction.-1": ones}, "controlvector", {}, "holds 'direction.-1'"),
        ({"direction.1": np.ones((2, 3), np.float32)}, "controlvector", {}, r"shape \(2, 3\)"),
        ({"direction.1": np.ones(3, np.int8)}, "controlvector", {}, "of int8"),
        ({"direction.1": ones * np.float32(np.nan)}, "controlvector", {}, "NaN"),
        (
            {"direction.1": ones, "direction.2": np.ones(4, np.float32)},
            "controlvector",
            {},
            "different widths",
        ),
        ({"direction.1": ones}, "controlvector", {"mlxterp__metadata": "{"}, "no JSON"),
        ({"direction.1": ones}, "controlvector", {"mlxterp__metadata": "[]"}, "no dictionary"),
        ({"direction.1": ones}, "controlvector", {"mlxterp__metadata": '{"direction.1": 3}'}, "a dictionary"),
    ):
        refused(foreign(path, tensors, arch, **strings), message)


def test_lengths_that_lie_do_not_make_the_reader_count_for_ever(tmp_path: Path):
    pytest.importorskip("gguf")

    def string(text: bytes, length: int | None = None) -> bytes:
        return struct.pack("<Q", len(text) if length is None else length) + text

    many = 2**62
    start = b"GGUF" + struct.pack("<I", 3)
    array = struct.pack("<IIQ", 9, 0, many)  # an array of 2^62 bytes
    nested = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000
    tensor = struct.pack("<IQIQ", 1, many, 0, 0)
    path = tmp_path / "v.gguf"
    for content in (
        start + struct.pack("<QQ", 0, many),
        start + struct.pack("<QQ", many, 0),
        start + struct.pack("<QQ", 0, 1) + string(b"a") + array,
        start + struct.pack("<QQ", 0, 1) + string(b"a") + nested,
        start + struct.pack("<QQ", 0, 1) + string(b"a", many),
        start + struct.pack("<QQ", 1, 0) + string(b"direction.1") + tensor,
        start + struct.pack("<QQ", 1, 0) + string(b"direction.1") + struct.pack("<IQIQ", 1, 4, 0, 2**64 - 1),
    ):
        path.write_bytes(content)
        refused(path)
