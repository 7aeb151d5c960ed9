"""How wide a component is, for whatever takes its activations as rows."""

from __future__ import annotations

import pytest

import mlxterp
from mlxterp import ComponentError
from mlxterp.core.tokens import TokenBatch


@pytest.fixture
def anatomy(backend):
    return mlxterp.load_demo(backend).model.anatomy


@pytest.mark.parametrize(
    "leaf", ["mlp", "mlp.up_proj", "attn.z", "attn.q", "resid_mid", "attn_out", "resid_post"]
)
def test_a_width_is_that_of_the_components_rows(anatomy, leaf):
    place = anatomy.component(f"layers.2.{leaf}")
    values = place.read(anatomy.model.run(TokenBatch.from_rows([[1, 2, 3]]), place.sites))
    heads = values.shape[1] if leaf.startswith("attn.") else 1
    assert anatomy.width(place) == heads * values.shape[-1]


def test_what_is_as_wide_as_the_text_has_no_width(anatomy):
    with pytest.raises(ComponentError, match="as wide as the text is long"):
        anatomy.width(anatomy.component("layers.1.attn.pattern"))
