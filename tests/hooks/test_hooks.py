"""Detectors see what a trace reads, controllers do what `interventions=` does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, InterpretableModel
from mlxterp.hooks import Controller, Detector
from mlxterp.interventions import zero_out
from tests.hooking import PLACES, PROMPT, TEXTS, logits, numbers, read, same, without_tokenizer


@pytest.fixture
def model(backend) -> InterpretableModel:
    return mlxterp.load_demo(backend).model


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


def test_both_wings_show_the_same_tokens_of_a_generation_however_it_ends(demo):
    ends = [{"max_tokens": 6}, {"max_tokens": 60, "stop": "Lily"}, {"max_tokens": 250}]
    found = []
    for wing in mlxterp.available_backends():
        model, detector = mlxterp.load_demo(wing).model, Detector("layers.1.mlp", keep=True)
        with model.add_hook(detector):
            written = [model.generate("Once upon a time", **end) for end in ends]
        found.append((written, [len(rows) for rows in detector.activations]))
    assert all(one == found[0] for one in found)
    assert found[0][1][0] == len(demo.model.tokenize("Once upon a time")) + 5


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
