"""Detectors see what a trace reads, controllers do what `interventions=` does, and both leave the model as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import ComponentError, EditError, InputError, InterpretableModel
from mlxterp.hooks import AttachedHook, Controller, Detector
from mlxterp.interventions import scale, zero_out

TEXTS = ["Once upon a time there was a dog.", "Lily had a red ball", "The end."]
PROMPT = "Once upon a time there was a little"
PLACES = [
    "layers.1.mlp",
    "layers.1.mlp.input",
    "layers.2.resid_post",
    "layers.1.attn_out",
    "layers.1.attn.z",
    "logits",
]


@pytest.fixture
def model(backend) -> InterpretableModel:
    return mlxterp.load_demo(backend).model


def numbers(model: InterpretableModel, x: Any) -> np.ndarray:
    return model.language_model.backend.get(x)


def logits(model: InterpretableModel, inputs: Any = TEXTS) -> list[np.ndarray]:
    """Of each text, without padding."""
    found = numbers(model, model(inputs))
    lengths = [len(model.tokenize(text)) for text in ([inputs] if isinstance(inputs, str) else inputs)]
    return [row[:n] for row, n in zip(found, lengths, strict=True)]


def without_tokenizer(model: InterpretableModel) -> InterpretableModel:
    return InterpretableModel(model.language_model.model)  # pyright: ignore[reportAttributeAccessIssue]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def read(model: InterpretableModel, text: str, path: str) -> np.ndarray:
    """(positions, width) of one text, by a trace."""
    with model.trace(text) as t:
        pass
    x = numbers(model, t.activations[path])[0]
    return (x.swapaxes(0, 1) if path.endswith(".z") else x).reshape(len(model.tokenize(text)), -1)


# -- detectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLACES)
def test_a_detector_keeps_what_a_trace_reads_and_changes_nothing(model, path):
    before = logits(model)
    detector = Detector(path, keep=True)
    with model.add_hook(detector):
        assert same(logits(model), before)
    assert detector.texts == TEXTS
    for text, kept in zip(TEXTS, detector.activations, strict=True):
        assert kept.dtype == np.float32
        np.testing.assert_allclose(kept, read(model, text, path), rtol=1e-4, atol=1e-4)


def test_running_statistics_are_those_of_all_tokens(model):
    detector = Detector("layers.1.mlp", keep=True, statistics=True)
    with model.add_hook(detector):
        for text in TEXTS:
            model(text)
        model(TEXTS)
    rows = np.concatenate(detector.activations).astype(np.float64)
    found = detector.statistics
    assert found.count == len(rows) == 2 * sum(len(model.tokenize(text)) for text in TEXTS)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-10)
    assert np.array_equal(found.min, rows.min(axis=0)) and np.array_equal(found.max, rows.max(axis=0))
    detector.clear()
    assert detector.activations == [] and detector.texts == []
    with pytest.raises(InputError, match="Nothing was seen yet"):
        _ = detector.statistics


def test_a_function_sees_the_padded_array_and_where_it_is(model):
    seen = []
    with model.add_hook(Detector("layers.1.mlp", lambda x, where: seen.append((tuple(x.shape), where)))):
        model(TEXTS)
    lengths = [len(model.tokenize(text)) for text in TEXTS]
    ((shape, where),) = seen
    assert shape == (3, max(lengths), model.d_model)
    assert where.lengths.tolist() == lengths and where.positions.tolist() == list(range(max(lengths)))


def test_a_function_of_one_argument_is_given_the_activation_alone(model):
    seen: list[int] = []

    def see(activation: Any, kept: list[int] = seen) -> None:
        kept.append(activation.shape[-1])

    with model.add_hook(Detector("layers.1.mlp", see)):
        model("The end.")
    assert seen == [model.d_model]


def test_a_class_can_observe_by_itself(model):
    class Longest(Detector):
        longest = 0

        def observe(self, activation, where):
            self.longest = max(self.longest, activation.shape[1])

    longest = Longest("layers.1.mlp")
    with model.add_hook(longest):
        model(TEXTS)
    assert longest.longest == max(len(model.tokenize(text)) for text in TEXTS)


def test_what_a_detector_writes_goes_to_a_copy(model):
    def write(x):
        x[:] = 0

    before = logits(model)
    with model.add_hook(Detector("layers.1.mlp", write)):
        assert same(logits(model), before)


def test_every_kind_of_call_is_seen_once(model):
    detector = Detector("layers.1.mlp", keep=True)
    with model.add_hook(detector):
        model("The end.")
        with model.trace(TEXTS):
            _ = model.layers[0].mlp.output  # each of these runs the trace again
            model.layers[0].mlp.output[:] = 0.0
            _ = model.layers[2].mlp.output
        model.loss("Lily had a red ball")
        model.generate(PROMPT, max_tokens=3)
        model.get_top_features_for_text("not watched", mlxterp.load_demo().sae, 1, "resid_post")
    assert len(detector.texts) == 1 + 3 + 1 + 1
    assert detector.texts[:5] == ["The end.", *TEXTS, "Lily had a red ball"]
    last = detector.texts[5]
    assert last is not None and last.startswith(PROMPT)
    np.testing.assert_allclose(
        detector.activations[1], read(model, TEXTS[0], "layers.1.mlp"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("step", [2048, 3])
def test_generation_is_seen_in_absolute_positions(model, step):
    positions: list[int] = []
    detector = Detector(
        "layers.1.mlp", lambda x, where: positions.extend(where.positions.tolist()), keep=True
    )
    ids, plain = model.tokenize(PROMPT), without_tokenizer(model)
    with plain.add_hook(detector):
        written = plain.generate(ids, max_tokens=6, prefill_step_size=step)
    assert positions == list(range(len(ids) + 5))
    with plain.trace([*ids, *written[:5]]) as t:
        pass
    expected = numbers(model, t.activations["layers.1.mlp"])[0]
    np.testing.assert_allclose(detector.activations[0], expected, rtol=1e-3, atol=1e-3)


def test_both_wings_show_the_same_tokens_of_a_generation_however_it_ends():
    ends = [{"max_tokens": 6}, {"max_tokens": 60, "stop": "Lily"}, {"max_tokens": 250}]
    found = []
    for wing in mlxterp.available_backends():
        model, detector = mlxterp.load_demo(wing).model, Detector("layers.1.mlp", keep=True)
        with model.add_hook(detector):
            written = [model.generate("Once upon a time", **end) for end in ends]
        found.append((written, [len(rows) for rows in detector.activations]))
    assert all(one == found[0] for one in found)
    assert found[0][1][0] == len(model.tokenize("Once upon a time")) + 5


def test_keys_of_a_cache_are_kept_once(model):
    detector = Detector("layers.1.attn.k", keep=True, statistics=True)
    with model.add_hook(detector):
        model.generate(PROMPT, max_tokens=4)
    assert len(detector.activations[0]) == detector.statistics.count == len(model.tokenize(PROMPT)) + 3


def test_detectors_of_a_model_without_tokenizer_have_no_texts(model):
    plain, detector = without_tokenizer(model), Detector("layers.1.mlp", keep=True)
    with plain.add_hook(detector):
        plain([[1, 2, 3], [4, 5]])
    assert detector.texts == [None, None] and [len(a) for a in detector.activations] == [3, 2]


# -- controllers --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLACES[:5])
def test_a_controller_does_what_an_intervention_does(model, path):
    with model.trace(TEXTS, interventions={path: lambda x: x * 0.5}) as t:
        pass
    expected = [row[:n] for row, n in zip(numbers(model, t.output), t.lengths, strict=True)]
    with model.add_hook(Controller(path, lambda x: x * 0.5)):
        assert same(logits(model), expected)
        with model.trace(TEXTS) as again:
            pass
    assert np.array_equal(numbers(model, again.output), numbers(model, t.output))


def test_a_controller_acts_in_loss_generation_searches_and_gradients(model):
    change = {"layers.1.resid_post": lambda x: x * 0.0}
    sae = mlxterp.load_demo().sae
    objective = mlxterp.logit_difference(" dog", " cat")
    plain_loss = model.loss(PROMPT)
    plain_grad = model.gradients(PROMPT, objective, "layers.2.mlp")["layers.2.mlp"]
    with model.trace(PROMPT, interventions=change) as t:
        pass
    expected = model.generate(PROMPT, max_tokens=5, interventions=change)
    grad = model.gradients(PROMPT, objective, "layers.2.mlp", interventions=change)["layers.2.mlp"]
    with model.add_hook(Controller("layers.1.resid_post", change["layers.1.resid_post"])):
        assert model.generate(PROMPT, max_tokens=5) == expected
        assert model.loss(PROMPT) != pytest.approx(plain_loss)
        assert np.array_equal(numbers(model, model(PROMPT)), numbers(model, t.output))
        hooked = model.gradients(PROMPT, objective, "layers.2.mlp")["layers.2.mlp"]
        assert np.array_equal(numbers(model, hooked), numbers(model, grad))
        found = model.get_top_features_for_text(PROMPT, sae, 1, "resid_post", top_k=100)
    assert not np.array_equal(numbers(model, hooked), numbers(model, plain_grad))
    zero = sae.encode(np.zeros((1, sae.d_model), np.float32))[0]
    assert dict(found) == {int(f): pytest.approx(float(zero[f]), rel=1e-5) for f in np.flatnonzero(zero)}


def test_positions_are_absolute_in_every_chunk_of_generation(model):
    expected = model.generate(
        PROMPT, max_tokens=4, interventions={"layers.1.mlp": zero_out(positions=[4, 9])}
    )
    for controller in (
        Controller("layers.1.mlp", lambda x: x * 0.0, positions=[4, 9]),
        Controller("layers.1.mlp", zero_out(positions=[4, 9])),
        Controller("layers.1.mlp", zero_out(), positions=[4, 9]),
    ):
        with model.add_hook(controller):
            assert model.generate(PROMPT, max_tokens=4) == expected
            assert model.generate(PROMPT, max_tokens=4, prefill_step_size=3) == expected


def test_negative_positions_count_from_each_texts_own_end(model):
    with model.trace(TEXTS, interventions={"layers.1.mlp": zero_out(positions=-1)}) as t:
        pass
    controller = Controller("layers.1.mlp", lambda x: x * 0.0, positions=-1)
    with model.add_hook(controller):
        assert np.array_equal(numbers(model, model(TEXTS)), numbers(model, t.output))
        with pytest.raises(InputError, match="Negative positions"):
            model.generate(PROMPT, max_tokens=2)
    with pytest.raises(InputError, match="Negative positions"):
        model.generate(PROMPT, max_tokens=2, interventions={"layers.1.mlp": zero_out(positions=-1)})


def test_controllers_act_in_the_order_in_which_they_were_added(model):
    plus, times = Controller("layers.1.mlp", lambda x: x + 1), Controller("layers.1.mlp", lambda x: x * 2)
    detector = Detector("layers.1.mlp", keep=True)
    plain = read(model, TEXTS[0], "layers.1.mlp")
    with model.add_hook(plus), model.add_hook(detector), model.add_hook(times):
        assert np.allclose(read(model, TEXTS[0], "layers.1.mlp"), (plain + 1) * 2, rtol=1e-4, atol=1e-4)
    assert np.allclose(detector.activations[0], plain + 1, rtol=1e-4, atol=1e-4)
    with model.add_hook(times), model.add_hook(plus):
        assert np.allclose(read(model, TEXTS[0], "layers.1.mlp"), plain * 2 + 1, rtol=1e-4, atol=1e-4)


def test_a_class_that_is_both_observes_and_changes_in_the_order_of_its_bases(model):
    class Doubling:
        def modify(self, activation):
            return activation * 2

    class SeesFirst(Doubling, Detector, Controller):
        pass

    class SeesLast(Doubling, Controller, Detector):
        pass

    plain = read(model, TEXTS[0], "layers.1.mlp")
    for cls, seen in ((SeesFirst, plain), (SeesLast, plain * 2)):
        hook = cls("layers.1.mlp", keep=True)
        with model.add_hook(hook):
            assert np.allclose(read(model, TEXTS[0], "layers.1.mlp"), plain * 2, rtol=1e-4, atol=1e-4)
        assert np.allclose(hook.activations[0], seen, rtol=1e-4, atol=1e-4)


def test_hooks_come_after_what_was_attached_before_and_before_steering(model):
    from mlxterp.steering import amplify

    sae = mlxterp.load_demo().sae
    feature = model.get_top_features_for_text(PROMPT, sae, 1, "resid_post", top_k=1)[0][0]
    inside, outside = Detector("layers.1.resid_post", keep=True), Detector("layers.3.resid_post", keep=True)
    plain = read(model, PROMPT, "layers.1.resid_post")
    with model.add_hook(inside), model.add_hook(outside), model.steer(amplify(sae, feature, 0.0)):
        model(PROMPT)
    assert np.allclose(inside.activations[0], plain, rtol=1e-5, atol=1e-5)
    assert not np.allclose(outside.activations[0], read(model, PROMPT, "layers.3.resid_post"), atol=1e-2)


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
    assert model._standing.attached == ()


def test_a_stream_that_is_left_early_is_seen_as_far_as_it_went(model):
    detector = Detector("layers.1.mlp", keep=True)
    with model.add_hook(detector):
        stream = model.stream_generate(PROMPT, max_tokens=20)
        first = next(iter(stream))
        stream.close()
    (text,) = detector.texts
    assert text is not None and text.startswith(PROMPT + first)
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
    with pytest.raises(InputError, match="as wide as its text"):
        model.add_hook(Detector("layers.1.attn.pattern", keep=True))
    with pytest.raises(InputError, match="keep=True"):
        _ = Detector("layers.1.mlp").activations
    with pytest.raises(InputError, match="statistics=True"):
        _ = Detector("layers.1.mlp").statistics
    assert model._standing.attached == ()


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
