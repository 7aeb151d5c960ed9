"""Passes of the torch wing: what is seen is what happened, and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mlxterp.backends.torch.language_model import TorchLanguageModel  # noqa: E402
from mlxterp.backends.torch.values import first_tensor  # noqa: E402
from mlxterp.errors import (  # noqa: E402
    ComponentError,
    EditError,
    InputError,
    NeverCalledError,
    NotALanguageModelError,
)
from mlxterp.sites import Run, Site, SiteEdit  # noqa: E402
from mlxterp.tokens import TokenBatch  # noqa: E402

from .tiny_torch import SETTINGS, VOCABULARY, Plain, batch, plain, tiny  # noqa: E402

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


def edit(module: str, function: Callable, port: str = "output", call: int | None = None) -> SiteEdit:
    return SiteEdit(Site(module, port), lambda x, run, number: function(x), call)


def state(model: TorchLanguageModel) -> list[Any]:
    """Everything about the modules that a pass could leave changed."""
    return [
        (path, id(m), type(m), m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
        for path, m in model.model.named_modules(remove_duplicate=False)
    ]


def untraced(model: TorchLanguageModel, tokens: TokenBatch) -> Any:
    with torch.no_grad():
        out = model.model(torch.as_tensor(tokens.ids, dtype=torch.int64))
    return out if isinstance(out, torch.Tensor) else out.logits


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

        def hook(module: Any, args: Any, out: Any, path: str = path) -> None:
            first = first_tensor(out)
            seen.setdefault(path, []).append(None if first is None else first.detach().clone())

        handles.append(module.register_forward_hook(hook))
    model.forward(batch())
    for handle in handles:
        handle.remove()
    run = model.run(batch(), everything=True)
    assert {path: len(values) for path, values in seen.items()} == run.calls
    for path, values in seen.items():
        recorded = run.values.get(Site(path))
        if values[0] is not None:
            assert all(torch.equal(a, b) for a, b in zip(recorded, values, strict=True)), path


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
        assert torch.allclose(together.logits[i, : len(row)], alone.logits[0], atol=2e-6)
        site = Site(model.layers[1])
        assert torch.allclose(together.values[site][0][i, : len(row)], alone.values[site][0][0], atol=2e-6)


def test_values_stay_as_they_were_although_the_model_writes_in_place():
    model = plain()
    sites = [Site("embed"), Site("layers.0.up"), Site("layers.0"), Site("layers.1", "input")]
    run, recorded = model.run(batch(), sites), model.run(batch(), everything=True)
    embedded = model.model.get_submodule("embed")(torch.as_tensor(batch().ids, dtype=torch.int64))
    assert torch.equal(run.values[sites[0]][0], embedded)
    assert (run.values[sites[1]][0] < 0).any()  # before the ReLU that overwrites it
    assert torch.equal(run.values[sites[2]][0], run.values[sites[3]][0])
    assert not torch.equal(run.values[sites[2]][0], model.run(batch(), [Site("layers.1")]).values[Site("layers.1")][0])
    assert all(torch.equal(recorded.values.get(site)[0], run.values[site][0]) for site in sites[:3])


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

    site = Site(llama.layers[1], "input")
    given = llama.run(batch(), [Site(llama.layers[0])], [SiteEdit(site, lambda x, run, call: zero_in_place(x))])
    asked = llama.run(batch(), edits=[edit(llama.layers[1], lambda x: zero_in_place(x.clone()), "input")])
    assert torch.equal(given.logits, asked.logits)
    assert given.values[Site(llama.layers[0])][0].any(-1).all()


def test_a_model_that_writes_in_place_leaves_the_users_tensor_alone():
    mine = torch.ones(2, 9, 16)
    plain().run(batch(), edits=[edit("layers.0", lambda x: mine)])
    assert (mine == 1).all()


def test_an_edit_that_returns_no_tensor_says_so(llama):
    with pytest.raises(EditError, match=r"returned NoneType; expected a torch\.Tensor of shape \(2, 9, 32\)"):
        llama.run(batch(), edits=[edit(llama.layers[0], lambda x: None)])


def test_an_exception_in_an_edit_leaves_the_model_as_it_was(model):
    before = state(model)

    def fail(x: Any) -> Any:
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
    expected = {f: llama.run(batch(), edits=[edit(llama.layers[1], lambda x, f=f: x * f)]).logits for f in (2, 3, 4)}
    wrong: list[str] = []
    start = threading.Barrier(4)

    def edited(factor: int) -> None:
        start.wait()
        for _ in range(8):
            run = llama.run(batch(), [Site(llama.layers[0])], [edit(llama.layers[1], lambda x: x * factor)])
            if not torch.equal(run.logits, expected[factor]) or len(run.values[Site(llama.layers[0])]) != 1:
                wrong.append(f"times {factor}")

    def unhooked() -> None:
        start.wait()
        for _ in range(16):
            if not torch.equal(untraced(llama, batch()), plainly):
                wrong.append("untraced")

    before = state(llama)
    threads = [threading.Thread(target=edited, args=(f,)) for f in expected] + [threading.Thread(target=unhooked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert state(llama) == before


# -- what cannot be done ----------------------------------------------------------------------


def test_modules_that_are_never_called_are_named(llama):
    with pytest.raises(NeverCalledError, match="'model.layers' exists"):
        llama.run(batch(), [Site("model.layers")])
    with pytest.raises(NeverCalledError, match="'unused'"):
        plain().run(batch(), edits=[edit("unused", lambda x: x)])
    with pytest.raises(ComponentError, match="No module 'model.nothing'"):
        llama.run(batch(), [Site("model.nothing")])
    with pytest.raises(ComponentError, match="no tensor at its input:1"):
        llama.run(batch(), [Site("lm_head", "input:1")])


# -- starting midway and ending early ---------------------------------------------------------


class Counter:
    """Counts how often the linear layers of each block really compute."""

    def __init__(self, model: TorchLanguageModel):
        self.counts = dict.fromkeys(model.layers, 0)
        self.handles = [
            module.register_forward_hook(lambda m, args, out, path=path: self._count(path))
            for path in model.layers
            for module in model.model.get_submodule(path).modules()
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        ]

    def _count(self, path: str) -> None:
        self.counts[path] += 1

    def __enter__(self) -> list[bool]:
        self.ran: list[bool] = []
        return self.ran

    def __exit__(self, *_: Any) -> None:
        self.ran.extend(count > 0 for count in self.counts.values())
        for handle in self.handles:
            handle.remove()


def test_a_run_from_an_earlier_one_equals_a_whole_run(model):
    first = model.run(batch(), [Site(model.layers[0], "input")], everything=True)
    edits: list[SiteEdit] = []
    run = first
    for module, port in ((model.layers[2], "input"), (model.layers[1], "output"), (model.layers[0], "output")):
        edits.append(edit(module, lambda x: x * 1.25 + 0.1, port))  # ever earlier ones
        run = model.run(batch(), [Site(model.layers[2])], edits, reuse=run)
        whole = model.run(batch(), [Site(model.layers[2])], edits, everything=True)
        assert torch.equal(run.logits, whole.logits)
        assert torch.equal(run.values[Site(model.layers[2])][0], whole.values[Site(model.layers[2])][0])
        assert run.calls == whole.calls
    inner = next(p for p in model.modules if p.startswith(model.layers[0] + "."))
    assert torch.equal(run.values.get(Site(inner))[0], first.values.get(Site(inner))[0])


def test_values_before_the_first_new_edit_are_the_very_same_tensors(llama):
    sites = [Site(llama.layers[0], "input"), Site(llama.layers[0])]
    first = llama.run(batch(), sites, everything=True)
    with Counter(llama) as ran:
        edited = [edit(llama.layers[2], lambda x: x * 0.5, "input")]
        run = llama.run(batch(), [*sites, Site(llama.layers[2])], edited, reuse=first)
    assert ran == [False, False, True]
    assert all(run.values[site][0] is first.values[site][0] for site in sites)
    assert run.values.get(Site("model.layers.1.mlp"))[0] is first.values.get(Site("model.layers.1.mlp"))[0]
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
        assert torch.equal(run.values.get(Site(path))[0], first.values.get(Site(path))[0])


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


def test_a_stopped_pass_waits_for_what_is_captured_and_for_every_call():
    model = plain(loops=2)
    run = model.run(batch(), [Site("layers.1")], stop_after=[Site("layers.0")])
    assert len(run.values[Site("layers.1")]) == 2
    assert "head" not in run.calls


# -- the stream, modes ------------------------------------------------------------------------


def test_the_logits_of_the_last_blocks_output_are_the_models_logits(model):
    run = model.run(batch(), [Site(model.layers[-1])])
    with Counter(model) as ran:
        logits = model.decode_stream(run.values[Site(model.layers[-1])][0].reshape(-1, 32))
    assert ran == [False, False, False]
    assert torch.allclose(logits.reshape(run.logits.shape), run.logits, atol=2e-6)
    with pytest.raises(ComponentError, match=r"Expected \(rows, 32\)"):
        model.decode_stream(torch.zeros(2, 31))


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
    torch.manual_seed(0)
    inner = Plain().eval()
    compiled = torch.compile(inner, backend="eager")
    inner.layers[1].compile(backend="eager")
    ids = torch.as_tensor(batch().ids, dtype=torch.int64)
    with torch.no_grad():
        expected = inner(ids)
    model = TorchLanguageModel(compiled)  # type: ignore[arg-type]
    assert model.layers[0] == "layers.0"
    run = model.run(batch(), [Site("layers.1.up")], [edit("layers.1.down", torch.zeros_like)])
    assert len(run.values[Site("layers.1.up")]) == 1
    assert not torch.equal(run.logits, expected)
    with torch.no_grad():
        assert torch.equal(inner(ids), expected)


# -- gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "opt", "olmo2", "mamba"])
def test_gradients_agree_with_finite_differences(name):
    model = tiny(name)
    model.model.double()
    tokens, sites = batch(1, 6), {"block": Site(model.layers[0]), "input": Site(model.layers[2], "input")}
    generator = torch.Generator().manual_seed(1)
    ways = {key: torch.randn(1, 6, 32, generator=generator, dtype=torch.float64) for key in sites}

    def edits(deltas: Any) -> list[SiteEdit]:
        return [SiteEdit(site, lambda x, run, call, d=deltas[key][0]: x + d) for key, site in sites.items()]

    def objective(logits: Any) -> Any:
        return logits.log_softmax(-1)[0, -1, 7]

    value, grads = model.gradients(tokens, objective, edits, {k: [torch.zeros_like(w)] for k, w in ways.items()})
    assert torch.equal(value, objective(model.forward(tokens)))
    for key, way in ways.items():
        step = 1e-5

        def moved(size: float, key: str = key, way: Any = way) -> Any:
            deltas = {k: [way * size if k == key else torch.zeros_like(way)] for k in sites}
            return objective(model.run(tokens, edits=edits(deltas)).logits)

        slope = (moved(step) - moved(-step)) / (2 * step)
        assert torch.allclose((grads[key][0] * way).sum(), slope, rtol=1e-6, atol=1e-9)
    assert all(p.grad is None for p in model.model.parameters())


def test_what_the_objective_does_not_depend_on_has_gradient_zero(llama):
    def edits(deltas: Any) -> list[SiteEdit]:
        return [SiteEdit(Site(llama.layers[0]), lambda x, run, call: x + deltas["a"][0])]

    zeros = {"a": [torch.zeros(1, 9, 32)]}
    value, grads = llama.gradients(batch(1), lambda logits: torch.tensor(2.0), edits, zeros)
    assert float(value) == 2.0 and not grads["a"][0].any()
    with pytest.raises(InputError, match=r"must return one number, got \(9, 61\)"):
        llama.gradients(batch(1), lambda logits: logits[0], edits, zeros)


# -- arrays -----------------------------------------------------------------------------------


def test_arrays_cross_to_numpy_and_back(llama):
    backend = llama.backend
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    native = backend.put(x)
    x[0, 0] = 9
    assert native[0, 0] == 0 and np.array_equal(backend.get(native), [[0, 1, 2], [3, 4, 5]])
    half = backend.put(x, like=torch.zeros(1, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16 and backend.get(half).dtype == np.float32
    alias = backend.alias(native)
    alias += 1
    assert native[0, 0] == 0
    column = backend.compact(native[:, -1])
    assert column.untyped_storage().nbytes() == 8 and backend.compact(native) is native
    assert backend.get(backend.where(np.array([[True], [False]]), native, -native)).tolist() == [[0, 1, 2], [-3, -4, -5]]
    assert backend.get(backend.clip(native, 1, None)).min() == 1 and backend.clip(native, None, None) is native
    assert backend.is_floating(native) and not backend.is_floating(torch.zeros(1, dtype=torch.int64))


def test_a_run_is_what_the_protocol_says(llama):
    run = llama.run(batch(), [Site(llama.layers[0])])
    assert isinstance(run, Run) and run.where.positions.tolist() == list(range(9))
    assert run.where.lengths is not None and run.where.lengths.tolist() == [9, 9]
