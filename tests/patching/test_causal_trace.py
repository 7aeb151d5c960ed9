"""Row U12: causal tracing, on a model whose one path is known, and against the same done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlxterp import InputError, InterpretableModel
from mlxterp.interventions import add_vector, replace_with
from mlxterp.patching import CausalTrace
from mlxterp.patching.causal_trace import abs_window, embedding_std, subject_positions
from tests.attention.circuit import written
from tests.letters import TEXTS
from tests.patching.asking import activations_of, logits_of
from tests.viz.reading import HOSTILE, assert_offline

PROMPT = [5, 9, 2, 7, 1, 30, 9]
"""After the second 9 the circuit says 2, which stands at position 2: L1H1 reads there what came before, 9."""
SUBJECT, ANSWER = 2, 2


@pytest.fixture(scope="module")
def circuit_folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("circuit"))


@pytest.fixture
def circuit(circuit_folder, backend) -> InterpretableModel:
    return InterpretableModel(circuit_folder, backend=backend)


def as_decoded(letters: str) -> str:
    """What the letters' tokenizer makes of them on the way back."""
    return "".join(chr(32 + ord(letter)) for letter in letters)


def places(found: CausalTrace) -> set[tuple[int, int]]:
    """Layer and position of what brings back more than half, and none of the others more than a twentieth."""
    share = found.effects / (found.high - found.low.mean())
    assert ((share > 0.5) | (np.abs(share) < 0.05)).all(), share.round(3)
    return {(found.layers[i], int(j)) for i, j in zip(*np.nonzero(share > 0.5), strict=True)}


def test_u12_the_one_layer_and_position_that_carry_the_answer_are_found(circuit):
    found = circuit.causal_trace(PROMPT, [SUBJECT], noise=8, draws=6)
    assert (found.target, found.subject, found.tokens[2]) == (ANSWER, (SUBJECT,), "#2")
    assert found.high > 0.99 and found.low.mean() < 0.3 and found.restored.shape == (6, 2, 7)
    assert places(found) == {(0, SUBJECT), (1, len(PROMPT) - 1)}  # until attention has moved it to the end
    attention = circuit.causal_trace(PROMPT, [SUBJECT], noise=8, kind="attn", window=1, draws=6)
    assert places(attention) == {(1, len(PROMPT) - 1)}


def test_u12_each_number_is_that_of_a_run_by_hand(letter_model):
    text, subject, draws = TEXTS[2], [3, 4], 2
    found = letter_model.causal_trace(text, subject, noise=2.0, draws=draws, seed=5)
    clean_logits = logits_of(letter_model, text)[0, -1]
    assert found.target == clean_logits.argmax()
    assert found.high == pytest.approx(np.exp(clean_logits - np.logaddexp.reduce(clean_logits))[found.target])
    n = len(found.tokens)
    streams = [activations_of(letter_model, text, f"layers.{layer}.resid_post") for layer in range(3)]
    for draw in range(draws):
        noise = (
            np.zeros((1, n, 64), np.float32)
            if streams[0].shape[-1] == 64
            else np.zeros((1, n, 32), np.float32)
        )
        drawn = np.random.default_rng([5, draw]).standard_normal((2, noise.shape[-1]))
        noise[0, subject] = 2.0 * found.std * drawn
        for layer, position in ((0, 3), (1, 4), (2, n - 1)):
            put = replace_with(streams[layer].astype(np.float32), positions=position)
            changes = {"embed": add_vector(noise), f"layers.{layer}.resid_post": put}
            logits = logits_of(letter_model, text, changes)[0, -1]
            expected = np.exp(logits - np.logaddexp.reduce(logits))[found.target]
            assert found.restored[draw, layer, position] == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(
        found.restored[:, :, 0], np.repeat(found.low[:, None], 3, axis=1)
    )  # before the subject


def test_u12_batches_and_layers_change_nothing(letter_model):
    text = TEXTS[0]
    whole = letter_model.causal_trace(text, as_decoded("cat"), kind="mlp", window=2, draws=2)
    parts = letter_model.causal_trace(
        text, as_decoded("cat"), kind="mlp", window=2, draws=2, layers=[2, 0], batch_size=3
    )
    assert parts.layers == (2, 0) and np.allclose(parts.restored, whole.restored[:, [2, 0]], atol=1e-6)


