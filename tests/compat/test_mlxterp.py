"""Rows U1–U3, U5, U6, U10, U11: the existing library's names, here and with its own meanings in `compat.mlxterp`."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import ComponentError, EditError, InputError, InterpretableModel, MlxterpWarning, SAEError
from mlxterp.compat import mlxterp as theirs
from mlxterp.demo import FOLDER
from mlxterp.interventions import InterventionComposer, add_vector, compose, replace_with, scale
from tests.letters import TEXTS, random_sae
from tests.patching.asking import numpy_of

SCRIPT = Path(__file__).with_name("existing.py")


def test_a_session_written_for_the_existing_library_runs_with_its_imports_changed(
    tmp_path, monkeypatch, demo, capsys
):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    code = SCRIPT.read_text(encoding="utf-8")
    assert sum(bool(line.strip()) and not line.startswith("#") for line in code.splitlines()) >= 60
    changed = code.replace("from mlxterp import (", "from mlxterp.compat.mlxterp import (")
    given = {"FOLDER": FOLDER / "model", "TEXTS": list(demo.texts[:4])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        exec(compile(changed, str(SCRIPT), "exec"), given)
    found = given["found"]
    tokens = len(demo.model.tokenize("Lily lost her red ball. Tom found the red ball."))
    assert (
        found["round trip"] == "Lily lost her red ball. Tom found the red ball." and found["token"] == "Lily"
    )
    assert found["batch"][1] == demo.model.tokenize("Tom was sad.") and found["vocab"] == 4096
    assert found["shapes"] == [(1, tokens, 192), (1, tokens, 192), (1, tokens, 4096)] and found["get"]
    assert found["saved"] == ["layers.1.mlp", "layers.3.self_attn", "logits"]
    assert found["largest"] <= 1 and found["last"] == (2, 192) and found["many"] == (5, 2, 192)
    assert found["cache"] == (["layers.1", "layers.3.self_attn"], True, (1, tokens, 192))
    assert len(found["predicted"]) == 3 and found["predicted"][0][1] >= found["predicted"][1][1]
    assert (
        found["lens"][2]
        == demo.model.logit_lens("Lily lost her red ball. Tom found the red ball.").top(3)[0].text
    )
    assert set(found["recovery"]) == {0, 1} and all(isinstance(x, float) for x in found["recovery"].values())
    assert found["patterns"] == {1: (1, 6, tokens, tokens), 2: (1, 6, tokens, tokens)}
    assert found["types"] == ["previous_token"] and (1, 3) in found["head types"]
    assert found["compatible"] and found["transcoder"] and found["modules"] and found["features"] > 0
    assert Path("attention.html").stat().st_size > 10_000 and Path("sae.mlx").is_dir()


CALLS = set(
    re.findall(
        r"\S+",
        """
