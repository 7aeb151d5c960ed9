"""Hooks leave a model as it was, refuse what cannot work, and save activations."""

from __future__ import annotations

import numpy as np
import pytest

import mlxterp
from mlxterp import ComponentError, EditError, InputError, InterpretableModel
from mlxterp.hooks import AttachedHook, Controller, Detector
from mlxterp.interventions import scale
from tests.hooking import PROMPT, TEXTS, logits, read, same


@pytest.fixture
def model(backend) -> InterpretableModel:
    return mlxterp.load_demo(backend).model


# -- leaving the model as it was ----------------------------------------------------------------


def test_a_hook_can_be_paused_detached_twice_and_used_as_a_block(model):
    before, controller = logits(model), Controller("layers.1.mlp", scale(0.0))
    handle = model.add_hook(controller)
    assert isinstance(handle, AttachedHook) and handle.attached and handle.component == "layers.1.mlp"
    changed = logits(model)
    assert not same(changed, before)
    controller.enabled = False
    assert same(logits(model), before) and "disabled" in repr(handle)
    controller.enabled = True
    with model.without_controllers():
        assert same(logits(model), before)
    assert same(logits(model), changed)
    handle.detach()
    handle.detach()
    assert same(logits(model), before) and not handle.attached
    with pytest.raises(mlxterp.TraceError, match="detached"), handle:
        pass
    with model.add_hook(controller) as again:
        assert same(logits(model), changed)
    assert not again.attached and same(logits(model), before)


def test_detectors_go_on_where_controllers_are_left_out(model):
    detector = Detector("layers.1.mlp", keep=True)
    plain = read(model, "The end.", "layers.1.mlp")
    with model.add_hook(Controller("layers.0.resid_post", scale(0.5))), model.add_hook(detector):
        with model.without_controllers():
            model("The end.")
        model("The end.")
    without, with_them = detector.activations
    assert np.allclose(without, plain, atol=1e-5) and not np.allclose(with_them, plain, atol=1e-2)


@pytest.mark.parametrize("kind", [Detector, Controller])
def test_an_exception_in_a_hook_leaves_the_model_as_it_was(model, kind):
    calls = []

    def fail(x):
        calls.append(x)
        if len(calls) > 1 or x.shape[1] > 1:
            raise RuntimeError("stop here")
        return x

    before = logits(model)
    watching = Detector("layers.0.mlp", keep=True, statistics=True)
    with model.add_hook(watching), model.add_hook(kind("layers.1.mlp", fail)) as handle:
        for call in (
            lambda: model(TEXTS), lambda: model.loss(PROMPT), lambda: model.generate(PROMPT, max_tokens=2),
            lambda: model.trace(PROMPT).__enter__(),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="stop here"):
                call()
        handle.detach()
        assert watching.activations == []  # what a failed call had shown is not kept
        assert same(logits(model), before)
    assert len(watching.activations) == len(TEXTS)
    assert model.session.attachments.attached == ()


def test_a_stream_that_is_left_early_is_seen_as_far_as_it_went(model):
    detector = Detector("layers.1.mlp", keep=True)
    with model.add_hook(detector):
        stream = model.stream_generate(PROMPT, max_tokens=20)
        first = next(iter(stream))
        stream.close()
    (text,) = detector.texts
    assert text is not None and text.startswith(f"{PROMPT} {first}")
    assert len(detector.activations[0]) >= len(model.tokenize(PROMPT))


def test_a_hook_beyond_where_a_pass_stops_does_not_matter(model):
    detector = Detector("layers.3.mlp", keep=True)
    with model.add_hook(detector), model.add_hook(Controller("layers.3.mlp", scale(0.0))):
        with model.trace(PROMPT, stop_after="layers.1.mlp") as t:
            pass
        assert t.activations["layers.0.mlp"] is not None
    assert len(detector.activations) <= 1


# -- bad input ----------------------------------------------------------------------------------


