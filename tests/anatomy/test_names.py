"""Names of components."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp.anatomy.names import ComponentNames
from mlxterp.errors import ComponentError


def llama_names(prefix: str = "model.layers", layers: int = 12) -> ComponentNames:
    modules = {
        "model": "Inner",
        "model.embed_tokens": "Embedding",
        "model.norm": "RMSNorm",
        "lm_head": "Linear",
    }
    for i in range(layers):
        block = f"{prefix}.{i}"
        modules[block] = "Block"
        for part in (
            "self_attn",
            "self_attn.q_proj",
            "self_attn.o_proj",
            "mlp",
            "mlp.gate_proj",
            "mlp.down_proj",
        ):
            modules[f"{block}.{part}"] = part
    return ComponentNames(modules, [f"{prefix}.{i}" for i in range(layers)])


@pytest.mark.parametrize(
    ("given_name", "canonical"),
    [
        ("layers.10.mlp", "layers.10.mlp"),
        ("layers.1.mlp", "layers.1.mlp"),
        ("layers.-1.mlp", "layers.11.mlp"),
        ("model.layers.3.mlp", "layers.3.mlp"),
        ("model.model.layers.3.mlp", "layers.3.mlp"),
        ("transformer.h.3.attn", "layers.3.self_attn"),
        ("gpt_neox.layers.3.mlp", "layers.3.mlp"),
        ("layers.3.self_attn.output", "layers.3.self_attn"),
        ("layers.3.self_attn.input", "layers.3.self_attn.input"),
        ("layers.3", "layers.3"),
        ("layers.3.output", "layers.3"),
        ("layers.3.residual", "layers.3.resid_post"),
        ("layers.3.attn.z", "layers.3.attn.z"),
        ("layers.3.self_attn.z", "layers.3.attn.z"),
        ("blocks.3.hook_resid_pre", "layers.3.resid_pre"),
        ("blocks.3.hook_resid_mid", "layers.3.resid_mid"),
        ("blocks.3.hook_resid_post", "layers.3.resid_post"),
        ("blocks.3.hook_attn_out", "layers.3.attn_out"),
        ("blocks.3.hook_mlp_out", "layers.3.mlp_out"),
        ("blocks.3.attn.hook_z", "layers.3.attn.z"),
        ("blocks.3.attn.hook_pattern", "layers.3.attn.pattern"),
        ("blocks.3.mlp.hook_post", "layers.3.mlp.down_proj.input"),
        ("blocks.3.mlp.hook_in", "layers.3.mlp.input"),
        ("blocks.3.mlp.hook_pre", "layers.3.mlp.gate_proj"),
        ("ln_final.hook_normalized", "final_norm"),
        ("hook_embed", "embed"),
        ("lm_head", "lm_head"),
        ("embed_tokens", "model.embed_tokens"),
        ("model.model.norm", "model.norm"),
        ("layers.2.q_proj", "layers.2.self_attn.q_proj"),
        ("2.mlp.gate_proj", None),
        (" layers.2.mlp ", "layers.2.mlp"),
        ("layers.2.mlp#1", "layers.2.mlp#1"),
    ],
)
def test_a_name_of_any_convention_means_one_component(given_name, canonical):
    names = llama_names()
    if canonical is None:  # "2.mlp.gate_proj" ends layers.2… only, not layers.12…
        assert names.resolve(given_name).name == "layers.2.mlp.gate_proj"
    else:
        assert names.resolve(given_name).name == canonical


@pytest.mark.parametrize(
    "prefix", ["transformer.h", "backbone.layers", "model.h", "language_model.model.layers"]
)
def test_canonical_names_do_not_depend_on_where_the_blocks_are(prefix):
    names = llama_names(prefix)
    assert names.resolve("layers.3.mlp").module == f"{prefix}.3.mlp"
    assert names.resolve("layers.3.attn").module == f"{prefix}.3.self_attn"


@given(st.integers(-12, 11), st.sampled_from(["mlp", "attn.q", "resid_mid", "mlp.down_proj.input", "attn"]))
def test_resolving_a_canonical_name_gives_itself(layer, leaf):
    names = llama_names()
    once = names.resolve(f"layers.{layer}.{leaf}")
    assert names.resolve(once.name) == once


def test_every_listed_name_resolves_to_itself():
    names = llama_names(layers=2)
    for name in names.all_names():
        assert names.resolve(name).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers.12.mlp", "numbered 0 to 11"),
        ("layers.-13.mlp", "numbered 0 to 11"),
        ("layers.3.mpl", "layers.3.mlp"),
        ("self_attn.q_proj", "ambiguous"),
        ("nonsense", "model.components"),
        ("vision.layers.3.mlp", "model.components"),
        ("", "string"),
        ("layers.1.resid_post#1", "numbered by call"),
        ("layers.1.mlp#x", "number of a call"),
    ],
)
def test_a_name_that_means_nothing_or_several_things_raises_and_helps(name, message):
    with pytest.raises(ComponentError, match=message):
        llama_names().resolve(name)
