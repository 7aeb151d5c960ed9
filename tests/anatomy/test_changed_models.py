"""Models that are cast or trained after they were wrapped: what was learnt of them before is learnt again."""

from __future__ import annotations

import numpy as np
import pytest

from tests.letters import random_sae


def cast(model) -> None:
    inside = model.language_model.model
    if model.language_model.backend.name == "torch":
        torch = pytest.importorskip("torch")
        inside.to(torch.bfloat16)
    else:
        import mlx.core as mx

        inside.set_dtype(mx.bfloat16)


def test_a_model_can_be_cast_after_wrapping(letter_model):
    sae = random_sae(letter_model.d_model, backend=letter_model.language_model.backend.name)
    sae.metadata["component"] = "layers.1.resid_post"
    before = letter_model.feature_logits(sae, 3).promoted[0]
    assert letter_model.components()["layers.1.mlp_out"]
    cast(letter_model)
    after = letter_model.feature_logits(sae, 3).promoted[0]
    assert after[0] == before[0] and after[1] == pytest.approx(before[1], rel=0.05)
    assert letter_model.logit_lens("abc") is not None
    assert letter_model.components()["layers.2.mlp_out"]


def test_rules_are_found_where_weights_changed_in_between(letter_model):
    assert letter_model.components()["layers.0.mlp"]  # the first pass
    inside = letter_model.language_model.model
    layer = inside.model.layers[1].mlp.down_proj
    if letter_model.language_model.backend.name == "torch":
        layer.weight.data *= 3
    else:
        layer.weight = layer.weight * 3
    with letter_model.trace("abc") as t:
        mid = letter_model.layers[1].resid_mid.save()
        out = letter_model.layers[1].mlp_out.save()
        post = letter_model.layers[1].resid_post.save()
    backend = letter_model.language_model.backend
    mid, out, post = (backend.get(x) for x in (mid, out, post))
    np.testing.assert_allclose(mid + out, post, rtol=1e-4, atol=1e-4)
    assert t.lengths.tolist() == [4]
