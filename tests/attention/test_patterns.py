"""Row U7: attention patterns of texts and traces, against the same computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import ComponentError, InputError, InterpretableModel, TraceError
from mlxterp.attention import AttentionPatterns, attention_patterns, get_attention_patterns
from mlxterp.interventions import zero_out
from tests.architectures import build, configs
from tests.attention.by_hand import ARCHITECTURES, TOKENS, attribute, opened, pattern, window_of
from tests.letters import TEXTS
from tests.small import SHAPES, checkpoint


def values(model: InterpretableModel, tokens, layer: int, *ports: str) -> list[np.ndarray]:
    names = [f"layers.{layer}.attn.{port}" for port in ports]
    kept = model.trace(tokens, capture=names).activations
    return [np.asarray(model.language_model.backend.get(kept[name])) for name in names]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_u7_patterns_are_softmax_of_queries_and_keys_on_every_architecture(model_type):
    pytest.importorskip("mlx.core")
    if model_type not in configs():
        pytest.skip("needs the project's shared folder beside the checkout")
    model = opened(model_type)
    found = model.attention_patterns(TOKENS)
    assert found.layers == tuple(range(model.n_layers)) and found.without == ()
    for layer in found:
        q, k = values(model, TOKENS, layer, "q", "k")
        scale, sinks = attribute(model, layer, "scale"), attribute(model, layer, "sinks")
        by_hand = pattern(
            q, k, q.shape[-1] ** -0.5 if scale is None else float(scale), window_of(model_type, layer),
            50.0 if model_type == "gemma2" else None, None if sinks is None else np.asarray(sinks, np.float64),
        )  # fmt: skip
        assert found[layer].shape == by_hand.shape
        assert np.abs(found[layer] - by_hand).max() < 1e-5, layer
        sums = found[layer].sum(axis=-1)
        assert np.allclose(sums + found.to_sink()[layer], 1, atol=1e-6)
        if sinks is None:
            assert np.allclose(sums, 1, atol=1e-5)
        else:
            assert sums.max() < 1 and "sink" in str(found)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_u7_torch_gives_the_same(model_type, tmp_path):
    folder = checkpoint(model_type, tmp_path, **({"sliding_window": 6} if model_type == "gemma2" else {}))
    model = InterpretableModel(folder, backend="torch")
    found = model.attention_patterns(TOKENS)
    for layer in range(SHAPES["llama"]["num_hidden_layers"]):
        q, k = values(model, TOKENS, layer, "q", "k")
        window = 6 if model_type == "gemma2" and layer % 2 == 0 else None
        by_hand = pattern(q, k, 16**-0.5, window, 50.0 if model_type == "gemma2" else None)
        assert np.abs(found[layer] - by_hand).max() < 1e-5, layer


def test_u7_each_text_of_a_batch_has_the_rows_that_it_has_alone(letter_model):
    together = letter_model.attention_patterns(TEXTS, values=True)
    for i, text in enumerate(TEXTS):
        alone = letter_model.attention_patterns([text], values=True)
        own = together.of(i)
        assert own.tokens == alone.tokens
        for layer in alone:
            n = len(alone.tokens[0])
            assert own[layer].shape == alone[layer].shape == (1, 4, n, n)
            assert np.allclose(own[layer], alone[layer], atol=1e-6)
            assert not together[layer][i, :, n:].any() and not together[layer][i, :, :, n:].any()
            assert together.value_norms is not None and alone.value_norms is not None
            assert np.allclose(together.value_norms[layer][i, :, :n], alone.value_norms[layer][0], atol=1e-5)


def test_u7_layers_and_heads_are_chosen_by_number(letter_model):
    every = letter_model.attention_patterns("the cat sat")
    some = letter_model.attention_patterns("the cat sat", layers=[-1, 0], heads=[3, -3])
    assert list(some) == [2, 0] and some.heads == {2: (3, 1), 0: (3, 1)}
    assert np.array_equal(some[2], every[2][:, [3, 1]])
    assert np.array_equal(some.head(0, 1), every[0][0, 1])
    with pytest.raises(InputError, match="layer 0 has 4 heads, numbered 0 to 3"):
        letter_model.attention_patterns("the cat sat", heads=4)
    with pytest.raises(ComponentError, match="no layer 3"):
        letter_model.attention_patterns("the cat sat", layers=3)
    with pytest.raises(InputError, match="no head 2"):
        some.head(0, 2)
    with pytest.raises(InputError, match="empty"):
        letter_model.attention_patterns("the cat sat", heads=[])


def test_u7_values_are_weighted_by_the_length_of_what_is_read(letter_model):
    found = letter_model.attention_patterns("the cat sat", layers=1, values=True)
    (v,) = values(letter_model, "the cat sat", 1, "v")
    lengths = np.repeat(np.linalg.norm(v, axis=-1), 2, axis=1)
    share = lengths / lengths.max(axis=-1, keepdims=True)
    assert np.allclose(found.weighted()[1], found[1] * share[:, :, None], atol=1e-6)
    with pytest.raises(InputError, match="values=True"):
        letter_model.attention_patterns("the cat sat").weighted()


def test_u7_a_trace_gives_the_patterns_of_its_texts_and_edits(letter_model):
    text = "the cat sat"
    with letter_model.trace(text) as trace, pytest.raises(TraceError, match="after the block"):
        get_attention_patterns(trace)
    plain = get_attention_patterns(trace)
    assert all(np.array_equal(plain[n], letter_model.attention_patterns(text)[n]) for n in range(3))
    edited = get_attention_patterns(letter_model.trace(text, {"layers.0": zero_out()}), layers=[0, 1])
    assert np.allclose(edited[0], plain[0]) and not np.allclose(edited[1], plain[1])
    with pytest.raises(TraceError, match="capture"):
        get_attention_patterns(letter_model.trace(text, capture=["layers.0"]))
    kept = letter_model.trace(text, capture=["layers.1.attn.pattern"])
    assert np.array_equal(get_attention_patterns(kept, layers=1)[1], plain[1])
    with pytest.raises(InputError, match=r"model.attention_patterns\(text\)"):
        get_attention_patterns(text)  # type: ignore[arg-type]


def test_u7_the_size_is_named_before_anything_runs(letter_model):
    with pytest.raises(
        InputError, match=r"12 heads in 3 layers for 1 texts of up to 31 tokens take .* limit_gb="
    ):
        letter_model.attention_patterns("q" * 30, limit_gb=1e-6)
    one = 4 * 4 * 31**2  # bytes of a layer
    few = letter_model.attention_patterns(
        "q" * 30, heads=0, limit_gb=1.5 * one / 2**30
    )  # a pass for each layer
    every = letter_model.attention_patterns("q" * 30)
    assert all(np.allclose(few[n][:, 0], every[n][:, 0], atol=1e-6) for n in range(3))


def test_u7_a_layer_without_attention_says_so():
    pytest.importorskip("mlx.core")
    model = InterpretableModel(build("recurrent_gemma"))
    found = model.attention_patterns(TOKENS[:6])
    assert found.layers and found.without and not {*found.layers} & {*found.without}
    assert f"left out: {', '.join(map(str, found.without))}" in str(found)
    with pytest.raises(ComponentError, match=r"Layer 0 .* has no attention pattern.*Layers with one: "):
        model.attention_patterns(TOKENS[:6], layers=[found.layers[0], found.without[0]])
    with pytest.raises(ComponentError, match="None of its layers has one"):
        InterpretableModel(build("mamba2")).attention_patterns(TOKENS[:6])


def test_u7_patterns_are_a_mapping_a_table_and_a_value(letter_model):
    found = attention_patterns(letter_model, ["the cat sat", "a"])
    assert isinstance(found, AttentionPatterns) and next(iter(found)) == 0 and len(found) == 3
    table = found.to_pandas()
    assert len(table) == 2 * 12 and set(table["text"]) == {0, 1}
    first = table[(table["text"] == 0) & (table["layer"] == 2) & (table["head"] == 3)].iloc[0]
    assert first["previous"] == pytest.approx(np.diagonal(found.head(2, 3), -1).mean())
    with pytest.raises(InputError, match="text is 2"):
        found.of(2)


def test_layers_and_heads_that_are_none_are_said(letter_model):
    found = letter_model.attention_patterns("Lily", layers=[1], heads=(i for i in (2, 0)))
    assert found.heads == {1: (2, 0)} and list(found) == [1] and 0 not in found and found.get(-1) is None
    for given in (-1, 0, "layers.1", None, [1], slice(0, 1)):
        with pytest.raises(ComponentError, match=r"There is no layer .* in this result. It has: 1"):
            found[given]
    for given in ("all", slice(0, 2), 1.0, True, ["a"]):
        with pytest.raises(InputError, match=r"heads=.*expected numbers of heads"):
            letter_model.attention_patterns("Lily", heads=given)
    with pytest.raises(ComponentError, match="layers='all': expected layer numbers"):
        letter_model.attention_patterns("Lily", layers="all")


def test_the_limit_that_a_message_names_is_enough(letter_model):
    with pytest.raises(InputError, match="allow more: limit_gb=") as raised:
        letter_model.attention_patterns("Lily", limit_gb=1e-9)
    enough = float(str(raised.value).rpartition("limit_gb=")[2].rstrip("."))
    assert letter_model.attention_patterns("Lily", limit_gb=enough).layers
