"""An attached SAE acts on every pass until it is detached, and tracks the texts that are run."""

from __future__ import annotations

import json
import threading
import warnings

import numpy as np
import pytest

import mlxterp
from mlxterp import SAE, InterpretableModel
from mlxterp.errors import ComponentError, InputError, SAEError, TraceError
from mlxterp.steering import ablate, add_feature, amplify
from mlxterp.tracing.generation import Request, stream_tokens
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests.small import llama_folder, open_llama
from tests.tiny import WORDS, WordTokenizer

D, FEATURES, PLACE = 64, 96, "layers.1.resid_post"
TEXTS = [
    "the cat sat",
    "a big dog then",
    "one red hat on the mat",
    "it saw",
    "the dog run to an old cat and then it sat",
]


def make_sae(component: str | None = PLACE) -> SAE:
    draw = np.random.default_rng(0)
    W_dec = draw.normal(size=(FEATURES, D)).astype(np.float32)
    zeros = np.zeros(FEATURES, np.float32)
    weights = SAEWeights(W_dec.T / 8, zeros, W_dec, np.zeros(D, np.float32))
    return SAE(weights, TopK(8), {} if component is None else {"component": component})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_folder(tmp_path_factory)


@pytest.fixture
def model(folder, backend) -> InterpretableModel:
    return open_llama(folder, backend, WordTokenizer())


def get(model: InterpretableModel, x) -> np.ndarray:
    return model.language_model.backend.get(x)


def logits(model: InterpretableModel, text=TEXTS[4]) -> np.ndarray:
    return get(model, model(text))


def brute(model: InterpretableModel, sae: SAE, texts: list[str]) -> dict[int, list[tuple[str, float]]]:
    """Each feature's texts by its strongest activation, from one pass for each text."""
    strongest = []
    for text in texts:
        t = model.trace(text, capture=[PLACE])
        strongest.append(sae.encode(get(model, t.activations[PLACE])[0]).max(axis=0))
    table = {}
    for f in range(sae.d_hidden):
        found = [(-row[f], i) for i, row in enumerate(strongest) if row[f] > 0]
        if found:
            table[f] = [(texts[i], float(-value)) for value, i in sorted(found)]
    return table


def assert_same_texts(found, expected, top_k):
    assert set(found) == set(expected)
    for f, rows in found.items():
        assert [value for _, value in rows] == pytest.approx([v for _, v in expected[f][:top_k]], rel=1e-4)
        kept = dict(expected[f])
        assert all(kept[text] == pytest.approx(value, rel=1e-4) for text, value in rows)


# -- acting ---------------------------------------------------------------------------------------


def test_attaching_changes_no_bit_until_something_is_manipulated(model):
    sae, clean, written = make_sae(), logits(model), model.generate(TEXTS[0], 6)
    handle = model.attach_sae(sae)
    assert np.array_equal(logits(model), clean) and model.generate(TEXTS[0], 6) == written
    sae.concepts.enable_text_tracking(top_k=3)
    assert np.array_equal(logits(model), clean) and model.generate(TEXTS[0], 6) == written
    sae.concepts.manipulate_concept(neuron_idx=3, scale=1.0)
    assert np.array_equal(logits(model), clean)
    handle.detach()
    handle.detach()  # harmless
    assert np.array_equal(logits(model), clean)


def test_a_scaled_feature_is_an_amplified_one_everywhere(model):
    sae = make_sae()
    f = int(next(iter(brute(model, sae, TEXTS))))
    edit, clean = amplify(sae, f, 2.5), logits(model)
    with model.steer(edit):
        expected, loss, written = logits(model), model.loss(TEXTS[4]), model.generate(TEXTS[0], 6)
        top = model.get_top_features_for_text(TEXTS[4], make_sae("layers.2.resid_post"), 2, "resid_post")
    with model.attach_sae(sae) as handle:
        assert handle.attached
        sae.concepts.manipulate_concept(f, 2.5)
        assert np.array_equal(logits(model), expected)
        assert np.array_equal(get(model, model.trace(TEXTS[4]).output), expected)
        assert model.loss(TEXTS[4]) == loss and model.generate(TEXTS[0], 6) == written
        assert (
            model.get_top_features_for_text(TEXTS[4], make_sae("layers.2.resid_post"), 2, "resid_post") == top
        )
        sae.concepts.reset_manipulations()
        assert np.array_equal(logits(model), clean)
        sae.concepts.manipulate_concept(f, 0.0)
        removed = logits(model)
    assert np.array_equal(logits(model), clean)
    with model.steer(ablate(sae, f)):
        assert np.array_equal(logits(model), removed)


