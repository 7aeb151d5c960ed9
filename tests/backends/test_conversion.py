"""Vectors and arrays are accepted in every form in which users hold them, in both wings."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from mlxterp import SAE, EditError, InputError, SAEError, interventions, steering
from mlxterp.backends.host.conversion import to_numpy, to_vector
from mlxterp.steering import SteeringVector
from mlxterp.variants import ReLU
from mlxterp.weights import SAEWeights
from tests.small import llama_folder, open_llama

D = 64
ROW = (np.arange(D, dtype=np.float32) - 31.5) / 32  # exact in every dtype
IDS = [3, 14, 15, 92, 65]
PLACE = "layers.1.resid_post"


def _mlx(kind: str) -> Any:
    mx = pytest.importorskip("mlx.core")
    return mx.array(ROW).astype(getattr(mx, kind))


def _torch(kind: str, gradient: bool = False) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tensor(ROW, dtype=getattr(torch, kind)).requires_grad_(gradient)


FORMS: dict[str, Callable[[], Any]] = {
    "list": ROW.tolist, "tuple": lambda: tuple(ROW.tolist()), "float64": lambda: ROW.astype(np.float64),
    "float16": lambda: ROW.astype(np.float16), "row": lambda: ROW[None], "column": lambda: ROW[:, None],
    "token of a trace": lambda: ROW[None, None].tolist(), "vector": lambda: SteeringVector(PLACE, ROW),
    "series": lambda: pytest.importorskip("pandas").Series(ROW, index=range(5, 5 + D)),
    "nullable": lambda: pytest.importorskip("pandas").Series(ROW, dtype="Float64"),
    **{f"mlx {kind}": lambda kind=kind: _mlx(kind) for kind in ("float32", "bfloat16", "float16")},
    **{f"torch {kind}": lambda kind=kind: _torch(kind) for kind in ("float64", "float32", "bfloat16", "float16")},
    "gradient": lambda: _torch("bfloat16", True), "torch numbers": lambda: list(_torch("float32", True)),
    "mlx numbers": lambda: list(_mlx("bfloat16")), "objects": lambda: ROW.astype(object),
}  # fmt: skip
NONE: list[Any] = [
    "text", ["a", "b"], [1.0, None], [[1.0], [1.0, 2.0]], {"a": 1.0}, [True, False], [1j, 2.0], object(),
    np.array([1.0, "x"], dtype=object), np.array(["1"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def models():
    return {}


@pytest.fixture
def model(backend, folder, models):
    if backend not in models:
        models[backend] = open_llama(folder, backend)
    return models[backend]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, atol=2**-8)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_vector_gives_the_same_row(form):
    found = to_vector(FORMS[form]())
    assert found.shape == (D,) and found.dtype == np.float32 and close(found, ROW)
    assert close(steering.add_direction(FORMS[form](), 2.0, at=PLACE).vector, ROW)
    assert close(steering.direction(FORMS[form]()).unit, ROW / np.linalg.norm(ROW))
    assert close(SteeringVector(PLACE, FORMS[form]()).vector, ROW)


@pytest.mark.parametrize("bad", NONE, ids=range(len(NONE)))
def test_what_is_no_array_of_numbers_is_named(bad):
    for error in (InputError, EditError, SAEError):
        with pytest.raises(error, match=r"The thing (holds|is) .*numbers"):
            to_numpy(bad, "The thing", error)
    with pytest.raises(InputError):
        steering.add_direction(bad, at=PLACE)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\)"), (3.0, r"shape \(\)"), ([], r"shape \(0,\)"),
        ([1.0, np.nan], "1 of 2 numbers are NaN"), ([1e300], "too large for float32"), ([0.0, 0.0], "only zeros"),
    ],
)  # fmt: skip
def test_what_is_no_direction_is_named(bad, message):
    for make in (steering.add_direction, steering.project_out, steering.direction):
        with pytest.raises(InputError, match=message):
            make(bad)


def test_an_integer_beyond_float64_is_refused_by_name():
    for call in (to_numpy, to_vector):
        with pytest.raises(InputError, match="beyond float64"):
            call([10**400, 1])


def test_a_width_that_is_not_asked_for_is_named():
    with pytest.raises(InputError, match="has 64 numbers; expected 32"):
        to_vector(ROW, width=32)


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form not in ("column", "vector", "token of a trace")]
)
def test_interventions_and_assignments_take_every_form(form, model):
    backend = model.language_model.backend

    def changed(change: Any) -> np.ndarray:
        with model.trace(IDS, interventions={PLACE: change}) as t:
            pass
        return backend.get(t.activations[PLACE])

    value = FORMS[form]()
    plain = changed(interventions.zero_out())
    assert close(changed(interventions.replace_with(value)), plain + ROW)
    assert close(changed([interventions.zero_out(), interventions.add_vector(value)]), plain + ROW)
    assert close(changed([interventions.replace_with(1.0), interventions.scale(value)]), plain + ROW)
    limited = changed([interventions.replace_with(5.0), interventions.clamp(high=value)])
    assert close(limited, plain + ROW)
    with model.trace(IDS) as t:
        model.layers[1].output[:, -1] = value
        model.layers[1].output[:, np.int64(0)] = 0.0
        model.layers[1].output[:, 0] += value
        model.layers[1].output[:, np.array([1, 2])] = np.zeros(D)
    found = backend.get(t.activations[PLACE])
    assert close(found[0, -1], ROW) and close(found[0, 0], ROW) and not found[0, 1:3].any()
    assert close(backend.get(model.unembed(value)).reshape(-1), backend.get(model.unembed(ROW)).reshape(-1))


def test_lists_and_arrays_of_the_other_library_can_be_assigned_whole(model):
    wanted = np.tile(ROW, (1, len(IDS), 1))
    forms: list[Any] = [wanted, wanted.tolist(), wanted.astype(np.float64)]
    for other in ("torch", "mlx.core"):
        if importlib.util.find_spec(other):
            library = importlib.import_module(other)
            forms.append((library.tensor if other == "torch" else library.array)(wanted))
    for value in forms:
        with model.trace(IDS) as t:
            model.layers[1].mlp.output = value
        assert close(model.language_model.backend.get(t.activations["layers.1.mlp"]), wanted)


@pytest.mark.parametrize("bad", [*NONE, np.zeros((1, 5, 3)), np.zeros(3), None])
def test_what_cannot_be_assigned_is_named(model, bad):
    if isinstance(bad, np.ndarray) and bad.dtype.kind in "US":
        pytest.skip("said by the kind")
    with pytest.raises(EditError), model.trace(IDS):
        model.layers[1].mlp.output = bad
    with pytest.raises(EditError), model.trace(IDS):
        model.layers[1].mlp.output[:, 1] = bad
    for make in (interventions.add_vector, interventions.replace_with):
        with pytest.raises(EditError):
            model.trace(IDS, interventions={"layers.1.mlp": make(bad)}).output  # noqa: B018


@pytest.mark.parametrize("form", FORMS)
def test_an_sae_takes_every_form(form, backend):
    if form in ("column", "vector"):
        return
    W = np.random.default_rng(0).normal(size=(96, D)).astype(np.float32)
    weights = SAEWeights(W.T, np.zeros(96, np.float32), W, np.zeros(D, np.float32))
    sae = SAE(weights, ReLU(), backend=backend)
    wanted, given = sae.encode(ROW), FORMS[form]()
    features = sae.encode(given)
    assert np.allclose(np.asarray(to_numpy(features)).reshape(-1), wanted, atol=0.2)
    rebuilt = to_numpy(sae.decode(features)).reshape(-1)
    assert np.allclose(rebuilt, sae.decode(wanted), rtol=1e-2, atol=1.0)
    assert sae.encode_sparse(given).n == 1


def test_weights_of_an_sae_may_be_lists_or_of_either_library(backend):
    W = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16).astype(np.float32)
    plain = SAE(SAEWeights(W.T, np.zeros(6), W, np.zeros(4)), ReLU(), backend=backend)
    forms: list[tuple[Any, ...]] = [(W.T.tolist(), [0.0] * 6, W.tolist(), [0.0] * 4)]
    if importlib.util.find_spec("torch"):
        import torch

        forms.append(
            tuple(torch.tensor(a).half().requires_grad_() for a in (W.T, np.zeros(6), W, np.zeros(4)))
        )
    if importlib.util.find_spec("mlx"):
        import mlx.core as mx

        forms.append(tuple(mx.array(a).astype(mx.float16) for a in (W.T, np.zeros(6), W, np.zeros(4))))
    for form in forms:
        assert SAE(SAEWeights(*form), ReLU(), backend=backend).fingerprint == plain.fingerprint


def test_any_mapping_of_interventions_is_taken_with_positions_and_without(model):
    change = {"layers.1.mlp": interventions.scale(0.0)}
    for given in (change, MappingProxyType(change)):
        for positions in ("all", "prompt", [0]):
            wanted = model.generate(IDS, max_tokens=3, interventions=change, positions=positions)
            assert model.generate(IDS, max_tokens=3, interventions=given, positions=positions) == wanted
    for bad in ([("layers.1.mlp", interventions.scale(0.0))], "layers.1.mlp", 3):
        for positions in ("all", [0]):
            with pytest.raises(InputError, match="interventions= is a dict of path"):
                model.generate(IDS, max_tokens=3, interventions=bad, positions=positions)


@pytest.mark.parametrize("number", [np.int64(1), np.uint8(1), np.array(1), np.int32(-2)], ids=repr)
def test_a_layer_may_be_any_whole_number(model, number):
    with model.trace(IDS) as t:
        model.layers[number].mlp.output.save("seen")
    assert np.array_equal(
        model.language_model.backend.get(t.saved_values["seen"]),
        model.language_model.backend.get(t.activations["layers.1.mlp"]),
    )
    assert (
        model.logit_lens(IDS, layers=number).layers == model.logit_lens(IDS, layers=[number]).layers == (1,)
    )
    assert model.activation_patching(IDS, IDS[::-1], "mlp", layers=number).layers == (1,)


def test_the_layers_of_every_call_may_be_numbers_of_numpy(model):
    W = np.random.default_rng(0).normal(size=(16, D)).astype(np.float32)
    weights = SAEWeights(W.T, np.zeros(16, np.float32), W, np.zeros(D, np.float32))
    sae = SAE(weights, ReLU(), {"component": PLACE})
    one = np.int64(1)
    assert model.get_top_features_for_text(IDS, sae, one) == model.get_top_features_for_text(IDS, sae, 1)
    with model.attach_sae(sae, layer=one) as handle, model.attach_sae(sae, one) as again:
        assert handle.component == again.component == "layers.1.resid_post"


@pytest.mark.parametrize("bad", ["1", 1.0, True, None, [1], np.float32(1), 3, -4])
def test_what_is_no_layer_is_named(model, bad):
    from mlxterp import ComponentError

    with pytest.raises(ComponentError, match=r"There is no layer .* numbered 0 to 2"):
        model.layers[bad]
