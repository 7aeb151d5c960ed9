"""Activation patching: laws, and the same done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import ComponentError, InputError, InterpretableModel, MlxterpWarning, logit_difference
from mlxterp.backends.base import LanguageModel
from mlxterp.interventions import replace_with
from tests.patching.asking import CLEAN, CORRUPTED, activation, activations_of, logits_of, numpy_of

METRIC = logit_difference(5, 6)
COMPONENTS = ("resid_pre", "resid_post", "attn_out", "mlp_out", "attn", "mlp", "attn.z", "attn.pattern")


def difference(logits: np.ndarray) -> float:
    return float(logits[0, -1, 5] - logits[0, -1, 6])


def test_both_ends_are_those_of_the_runs_themselves(model):
    result = activation(model, CLEAN, CORRUPTED, metric=METRIC)
    assert result.clean == pytest.approx(difference(logits_of(model, CLEAN)), abs=1e-5)
    assert result.corrupted == pytest.approx(difference(logits_of(model, CORRUPTED)), abs=1e-5)
    assert np.allclose(
        result.effects * (result.clean - result.corrupted), result.raw - result.corrupted, rtol=1e-12
    )


@pytest.mark.parametrize("component", COMPONENTS)
def test_by_layer_it_is_what_replacing_the_whole_component_gives(model, component):
    result = activation(model, CLEAN, CORRUPTED, component, metric=METRIC)
    assert result.raw.shape == (3,) and result.layers == (0, 1, 2) and result.columns == ()
    for layer in range(3):
        name = f"layers.{layer}.{component}"
        changed = {name: replace_with(activations_of(model, CLEAN, name).astype(np.float32))}
        expected = difference(logits_of(model, CORRUPTED, changed))
        assert result.raw[layer] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("component", ["resid_pre", "mlp", "attn.z"])
def test_by_position_it_is_what_replacing_one_token_gives(model, component):
    result = activation(model, CLEAN, CORRUPTED, component, layers=[-1, 0], metric=METRIC, by="position")
    assert result.raw.shape == (2, 7) and result.layers == (2, 0) and result.columns == tuple(range(7))
    for row, layer in zip(result.raw, (2, 0), strict=True):
        name = f"layers.{layer}.{component}"
        clean = activations_of(model, CLEAN, name).astype(np.float32)
        for position, found in enumerate(row):
            changed = {name: replace_with(clean, positions=position)}
            assert found == pytest.approx(difference(logits_of(model, CORRUPTED, changed)), abs=1e-5)


@pytest.mark.parametrize(("component", "heads"), [("attn.z", 4), ("attn.v", 2), ("attn.pattern", 4)])
def test_by_head_it_is_what_replacing_one_head_gives(model, component, heads):
    result = activation(model, CLEAN, CORRUPTED, component, metric=METRIC, by="head")
    assert result.raw.shape == (3, heads) and result.columns == tuple(range(heads))
    for layer in range(3):
        name = f"layers.{layer}.{component}"
        clean = activations_of(model, CLEAN, name).astype(np.float32)
        for head in range(heads):
            changed = {name: replace_with(clean, heads=head)}
            expected = difference(logits_of(model, CORRUPTED, changed))
            assert result.raw[layer, head] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("metric", ["l2", "mse", "cosine", "kl", METRIC])
def test_the_whole_stream_restores_the_clean_run(model, metric):
    """At any layer: what comes after it depends on nothing else."""
    effects = activation(model, CLEAN, CORRUPTED, "resid_post", metric=metric).effects
    assert np.allclose(effects, 1, atol=1e-5)


def test_the_last_stream_gives_exactly_the_clean_logits(model):
    seen: list[np.ndarray] = []

    def kept(logits: Any) -> float:
        seen.append(numpy_of(model, logits))
        return float(len(seen))

    activation(model, CLEAN, CORRUPTED, "resid_post", layers=-1, metric=kept, batch_size=1)
    clean, corrupted, patched = seen
    assert np.array_equal(patched, clean) and not np.array_equal(patched, corrupted)


@pytest.mark.filterwarnings("ignore:.*same metric:mlxterp.MlxterpWarning")
@pytest.mark.parametrize("by", ["layer", "position", "head"])
def test_the_same_text_changes_nothing(model, by):
    result = activation(model, CLEAN, CLEAN, "attn.z", metric=METRIC, by=by, batch_size=1)
    assert np.all(result.raw == result.corrupted) and result.clean == result.corrupted
    assert np.isnan(result.effects).all()


def test_runs_that_do_not_differ_are_told(model):
    with pytest.warns(MlxterpWarning, match="same metric"):
        activation(model, CLEAN, CLEAN, metric="l2")


def test_a_position_before_the_first_difference_changes_nothing(model):
    arguments: dict[str, Any] = {"metric": METRIC, "by": "position", "batch_size": 1}
    effects = activation(model, CLEAN, CORRUPTED, "resid_post", **arguments).effects
    assert not effects[:, :2].any()
    assert effects[-1].tolist() == [0, 0, 0, 0, 0, 0, 1]  # after the last layer nothing moves


def test_all_positions_and_all_heads_together_are_the_component(model):
    whole = activation(model, CLEAN, CORRUPTED, "attn.z", metric=METRIC).raw
    by_number = activation(model, CLEAN, CORRUPTED, "attn.z", metric=METRIC, positions=range(7)).raw
    assert np.allclose(whole, by_number, atol=1e-6)
    name = "layers.1.attn.z"
    clean = activations_of(model, CLEAN, name).astype(np.float32)
    heads = {name: [replace_with(clean, heads=h) for h in range(4)]}
    assert whole[1] == pytest.approx(difference(logits_of(model, CORRUPTED, heads)), abs=1e-5)


@pytest.mark.parametrize("by", ["layer", "position", "head"])
def test_how_many_run_together_does_not_matter(model, by):
    one, many, all_ = (
        activation(model, CLEAN, CORRUPTED, "attn.z", metric=METRIC, by=by, batch_size=size).raw
        for size in (1, 3, None)
    )
    assert np.allclose(one, many, atol=1e-5) and np.allclose(one, all_, atol=1e-5)


def test_places_share_passes(model, monkeypatch):
    passes: list[int] = []
    run = type(model.language_model).run

    def counted(self: LanguageModel, batch: Any, *args: Any, **options: Any) -> Any:
        passes.append(len(batch.ids))
        return run(self, batch, *args, **options)

    model.anatomy.component("layers.0.attn_out")  # looks at the model once
    monkeypatch.setattr(type(model.language_model), "run", counted)
    activation(model, CLEAN, CORRUPTED, "attn_out", by="position", metric=METRIC)
    assert passes == [1, 1, 21]


def test_a_batch_of_texts_is_patched_as_one(model):
    clean, corrupted = [CLEAN, CLEAN[:5]], [CORRUPTED, CORRUPTED[:5]]
    together = activation(model, clean, corrupted, "mlp", metric=METRIC)
    alone = [
        activation(model, a, b, "mlp", metric=METRIC) for a, b in zip(clean, corrupted, strict=True)
    ]  # a LogitDifference is summed over texts
    assert np.allclose(together.raw, alone[0].raw + alone[1].raw, atol=1e-5)
    mean = activation(model, clean, corrupted, "mlp", metric="mse").raw
    assert np.allclose(mean, np.mean([activation(model, a, b, "mlp", metric="mse").raw
                                      for a, b in zip(clean, corrupted, strict=True)], axis=0), atol=1e-6)  # fmt: skip


def test_positions_from_the_end_need_no_equal_lengths(model):
    short = CLEAN[1:]
    result = activation(model, short, CORRUPTED, "resid_post", metric=METRIC, positions=[-1])
    clean = activations_of(model, short, "layers.1.resid_post").astype(np.float32)[:, -1:]
    changed = {"layers.1.resid_post": replace_with(clean, positions=-1)}
    assert result.raw[1] == pytest.approx(difference(logits_of(model, CORRUPTED, changed)), abs=1e-5)
    assert result.effects[-1] == pytest.approx(1, abs=1e-5)


def test_several_components_are_several_results(model):
    found = activation(model, CLEAN, CORRUPTED, ["mlp", "attn"], metric=METRIC)
    assert list(found) == ["mlp", "attn"]
    for name, result in found.items():
        assert np.allclose(
            result.raw, activation(model, CLEAN, CORRUPTED, name, metric=METRIC).raw, atol=1e-5
        )


def test_the_existing_librarys_names_mean_the_same(model):
    by_name = activation(
        model, clean_text=CLEAN, corrupted_text=CORRUPTED, component="attn_head", metric=METRIC
    )
    assert by_name.by == "head" and by_name.component == "attn.z"
    names = ("attn", "self_attn", "output", "resid_post")
    attn, self_attn, output, stream = (
        activation(model, CLEAN, CORRUPTED, n, metric="cosine").raw for n in names
    )
    assert np.array_equal(attn, self_attn) and np.array_equal(output, stream)


def test_recovery_is_that_of_numpy(model):
    """1 − distance to the clean run / the corrupted run's distance, after the last token."""
    clean, corrupted = logits_of(model, CLEAN)[0, -1], logits_of(model, CORRUPTED)[0, -1]
    name = "layers.0.mlp"
    changed = {name: replace_with(activations_of(model, CLEAN, name).astype(np.float32))}
    patched = logits_of(model, CORRUPTED, changed)[0, -1]

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum()

    p = softmax(clean)
    distances = {
        "l2": lambda x: np.sqrt(((x - clean) ** 2).sum()),
        "mse": lambda x: ((x - clean) ** 2).mean(),
        "cosine": lambda x: 1 - x @ clean / np.linalg.norm(x) / np.linalg.norm(clean),
        "kl": lambda x: (p * np.log(p / softmax(x))).sum(),
    }
    for metric, distance in distances.items():
        result = activation(model, CLEAN, CORRUPTED, "mlp", layers=0, metric=metric)
        assert result.effects[0] == pytest.approx(1 - distance(patched) / distance(corrupted), abs=1e-4)
        assert result.corrupted == pytest.approx(distance(corrupted), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"clean_text": CLEAN[1:]}, InputError, "7"),
        ({"clean_text": CLEAN[1:], "by": "position", "positions": [-1]}, InputError, "correspond"),
        ({"clean_text": [CLEAN, CLEAN]}, InputError, "counterpart"),
        ({"clean_text": [CLEAN, CLEAN[1:]], "corrupted_text": [CLEAN, CLEAN[1:]], "by": "position"}, InputError,
         "equally many"),
        ({"by": "neuron"}, InputError, "'layer', 'position', 'head'"),
        ({"component": "mlp", "by": "head"}, InputError, "attn.z"),
        ({"component": []}, InputError, "empty"),
        ({"component": "nose"}, ComponentError, "nose"),
        ({"component": "layers.1.mlp"}, InputError, r"below a layer, 'mlp', and choose layers with layers=\[1\]"),
        ({"component": ["mlp", "model.layers.0.attn.z"]}, InputError, r"'attn.z', and .* layers=\[0\]"),
        ({"component": "blocks.1.hook_mlp_out"}, InputError, r"'mlp_out', and .* layers=\[1\]"),
        ({"component": [3]}, InputError, "names below a layer"),
        ({"layers": 3}, ComponentError, "numbered 0 to 2"),
        ({"layers": []}, InputError, "empty"),
        ({"metric": "logit_diff"}, InputError, "logit_difference"),
        ({"metric": 3}, InputError, "function"),
        ({"metric": lambda logits: logits}, InputError, "one number"),
        ({"metric": lambda logits: float("nan")}, InputError, "metric is nan"),
        ({"metric": lambda logits: -np.inf}, InputError, "metric is -inf"),
        ({"metric": logit_difference("cat", "dog")}, InputError, "tokenizer"),
        ({"positions": [7]}, InputError, "outside"),
        ({"positions": slice(5, 5)}, InputError, "nothing to patch"),
        ({"batch_size": 0}, InputError, "at least 1"),
    ],
)  # fmt: skip
def test_bad_requests_say_what_to_do(options, error, message):
    pytest.importorskip("mlx.core")
    from tests.tiny import tiny_llama

    model = tiny_llama(layers=3, vocab_size=100)
    arguments = {"clean_text": CLEAN, "corrupted_text": CORRUPTED} | options
    with pytest.raises(error, match=message):
        activation(model, **arguments)


