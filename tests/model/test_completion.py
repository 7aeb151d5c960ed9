"""What tab completion offers: canonical names that exist, and public names only."""

from __future__ import annotations

import rlcompleter

import pytest

import mlxterp
from mlxterp import ComponentError, TraceError

RESIDUAL = {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"}
HEADS = {"q", "k", "v", "z", "pattern"}


def test_a_layer_lists_its_canonical_names(demo):
    names = set(dir(demo.model.layers[1]))
    assert names >= RESIDUAL | {"attn", "mlp", "input", "output", "self_attn"} | {
        f"attn.{port}" for port in HEADS
    }
    assert set(dir(demo.model.layers[1].attn)) >= HEADS | {"o_proj", "output"}
    assert not HEADS & set(dir(demo.model.layers[1].mlp)) and not RESIDUAL & set(
        dir(demo.model.layers[1].mlp)
    )


def test_only_names_that_exist_are_listed():
    pytest.importorskip("mlx.core")
    from tests.architectures import build, configs

    if "mamba" not in configs():
        pytest.skip("needs the shared architectures")
    model = mlxterp.InterpretableModel(build("mamba"))
    names = set(dir(model.layers[0]))
    assert "resid_post" in names and not {"attn.q", "attn.z"} & names
    for name in names - {"input", "output"}:
        model.anatomy.component(f"layers.0.{name}")
    for name in RESIDUAL - names:
        with pytest.raises(ComponentError):
            model.anatomy.component(f"layers.0.{name}")


def test_objects_list_public_names_only(demo, tmp_path):
    index = demo.model.build_index(demo.sae, demo.texts[:3], tmp_path / "index", verbose=False)
    for thing in (
        mlxterp,
        demo.model,
        demo.sae,
        index,
        demo.model.trace("A cat"),
        demo.sae.concepts,
        index.labels,
    ):
        names = dir(thing)
        assert names and not [name for name in names if name.startswith("_")]
        assert all(hasattr(thing, name) for name in names if name not in ("output", "saved_values"))
    assert set(dir(mlxterp)) == set(mlxterp.__all__)
    assert {"trace", "generate", "layers"} <= set(dir(demo.model)) and {"encode", "W_dec"} <= set(
        dir(demo.sae)
    )


def test_completion_at_the_prompt_works_outside_a_trace(demo):
    completer = rlcompleter.Completer({"layer": demo.model.layers[1]})
    found = []
    while (match := completer.complete("layer.res", len(found))) is not None:
        found.append(match)
    assert found == ["layer.resid_mid", "layer.resid_post", "layer.resid_pre"]
    with pytest.raises(TraceError, match="only inside a trace"):
        _ = demo.model.layers[1].resid_mid


@pytest.mark.parametrize(
    ("name", "here"),
    [("run_with_cache", "model.trace"), ("run_with_hooks", "interventions="), ("cfg", "d_model")],
)
def test_names_of_other_libraries_are_told_where_they_are(demo, name, here):
    with pytest.raises(AttributeError, match=here):
        getattr(demo.model, name)
    with pytest.raises(AttributeError, match=r"called so\.$"):
        getattr(demo.model, "nothing_like_it")  # noqa: B009


def test_exchanged_arguments_are_told_in_a_short_line(demo):
    texts = ["One day a girl named Lily went to the park. " * 20] * 3
    with pytest.raises(mlxterp.InputError, match="layer before the texts"):
        demo.model.train_sae(texts, 1)
    with pytest.raises(ComponentError, match="no layer") as found:
        demo.model.logit_lens("One day", layers=[texts])
    assert len(str(found.value)) < 200