def test_what_cannot_work_is_refused_where_it_enters(demo):
    model = demo.model
    with pytest.raises(InputError, match="expected a path"):
        Detector("")
    with pytest.raises(InputError, match="cannot be called with"):
        Detector("layers.1.mlp", lambda: None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="expected a function"):
        Detector("layers.1.mlp", 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="overrides `modify`"):
        Controller("layers.1.mlp")
    with pytest.raises(InputError, match="one activation"):
        Controller("layers.1.mlp", lambda a, b: a)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ComponentError, match="No component"):
        model.add_hook(Detector("layers.1.nothing"))
    with pytest.raises(InputError, match="Expected a Detector"):
        model.add_hook(lambda x: x)
    for further in ((lambda x: x,), ()):
        with pytest.raises(
            InputError, match=r"model\.add_hook\(Controller\('blocks\.1\.hook_mlp_out', f\)\)"
        ):
            model.add_hook("blocks.1.hook_mlp_out", *further)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="takes one hook"):
        model.add_hook(Detector("layers.1.mlp"), print)
    with pytest.raises(InputError, match="as wide as its text"):
        model.add_hook(Detector("layers.1.attn.pattern", keep=True))
    with pytest.raises(InputError, match="keep=True"):
        _ = Detector("layers.1.mlp").activations
    with pytest.raises(InputError, match="statistics=True"):
        _ = Detector("layers.1.mlp").statistics
    assert model.session.attachments.attached == ()


def test_a_controller_that_returns_something_else_is_told_what_was_expected(demo):
    for wrong in (lambda x: None, lambda x: x[:, :, :3], lambda x: 3.0):
        with (
            demo.model.add_hook(Controller("layers.1.mlp", wrong)),
            pytest.raises(EditError, match=r"layers\.1\.mlp"),
        ):
            demo.model("The end.")


def test_one_detector_sees_one_width(demo):
    detector = Detector("layers.1.mlp", statistics=True)
    with demo.model.add_hook(detector):
        demo.model("The end.")
    detector.component = "layers.1.mlp.up_proj"
    with demo.model.add_hook(detector), pytest.raises(InputError, match="wide"):
        demo.model("The end.")


# -- saving activations -------------------------------------------------------------------------


def test_activations_are_saved_as_collect_activations_does(demo, tmp_path):
    texts = demo.texts[:6]
    saved = demo.model.activations.save(texts, layers=[1, -1], store=tmp_path / "store", run_id="run", seed=3)
    direct = mlxterp.collect_activations(
        demo.model, texts, ["layers.1.resid_post", "layers.3.resid_post"], tmp_path / "direct", seed=3
    )
    assert saved.path == tmp_path / "store" / "activations" / "run" and saved.components == direct.components
    assert np.array_equal(saved.read(0, "layers.3.resid_post"), direct.read(0, "layers.3.resid_post"))
    store = mlxterp.LocalStore(tmp_path / "store")
    assert store.collections() == ["run"] and len(store.activations("run")) == len(saved)
    named = demo.model.activations.save(texts, component=["layers.1.mlp"], store=store)
    assert named.path.name == "layers.1.mlp"
    with pytest.raises(mlxterp.SAEError, match="run_id="):
        demo.model.activations.save(texts[:3], "layers.1.mlp", store=store)
    several = demo.model.activations.save(texts, 0, component=["mlp", "attn"], store=store, run_id="two")
    assert several.components == ("layers.0.mlp", "layers.0.self_attn")


def test_what_to_save_is_asked_for_where_it_is_not_clear(demo, tmp_path):
    save = demo.model.activations.save
    with pytest.raises(InputError, match="Name what to save"):
        save(["a text"], store=tmp_path)
    with pytest.raises(InputError, match="names no layer"):
        save(["a text"], [], store=tmp_path)
    with pytest.raises(InputError, match="is a path already"):
        save(["a text"], ["layers.1.mlp"], component="attn", store=tmp_path)
    with pytest.raises(ComponentError, match="There is no layer 9"):
        save(["a text"], [9], store=tmp_path)
    with pytest.raises(InputError, match="cannot name a folder"):
        save(["a text"], [1], store=tmp_path, run_id="../elsewhere")
    with pytest.raises(InputError, match="run_id="):
        save(["a text"], [1], path=tmp_path)
