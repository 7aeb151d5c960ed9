"""Seeing and changing components inside a block."""

from __future__ import annotations

import threading
from typing import Any, cast

import numpy as np
import pytest

from mlxterp import (
    ComponentError,
    EditError,
    InputError,
    InterpretableModel,
    MlxterpWarning,
    NotALanguageModelError,
    NoTokenizerError,
    TraceError,
)
from mlxterp.interventions import add_vector, scale, zero_out
from tests.tiny import WordTokenizer, tiny_llama

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")

IDS = [3, 14, 15, 9, 2, 6, 5]


@pytest.fixture(scope="module")
def model() -> InterpretableModel:
    return tiny_llama(tokenizer=WordTokenizer())


def inner_model(model: InterpretableModel) -> Any:
    """The mlx-lm model that was wrapped."""
    return cast(Any, model.language_model).model


def test_values_in_the_block_are_real_arrays(model):
    with model.trace(IDS) as t:
        mlp = model.layers[1].mlp.output
        assert isinstance(mlp, mx.array) and mlp.shape == (1, 7, 32)
        assert isinstance(mlp.sum().item(), float)
    assert t.output.shape == (1, 7, 64)


def test_assigning_in_the_block_equals_the_same_interventions(model):
    v = mx.random.normal((32,), key=mx.random.key(1))
    with model.trace(IDS) as block:
        model.layers[1].mlp.output[:, -1] += v
        model.layers[2].self_attn.output *= 0.5
        model.layers[0].attn.pattern[:, 2] = 0
        model.layers[3].resid_mid[:, 0] = 0
    given = {
        "layers.1.mlp": add_vector(v, positions=-1),
        "layers.2.self_attn": scale(0.5),
        "layers.0.attn.pattern": zero_out(heads=2),
        "layers.3.resid_mid": zero_out(positions=0),
    }
    assert mx.array_equal(block.output, model.trace(IDS, given).output)
    assert not mx.array_equal(block.output, model(IDS))


def test_a_read_reflects_the_edits_so_far_and_earlier_reads_stay(model):
    with model.trace(IDS):
        before = model.layers[3].output
        copy = np.array(before)
        model.layers[1].output = mx.zeros((1, 7, 32))
        after = model.layers[3].output
        assert np.array_equal(np.array(before), copy)
        assert not np.array_equal(np.array(after), copy)
        assert not model.layers[1].output.any().item()


def test_reads_may_come_in_any_order(model):
    with model.trace(IDS):
        late, early = model.layers[3].mlp.output, model.layers[0].mlp.output
    with model.trace(IDS) as t:
        pass
    assert mx.array_equal(late, t.activations["layers.3.mlp"])
    assert mx.array_equal(early, t.activations["layers.0.mlp"])


def test_a_value_read_before_an_edit_of_a_later_block_is_not_computed_again(model):
    calls = []
    own = type(inner_model(model).model.layers[0].mlp)

    class Counting(own):
        def __call__(self, x):
            calls.append(1)
            return super().__call__(x)

    model = tiny_llama()
    inner = inner_model(model).model.layers[0]
    inner.mlp.__class__ = Counting
    with model.trace(IDS):
        first = model.layers[0].mlp.output
        model.layers[2].mlp.output = mx.ones((1, 7, 32))
        second = model.layers[0].mlp.output
        assert model.layers[3].output.shape == (1, 7, 32)
    assert len(calls) == 1
    assert mx.array_equal(first, second)