def test_an_architecture_without_attention_says_so():
    pytest.importorskip("mlx.core")
    from tests.architectures import build, configs

    if "mamba" not in configs():
        pytest.skip("needs the shared architectures")
    with pytest.raises(ComponentError, match="no attention"):
        activation(InterpretableModel(build("mamba")), CLEAN[:3], [3, 15, 15], by="head")


@pytest.mark.parametrize(
    "model_type", ["gemma2", "qwen2", "mamba2", "olmo2", "gpt_neox", "granite", "nanbeige"]
)
def test_the_stream_restores_the_clean_run_in_other_architectures(model_type):
    pytest.importorskip("mlx.core")
    from tests.architectures import build, configs

    if model_type not in configs():
        pytest.skip("needs the shared architectures")
    model = InterpretableModel(build(model_type))
    clean, corrupted = [3, 14, 15, 9, 26], [3, 14, 7, 9, 2]
    for component in ("resid_post", "resid_pre"):
        result = activation(model, clean, corrupted, component, layers=-1, by="position", metric="l2")
        assert np.isfinite(result.effects).all()
    whole = activation(model, clean, corrupted, "resid_post", layers=[0, -1], metric="l2")
    assert whole.effects[-1] == pytest.approx(1, abs=1e-3)


def test_a_trained_model_reads_the_changed_words(shared):
    mlx_lm = pytest.importorskip("mlx_lm")
    raw, tokenizer = mlx_lm.load(str(shared / "data" / "models" / "tinystories_instruct_3m_gpt2"))
    model = InterpretableModel(raw, tokenizer=tokenizer)
    clean, corrupted = "Tom lost his dog. Tom was very", "Tom got his dog. Tom was very"
    metric = logit_difference(" sad", " happy")
    result = activation(model, clean, corrupted, "resid_pre", layers=0, metric=metric, by="position")
    changed = [i for i, token in enumerate(result.tokens) if "→" in token]
    assert len(changed) == 1 and result.clean > result.corrupted
    assert result.effects[0, changed[0]] == pytest.approx(1, abs=1e-4)
    assert np.allclose(np.delete(result.effects[0], changed), 0, atol=1e-4)


@pytest.mark.parametrize("bad", [2.5, True, object(), [["mlp"]], np.array(1), [None]])
def test_components_of_another_kind_are_named(model, bad):
    with pytest.raises(InputError, match="component"):
        activation(model, CLEAN, CORRUPTED, component=bad)
    with pytest.raises(InputError, match="expected one of 'layer'"):
        activation(model, CLEAN, CORRUPTED, by=np.array(["layer", "head"]))