def test_manipulation_and_steering_of_one_sae_share_one_encoding(model):
    sae = make_sae()
    f = int(next(iter(brute(model, sae, TEXTS))))
    with model.steer(ablate(sae, f)):
        expected = logits(model)
    with model.attach_sae(sae):
        sae.concepts.manipulate_concept(f, 0.0)
        with model.steer(amplify(sae, f, 9.0)):
            assert np.array_equal(logits(model), expected)


def test_replacing_puts_the_reconstruction_in_place(model):
    sae = make_sae()
    t = model.trace(TEXTS[4], capture=[PLACE])
    h = get(model, t.activations[PLACE])
    with model.attach_sae(sae, mode="replace"):
        found = get(model, model.trace(TEXTS[4], capture=[PLACE]).activations[PLACE])
        sae.concepts.manipulate_concept(5, 3.0)
        scaled = get(model, model.trace(TEXTS[4], capture=[PLACE]).activations[PLACE])
    assert np.abs(found - sae.reconstruct(h)).max() < 1e-4
    z = sae.encode(h)
    z[..., 5] *= 3
    assert np.abs(scaled - sae.decode(z)).max() < 1e-4


def test_an_exception_while_attached_leaves_the_model_usable(model):
    sae, clean = make_sae(), logits(model)

    def fail() -> None:
        with model.attach_sae(sae):
            sae.concepts.enable_text_tracking()
            sae.concepts.manipulate_concept(3, 4.0)
            model(TEXTS[0])
            with model.trace(TEXTS[1]):
                raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert np.array_equal(logits(model), clean)
    with model.attach_sae(make_sae()) as handle:
        handle.concepts.enable_text_tracking()
        with pytest.raises(InputError):
            model([99999])
        model(TEXTS[0])
        assert {text for rows in handle.concepts.get_top_texts().values() for text, _ in rows} == {TEXTS[0]}


def test_attached_saes_act_in_every_thread_and_steering_only_in_its_own(model):
    sae, clean, found = make_sae(), logits(model), {}
    edit = add_feature(sae, 3, 5.0)

    def run(name):
        found[name] = logits(model)

    def in_thread(name):
        thread = threading.Thread(target=run, args=(name,))
        thread.start()
        thread.join()

    with model.steer(edit):
        in_thread("steered elsewhere")
    with model.attach_sae(sae, mode="replace"):
        replaced = logits(model)
        in_thread("attached")
    assert np.array_equal(found["steered elsewhere"], clean)
    assert np.array_equal(found["attached"], replaced) and not np.array_equal(replaced, clean)


def test_places_can_be_named_in_every_way(model):
    sae = make_sae()
    hooked = make_sae("blocks.1.hook_resid_post")
    for attach in (
        lambda: model.attach_sae(sae),
        lambda: model.attach_sae(sae, layer=1, component="resid_post"),
        lambda: model.attach_sae(sae, 1),
        lambda: model.attach_sae(sae, layer_signature="blocks.1.hook_resid_post"),
        lambda: model.attach_sae(sae, component=PLACE),
        lambda: model.attach_sae(make_sae(None), layer=-2),
        lambda: model.attach_sae(hooked, layer=1),
    ):
        handle = attach()
        assert handle.component == PLACE and handle.attached
        handle.detach()
        assert not handle.attached and "detached" in repr(handle)


# -- texts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_tracked_texts_are_those_of_brute_force(model, cut):
    sae = make_sae()
    with model.attach_sae(sae) as handle:
        sae.concepts.enable_text_tracking(top_k=3)
        for i in range(0, len(TEXTS), cut):
            model(TEXTS[i : i + cut])
        assert_same_texts(handle.concepts.get_top_texts(), brute(model, sae, TEXTS), 3)
        assert json.loads(json.dumps(handle.concepts.get_top_texts()))


