"""Rows D22 to D26: the section's patch scoping runs under its names, and gives what ours gives."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import ComponentError, InputError, UnknownFeatureError
from mlxterp.compat import arena
from mlxterp.compat.saelens import SAE, HookedSAETransformer, get_act_name
from mlxterp.interventions import replace_with

PROMPT, LATENT, LAYER = "One day, Lily saw a X. The", 741, 1
CALLS = {
    "D22": ("GENERATE_KWARGS", "temperature=0.5", "freq_penalty=2.0", "<start_of_turn>user", "max_new_tokens=150"),
    "D23": (
        "hook_fn_patch_scoping", "seq_pos: list[int]", "latent_vector", "activations", "seq_len, d_model", "-> None",
    ),
    "D24": (
        "generate_patch_scoping_explanation", "latent_idx: int", "replacement_layer: int", "scale: float",
        "max_new_tokens: int = 50", "range(0, 60, 10)", 'GENERATE_KWARGS["verbose"] = False', "unk_token",
    ),
    "D25": ("scale tuning", "derivatives"),
}  # fmt: skip
"""Row → calls, arguments and names in its code or task."""


def test_D22_the_section_has_what_the_table_lists(shared):
    section = (shared / "spec" / "arena_understanding_latents.txt").read_text(encoding="utf-8")
    assert not [word for words in CALLS.values() for word in words if word not in section]


@pytest.fixture(scope="module", params=["mlx", "torch"])
def given(request: pytest.FixtureRequest) -> Any:
    if request.param not in mlxterp.available_backends():
        pytest.skip(f"{request.param} is not installed")
    model, sae, _ = mlxterp.load_demo(request.param)
    return HookedSAETransformer(model), SAE(sae)


@pytest.fixture(autouse=True)
def greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arena.GENERATE_KWARGS, "temperature", 0.0)
    monkeypatch.setitem(arena.GENERATE_KWARGS, "freq_penalty", 0.0)


def test_D22_generation_takes_the_sections_settings():
    from mlxterp.compat.arena import patch_scoping

    assert set(patch_scoping.GENERATE_KWARGS) == {"temperature", "freq_penalty"}


def test_D23_the_hook_replaces_positions_of_the_prompt_and_leaves_new_tokens_alone(given):
    hooked, sae = given
    backend = hooked.interpretable.language_model.backend
    ids = hooked.to_tokens(PROMPT)[0].tolist()
    place = [i for i, a in enumerate(ids) if hooked.tokenizer.decode([a]).strip() == "X"]
    row = np.asarray(backend.get(sae.W_dec))[LATENT]
    vector = (row / np.linalg.norm(row) * 20).astype(np.float32)
    hook = partial(arena.hook_fn_patch_scoping, latent_vector=backend.put(vector), seq_pos=place)
    with hooked.hooks(fwd_hooks=[(get_act_name("resid_pre", LAYER), hook)]):
        text = hooked.generate(PROMPT, max_new_tokens=5, do_sample=False)
    change = {f"layers.{LAYER}.resid_pre": replace_with(vector, positions=place)}
    assert text == PROMPT + hooked.interpretable.generate(PROMPT, max_tokens=5, interventions=change)
    new = backend.put(np.ones((1, 1, 192), np.float32))
    assert hook(new, hook=None) is None and float(np.asarray(backend.get(new)).min()) == 1.0
    with pytest.raises(InputError, match="seq_pos is 12"):
        arena.hook_fn_patch_scoping(
            backend.put(np.ones((1, 11, 192), np.float32)), None, [12], backend.put(vector)
        )


def test_D24_the_explanation_of_a_latent_is_that_of_the_native_call_at_every_scale(given):
    hooked, sae = given
    scales = list(range(0, 60, 10))
    scope = hooked.interpretable.patchscope(
        (sae.sae, LATENT), PROMPT, layer=LAYER, scales=scales, units="raw", max_tokens=5, stop=None, control=False,
        verbose=False,
    )  # fmt: skip
    for scale, text in zip(scales, scope.texts, strict=True):
        output = arena.generate_patch_scoping_explanation(
            hooked, sae, PROMPT, LATENT, LAYER, scale, max_new_tokens=5
        )
        assert output.removeprefix(PROMPT) == text
    native = arena.generate_patch_scoping_explanation(
        hooked.interpretable, sae.sae, PROMPT, LATENT, LAYER, 20.0, 5
    )
    assert native == PROMPT + (scope.texts[2] or "")


def test_D24_a_placeholder_at_the_end_of_the_prompt_is_replaced(given):
    hooked, sae = given
    prompt = "One day, Lily saw a X"
    texts = {
        arena.generate_patch_scoping_explanation(hooked, sae, prompt, LATENT, LAYER, scale, 5)
        for scale in (0, 60)
    }
    assert len(texts) == 2


def test_D24_what_cannot_be_asked_is_refused(given):
    hooked, sae = given
    ask = partial(arena.generate_patch_scoping_explanation, max_new_tokens=2)
    for error, told, arguments in (
        (InputError, "holds none of 'X'", ("a dog", LATENT, 1, 20)),
        (UnknownFeatureError, "No feature 99999", (PROMPT, 99999, 1, 20)),
        (ComponentError, "layer|blocks", (PROMPT, LATENT, 9, 20)),
        (InputError, "scale is -1", (PROMPT, LATENT, 1, -1)),
    ):
        with pytest.raises(error, match=told):
            ask(hooked, sae, *arguments)


def test_D25_the_curve_has_its_derivatives_where_asked(given):
    hooked, sae = given
    scope = hooked.interpretable.patchscope(
        (sae.sae, LATENT), PROMPT, layer=LAYER, scales=[10, 20], units="raw", max_tokens=1, control=False,
        derivatives=True, verbose=False,
    )  # fmt: skip
    assert (
        scope.derivatives is not None
        and scope.derivatives.shape == (2,)
        and np.isfinite(scope.derivatives).all()
    )
    assert len(scope.plot().axes) == 4


def test_D26_the_guide_says_how_gated_models_and_the_cache_are_handled():
    from pathlib import Path

    page = Path(mlxterp.__file__).parent.parent / "docs" / "patch_scoping.md"
    if not page.is_file():
        pytest.skip("the package was installed without its pages")
    text = page.read_text(encoding="utf-8")
    assert "<!-- D26 -->" in text and "HF_TOKEN" in text and "hf cache" in text


def test_D23_the_hook_function_says_what_does_not_fit(backend):
    model = mlxterp.load_demo(backend).model
    put, get = model.language_model.backend.put, model.language_model.backend.get
    x = put(np.zeros((1, 4, 192), np.float32))
    arena.hook_fn_patch_scoping(x, None, 2, np.ones(192))  # one position, an array of NumPy
    assert get(x)[0].any(axis=1).tolist() == [False, False, True, False]
    cases: list[tuple[Any, Any, str]] = [
        (None, np.ones(192), "seq_pos is None"), ("3", np.ones(192), "seq_pos is '3'"),
        ([1], np.ones(5), "latent_vector has 5 numbers"), ([1], put(np.ones(5, np.float32)), r"has shape \(5,\)"),
    ]  # fmt: skip
    for positions, vector, message in cases:
        with pytest.raises(InputError, match=message):
            arena.hook_fn_patch_scoping(x, None, positions, vector)
