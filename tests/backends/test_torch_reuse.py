"""Passes that start from an earlier one, and passes that end early."""

from __future__ import annotations

import pytest

from mlxterp.core.sites import Site, SiteEdit
from mlxterp.errors import InputError
from tests.backends.tiny_torch import SETTINGS, Counter, TorchLanguageModel, batch, edit, plain, tiny, torch


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def model(request: pytest.FixtureRequest) -> TorchLanguageModel:
    return tiny(request.param)


@pytest.fixture(scope="module")
def llama() -> TorchLanguageModel:
    return tiny("llama")


def test_a_run_from_an_earlier_one_equals_a_whole_run(model):
    first = model.run(batch(), [Site(model.layers[0], "input")], everything=True)
    edits: list[SiteEdit] = []
    run = first
    for layer, port in ((2, "input"), (1, "output"), (0, "output")):
        edits.append(edit(model.layers[layer], lambda x: x * 1.25 + 0.1, port))  # ever earlier ones
        run = model.run(batch(), [Site(model.layers[2])], edits, reuse=run)
        whole = model.run(batch(), [Site(model.layers[2])], edits, everything=True)
        assert torch.equal(run.logits, whole.logits)
        assert torch.equal(run.values[Site(model.layers[2])][0], whole.values[Site(model.layers[2])][0])
        assert run.calls == whole.calls
    inner = next(p for p in model.modules if p.startswith(model.layers[0] + "."))
    assert torch.equal(run.values[Site(inner)][0], first.values[Site(inner)][0])


def test_values_before_the_first_new_edit_are_the_very_same_tensors(llama):
    sites = [Site(llama.layers[0], "input"), Site(llama.layers[0])]
    first = llama.run(batch(), sites, everything=True)
    with Counter(llama) as ran:
        edited = [edit(llama.layers[2], lambda x: x * 0.5, "input")]
        run = llama.run(batch(), [*sites, Site(llama.layers[2])], edited, reuse=first)
    assert ran == [False, False, True]
    assert all(run.values[site][0] is first.values[site][0] for site in sites)
    assert run.values[Site("model.layers.1.mlp")][0] is first.values[Site("model.layers.1.mlp")][0]
    assert len(run.values[sites[0]]) == 1


def test_a_run_from_an_earlier_one_shows_what_was_not_asked_for_before(model):
    sites = [Site(model.layers[1], "input"), Site(model.layers[2], "input")]
    edits = [edit(model.layers[1], lambda x: x + 1)]
    first = model.run(batch(), edits=edits, everything=True)
    run, whole = model.run(batch(), sites, edits, reuse=first), model.run(batch(), sites, edits)
    assert all(torch.equal(run.values[site][0], whole.values[site][0]) for site in sites)
    assert torch.equal(run.logits, whole.logits)


def test_modules_that_write_into_their_arguments_are_run_again():
    model = plain()
    first = model.run(batch(), everything=True)
    edits = [edit("layers.2", lambda x: x * 2)]
    run = model.run(batch(), [Site("layers.1")], edits, reuse=first)
    assert torch.equal(run.logits, model.run(batch(), edits=edits).logits)
    for path in ("embed", "layers.0.up", "layers.1"):
        assert torch.equal(run.values[Site(path)][0], first.values[Site(path)][0])


def test_a_run_without_a_record_cannot_be_reused(llama):
    with pytest.raises(InputError, match="everything=True"):
        llama.run(batch(), reuse=llama.run(batch()))


def test_a_stopped_pass_runs_no_later_block(model):
    stop = Site(model.layers[1], "input")
    with Counter(model) as ran:
        run = model.run(batch(), [stop], stop_after=[stop, Site(model.layers[0])])
    assert ran == [True, False, False] and run.logits is None
    assert torch.equal(run.values[stop][0], model.run(batch(), [stop]).values[stop][0])
    assert torch.equal(model.run(batch()).logits, model.forward(batch()))


@pytest.mark.parametrize("port", ["q", "pattern", "z"])
def test_a_pass_stopped_at_an_attention_has_all_its_heads(llama, port):
    site = Site(llama.layers[1], port)
    with Counter(llama) as ran:
        run = llama.run(batch(), [site], stop_after=[site])
    assert ran == [True, True, False]
    assert torch.equal(run.values[site][0], llama.run(batch(), [site]).values[site][0])


def test_an_edited_pass_that_is_reused_may_have_been_stopped(llama):
    stop = [Site(llama.layers[1])]
    first = llama.run(batch(), everything=True, stop_after=stop)
    edits = [edit(llama.layers[1], lambda x: x * 2, "input")]
    run = llama.run(batch(), stop, edits, reuse=first, stop_after=stop)
    assert torch.equal(run.values[stop[0]][0], llama.run(batch(), stop, edits).values[stop[0]][0])
    assert torch.equal(llama.run(batch(), (), edits, reuse=run).logits, llama.run(batch(), (), edits).logits)


def test_a_stopped_pass_waits_for_what_is_captured_and_for_every_call():
    model = plain(loops=2)
    run = model.run(batch(), [Site("layers.1")], stop_after=[Site("layers.0")])
    assert len(run.values[Site("layers.1")]) == 2
    assert "head" not in run.calls