def test_u12_a_window_is_centred_and_ends_with_the_model():
    named = np.arange(6)
    assert np.flatnonzero(abs_window(named, 3, 1)).tolist() == [3]
    assert np.flatnonzero(abs_window(named, 0, 4)).tolist() == [0, 1, 2]  # layers −2 … 1, −1 … 2, 0 … 3
    assert np.flatnonzero(abs_window(named, 5, 10)).tolist() == [1, 2, 3, 4, 5]


def test_u12_the_scale_of_the_noise_is_that_of_the_embeddings(circuit):
    component = circuit.anatomy.component("embed")
    assert embedding_std(circuit.anatomy, component) == pytest.approx(np.sqrt(1 / 192 - 1 / 192**2), rel=1e-5)


def test_u12_intervals_are_over_draws_and_the_seed_repeats_them(circuit):
    one, same, other = (circuit.causal_trace(PROMPT, 2, noise=0.5, seed=seed, draws=4) for seed in (1, 1, 2))
    assert np.array_equal(one.restored, same.restored) and not np.array_equal(one.low, other.low)
    intervals = one.intervals
    assert (intervals[..., 0] <= one.effects + 1e-12).all() and (
        one.effects <= intervals[..., 1] + 1e-12
    ).all()
    layer, position, token, effect, (low, high) = one.top(1)[0]
    assert effect == one.effects.max() and low <= effect <= high and token == f"#{PROMPT[position]}"
    assert one.effects[one.layers.index(layer), position] == effect


@pytest.mark.parametrize(
    ("change", "said"),
    [({"subject": "mat"}, "is not in the prompt"), ({"subject": as_decoded("at")}, "stands 2 times in the prompt, at"),
     ({"subject": [40]}, "expected positions 0 to 11"), ({"subject": []}, "expected positions"),
     ({"noise": 0}, "noise is 0"), ({"noise": -1.0}, "noise is -1"), ({"draws": 1}, "interval is over draws"),
     ({"kind": "head"}, "'hidden', 'mlp', 'attn'"), ({"window": 0}, "window"), ({"target": 999}, "tokens 0 to 199"),
     ({"prompt": ["a", "b"]}, "one prompt, got 2")],
)  # fmt: skip
def test_u12_what_cannot_be_asked_is_named(letter_model, change, said):
    asked = {"prompt": "the cat sat", "subject": as_decoded("cat"), "draws": 2} | change
    with pytest.raises(InputError, match=said):
        letter_model.causal_trace(**asked)


def test_u12_a_target_of_several_tokens_is_refused(demo):
    with pytest.raises(InputError, match="expected text that is exactly one"):
        demo.model.causal_trace("Lily lost her red ball.", "Lily", " xylophone quartet", draws=2)


def test_u12_subjects_are_found_by_text_across_tokens():
    tokens = ("The", " Eiffel", " Tow", "er", "", " is")
    assert subject_positions("Eiffel Tower", tokens).tolist() == [1, 2, 3]
    assert subject_positions(" is", tokens).tolist() == [5]
    assert subject_positions([-1, 1, 1], tokens).tolist() == [1, 5]
    assert subject_positions(slice(2, 4), tokens).tolist() == [2, 3]


def test_u12_the_map_is_shown_in_every_way(circuit, tmp_path):
    found = circuit.causal_trace(PROMPT, [SUBJECT], draws=3)
    read = assert_offline(found.to_html(tmp_path / "trace.html").read_text(encoding="utf-8"))
    assert "Causal trace of '#2'" in read.everything and "2*" in read.everything
    assert "3 draws" in str(found) and "by chance about 0 would" in str(found)
    table = found.to_pandas()
    assert len(table) == 14 and table["subject"].sum() == 2
    assert table.loc[(table.layer == 0) & (table.position == 2), "effect"].item() == found.effects[0, 2]
    hostile = replace(found, tokens=(HOSTILE,) * 7)
    assert "<script" not in hostile.fragment()
    pytest.importorskip("matplotlib")
    assert found.plot(tmp_path / "trace.png").axes[0].get_ylabel() == "layer"
