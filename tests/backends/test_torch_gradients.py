"""Gradients of the logits, and logits of what leaves the last block."""

from __future__ import annotations

from typing import Any

import pytest

from mlxterp.core.sites import Site, SiteEdit
from mlxterp.errors import ComponentError, InputError
from tests.backends.tiny_torch import SETTINGS, Counter, TorchLanguageModel, batch, tiny, torch


@pytest.fixture(scope="module")
def llama() -> TorchLanguageModel:
    return tiny("llama")


@pytest.mark.parametrize(
    ("name", "step", "tolerance"),
    [("gpt2", 1e-5, 1e-6), ("gpt_neox", 1e-5, 1e-6), ("opt", 1e-5, 1e-6),
     ("llama", 1e-3, 1e-3), ("olmo2", 1e-3, 1e-3), ("gemma2", 1e-3, 1e-3)],  # these have float32 norms inside
)  # fmt: skip
def test_gradients_agree_with_finite_differences(name, step, tolerance):
    model = tiny(name)
    model.model.double()
    tokens, sites = batch(1, 6), {"block": Site(model.layers[0]), "input": Site(model.layers[2], "input")}
    generator = torch.Generator().manual_seed(1)
    ways = {key: torch.randn(1, 6, 32, generator=generator, dtype=torch.float64) for key in sites}

    def edits(deltas: Any) -> list[SiteEdit]:
        return [SiteEdit(site, lambda x, run, call, d=deltas[key][0]: x + d) for key, site in sites.items()]

    def objective(logits: Any) -> Any:
        return logits.log_softmax(-1)[0, -1, 7]

    zeros = {key: [torch.zeros_like(way)] for key, way in ways.items()}
    value, grads = model.gradients(tokens, objective, edits, zeros)
    assert torch.equal(value, objective(model.forward(tokens)))
    for key, way in ways.items():

        def moved(size: float, key: str = key, way: Any = way) -> Any:
            deltas = {k: [way * size if k == key else torch.zeros_like(way)] for k in sites}
            return objective(model.run(tokens, edits=edits(deltas)).logits)

        slope = (moved(step) - moved(-step)) / (2 * step)
        assert torch.allclose((grads[key][0] * way).sum(), slope, rtol=tolerance, atol=tolerance * 1e-2)
    assert all(p.grad is None for p in model.model.parameters())


def test_what_the_objective_does_not_depend_on_has_gradient_zero(llama):
    def edits(deltas: Any) -> list[SiteEdit]:
        return [SiteEdit(Site(llama.layers[0]), lambda x, run, call: x + deltas["a"][0])]

    zeros = {"a": [torch.zeros(1, 9, 32)]}
    value, grads = llama.gradients(batch(1), lambda logits: torch.tensor(2.0), edits, zeros)
    assert float(value) == 2.0 and not grads["a"][0].any()
    with pytest.raises(InputError, match=r"must return one number, got \(9, 61\)"):
        llama.gradients(batch(1), lambda logits: logits[0], edits, zeros)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_logits_of_the_last_blocks_output_are_the_models_logits(name):
    model = tiny(name)
    run = model.run(batch(), [Site(model.layers[-1])])
    with Counter(model) as ran:
        logits = model.decode_stream(run.values[Site(model.layers[-1])][0].reshape(-1, 32))
    assert ran == [False, False, False]
    assert torch.allclose(logits.reshape(run.logits.shape), run.logits, atol=2e-6)
    with pytest.raises(ComponentError, match=r"Expected \(rows, 32\)"):
        model.decode_stream(torch.zeros(2, 31))
