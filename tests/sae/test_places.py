"""Where an SAE is used: its own place by default, and a warning before the answer where the call says another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlxterp import SAE, ComponentError, InputError, InterpretableModel, MlxterpWarning
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests.tiny import WordTokenizer, tiny_llama

TEXTS = ["the cat sat on a mat", "a big dog saw it", "run to an old red hat"] * 2
OWN = "layers.1.attn_out"


@pytest.fixture(scope="module")
def model() -> InterpretableModel:
    pytest.importorskip("mlx_lm")
    return tiny_llama(3, tokenizer=WordTokenizer())


def sae_at(component: str | None, width: int = 32) -> SAE:
    W = np.random.default_rng(0).normal(size=(16, width)).astype(np.float32)
    weights = SAEWeights(W.T, np.zeros(16, np.float32), W, np.zeros(width, np.float32))
    return SAE(weights, TopK(4), {} if component is None else {"component": component})


def component_of_index(model: InterpretableModel, sae: SAE, **place: Any) -> Any:
    index = model.build_index(sae, TEXTS, verbose=False, **place)
    return index.component, index.top_texts(3)


CALLS: dict[str, Callable[..., Any]] = {
    "top features": lambda m, s, **p: m.get_top_features_for_text(TEXTS[0], s, **p),
    "top texts": lambda m, s, **p: m.get_top_texts_for_feature(3, s, TEXTS, **p),
    "view": lambda m, s, **p: str(m.visualize_feature_activations(TEXTS[0], s, **p)),
    "index": component_of_index,
    "evaluate": lambda m, s, **p: m.evaluate_sae(s, TEXTS, **p).loss_with_sae,
    "sae.evaluate": lambda m, s, **p: s.evaluate(m, TEXTS, **p).loss_with_sae,
    "check": lambda m, s, **p: m.check_sae(s, TEXTS, **p).component,
    "logits": lambda m, s, **p: m.feature_logits(s, 3, **p).promoted,
    "baseline": lambda m, s, **p: m.random_direction_baseline(s, 5, **p).quantiles(),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_takes_the_own_place_of_an_sae(model, call):
    sae, ask = sae_at(OWN), CALLS[call]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = ask(model, sae)
        for place in (
            {"layer": 1}, {"layer": np.int64(1)}, {"component": OWN}, {"component": "attn_out"}, {"layer": -2},
            {"layer": 1, "component": "attn_out"}, {"layer": 1, "component": OWN},
        ):  # fmt: skip
            assert ask(model, sae, **place) == own, place


@pytest.mark.parametrize("call", CALLS)
def test_another_place_is_told_before_the_answer(model, call):
    sae, ask = sae_at(OWN), CALLS[call]
    order: list[str] = []

    def shown(message: Any, *_rest: Any, **_more: Any) -> None:
        order.append(str(message))

    original = model.language_model.run
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(warnings, "showwarning", shown)
        ask(model, sae, layer=2)
    assert original is not None and len(order) >= 1
    assert "was trained on layers.1.attn_out" in order[0] and "used on layers.2.attn_out" in order[0]
    assert "leave layer= and component= out, or call with component='layers.1.attn_out'" in order[0]
    with warnings.catch_warnings():  # where warnings are errors, nothing is answered
        warnings.simplefilter("error")
        with pytest.raises(MlxterpWarning):
            ask(model, sae, layer=2)


@pytest.mark.parametrize("call", CALLS)
def test_an_sae_that_names_no_place_needs_one(model, call):
    sae, ask = sae_at(None), CALLS[call]
    with pytest.raises(InputError, match="does not say where"):
        ask(model, sae)
    assert ask(model, sae, layer=1, component="attn_out") == ask(model, sae, component=OWN)
    with pytest.raises(InputError, match="Name the layer too"):
        ask(model, sae, component="attn_out")
    with pytest.raises(ComponentError, match="There is no layer 3"):
        ask(model, sae, layer=3)
    with pytest.raises(InputError, match="name two places"):
        ask(model, sae, layer=0, component=OWN)
    with pytest.raises(ComponentError, match="A component is named by a string"):
        ask(model, sae, component=3)


def test_the_positional_forms_stay(model):
    sae = sae_at("layers.1.mlp")
    by_name = model.get_top_features_for_text(TEXTS[0], sae, layer=1, component="mlp", top_k=3)
    assert model.get_top_features_for_text(TEXTS[0], sae, 1, "mlp", 3) == by_name
    assert model.get_top_features_for_text(TEXTS[0], sae_at(None), 1) == model.get_top_features_for_text(
        TEXTS[0], sae, 1
    )
    texts = model.get_top_texts_for_feature(3, sae, TEXTS)
    assert model.get_top_texts_for_feature(3, sae, TEXTS, 1, "mlp", 10) == texts
    assert model.visualize_feature_activations(TEXTS[0], sae, 1, "mlp", [3]).feature_ids == (3,)


def test_an_sae_is_attached_at_its_own_place_or_where_the_call_says(model):
    sae = sae_at(OWN)
    for place in (
        {},
        {"layer": 1},
        {"layer_signature": 1},
        {"component": "attn_out"},
        {"layer": np.int64(1)},
    ):
        with model.attach_sae(sae, **place) as handle:
            assert handle.component == OWN
    with (
        pytest.warns(MlxterpWarning, match="trained on layers.1.attn_out"),
        model.attach_sae(sae, layer=2) as handle,
    ):
        assert handle.component == "layers.2.attn_out"
    with model.attach_sae(sae_at(None), layer=2) as handle:
        assert handle.component == "layers.2.resid_post"
    with pytest.raises(InputError, match="does not say where"):
        model.attach_sae(sae_at(None))
