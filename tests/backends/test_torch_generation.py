"""Generation in the torch wing: with a cache and edits it is what whole passes would give."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import pytest

from mlxterp.core.sites import Site, SiteEdit
from mlxterp.core.tokens import TokenBatch
from mlxterp.errors import NeverCalledError
from tests.backends.tiny_torch import (
    OWN_ATTENTION,
    SETTINGS,
    TorchLanguageModel,
    batch,
    edit,
    plain,
    state,
    tiny,
    torch,
)

PROMPT = batch(1, 8, seed=3).ids[0].tolist()


@pytest.fixture(scope="module", params=[*sorted(SETTINGS), "plain"])
def model(request: pytest.FixtureRequest) -> TorchLanguageModel:
    return plain() if request.param == "plain" else tiny(request.param)


@pytest.fixture(scope="module")
def llama() -> TorchLanguageModel:
    return tiny("llama")


def tokens(model: Any, count: int, edits: Any = (), **options: Any) -> list[int]:
    return [token for token, _ in model.stream(PROMPT, count, edits, **options) if token is not None]


def recomputed(model: Any, count: int, edits: Any = ()) -> list[int]:
    """The same by running the whole text for every token."""
    text = list(PROMPT)
    for _ in range(count):
        logits = model.run(TokenBatch.from_rows([text]), edits=edits).logits
        text.append(int(logits[0, -1].argmax()))
    return text[len(PROMPT) :]


def wave(module: str) -> SiteEdit:
    """Adds something that depends on the absolute position."""

    def function(x: torch.Tensor, run: Any, _call: int) -> torch.Tensor:
        positions = torch.as_tensor(run.where.positions, dtype=x.dtype)
        return x + torch.sin(positions)[None, :, None] * torch.linspace(-1, 1, x.shape[-1])

    return SiteEdit(Site(module), function)


@pytest.mark.parametrize("chunk", [3, 2048])
def test_generation_with_edits_equals_running_the_whole_text_each_time(model, chunk):
    edits = [wave(model.layers[1]), edit(model.layers[2], lambda x: x * 1.5, "input")]
    last, before, seen = Site(model.layers[2]), state(model), {}

    def note(x: torch.Tensor, run: Any, _call: int) -> torch.Tensor:
        seen.update(zip(run.where.positions.tolist(), x[0], strict=True))
        return x

    got = tokens(model, 7, [*edits, SiteEdit(last, note)], prefill_step_size=chunk)
    assert got == recomputed(model, 7, edits)
    assert state(model) == before
    text = TokenBatch.from_rows([[*PROMPT, *got[:-1]]])
    whole, unedited = (model.run(text, [last], e).values[last][0][0] for e in (edits, []))
    values = torch.stack([seen[i] for i in range(len(PROMPT) + 6)])
    assert torch.allclose(values, whole, atol=1e-4, rtol=1e-4)
    assert (values - unedited).abs().amax(-1).min() > 1e-2


def test_generation_without_edits_equals_running_the_whole_text_each_time(model):
    assert tokens(model, 7, prefill_step_size=3) == recomputed(model, 7)


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {*OWN_ATTENTION, "jamba"}))
def test_edits_of_heads_hold_in_generation(name):
    model = tiny(name)

    def without_head(x: torch.Tensor) -> torch.Tensor:
        x[:, 1] = 0
        return x

    edits = [edit(model.layers[1], without_head, "z"), edit(model.layers[2], lambda x: x * 2, "q")]
    assert tokens(model, 5, edits, prefill_step_size=3) == recomputed(model, 5, edits)


def test_edits_outside_the_blocks_hold_at_every_position(llama):
    edits = [wave("model.norm"), wave("lm_head")]
    assert tokens(llama, 5, edits, prefill_step_size=3) == recomputed(llama, 5, edits)


@pytest.mark.parametrize("module", ["model.layers.0", "lm_head"])
def test_passes_cover_every_position_once(llama, module):
    covered: list[list[int]] = []

    def note(x: Any, run: Any, _call: int) -> Any:
        assert run.where.lengths is None and x.shape[1] == len(run.where.positions)
        covered.append(run.where.positions.tolist())
        return x

    tokens(llama, 4, [SiteEdit(Site(module), note)], prefill_step_size=3)
    assert covered == [[0, 1, 2], [3, 4, 5], [6, 7], [8], [9], [10]]


def test_a_module_that_is_never_called_is_named_before_the_first_token(llama):
    with pytest.raises(NeverCalledError):
        tokens(llama, 3, [edit("model.layers", lambda x: x)])


def test_edits_get_ordinary_tensors_and_modes_stay_as_they_were(llama):
    kept: list[Any] = []

    def keep(x: Any, _run: Any, _call: int) -> Any:
        kept.append(x)
        x += 1.0  # its own copy
        return x

    tokens(llama, 2, [SiteEdit(Site(llama.layers[1]), keep)])
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    weight = torch.ones(kept[0].shape[-1], requires_grad=True)
    assert all(not x.is_inference() and not x.requires_grad for x in kept)
    (kept[0] * weight).sum().backward()
    assert weight.grad is not None


def test_a_pass_between_two_tokens_is_a_pass_of_its_own(llama):
    expected = tokens(llama, 4, [wave(llama.layers[1])])
    got = []
    for token, _ in llama.stream(PROMPT, 4, [wave(llama.layers[1])]):
        assert torch.is_grad_enabled()
        assert len(llama.run(batch(), [Site(llama.layers[0])]).values) == 1
        got.append(token)
    assert got == expected


# -- sampling ---------------------------------------------------------------------------------


def test_a_seed_makes_sampling_repeatable_and_touches_no_other_random_state(llama):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = tokens(llama, 12, temperature=1.5, seed=7)
    assert torch.equal(torch.rand(3), expected)
    assert tokens(llama, 12, temperature=1.5, seed=7) == first
    assert tokens(llama, 12, temperature=1.5, seed=8) != first
    assert tokens(llama, 12, temperature=1.5) != tokens(llama, 12, temperature=1.5)


def test_almost_no_temperature_or_almost_no_probability_is_greedy(llama):
    greedy = tokens(llama, 6)
    assert tokens(llama, 6, temperature=1e-4, seed=1) == greedy
    assert tokens(llama, 6, temperature=3.0, top_p=1e-6, seed=1) == greedy


def test_top_p_keeps_the_smallest_set_that_is_probable_enough():
    from mlxterp.backends.torch.generation import _most_probable

    kept = _most_probable(torch.tensor([0.1, 0.5, 0.15, 0.25]).log(), 0.7).exp()
    assert torch.allclose(kept, torch.tensor([0, 0.5, 0, 0.25]))


# -- ends and text ----------------------------------------------------------------------------


class Letters:
    """A tokenizer whose tokens 40 and 41 are the two halves of one character."""

    eos_token_id: int | None = None

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 97 for c in text]

    def decode(self, ids: list[int]) -> str:
        data = b"".join(b"\xc3" if i == 40 else b"\xa9" if i == 41 else bytes([97 + i % 26]) for i in ids)
        return data.decode("utf-8", errors="replace")


def saying(answer: list[int], tokenizer: Any = None) -> TorchLanguageModel:
    """A model that says `answer` after `PROMPT`, whatever it was."""
    model = plain()
    model.tokenizer = tokenizer

    class Say(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*x.shape[:2], 61)
            index = min(x.shape[1] - len(PROMPT), len(answer) - 1)
            logits[:, -1, answer[max(index, 0)]] = 1
            return logits

    model.model.head = Say()
    return TorchLanguageModel(model.model, tokenizer)


def test_generation_ends_before_an_end_token_of_the_tokenizer_or_the_model():
    tokenizer = Letters()
    assert tokens(saying([3, 4, 9, 5], tokenizer), 10) == [3, 4, 9, 5, 5, 5, 5, 5, 5, 5]
    tokenizer.eos_token_id = 9
    assert tokens(saying([3, 4, 9, 5], tokenizer), 10) == [3, 4]
    llama = tiny("llama")
    first = tokens(llama, 5)
    llama.model.generation_config.eos_token_id = [first[3], 999]
    assert tokens(llama, 5) == first[: first.index(first[3])]


def test_a_character_is_told_once_it_is_whole():
    pieces = list(saying([7, 40, 41, 8, 40], Letters()).stream(PROMPT, 5))
    assert pieces == [(7, "h"), (40, ""), (41, "é"), (8, "i"), (40, ""), (None, "\ufffd")]
    assert list(saying([7]).stream(PROMPT, 2)) == [(7, ""), (7, "")]


def test_text_becomes_the_tokenizers_ids():
    assert saying([1], Letters()).tokenize("bad") == [1, 0, 3]


class Old:
    """An output of transformers before it called the cache "cache"."""

    past_key_values = "kept"


class New:
    cache = "kept"

    @property
    def past_key_values(self) -> str:
        raise AssertionError("the older name is asked for")


@pytest.mark.parametrize(
    ("out", "parameters", "expected"),
    [
        (New(), ("input_ids", "cache", "use_cache"), {"cache": "kept"}),
        (New(), ("input_ids", "past_key_values"), {"past_key_values": "kept"}),
        (New(), ("input_ids", "kwargs"), {"cache": "kept"}),
        (Old(), ("input_ids", "past_key_values"), {"past_key_values": "kept"}),
        (Old(), ("input_ids", "kwargs"), {"past_key_values": "kept"}),
        (object(), ("input_ids", "cache"), {}),
    ],
)
def test_the_cache_goes_by_the_name_that_the_model_takes(out, parameters, expected):
    from mlxterp.backends.torch.generation import PassOptions

    assert PassOptions(torch.nn.Linear(1, 1), parameters, False).cache_of(out) == expected


def test_no_name_is_used_that_transformers_gives_up(llama, caplog):
    import logging

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlxterp.backends.torch.modes.quiet", contextlib.nullcontext())
        patch.setattr(logging.getLogger("transformers"), "propagate", True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tokens(llama, 5)
    assert "deprecated" not in caplog.text
