"""Every run is made in evaluation mode, in both wings, and each module's own mode is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlxterp import InterpretableModel, logit_difference
from mlxterp.backends.host.modes import EvaluationMode
from tests.letters import TEXTS, LetterTokenizer, llama_of_mlx, random_sae

PROMPT = "the cat sat on a mat"


@pytest.fixture
def model(backend: str, request: pytest.FixtureRequest) -> InterpretableModel:
    """A model with dropout after every MLP and a low-rank adapter with dropout, in training mode but for one block."""
    if backend == "mlx":
        import mlx.core as mx
        import mlx.nn as nn
        from mlx_lm.tuner.lora import LoRALinear

        found = llama_of_mlx()
        whole: Any = found.language_model.model  # type: ignore[attr-defined]
        for block in whole.model.layers:
            block.mlp.down_proj = nn.Sequential(block.mlp.down_proj, nn.Dropout(0.5))
            block.self_attn.o_proj = LoRALinear.from_base(block.self_attn.o_proj, r=4, dropout=0.5)
            block.self_attn.o_proj.lora_b = mx.random.normal(block.self_attn.o_proj.lora_b.shape)
        whole.train()
        whole.model.layers[0].eval()
    else:
        import torch

        folder = request.getfixturevalue("torch_folder")
        found = InterpretableModel(folder, tokenizer=LetterTokenizer(), backend="torch")
        whole = found.language_model.model  # type: ignore[attr-defined]
        for block in whole.model.layers:
            block.mlp.down_proj = torch.nn.Sequential(block.mlp.down_proj, torch.nn.Dropout(0.5))
        whole.train()
        whole.model.layers[0].eval()
    return found


def modes(model: InterpretableModel) -> list[bool]:
    lm: Any = model.language_model
    return [node.module.training for node in lm.tree.by_path.values()]


def kept(model: InterpretableModel, act: Callable[[], Any]) -> Any:
    """What `act` gives; the modes are what they were, and some modules train."""
    model.to_tokens([1])  # notices the modules that were put in
    before = modes(model)
    assert any(before) and not all(before)
    found = act()
    assert modes(model) == before
    return found


def numbers(model: InterpretableModel, x: Any) -> np.ndarray:
    return np.asarray(model.language_model.backend.get(x))


def test_one_trace_does_not_contradict_itself(model):
    def act() -> None:
        with model.trace(PROMPT) as t:
            first = model.layers[1].mlp.output.save()
            model.layers[2].mlp.output *= 1.0  # replays what follows
            second = model.layers[1].mlp.output.save()
        np.testing.assert_array_equal(numbers(model, first), numbers(model, second))
        np.testing.assert_array_equal(numbers(model, t.activations["layers.1.mlp"]), numbers(model, first))
        np.testing.assert_allclose(
            numbers(model, t.output), numbers(model, model(PROMPT)), rtol=1e-4, atol=1e-5
        )

    kept(model, act)


CALLS: dict[str, Callable[[InterpretableModel], Any]] = {
    "logits": lambda m: numbers(m, m(PROMPT)).tolist(),
    "loss": lambda m: m.loss(PROMPT),
    "generate": lambda m: m.generate(PROMPT, max_tokens=6),
    "sampled": lambda m: m.generate(PROMPT, max_tokens=6, temperature=1.0, seed=3),
    "edited": lambda m: m.generate(PROMPT, max_tokens=4, interventions={"layers.1.mlp": lambda x: 2 * x}),
    "stream": lambda m: list(m.stream_generate(PROMPT, max_tokens=4)),
    "gradients": lambda m: numbers(
        m, m.gradients(PROMPT, logit_difference(5, 6), at="layers.1.mlp")["layers.1.mlp"]
    ).tolist(),
    "search": lambda m: m.get_top_features_for_text(PROMPT, random_sae(m.d_model), 1, component="resid_post"),
    "texts": lambda m: m.get_top_texts_for_feature(
        3, random_sae(m.d_model), TEXTS, 1, component="resid_post"
    ),
    "unembed": lambda m: numbers(m, m.unembed(np.ones((2, m.d_model), np.float32))).tolist(),
    "evaluate": lambda m: (
        m.evaluate_sae(random_sae(m.d_model), TEXTS, "layers.1.resid_post").explained_variance
    ),
    "attached": lambda m: attached(m),
}


def attached(model: InterpretableModel) -> list:
    with model.attach_sae(random_sae(model.d_model), component="layers.1.resid_post", mode="replace"):
        return numbers(model, model(PROMPT)).tolist()


@pytest.mark.parametrize("call", list(CALLS))
def test_every_call_gives_what_the_model_gives_in_evaluation_mode(model, call):
    found = kept(model, lambda: [CALLS[call](model) for _ in range(2)])
    lm: Any = model.language_model
    lm.model.eval()
    assert found[0] == found[1] == CALLS[call](model)


def test_a_failing_run_leaves_the_modes_as_they_were(model):
    def fail(_x):
        raise RuntimeError("in the middle")

    def act() -> None:
        with (
            pytest.raises(RuntimeError, match="in the middle"),
            model.trace(PROMPT, interventions={"layers.1.mlp": fail}),
        ):
            pass

    kept(model, act)


def test_a_generation_that_nobody_finishes_leaves_the_modes_as_they_were(model):
    kept(model, lambda: next(iter(model.stream_generate(PROMPT, max_tokens=9))))


def test_runs_of_several_threads_leave_the_modes_as_they_were(model):
    found: list[Any] = []

    def act() -> None:
        threads = [threading.Thread(target=lambda: found.append(model.loss(PROMPT))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    kept(model, act)
    assert len(found) == 4 and len(set(found)) == 1


class Part:
    training = True


def test_modules_that_two_running_models_share_get_their_mode_back_from_the_last():
    shared, own, idle = Part(), Part(), Part()
    idle.training = False
    mode: EvaluationMode[Part] = EvaluationMode(
        lambda parts: [p for p in parts if p.training], lambda p, to: setattr(p, "training", to)
    )
    with mode.of([shared, own, idle]):
        with mode.of([shared]):
            assert not shared.training
        assert not shared.training and not own.training
    assert shared.training and own.training and not idle.training
    with pytest.raises(ValueError, match="within"), mode.of([shared]):
        raise ValueError("within")
    assert shared.training
