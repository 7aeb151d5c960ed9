"""The logit lens of the residual stream."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mlxterp import BackendError, ComponentError, InputError, InterpretableModel
from mlxterp.core.numeric import largest
from mlxterp.lens.logit_lens import LogitLens
from tests.architectures import build, configs
from tests.patching.asking import activations_of, lens, logits_of, numpy_of, opened
from tests.small import SHAPES
from tests.viz.reading import HOSTILE, assert_offline

IDS = [3, 14, 15, 92, 65, 35, 89]
CAPPED = [t for t in ("gemma2", "gemma", "cohere", "cohere2", "granite", "minicpm", "gpt2", "phi", "olmo2", "mamba",
                      "recurrent_gemma", "nemotron", "stablelm", "nanbeige") if t in configs()]  # fmt: skip
TEXT = "Lily was sad because she lost her red ball. She"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("models")
    return {model_type: root / model_type for model_type in SHAPES}


def assert_is_the_model(found: LogitLens, logits: np.ndarray) -> None:
    """The lens after the last layer holds the logits (positions, vocabulary), all of them."""
    scale = np.abs(logits).max()
    chosen = np.take_along_axis(logits, found.ids[-1], axis=1)
    assert np.allclose(found.logits[-1], chosen, atol=2e-5 * scale)
    assert np.allclose(found.logits[-1, :, 0], logits.max(axis=1), atol=2e-5 * scale)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = np.take_along_axis(shifted / shifted.sum(axis=1, keepdims=True), found.ids[-1], axis=1)
    assert np.allclose(found.probabilities[-1], shares, atol=1e-4)


@pytest.mark.parametrize("model_type", sorted(SHAPES))
def test_after_the_last_layer_it_is_the_models_own_output(backend, folders, model_type):
    model = opened(model_type, folders[model_type], backend)
    found = lens(model, IDS, layers=-1, top_k=model.vocab_size)
    assert found.ids.shape == (1, 7, 200)
    assert_is_the_model(found, logits_of(model, IDS)[0])


@pytest.mark.parametrize("model_type", CAPPED)
def test_caps_scales_and_norms_are_the_models_own(model_type):
    """Logits that are capped or scaled, norms with and without gain, recurrences, looped blocks."""
    pytest.importorskip("mlx.core")
    model = InterpretableModel(build(model_type))
    ids = [3, 14, 15, 9, 26]
    assert_is_the_model(lens(model, ids, top_k=model.vocab_size), logits_of(model, ids)[0])


def test_each_layer_equals_norm_and_head_in_numpy(backend, folders):
    model = opened("llama", folders["llama"], backend)
    weights = load_file(folders["llama"] / "model.safetensors")
    found = lens(model, IDS, top_k=3)
    assert found.layers == (0, 1, 2) and found.positions == tuple(range(7)) and found.n_tokens == 7
    for layer in range(3):
        x = activations_of(model, IDS, f"layers.{layer}.resid_post")[0]
        normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6) * weights["model.norm.weight"]
        logits = normed @ weights["lm_head.weight"].astype(np.float64).T
        for position in range(7):
            expected = np.argsort(-logits[position])[:3]
            top = found.top(layer, position)
            assert [t.token_id for t in top] == expected.tolist()
            assert np.allclose([t.logit for t in top], logits[position, expected], atol=1e-4)
            shares = np.exp(logits[position, expected]) / np.exp(logits[position]).sum()
            assert np.allclose([t.probability for t in top], shares, atol=1e-5)


def test_only_what_is_asked_for_is_computed(backend, folders, monkeypatch):
    model = opened("llama", folders["llama"], backend)
    asked: list[tuple] = []
    run = type(model.language_model).run

    def seen(self: Any, batch: Any, capture: Any = (), *args: Any, **options: Any) -> Any:
        asked.append(tuple(map(str, capture)))
        return run(self, batch, capture, *args, **options)

    model.anatomy.component("layers.1.resid_post")
    monkeypatch.setattr(type(model.language_model), "run", seen)
    lens(model, IDS, layers=[1], position=-1)
    assert [sites for sites in asked if sites] == [("model.layers.1.output",)]


def test_a_part_is_what_the_whole_says_there(demo):
    model = demo.model
    whole = lens(model, TEXT, top_k=2)
    part = lens(model, TEXT, layers=[-1, 0], top_k=2, position=-2)
    assert part.layers == (model.n_layers - 1, 0) and part.positions == (whole.n_tokens - 2,)
    for layer in part.layers:
        for a, b in zip(part.top(layer, -2), whole.top(layer, -2), strict=True):
            assert (a.text, a.token_id) == (b.text, b.token_id) and a.logit == pytest.approx(
                b.logit, rel=1e-4
            )
    assert part.tokens == whole.tokens[-2:-1]


def test_as_a_mapping_it_has_the_existing_librarys_form(demo):
    found = lens(demo.model, TEXT, top_k=3)
    assert sorted(found.keys()) == list(range(demo.model.n_layers)) and len(found) == demo.model.n_layers
    token_id, score, text = found[2][-1][0]
    top = found.top(2)[0]
    assert (token_id, score, text) == (top.token_id, top.logit, top.text)
    assert len(found[2]) == found.n_tokens and all(len(tops) == 3 for tops in found[2])
    assert 99 not in found
    with pytest.raises(KeyError):
        found[99]


def test_it_predicts_what_the_model_says_next(demo):
    top = lens(demo.model, TEXT, position=-1).top(demo.model.n_layers - 1)[0]
    assert demo.model.generate(TEXT, max_tokens=1) == top.text.strip() and top.text.startswith(" ")


def test_trained_models_agree_with_their_own_logits(shared):
    mlx_lm = pytest.importorskip("mlx_lm")
    for name in ("stories260K", "TinyStories-656K", "tinystories_instruct_3m_gpt2"):
        raw, tokenizer = mlx_lm.load(str(shared / "data" / "models" / name))
        model = InterpretableModel(raw, tokenizer=tokenizer)
        found = lens(model, TEXT, top_k=4)
        assert_is_the_model(found, numpy_of(model, model(TEXT))[0])
        assert "".join(found.tokens).strip().endswith(TEXT)


def test_without_a_tokenizer_tokens_are_numbers(backend, folders):
    model = opened("llama", folders["llama"], backend)
    found = lens(model, IDS, layers=0)
    assert found.tokens[1] == "#14" and found.top(0)[0].text == f"#{found.top(0)[0].token_id}"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 30))
def test_the_largest_come_first_and_of_equals_the_lowest(values, k):
    k = min(k, len(values))
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert largest(np.array(values, np.float32), k).tolist() == expected


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ([IDS, IDS], {}, InputError, "one text"),
        (IDS, {"position": 7}, InputError, "0 to 6"),
        (IDS, {"position": "last"}, InputError, "'last'"),
        (IDS, {"layers": 4}, ComponentError, "numbered 0 to 3"),
        (IDS, {"layers": []}, InputError, "empty"),
        (IDS, {"layers": "01"}, ComponentError, "layers='01'"),
        (IDS, {"top_k": 0}, InputError, "top_k"),
        ([], {}, InputError, "empty"),
    ],
)
def test_bad_requests_say_what_to_do(text, options, error, message):
    pytest.importorskip("mlx.core")
    from tests.tiny import tiny_llama

    with pytest.raises(error, match=message):
        lens(tiny_llama(vocab_size=100), text, **options)


def test_a_place_it_was_not_made_for_raises(demo):
    found = lens(demo.model, TEXT, layers=[1], position=2)
    for place in ((0, 2), (1, 3), (1, -1)):
        with pytest.raises(InputError, match=r"layers \[1\] and positions \[2\]"):
            found.top(*place)


def test_negative_layers_count_from_the_last(demo):
    found, n = lens(demo.model, TEXT), demo.model.n_layers
    for layer in range(-n, 0):
        assert found.top(layer=layer, position=-1) == found.top(layer + n, -1)
    with pytest.raises(InputError, match=f"no layer {-n - 1} at"):
        found.top(-n - 1)
    first = lens(demo.model, TEXT, layers=[0])
    assert first.top(-n) == first.top(0)
    with pytest.raises(InputError, match="no layer -1 at"):
        first.top(-1)


def test_more_than_one_stream_is_refused():
    pytest.importorskip("mlx.core")
    if "gemma3n" not in configs():
        pytest.skip("needs the shared architectures")
    with pytest.raises(ComponentError, match="not one residual stream"):
        lens(InterpretableModel(build("gemma3n")), [3, 14, 15])


# -- to look at -----------------------------------------------------------------------------------


def hostile() -> LogitLens:
    texts = (((HOSTILE, "$a$"), ("$b", "\n")), (("", " x"), ("<b>", "&")))
    numbers = np.array([[[5, 6], [7, 8]], [[1, 2], [3, 4]]])
    shares = np.array([[[0.9, 0.1], [0.5, 0.2]], [[1e-9, 0], [0.3, 0.3]]], np.float32)
    return LogitLens((0, 5), (0, 1), (HOSTILE, " $y$"), numbers, shares * 10, shares, texts, 2, 6)


def test_html_is_offline_and_escaped(tmp_path, demo):
    read = assert_offline(hostile()._repr_html_())
    assert "alert(1)" in read.everything and not any(tag == "script" for tag, _ in read.elements)
    path = lens(demo.model, TEXT).to_html(tmp_path / "lens.html")
    page = assert_offline(path.read_text(encoding="utf-8"))
    assert len(page.of_tag("mark")) == demo.model.n_layers * len(demo.model.tokenize(TEXT))
    with pytest.raises(InputError, match="no folder"):
        hostile().to_html(tmp_path / "nowhere" / "lens.html")


def test_it_prints_as_a_table_with_the_last_layer_on_top(demo):
    text = str(lens(demo.model, TEXT))
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + demo.model.n_layers]] == ["3", "2", "1", "0"]
    assert all(len(line) <= 100 for line in lines) and "ball" in text
    assert "\x1b" not in str(hostile()) and len(str(hostile()).splitlines()) == 4


def test_a_plot_is_written(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    figure = hostile_without_foreign_letters().plot(tmp_path / "lens.png")
    assert (tmp_path / "lens.png").read_bytes().startswith(b"\x89PNG")
    assert [text.get_text() for text in figure.axes[0].texts][1] == r"\$b"
    assert "matplotlib.pyplot" not in sys.modules


def hostile_without_foreign_letters() -> LogitLens:
    """Fonts lack some of the letters, which matplotlib says in a warning."""
    found = hostile()
    texts = ((("<script>", "$a$"), ("$b", "\n")), (("", " x"), ("<b>", "&")))
    return LogitLens(
        found.layers,
        found.positions,
        ("<a>", " $y$"),
        found.ids,
        found.logits,
        found.probabilities,
        texts,
        2,
        found.n_layers,
    )


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"mlxterp\[plot\]"):
        hostile().plot()
