"""Passes of the torch wing: what is seen is what happened, and nothing is left behind."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mlxterp.core.sites import Run, Site, SiteEdit
from mlxterp.core.tokens import TokenBatch
from mlxterp.errors import ComponentError, EditError, NeverCalledError, NotALanguageModelError
from tests.backends.tiny_torch import (
    SETTINGS,
    VOCABULARY,
    Plain,
    TorchLanguageModel,
    batch,
    edit,
    plain,
    state,
    tiny,
    torch,
    untraced,
)

LAYER_PATHS = {
    "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers",
    "bloom": "transformer.h", "mamba": "backbone.layers",
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def model(request: pytest.FixtureRequest) -> TorchLanguageModel:
    return tiny(request.param)


@pytest.fixture(scope="module")
def llama() -> TorchLanguageModel:
    return tiny("llama")


# -- what the model is ------------------------------------------------------------------------


def test_a_model_says_where_its_blocks_are_and_how_large_it_is(model):
    parent = LAYER_PATHS.get(model.model_type, "model.layers")
    assert model.layers == tuple(f"{parent}.{i}" for i in range(3))
    assert (model.d_model, model.vocab_size) == (32, VOCABULARY)
    assert model.n_heads == (None if model.model_type == "mamba" else 4)
    assert model.max_positions == (None if model.model_type in ("mamba", "bloom") else 48)
    assert model.learned_positions == (model.model_type in ("gpt2", "opt"))
    paths = list(model.modules)
    assert all(p.rpartition(".")[0] in ("", *paths[:i]) for i, p in enumerate(paths))


def test_a_plain_module_is_a_language_model():
    model = plain()
    assert model.layers == ("layers.0", "layers.1", "layers.2")
    assert (model.model_type, model.d_model, model.n_heads, model.max_positions) == ("Plain", 16, None, None)


def test_what_is_no_language_model_is_refused():
    with pytest.raises(NotALanguageModelError, match="Expected a PyTorch model"):
        TorchLanguageModel(object())  # type: ignore[arg-type]
    with pytest.raises(NotALanguageModelError, match="does not map token ids"):
        TorchLanguageModel(torch.nn.Linear(3, 3))
    with pytest.raises(NotALanguageModelError, match="no list of decoder blocks"):
        TorchLanguageModel(torch.nn.Embedding(5, 7))


# -- recording --------------------------------------------------------------------------------


def test_recording_everything_changes_nothing(model):
    tokens, before = batch(), state(model)
    run = model.run(tokens, everything=True)
    assert torch.equal(run.logits, model.forward(tokens))
    assert torch.equal(run.logits, untraced(model, tokens))
    assert not run.logits.requires_grad
    assert state(model) == before


def test_recorded_outputs_are_what_torchs_own_hooks_see(model):
    seen: dict[str, list[Any]] = {}
    handles = []
    for path, module in model.model.named_modules():

        def hook(_module: Any, _args: Any, out: Any, path: str = path) -> None:
            first = out if isinstance(out, torch.Tensor) else out[0]
            seen.setdefault(path, []).append(first.detach().clone())

        handles.append(module.register_forward_hook(hook))
    model.forward(batch())
    for handle in handles:
        handle.remove()
    run = model.run(batch(), everything=True)
    assert {path: len(values) for path, values in seen.items()} == run.calls
    for path, values in seen.items():
        recorded = run.values[Site(path)]
        assert all(torch.equal(a, b) for a, b in zip(recorded, values, strict=True)), path


def test_a_run_is_what_the_protocol_says(llama):
    run = llama.run(batch(), [Site(llama.layers[0])])
    assert isinstance(run, Run) and run.where.positions.tolist() == list(range(9))
    assert run.where.lengths is not None and run.where.lengths.tolist() == [9, 9]


def test_inputs_are_seen_whether_passed_by_position_or_by_name(model):
    first, second = model.layers[:2]
    run = model.run(batch(), [Site(first), Site(second, "input"), Site("", "input")])
    assert torch.equal(run.values[Site(first)][0], run.values[Site(second, "input")][0])
    assert torch.equal(run.values[Site("", "input")][0], torch.as_tensor(batch().ids, dtype=torch.int64))


def test_padding_never_reaches_a_result(model):
    rows = [row[:n].tolist() for row, n in zip(batch(3).ids, (9, 4, 7), strict=True)]
    together = model.run(TokenBatch.from_rows(rows), [Site(model.layers[1])])
    for i, row in enumerate(rows):
        alone = model.run(TokenBatch.from_rows([row]), [Site(model.layers[1])])
        assert torch.allclose(together.logits[i, : len(row)], alone.logits[0], atol=1e-5)
        site = Site(model.layers[1])
        assert torch.allclose(together.values[site][0][i, : len(row)], alone.values[site][0][0], atol=1e-5)


def test_values_stay_as_they_were_although_the_model_writes_in_place():
    model = plain()
    sites = [Site("embed"), Site("layers.0.up"), Site("layers.0"), Site("layers.1", "input")]
    run, recorded = model.run(batch(), sites), model.run(batch(), everything=True)
    embedded = model.model.get_submodule("embed")(torch.as_tensor(batch().ids, dtype=torch.int64))
    assert torch.equal(run.values[sites[0]][0], embedded)
    assert (run.values[sites[1]][0] < 0).any()  # before the ReLU that overwrites it
    assert torch.equal(run.values[sites[2]][0], run.values[sites[3]][0])
    later = model.run(batch(), [Site("layers.1")]).values[Site("layers.1")][0]
    assert not torch.equal(run.values[sites[2]][0], later)
    assert all(torch.equal(recorded.values[site][0], run.values[site][0]) for site in sites[:3])


def test_a_tensor_that_several_modules_put_out_is_kept_once(llama):
    run = llama.run(batch(), [Site("lm_head")], everything=True)
    assert run.values[Site("lm_head")][0] is run.values[Site("")][0]
    assert run.values[Site("")][0] is not run.logits


def test_a_shared_block_is_told_apart_by_the_order_of_its_calls():
    run = plain(shared=True).run(batch(), [Site(f"layers.{i}.up") for i in range(3)], everything=True)
    assert run.calls["layers.0"] == run.calls["layers.2.up"] == 1
    values = [run.values[Site(f"layers.{i}.up")][0] for i in range(3)]
    assert not torch.equal(values[0], values[1]) and not torch.equal(values[1], values[2])


def test_a_looped_block_is_recorded_once_for_each_call():
    model = plain(loops=2)
    run = model.run(batch(), [Site("layers.1")])
    assert run.calls["layers.1"] == 2 and len(run.values[Site("layers.1")]) == 2
    only_second = model.run(batch(), [Site("layers.1")], [edit("layers.1", torch.zeros_like, call=1)])
    assert torch.equal(only_second.values[Site("layers.1")][0], run.values[Site("layers.1")][0])
    assert not only_second.values[Site("layers.1")][1].any()


# -- editing ----------------------------------------------------------------------------------


def test_an_edit_of_an_output_is_what_the_next_block_gets(model):
    first, second = model.layers[:2]
    run = model.run(batch(), [Site(second, "input")], [edit(first, lambda x: x * 0 + 3.0)])
    assert (run.values[Site(second, "input")][0] == 3.0).all()


def test_editing_an_input_equals_editing_the_output_before_it(model):
    first, second = model.layers[:2]
    into = model.run(batch(), edits=[edit(second, lambda x: x + 0.5, "input")])
    out_of = model.run(batch(), edits=[edit(first, lambda x: x + 0.5)])
    assert torch.equal(into.logits, out_of.logits)
    assert not torch.equal(into.logits, model.forward(batch()))


def test_editing_the_model_itself_edits_its_logits(model):
    run = model.run(batch(), [Site("")], [edit("", lambda x: x * 0 + 2)])
    assert (run.logits == 2).all() and (run.values[Site("")][0] == 2).all()


def test_edits_of_one_site_run_by_stage_and_then_in_order(llama):
    site, order = Site(llama.layers[0]), []

    def note(name: str, stage: int) -> SiteEdit:
        return SiteEdit(site, lambda x, run, call: order.append(name) or x, stage=stage)

    llama.run(batch(), edits=[note("c", 1), note("a", 0), note("d", 1), note("b", 0)])
    assert order == ["a", "b", "c", "d"]


def test_an_edit_can_read_values_of_the_same_pass(llama):
    source = Site(llama.layers[0], "input")
    undo = SiteEdit(Site(llama.layers[0]), lambda x, run, call: run.values[source][-1], reads=(source,))
    run = llama.run(batch(), [Site(llama.layers[0]), source], [undo])
    assert torch.equal(run.values[Site(llama.layers[0])][0], run.values[source][0])
    assert len(run.values[source]) == 1


def test_writing_in_place_into_the_argument_touches_nothing_else(llama):
    def zero_in_place(x: Any) -> Any:
        x[:, 2:] = 0
        return x

    norm = "model.layers.1.input_layernorm"  # its argument is the residual stream itself
    in_place = llama.run(batch(), [Site(llama.layers[0])], [edit(norm, zero_in_place, "input")])
    on_a_copy = llama.run(batch(), edits=[edit(norm, lambda x: zero_in_place(x.clone()), "input")])
    assert torch.equal(in_place.logits, on_a_copy.logits)
    assert in_place.values[Site(llama.layers[0])][0].any(-1).all()


def test_a_model_that_writes_in_place_leaves_the_users_tensor_alone():
    mine = torch.ones(2, 9, 16)
    plain().run(batch(), edits=[edit("layers.0", lambda x: mine)])
    assert (mine == 1).all()


def test_an_edit_that_returns_no_tensor_says_so(llama):
    with pytest.raises(EditError, match=r"returned NoneType; expected a torch\.Tensor of shape \(2, 9, 32\)"):
        llama.run(batch(), edits=[edit(llama.layers[0], lambda x: None)])


def test_an_exception_in_an_edit_leaves_the_model_as_it_was(model):
    before = state(model)

    def fail(_x: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.run(batch(), [Site(model.layers[0])], [edit(model.layers[1], fail)], everything=True)
    assert state(model) == before
    assert torch.equal(model.run(batch()).logits, model.forward(batch()))


def test_a_pass_inside_an_edit_is_a_pass_of_its_own(llama):
    plainly = llama.forward(batch())

    def nested(x: Any) -> Any:
        assert torch.equal(llama.forward(batch()), plainly)
        assert torch.equal(llama.run(batch(), [Site(llama.layers[0])]).logits, plainly)
        return x * 2

    run = llama.run(batch(), [Site(llama.layers[0])], [edit(llama.layers[1], nested)])
    assert len(run.values[Site(llama.layers[0])]) == 1
    assert torch.equal(run.logits, llama.run(batch(), edits=[edit(llama.layers[1], lambda x: x * 2)]).logits)


def test_threads_do_not_see_each_others_edits(llama):
    plainly = llama.forward(batch())
    scaled = {f: edit(llama.layers[1], lambda x, f=f: x * f) for f in (2, 3, 4)}
    expected = {f: llama.run(batch(), edits=[scaled[f]]).logits for f in scaled}
    wrong: list[str] = []
    start = threading.Barrier(4)

    def edited(factor: int) -> None:
        start.wait()
        for _ in range(8):
            run = llama.run(batch(), [Site(llama.layers[0])], [scaled[factor]])
            if not torch.equal(run.logits, expected[factor]) or len(run.values[Site(llama.layers[0])]) != 1:
                wrong.append(f"times {factor}")

    def unhooked() -> None:
        start.wait()
        for _ in range(16):
            if not torch.equal(untraced(llama, batch()), plainly):
                wrong.append("untraced")

    before = state(llama)
    threads = [threading.Thread(target=edited, args=(f,)) for f in scaled]
    threads.append(threading.Thread(target=unhooked))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert state(llama) == before


# -- what cannot be done ----------------------------------------------------------------------


def test_modules_that_are_never_called_are_named(llama):
    with pytest.raises(NeverCalledError, match=r"'model\.layers' exists"):
        llama.run(batch(), [Site("model.layers")])
    with pytest.raises(NeverCalledError, match="'unused'"):
        plain().run(batch(), edits=[edit("unused", lambda x: x)])
    with pytest.raises(ComponentError, match=r"No module 'model\.nothing'"):
        llama.run(batch(), [Site("model.nothing")])
    with pytest.raises(ComponentError, match="no tensor at its input:1"):
        llama.run(batch(), [Site("lm_head", "input:1")])


# -- modes ------------------------------------------------------------------------------------


def test_a_model_in_training_runs_without_dropout_and_trains_on_afterwards():
    model = plain()
    expected = model.forward(batch())
    model.model.train()
    model.model.get_submodule("layers.1").eval()
    before = state(model)
    assert torch.equal(model.forward(batch()), expected)
    assert torch.equal(model.run(batch(), everything=True).logits, expected)
    assert state(model) == before


def test_passes_run_inside_inference_mode_and_give_ordinary_tensors(llama):
    with torch.inference_mode():
        run = llama.run(batch(), [Site(llama.layers[0])], everything=True)
    assert not run.values[Site(llama.layers[0])][0].is_inference()
    assert torch.equal(run.logits, llama.forward(batch()))


def test_the_inside_of_compiled_modules_is_seen():
    inner = Plain().eval()
    compiled = torch.compile(inner, backend="eager")
    inner.layers[1].compile(backend="eager")
    ids = torch.as_tensor(batch().ids, dtype=torch.int64)
    with torch.no_grad():
        expected = inner(ids)
    model: Any = TorchLanguageModel(compiled)  # type: ignore[arg-type]
    assert model.layers[0] == "layers.0"
    run = model.run(batch(), [Site("layers.1.up")], [edit("layers.1.down", torch.zeros_like)])
    assert len(run.values[Site("layers.1.up")]) == 1
    assert not torch.equal(run.logits, expected)
    with torch.no_grad():
        assert torch.equal(inner(ids), expected)