def test_every_value_can_be_asked_for_afterwards_with_the_edits_in_force(model):
    with model.trace(IDS) as t:
        model.layers[1].mlp.output *= 0
    assert not t.activations["layers.1.mlp"].any().item()
    stream = [t.activations[f"layers.1.{n}"] for n in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    assert mx.allclose(stream[0] + stream[1] + stream[2], stream[3], atol=1e-6)
    assert mx.array_equal(t.activations["logits"], t.output)


def test_saved_values_answer_to_every_name_of_their_component(model):
    with model.trace(IDS) as t:
        saved = model.layers[1].self_attn.output.save()
        (model.layers[2].output * 2).save("doubled")
    assert list(t.saved_values) == ["layers.1.self_attn", "doubled"]
    assert mx.array_equal(t.saved_values["model.layers.1.self_attn"], saved)
    with pytest.raises(ComponentError, match="not saved"):
        t.saved_values["layers.3.mlp"]


def test_with_capture_only_those_components_are_there(model):
    t = model.trace(IDS, capture=["layers.1", "blocks.2.attn.hook_z"])
    assert list(t.activations) == ["layers.1", "layers.2.attn.z"]
    assert t.activations["layers.2.attn.z"].shape == (1, 4, 7, 8)
    assert "layers.1" in t.activations and "layers.3" not in t.activations
    with pytest.raises(TraceError, match="capture"):
        t.activations["layers.3"]


def test_stopping_early_gives_the_value_and_no_logits(model):
    t = model.trace(IDS, capture=["layers.1"], stop_after="layers.1")
    assert mx.array_equal(t.activations["layers.1"], model.trace(IDS).activations["layers.1"])
    with pytest.raises(TraceError, match="stop"):
        _ = t.output


def test_a_module_called_several_times_gives_a_list_and_is_edited_by_call(model):
    with model.trace(IDS):
        q, k = model.layers[1].self_attn.rope.output
        assert q.shape == (1, 4, 7, 8) and k.shape == (1, 2, 7, 8)
        model.layers[1].self_attn.rope.call(1).output = k * 0
        assert not model.layers[1].attn.k.any().item()
        assert model.layers[1].attn.q.any().item()
        with pytest.raises(EditError, match="called 2 times"):
            model.layers[1].self_attn.rope.output = q


def test_inputs_can_be_read_and_assigned(model):
    with model.trace(IDS) as t:
        model.layers[2].input = mx.zeros((1, 7, 32))
    assert not t.activations["layers.2.resid_pre"].any().item()
    assert mx.array_equal(
        t.activations["layers.2.self_attn.input"], t.activations["layers.2.input_layernorm"]
    )


def test_embed_and_logits_can_be_edited(model):
    with model.trace(IDS) as t:
        model.embed[:, 0] = 0
        model.logits[:, :, 5] = 100
    assert (mx.argmax(t.output, axis=-1) == 5).all().item()
    assert not t.activations["embed"][:, 0].any().item()


ONE = mx.ones((1, 7, 32))


def double(model):
    model.layers[1].mlp.output *= 2


def use_a_copy_afterwards(model):
    h = model.layers[1].mlp.output
    h *= 2
    model.layers[1].mlp.output = h
    h += 100


def assign_twice(model):
    h = model.layers[1].mlp.output
    h *= 2
    model.layers[1].mlp.output = h
    model.layers[1].mlp.output = h


def matmul_in_place(model):
    h = model.layers[1].mlp.output
    h @= mx.eye(32) * 2
    model.layers[1].mlp.output = h


def restore_and_double(model):
    before = model.layers[1].mlp.output
    model.layers[1].mlp.output *= 7
    model.layers[1].mlp.output = before
    model.layers[1].mlp.output *= 2


def add_itself(model):
    h = model.layers[1].mlp.output
    h += h
    model.layers[1].mlp.output = h


@pytest.mark.parametrize("edit", [double, use_a_copy_afterwards, assign_twice, matmul_in_place,
                                  restore_and_double, add_itself])  # fmt: skip
def test_however_it_is_written_the_value_assigned_last_is_the_value(model, edit):
    plain = model.trace(IDS).activations["layers.1.mlp"]
    with model.trace(IDS) as t:
        edit(model)
        now = model.layers[1].mlp.output
    assert mx.allclose(now, 2 * plain, rtol=1e-5, atol=1e-6)
    assert mx.allclose(t.activations["layers.1.mlp"], now)


def test_operations_and_item_writes_on_one_array_keep_their_order(model):
    plain = model.trace(IDS).activations["layers.1.mlp"]
    with model.trace(IDS):
        h = model.layers[1].mlp.output
        h += 1
        h[:, 0] = 0
        model.layers[1].mlp.output = h
        now = model.layers[1].mlp.output
    assert not now[:, 0].any().item()
    assert mx.allclose(now[:, 1:], plain[:, 1:] + 1)


def test_what_the_user_does_to_an_operand_later_changes_nothing(model):
    buffer = np.zeros(32, np.float32)
    with model.trace(IDS) as t:
        for layer in range(2):
            buffer[:] = layer + 1
            model.layers[layer].mlp.output[:, -1] = buffer
    assert [t.activations[f"layers.{i}.mlp"][0, -1, 0].item() for i in range(2)] == [1, 2]


def test_two_names_of_one_value_are_edited_in_the_order_written(model):
    with model.trace(IDS) as t:
        model.layers[1].resid_post = ONE
        model.layers[1].output *= 2
    assert mx.array_equal(t.activations["layers.1.resid_post"], 2 * ONE)


def test_a_value_stays_one_value_when_an_edit_reads_its_site(model):
    with model.trace(IDS):
        before = model.layers[1].input
        model.layers[1].resid_mid *= 2
        assert mx.array_equal(model.layers[1].input, before)


def test_a_function_of_an_intervention_may_run_the_model_itself(model):
    plain = []
    t = model.trace(IDS, {"layers.1.mlp": lambda x: (plain.append(model(IDS)), x * 2)[1]})
    assert mx.array_equal(t.output, model.trace(IDS, {"layers.1.mlp": scale(2.0)}).output)
    assert mx.array_equal(plain[0], model(IDS))


def test_a_trace_holds_no_more_than_the_plain_model_at_its_peak():
    model, ids = tiny_llama(layers=8, hidden_size=128, intermediate_size=256), list(range(60)) * 4

    def peak(job):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        job()
        return mx.get_peak_memory() - before

    def trace():
        with model.trace(ids):
            pass

    plain = peak(lambda: mx.eval(model(ids)))
    assert peak(trace) <= 1.05 * plain


def test_modules_replaced_after_wrapping_are_noticed():
    model = tiny_llama()
    model.trace(IDS).output.sum().item()
    inner = inner_model(model)

    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __call__(self, x):
            return 2 * self.inner(x)

    inner.model.layers[1].mlp = Doubled(inner.model.layers[1].mlp)
    t = model.trace(IDS)
    assert mx.allclose(t.activations["layers.1.mlp"], 2 * t.activations["layers.1.mlp.inner"])


def test_values_answer_to_output_too_and_can_be_assigned_by_it(model):
    with model.trace(IDS) as t:
        assert model.layers[2].resid_pre.output.shape == (1, 7, 32)
        model.layers[2].resid_pre.output = mx.zeros((1, 7, 32))
        model.blocks[1].attn.hook_pattern[:, 0] = 0
    assert not t.activations["layers.2.resid_pre"].any().item()
    assert not t.activations["layers.1.attn.pattern"][:, 0].any().item()
    assert not hasattr(mx.array, "output")


@pytest.mark.parametrize("index", [(slice(None), 7), (slice(None), -8), 1, (0, 0, 32)])
def test_an_index_outside_a_value_raises(model, index):
    with pytest.raises(InputError, match="outside"), model.trace(IDS):
        model.layers[1].mlp.output[index] = 0


def test_indexing_the_padding_of_a_shorter_text_warns(model):
    with model.trace(["the cat", "a big dog"]) as t, pytest.warns(MlxterpWarning, match="padding"):
        model.layers[1].mlp.output[:, -1] = 0
    rows = mx.arange(2)
    assert mx.array_equal(t.last_logits, t.output[rows, t.last])


def test_writing_into_an_indexed_part_warns_that_it_changes_nothing(model):
    with model.trace(IDS) as t, pytest.warns(MlxterpWarning, match="one index"):
        model.layers[1].mlp.output[0][-1] = 0
    assert mx.array_equal(t.output, model(IDS))


@pytest.mark.parametrize("mistake", [
    lambda layer: layer.mlp.save(), lambda layer: layer.mlp[:, -1],
    lambda layer: setattr(layer.mlp, "outptu", 0), lambda layer: layer.mlp.__setitem__(0, 1),
    lambda layer: layer.sefl_attn.output,
])  # fmt: skip
def test_a_forgotten_or_misspelt_port_raises_a_component_error(model, mistake):
    with pytest.raises(ComponentError), model.trace(IDS):
        mistake(model.layers[1])


def test_an_intervention_that_takes_more_than_the_activation_is_refused_before_the_run(model):
    with pytest.raises(InputError, match="one activation"):
        model.trace(IDS, {"layers.1": lambda activation, hook: activation})


def test_traces_nest_and_outer_interventions_act_on_inner_ones(model):
    with model.trace(IDS, {"layers.0.mlp": zero_out()}) as outer:
        with model.trace(IDS, {"layers.2.mlp": zero_out()}) as inner:
            a = model.layers[1].output.save()
        b = model.layers[1].output.save()
    both = model.trace(IDS, {"layers.0.mlp": zero_out(), "layers.2.mlp": zero_out()})
    assert mx.array_equal(inner.output, both.output)
    assert mx.array_equal(outer.output, model.trace(IDS, {"layers.0.mlp": zero_out()}).output)
    assert mx.array_equal(a, b)


def test_threads_do_not_see_each_others_edits(model):
    plain, results = np.array(model(IDS)), {}

    def run(name, interventions):
        for _ in range(5):
            t = model.trace(IDS, interventions) if interventions is not None else None
            results.setdefault(name, []).append(np.array(model(IDS) if t is None else t.output))

    jobs = {"zero": {"layers.1": zero_out()}, "none": None, "double": {"layers.0.mlp": scale(2.0)}}
    threads = [threading.Thread(target=run, args=job) for job in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(x, plain) for x in results["none"])
    for name in ("zero", "double"):
        expected = np.array(model.trace(IDS, jobs[name]).output)
        assert all(np.array_equal(x, expected) for x in results[name])


def test_a_compiled_function_that_holds_modules_runs_uncompiled_in_a_trace():
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self._step = mx.compile(lambda x: self.inner(x))

        def __call__(self, x):
            return self._step(x)

    model = tiny_llama()
    block = inner_model(model).model.layers[1]
    block.mlp = Wrapped(block.mlp)
    model = InterpretableModel(inner_model(model))
    before = model(IDS)
    t = model.trace(IDS, {"layers.1.mlp.inner": zero_out()})
    assert mx.array_equal(t.output, model.trace(IDS, {"layers.1.mlp": zero_out()}).output)
    assert mx.allclose(model(IDS), before, atol=1e-6)


def test_a_list_of_texts_gives_what_each_gives_alone(model):
    texts = ["the cat sat", "a big dog saw it run to the mat", "hat"]
    batch = model.trace(texts, {"layers.1.mlp": zero_out(positions=-1)})
    assert batch.lengths.tolist() == [3, 9, 1]
    for i, text in enumerate(texts):
        single = model.trace(text, {"layers.1.mlp": zero_out(positions=-1)})
        assert mx.allclose(batch.output[i, : batch.lengths[i]], single.output[0], atol=1e-5)
        assert int(batch.last[i]) == single.output.shape[1] - 1


@pytest.mark.parametrize("inputs", ["the cat", [0, 1], [[0, 1]], np.array([0, 1]), np.array([[0, 1]])])
def test_every_form_of_input_means_the_same(model, inputs):
    assert mx.array_equal(model.trace(inputs).output, model("the cat"))


@pytest.mark.parametrize(
    "bad", [[], "", [""], [[]], [0.5, 1.0], [-1], [64], None, {"a": 1}, [0, "cat"], b"cat"]
)
def test_input_that_cannot_be_run_raises(model, bad):
    with pytest.raises(InputError):
        model.trace(bad)


def test_text_without_a_tokenizer_raises_and_token_ids_do_not():
    model = tiny_llama()
    assert model.trace(IDS).output.shape == (1, 7, 64)
    with pytest.raises(NoTokenizerError, match="token ids"):
        model.trace("the cat")


def test_a_text_longer_than_the_model_was_made_for_warns():
    with pytest.warns(MlxterpWarning, match="max_position_embeddings"):
        tiny_llama(max_position_embeddings=4).trace(IDS)


@pytest.mark.parametrize("thing", [42, object(), "no/such/folder/here", nn.Linear(2, 2)])
def test_what_is_not_a_language_model_is_refused(thing):
    with pytest.raises((NotALanguageModelError, InputError)):
        InterpretableModel(thing)


@pytest.mark.parametrize(
    "value", [mx.zeros((1, 7, 31)), mx.zeros((1, 7, 32), dtype=mx.int32), "text", None, mx.zeros((7, 32))]
)
def test_a_value_that_does_not_fit_is_refused(model, value):
    with pytest.raises(EditError), model.trace(IDS):
        model.layers[1].mlp.output = value


def test_values_outside_a_trace_raise(model):
    with pytest.raises(TraceError, match="inside a trace"):
        _ = model.layers[1].mlp.output
    with pytest.raises(ComponentError, match="numbered 0 to 3"):
        model.layers[4]
    with pytest.raises(AttributeError, match="no module"):
        _ = model.nonsense


def test_what_only_subtraction_finds_can_be_read_and_says_so():
    assert "self_attn" in tiny_llama().components()["layers.1.attn_out"]