def test_every_call_that_is_given_texts_is_tracked_once(model):
    expected = brute(model, make_sae(), TEXTS[:1])
    ids = [WORDS.index(word) for word in TEXTS[0].split()]
    for run in (
        lambda: model(TEXTS[0]),
        lambda: model.loss(TEXTS[0]),
        lambda: model.trace(TEXTS[0]).output,
        lambda: model(ids),  # decoded
        lambda: model.gradients(TEXTS[0], mlxterp.logit_difference(1, 2), "layers.0.mlp"),
    ):
        sae = make_sae()
        with model.attach_sae(sae):
            sae.concepts.enable_text_tracking(top_k=2)
            run()
            assert_same_texts(sae.concepts.get_top_texts(), expected, 2)


def test_a_trace_that_replays_is_tracked_once_and_as_it_was_before_its_edits(model):
    sae = make_sae()
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking(top_k=2)
        with model.trace(TEXTS[0]) as t:
            model.layers[0].output *= 3
            model.layers[1].attn.pattern  # noqa: B018 (replays)
        assert t.activations["layers.2.mlp.input"] is not None
        assert_same_texts(sae.concepts.get_top_texts(), brute(model, make_sae(), TEXTS[:1]), 2)


def test_generation_is_tracked_as_prompt_and_continuation(model):
    sae = make_sae()
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking(top_k=2)
        written = model.generate(TEXTS[0], 5, prefill_step_size=2)
        [text] = {text for rows in sae.concepts.get_top_texts().values() for text, _ in rows}
        assert text == f"{TEXTS[0]} {written}"  # as the tokenizer writes it: with a space
        found = sae.concepts.get_top_texts()
    # the last token written is never read by the model
    ids = [*(WORDS.index(word) for word in TEXTS[0].split())]
    tokens = [token for token, _ in model.language_model.stream(ids, 5) if token is not None]
    t = model.trace([*ids, *tokens[:-1]], capture=[PLACE])
    strongest = sae.encode(get(model, t.activations[PLACE])[0]).max(axis=0)
    assert {f: rows[0][1] for f, rows in found.items()} == pytest.approx(
        {int(f): float(strongest[f]) for f in np.flatnonzero(strongest)}, rel=1e-4
    )


def test_a_stream_that_is_left_early_is_tracked_as_far_as_it_went(model):
    sae = make_sae()
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking()
        stream = model.stream_generate(TEXTS[0], 50)
        pieces = [next(stream), next(stream)]
        stream.close()  # pyright: ignore[reportAttributeAccessIssue]
        [text] = {text for rows in sae.concepts.get_top_texts().values() for text, _ in rows}
    assert text.startswith(f"{TEXTS[0]} {''.join(pieces)}")


def test_a_stream_that_is_closed_within_its_prompt_is_not_tracked(model):
    sae = make_sae()
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking()
        stream = stream_tokens(model.session.running(TEXTS[4]), TEXTS[4], Request(5, prefill_step_size=3))
        assert next(stream) == (None, "")  # three of its tokens were read
        stream.close()
        with pytest.raises(InputError):
            sae.concepts.get_top_texts()
        model.generate(TEXTS[0], 1)
        assert sae.concepts.get_top_texts()


def test_tracking_sees_what_the_sae_meets_not_what_it_makes_of_it(model):
    sae = make_sae()
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking(top_k=3)
        for f in range(10):
            sae.concepts.manipulate_concept(f, 5.0)
        model(TEXTS)
        assert_same_texts(sae.concepts.get_top_texts(), brute_clean(model, sae), 3)


def brute_clean(model, sae):
    sae.concepts.reset_manipulations()
    return brute(model, sae, TEXTS)


def test_calls_over_many_texts_are_not_tracked(model):
    sae = make_sae()
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking()
        model.get_top_features_for_text(TEXTS[0], sae, 1, "resid_post")
        with pytest.raises(InputError):
            sae.concepts.get_top_texts()


def test_named_features_active_on_new_texts_are_found(model):
    sae = make_sae()
    expected = brute(model, sae, TEXTS)
    f = int(next(iter(expected)))
    with model.attach_sae(sae):
        sae.concepts.load_concepts({f: [{"name": "thing", "confidence": 0.5}]})
        sae.concepts.manipulate_concept(f, 0.0)  # the model is asked as it is
        active = sae.concepts.active_concepts(TEXTS)
    by_text = dict(expected[f])
    for text, found in zip(TEXTS, active, strict=True):
        assert [(a.neuron_idx, a.name) for a in found] == ([(f, "thing")] if text in by_text else [])
        if found:
            assert found[0].activation == pytest.approx(by_text[text], rel=1e-4)


