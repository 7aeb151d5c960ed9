"""Row D12: one SAE in another: with itself 1, with random directions what the control says; two models."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import SAE, BackendError, InputError
from mlxterp.geometry import aligned_activations, universality
from mlxterp.variants import ReLU
from mlxterp.weights import SAEWeights
from tests.tiny import tiny_llama

ASK: Any = universality
"""For what the type checker would not let through."""


def sae_of(d_hidden: int = 40, d_model: int = 16, seed: int = 0, **metadata) -> SAE:
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(d_hidden, d_model)).astype(np.float32)
    bias = draw.normal(size=d_hidden).astype(np.float32) - 1
    read = rows.T + 0.1 * draw.normal(size=(d_model, d_hidden)).astype(np.float32)
    return SAE(SAEWeights(read, bias, rows, np.zeros(d_model, np.float32)), ReLU(), metadata)


def rearranged(sae: SAE, order: np.ndarray, scale: np.ndarray) -> SAE:
    """The same features in another order and other units."""
    w = sae.weights
    scale = scale.astype(np.float32)
    return sae.replace(
        SAEWeights(
            (w.W_enc * scale)[:, order], (w.b_enc * scale)[order], (w.W_dec / scale[:, None])[order], w.b_dec
        )
    )


def x(n: int = 600, width: int = 16, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


@pytest.mark.parametrize("match", ["max", "hungarian"])
@settings(max_examples=12)
@given(st.integers(0, 10**6))
def test_d12_with_itself_permuted_and_rescaled_it_is_one(match, seed):
    draw, sae = np.random.default_rng(seed), sae_of(seed=seed)
    order = draw.permutation(40)
    found: Any = universality(
        sae, rearranged(sae, order, draw.uniform(0.2, 5, 40)), activations=x(), match=match, control=False
    )
    assert found.mmcs.value == pytest.approx(1, abs=1e-5)
    assert found.shared_share.value == found.near() == found.agreement == 1
    assert found.correlation.value == pytest.approx(1, abs=1e-5)
    assert np.array_equal(order[found.decoder.ids], np.arange(40))


def test_d12_other_random_directions_are_no_more_alike_than_the_control():
    found: Any = universality(sae_of(seed=1), sae_of(seed=2), activations=x())
    low, high = found.mmcs.control_interval
    assert low - 0.05 < found.mmcs.value < high + 0.05 and len(found.mmcs.control) == 20
    assert found.shared_share.value < 0.1
    assert found.correlation.control_mean < 0.2 and "tokens shuffled" in str(found)


def test_correlations_are_those_of_numpy():
    a, b = sae_of(30, seed=3), sae_of(20, seed=4)
    found: Any = universality(a, b, activations=x(), control=False)
    whole = np.corrcoef(a.encode(x()).T, b.encode(x()).T)[:30, 30:]
    live = a.encode(x()).any(axis=0)
    np.testing.assert_allclose(found.activation.values[live], np.nanmax(whole[live], axis=1), atol=1e-5)
    assert np.array_equal(found.activation.ids[live], np.nanargmax(whole[live], axis=1))


def test_one_to_one_is_the_best_assignment():
    from scipy.optimize import linear_sum_assignment

    a, b = sae_of(12, seed=3), sae_of(9, seed=4)
    found: Any = universality(a, b, match="hungarian", control=False)
    unit = [s.W_dec / np.linalg.norm(s.W_dec, axis=1, keepdims=True) for s in (a, b)]
    row, column = linear_sum_assignment(unit[0] @ unit[1].T, maximize=True)
    assert found.decoder.ids[row].tolist() == column.tolist() and found.left_out == 3
    assert "3 features have no partner" in str(found)


def test_twins_and_dead_features_do_not_spoil_it():
    w = sae_of(6).weights
    read, rows = w.W_enc.copy(), w.W_dec.copy()
    read[:, 1], rows[1] = read[:, 0], rows[0]  # twins
    rows[5] = 0
    sae = SAE(SAEWeights(read, w.b_enc, rows, w.b_dec), ReLU())
    found: Any = universality(sae, sae.replace(), control=False)
    assert found.shared_share.value == 1 and found.mmcs.value == pytest.approx(1) and found.left_out == 1


def test_two_models_are_compared_by_activations_only():
    a, b = sae_of(model="one"), sae_of(30, 24, seed=5, model="two")
    with pytest.raises(InputError, match="two models"):
        universality(a, b)
    found: Any = universality(a, b, activations=(x(), x(width=24)))
    assert found.mmcs is found.decoder is found.agreement is found.near() is None
    assert found.correlation.value < 1 and "decoder" not in str(found)


def test_it_is_a_table_a_picture_and_a_page(tmp_path):
    found: Any = universality(sae_of(), sae_of(30, seed=2), activations=x())
    assert list(found.to_pandas()) == ["decoder_partner", "decoder", "encoder_partner", "encoder",
                                       "activation_partner", "activation"]  # fmt: skip
    assert found.plot(tmp_path / "plot.png") and (tmp_path / "plot.png").exists()
    page = found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "covariance-matched directions" in page and repr(found).endswith("by max>")
    same: Any = universality(sae_of(), sae_of(30, seed=2), activations=x())
    assert str(found) == str(same)


def test_bad_input_is_named(monkeypatch):
    sae, universality = sae_of(), ASK
    still = SAE(SAEWeights(sae.W_enc, sae.b_enc - 1e6, sae.W_dec, sae.b_dec), ReLU())
    for call, words in [
        (lambda: universality(sae, "sae"), "b is an SAE"),
        (lambda: universality(sae, sae, match="best"), "match is 'best'"),
        (lambda: universality(sae, sae_of(d_model=8)), "widths 16 and 8"),
        (lambda: universality(sae, sae, activations=x(width=3)), "16"),
        (lambda: universality(sae, sae, activations=(x(5), x(6))), "other tokens"),
        (lambda: universality(sae, still, activations=x()), "no active feature"),
        (lambda: universality(sae, sae, seed=-1), "seed is -1"),
        (lambda: universality(sae, sae, activation=x()), "Did you mean activations="),
    ]:
        with pytest.raises(InputError, match=words):
            call()
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(BackendError, match=r'match="max" needs nothing'):
        universality(sae, sae, match="hungarian")


# -- two models -----------------------------------------------------------------------------------


class Pieces:
    """Tokens of so many characters; id 1 before every text."""

    eos_token_id, bos_token_id = None, 1

    def __init__(self, size: int):
        self.size, self.known = size, ["", "<s>"]

    def encode(self, text: str) -> list[int]:
        cut = [text[i : i + self.size] for i in range(0, len(text), self.size)]
        self.known += [piece for piece in dict.fromkeys(cut) if piece not in self.known]
        return [1, *map(self.known.index, cut)]

    def decode(self, ids) -> str:
        return "".join(self.known[int(i)] for i in ids)


def test_tokens_of_two_models_meet_where_they_end_alike():
    models = [
        tiny_llama(seed=seed, tokenizer=Pieces(size), vocab_size=600) for seed, size in ((3, 1), (4, 2))
    ]
    saes = [sae_of(20, 32, seed=s, component="layers.1.resid_post", model=str(s)) for s in (0, 1)]
    texts = ["the cat sat", "a red mat"]
    one, two = aligned_activations(models[0], saes[0], models[1], saes[1], texts)
    assert one.shape == two.shape == (6 + 5, 32)
    for rows, model, at in ((one, models[0], [2, 4, 6, 8, 10, 11]), (two, models[1], [1, 2, 3, 4, 5, 6])):
        whole = np.array(model.trace(texts[0]).activations["layers.1.resid_post"][0])
        shown = [rows[np.abs(rows - whole[i]).max(axis=1).argmin()] for i in at]
        np.testing.assert_allclose(shown, whole[at], atol=1e-4)
    found: Any = universality(*saes, activations=(one, two), control=False)
    assert found.correlation.value <= 1
    with pytest.raises(InputError, match="names no component"):
        aligned_activations(models[0], sae_of(20, 32), models[1], saes[1], texts)