encode decode encode_batch token_to_str to_str_tokens vocab_size tokenizer get_token_predictions logit_lens tuned_lens
train_tuned_lens load_tuned_lens TunedLens activation_patching get_activations batch_get_activations ActivationCache
collect_activations get_attention_patterns attention_heatmap attention_from_trace AttentionVisualizationConfig
interactive_attention display_interactive_attention save_interactive_attention interactive_attention_from_trace
InteractiveAttentionConfig induction_score previous_token_score first_token_score current_token_score copying_score
AttentionPatternDetector analyze_head classify_head detect_head_types detect_induction_heads HeadScore
find_attention_pattern is_compatible SAEConfig SAETrainer train_sae load_sae train_transcoder train_crosscoder
named_modules parameters trainable_parameters model.output.save trace.activations trace.get trace.get_activation
trace.saved_values zero_out scale add_vector replace_with clamp noise InterventionComposer
get_top_features_for_text get_top_texts_for_feature visualize_feature_activations
""",
    )
)
"""Public names of the existing library, as its guides and tutorials call them."""


def test_the_page_for_those_who_come_from_there_lists_every_call():
    page = Path(mlxterp.__file__).parent.parent / "docs" / "from_mlxterp.md"
    if not page.exists():
        pytest.skip("the package was installed without its documentation")
    text = page.read_text(encoding="utf-8")
    assert [
        name for name in CALLS if not re.search(rf"(?<![A-Za-z_]){re.escape(name)}(?![A-Za-z_])", text)
    ] == []
    assert all(f"<!-- U{row} -->" in text for row in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12))


# -- U1: tokens -------------------------------------------------------------------------------------


def test_u1_texts_become_token_ids_and_back(demo):
    model = demo.model
    text = "Lily lost her red ball."
    assert model.encode(text) == model.tokenize(text) == model.encode_batch(iter([text]))[0]
    assert "".join(model.token_to_str(i) for i in model.encode(text)[1:]) == text
    with pytest.raises(InputError, match="encode_batch"):
        model.encode([text])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="token_id"):
        model.token_to_str(4096)


# -- U2, U3, U5: what layers predict ----------------------------------------------------------------


def test_u2_the_likeliest_tokens_of_a_state_are_those_of_the_models_head(letter_model):
    with letter_model.trace("the cat sat") as t:
        hidden = letter_model.layers[2].output
    logits = numpy_of(letter_model, t.output)[0]
    best = np.argsort(-logits, axis=1, kind="stable")[:, :3]
    one = letter_model.get_token_predictions(hidden[0, -1], top_k=3, return_scores=True)
    assert [i for i, _ in one] == best[-1].tolist()
    assert [x for _, x in one] == pytest.approx(logits[-1, best[-1]], abs=1e-4)
    assert letter_model.get_token_predictions(hidden[0], top_k=3) == best.tolist()
    with pytest.raises(InputError, match="hidden_state is"):
        letter_model.get_token_predictions(hidden)


def test_u2_without_the_norm_it_is_the_head_alone(letter_model):
    x = np.random.default_rng(0).normal(size=(2, letter_model.d_model)).astype(np.float32)
    lm = letter_model.language_model
    inner = lm.model
    tied = lm.backend.name == "mlx" and not hasattr(inner, "lm_head")
    embedding = inner.model.embed_tokens
    weight = numpy_of(letter_model, embedding.weight if tied else inner.lm_head.weight)
    best = np.argsort(-(x @ weight.T), axis=1, kind="stable")[:, :4]
    assert letter_model.get_token_predictions(x, top_k=4, norm=False) == best.tolist()
    own = np.argsort(-(x @ numpy_of(letter_model, embedding.weight).T), axis=1, kind="stable")[:, :4]
    assert letter_model.get_token_predictions(x, top_k=4, embedding_layer=embedding) == own.tolist()


def test_u3_a_lens_answers_by_layer_position_and_rank(demo):
    lens = demo.model.logit_lens("Lily lost her red", top_k=2)
    token, score, text = lens[3][-1][0]
    assert (token, text) == (lens.top(3)[0].token_id, lens.top(3)[0].text) and score == pytest.approx(
        lens.top(3)[0].logit
    )
    old = theirs.InterpretableModel(FOLDER / "model")
    assert old.logit_lens("Lily lost her red", 2)[3][-1][0][0] == token
    bare = old.logit_lens("Lily lost her red", top_k=2, skip_norm=True, layers=[3], position=-1)
    hidden = old.trace("Lily lost her red").activations["layers.3"][0, -1]
    assert [i for i, _, _ in bare[3][0]] == old.get_token_predictions(hidden, top_k=2)
    with pytest.raises(InputError, match="takes no color="):
        old.logit_lens("Lily", color="red")


def test_u4_a_tuned_lens_is_trained_kept_and_read_by_their_names(letter_model, tmp_path):
    steps = []
    made = theirs.train_tuned_lens(
        letter_model, TEXTS * 4, 3, learning_rate=0.1, save_path=tmp_path / "lens", verbose=False,
        callback=lambda step, loss: steps.append((step, loss)),
    )  # fmt: skip
    assert isinstance(made, theirs.TunedLens) and [step for step, _ in steps] == [1, 2, 3]
    token, _, piece = letter_model.tuned_lens(TEXTS[0], made, top_k=1)[0][-1][0]
    again = letter_model.load_tuned_lens(tmp_path / "lens")
    assert letter_model.tuned_lens(TEXTS[0], again, top_k=1)[0][-1][0][:3:2] == (token, piece)


def test_u4_a_tuned_lens_answers_as_theirs_and_takes_the_options_of_their_pictures():
    old = theirs.InterpretableModel(FOLDER / "model")
    lens, text = theirs.TunedLens(old.n_layers, old.d_model), "Lily lost her red"
    found = old.tuned_lens(text, lens, layers=[1, 3], max_display_tokens=15, figsize=(16, 10), cmap="viridis")
    assert list(found) == [1, 3] and found == old.logit_lens(text, layers=[1, 3], font_family=None)
    assert all(len(place) == 1 for place in found[3])  # top_k is 1 there
    refused: list[tuple[dict[str, Any], str]] = [
        ({"color": "red"}, "tuned_lens takes no color="),
        ({"skip_norm": True}, "trained with the final norm"),
        ({"final_norm": lens}, "final_norm= is found"),
    ]
    for options, said in refused:
        with pytest.raises(InputError, match=said):
            old.tuned_lens(text, lens, **options)


def test_u5_a_patching_result_answers_by_layer_in_per_cent(demo):
    clean, corrupted = "Lily lost her ball because", "Tom lost his ball because"
    result = demo.model.activation_patching(clean, corrupted, "mlp", layers=[0, 2])
    assert dict(result) == {0: 100 * result.effects[0], 2: 100 * result.effects[1]} and len(result) == 2
    by_head = demo.model.activation_patching(clean, corrupted, by="head", layers=[1])
    assert np.array_equal(by_head[1], 100 * by_head.effects[0])
    with pytest.raises(KeyError):
        result[1]
    old = theirs.InterpretableModel(FOLDER / "model")
    assert old.activation_patching(clean, corrupted, layers=[0, 2], figsize=(12, 8), cmap="RdBu_r") == dict(
        result
    )
    with pytest.raises(InputError, match="color"):
        old.activation_patching(clean, corrupted, color="red")


# -- U6: activations --------------------------------------------------------------------------------


def test_u6_positions_count_from_each_texts_own_end(letter_model):
    found = mlxterp.get_activations(letter_model, TEXTS, layers=[0, 2], positions=[0, -1])
    for i, text in enumerate(TEXTS):
        alone = numpy_of(letter_model, letter_model.trace(text).activations["layers.2"])[0]
        assert np.allclose(numpy_of(letter_model, found["layer_2"])[i], alone[[0, -1]], atol=1e-4)
    parts = mlxterp.batch_get_activations(letter_model, TEXTS, layers=[0, 2], positions=[0, -1], batch_size=3)
    assert all(
        np.allclose(numpy_of(letter_model, parts[n]), numpy_of(letter_model, x), atol=1e-4)
        for n, x in found.items()
    )
    one = mlxterp.get_activations(letter_model, "a", component="mlp")
    assert {name: tuple(x.shape) for name, x in one.items()} == {
        f"layer_{i}": (1, letter_model.d_model) for i in range(3)
    }
    with pytest.raises(InputError, match="Position -3 is outside prompt 1, which has 2 tokens"):
        mlxterp.get_activations(letter_model, TEXTS, positions=-3)


def test_u6_their_collect_activations_is_a_cache_of_one_input(demo):
    cache = theirs.collect_activations(demo.model, "Lily lost")
    assert {"layers.0", "layers.3.mlp"} <= set(cache) and cache.metadata == {"input_shape": (1, 3, 4096)}
    assert (
        cache.get("layers.9") is None and cache.get("model.layers.2.self_attn") is cache["layers.2.self_attn"]
    )
    names: list[Any] = ["nothing", 3, None]
    for name in names:
        with pytest.raises(ComponentError, match="was not collected") as raised:
            cache[name]
        assert isinstance(raised.value, KeyError) and name not in cache
    alone = theirs.collect_activations(demo.model, "Lily lost", "layers.3")
    assert alone.keys() == ["layers.3"]


def test_u11_positions_that_are_no_integers_are_refused_not_cut(letter_model):
    value = np.zeros(letter_model.d_model, np.float32)

    def run(given: Any) -> Any:
        edit = theirs.interventions.replace_at_positions(value, given)
        return letter_model.trace("Lily", {"layers.1.mlp": edit}, capture=[]).output

    for given in ([1.5], "x", [True], ["0"]):
        with pytest.raises(InputError, match=r"[Pp]ositions"):
            run(given)
    others: list[Any] = ["all", None, slice(0, 2)]
    for given in others:
        with pytest.raises(InputError, match="expected positions of each prompt"):
            mlxterp.get_activations(letter_model, TEXTS, positions=given)


def test_u2_arguments_of_another_kind_say_what_is_expected(demo):
    hidden = np.ones(demo.model.d_model)
    with pytest.raises(InputError, match="embedding_layer is int; expected the model's embedding"):
        demo.model.get_token_predictions(hidden, embedding_layer=1)
    with pytest.raises(InputError, match="lm_head is str; expected a module"):
        demo.model.get_token_predictions(hidden, lm_head="head")
    with pytest.raises(InputError, match="config is str; expected an SAEConfig"):
        theirs.SAETrainer("topk")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Token id 1000000 is outside this model's vocabulary \[0, 4096\)"):
        demo.model.decode([10**6])
    with pytest.raises(InputError, match="' sad', as within a sentence, is one"):
        demo.model.causal_trace("Lily was", "Lily", target="sad")


# -- U10: SAEs --------------------------------------------------------------------------------------


def test_u10_an_sae_says_whether_it_can_read_a_component(letter_model):
    sae = random_sae(letter_model.d_model)
    assert sae.is_compatible(letter_model, 1) and sae.is_compatible(letter_model, -1, "resid_post")
    assert not random_sae(letter_model.d_model + 1).is_compatible(letter_model, 1)
    assert not sae.is_compatible(letter_model, 9) and not sae.is_compatible(letter_model, 1, "nothing")
    sae.metadata["component"] = "layers.1.mlp"
    assert sae.is_compatible(letter_model, 1, "mlp") and not sae.is_compatible(letter_model, 2, "mlp")


def test_u10_a_transcoder_is_trained_between_two_components(letter_model):
    settings = {"d_hidden": 64, "k": 4, "epochs": 1, "verbose": False}
    trained = letter_model.train_transcoder(
        0, 2, TEXTS * 4, from_component="mlp.input", to_component="mlp", **settings
    )
    assert trained.is_transcoder and trained.metadata["component"] == "layers.0.mlp.input"
    assert trained.metadata["component_out"] == "layers.2.mlp"
    with pytest.raises(SAEError, match="Name one"):
        letter_model.train_transcoder(0, 1, TEXTS, config={"target": "layers.2.mlp"}, **settings)
    with pytest.raises(InputError, match="takes no dataset_size="):
        letter_model.train_transcoder(0, 1, TEXTS, dataset_size=3)


def test_u10_their_settings_become_ours_and_unused_ones_are_named():
    ours = theirs.SAEConfig(
        expansion_factor=4, k=8, sae_type="batchtopk", learning_rate=1e-3
    ).to_train_config()
    assert (ours.expansion_factor, ours.k, ours.architecture, ours.lr, ours.epochs) == (
        4,
        8,
        "batchtopk",
        1e-3,
        10,
    )
    with pytest.raises(SAEError):
        theirs.SAEConfig(k=0)
    with pytest.warns(MlxterpWarning, match="use_ghost_grads, gradient_clip not used"):
        theirs.SAEConfig(use_ghost_grads=False, gradient_clip=None).warn_of_unused()


# -- U11: modules, traces, interventions ------------------------------------------------------------


def test_u11_modules_and_parameters_are_the_wrapped_models_own(letter_model):
    names = dict(letter_model.named_modules())
    assert any(name.endswith("layers.1.mlp") for name in names)
    assert letter_model.parameters() is not None and letter_model.trainable_parameters()


def test_u11_a_trace_gives_its_logits_and_values_by_name(letter_model):
    with letter_model.trace("the cat sat") as t:
        logits = letter_model.output.save()
        inside = numpy_of(letter_model, t.get("layers.1.mlp"))
    assert np.array_equal(numpy_of(letter_model, logits), numpy_of(letter_model, t.output))
    assert np.array_equal(inside, numpy_of(letter_model, t.get("layers.1.mlp")))
    assert t.get("layers.9.mlp") is None and t.get_activation("nothing", 3) == 3


def test_u11_a_short_value_lies_at_each_texts_end(letter_model):
    short = np.random.default_rng(0).normal(size=(2, letter_model.d_model)).astype(np.float32)
    texts = ["the cat sat", "zebra"]
    plain = letter_model.trace(texts).activations["layers.1"]
    changed = letter_model.trace(texts, {"layers.1": replace_with(short, align="end")})
    after, before = numpy_of(letter_model, changed.activations["layers.1"]), numpy_of(letter_model, plain)
    for i, n in enumerate(changed.lengths):
        assert np.allclose(after[i, n - 2 : n], short, atol=1e-6) and np.array_equal(
            after[i, : n - 2], before[i, : n - 2]
        )
    first = numpy_of(
        letter_model,
        letter_model.trace("zebra", {"layers.1": replace_with(short, align="start")}).activations["layers.1"],
    )
    assert np.allclose(first[0, :2], short, atol=1e-6)
    for value, said in (
        (np.ones((9, letter_model.d_model)), "does not fit"),
        (np.ones((2, 3)), "does not fit"),
    ):
        with pytest.raises(EditError, match=said):
            _ = letter_model.trace("zebra", {"layers.1": replace_with(value, align="end")}).output
    with pytest.raises(InputError, match="align is 'middle'"):
        replace_with(short, align="middle")
    with pytest.raises(InputError, match="the end is open"):
        letter_model.generate("zebra", 2, interventions={"layers.1": replace_with(short, align="end")})


def test_u11_composed_changes_run_in_order(letter_model):
    changes = scale(2.0), add_vector(np.ones(letter_model.d_model, np.float32))
    both = InterventionComposer().add(changes[0]).add(changes[1]).build()
    one, two = (
        numpy_of(letter_model, letter_model.trace("zebra", {"layers.1": c}).output)
        for c in (both, compose(*changes))
    )
    assert np.array_equal(one, two)
    with pytest.raises(InputError, match="no interventions yet"):
        InterventionComposer().build()


def test_u11_their_interventions_have_their_arguments(letter_model):
    iv = theirs.interventions
    model: InterpretableModel = letter_model
    x = model.trace("zebra").activations["layers.1.mlp"]
    assert not numpy_of(model, iv.zero_out(x)).any()
    limited = iv.clamp(min_val=-0.01, max_val=0.01)(x)
    assert np.abs(numpy_of(model, limited)).max() <= 0.0101
    put = iv.replace_at_positions(np.zeros(model.d_model, np.float32), positions=[0, -1])(x)
    assert not numpy_of(model, put)[0, [0, -1]].any() and numpy_of(model, put)[0, 1].any()
    assert iv.compose is InterventionComposer and theirs.noise().__class__ is scale(1.0).__class__