# -- bad input ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(model):
    sae = make_sae()
    with pytest.raises(InputError, match="mode"):
        model.attach_sae(sae, mode="instead")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="Name the place"):
        model.attach_sae(make_sae(None))
    with pytest.raises(InputError, match="not both"):
        model.attach_sae(sae, PLACE, layer=1)
    with pytest.raises(ComponentError):
        model.attach_sae(sae, layer_signature="layers.9.mlp")
    with pytest.raises(SAEError, match="numbers for each token"):
        model.attach_sae(sae, layer_signature="layers.1.mlp.gate_proj")
    with pytest.warns(mlxterp.MlxterpWarning, match="FVU"):
        model.attach_sae(sae, layer=0, component="mlp").detach()
    with pytest.raises(InputError, match="enable_text_tracking"):
        sae.concepts.get_top_texts()


def test_a_layer_alone_means_the_saes_own_component_there(model):
    with pytest.warns(mlxterp.MlxterpWarning, match="FVU"):
        handle = model.attach_sae(make_sae("layers.1.mlp"), layer=2)
    assert handle.component == "layers.2.mlp"


def test_what_is_measured_and_built_under_edits_says_so(model):
    sae = make_sae()
    with model.attach_sae(sae):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.evaluate_sae(sae, TEXTS)
        sae.concepts.manipulate_concept(3, 2.0)
        with pytest.warns(mlxterp.MlxterpWarning, match="acts on this model"):
            model.evaluate_sae(sae, TEXTS)
        with pytest.warns(mlxterp.MlxterpWarning, match="acts on this model"):
            model.build_index(sae, TEXTS, verbose=False)
    with (
        model.steer(add_feature(sae, 3, 1.0)),
        pytest.warns(mlxterp.MlxterpWarning, match="acts on this model"),
    ):
        model.check_sae(sae, TEXTS)


def test_attaching_again_replaces_the_handle_from_before_and_all_can_be_detached(model):
    sae, clean = make_sae(), logits(model)
    first = model.attach_sae(sae)
    second = model.attach_sae(sae, mode="replace")
    other = model.attach_sae(make_sae())
    assert not first.attached and model.attached == (second, other)
    sae.concepts.load_concepts({1: "thing"})
    assert len(sae.concepts.active_concepts(TEXTS)) == len(TEXTS)
    model.detach_all()
    assert model.attached == () and np.array_equal(logits(model), clean)


def test_what_was_made_while_something_acted_is_not_taken_for_the_clean_model(model, tmp_path):
    sae = make_sae()
    f = int(next(iter(brute(model, sae, TEXTS))))
    with model.steer(add_feature(sae, f, 4.0)):
        with pytest.warns(mlxterp.MlxterpWarning, match="acts on this model"):
            model.build_index(sae, TEXTS, tmp_path / "index", exclude=(), verbose=False)
        with pytest.warns(mlxterp.MlxterpWarning, match="acts on this model"):
            model.activations.save(TEXTS, layers=[PLACE], store=tmp_path, run_id="run")
    with pytest.raises(mlxterp.FeatureIndexError, match="acted on the model"):
        model.build_index(sae, TEXTS, tmp_path / "index", exclude=(), verbose=False)
    with pytest.raises(SAEError):
        model.activations.save(TEXTS, layers=[PLACE], store=tmp_path, run_id="run")


def test_a_detached_handle_says_so(model):
    sae = make_sae()
    handle = model.attach_sae(sae)
    handle.detach()
    with pytest.raises(TraceError, match="detached"):
        handle.encode(TEXTS)
    with pytest.raises(TraceError, match="detached"), handle:
        pass
    sae.concepts.load_concepts({1: "thing"})
    with pytest.raises(InputError, match="attach"):
        sae.concepts.active_concepts(TEXTS)


def test_token_ids_without_a_tokenizer_warn_that_nothing_was_kept(folder, backend):
    model = open_llama(folder, backend)
    sae = make_sae()
    if model.tokenizer is not None:
        pytest.skip("this checkpoint has a tokenizer")
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking()
        with pytest.warns(mlxterp.MlxterpWarning, match="no tokenizer"):
            model([1, 2, 3])
