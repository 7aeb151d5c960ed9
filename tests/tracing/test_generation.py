"""Generating text with edits in force."""

from __future__ import annotations

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, InterpretableModel, MlxterpWarning
from mlxterp.interventions import add_vector, noise, scale, zero_out
from mlxterp.tracing.declared import declared_edits
from tests.architectures import build, configs
from tests.tiny import WordTokenizer, tiny_llama

mx = pytest.importorskip("mlx.core")

PROMPT = [3, 9, 4, 8, 11, 25, 2, 7, 19, 5]
MODES = {
    "all": None,
    "prompt": slice(0, 10),
    "generated": slice(10, None),
    "a slice": slice(2, 14, 3),
    "a list": [1, 9, 12],
}
ARCHITECTURES = [t for t in ("llama", "gpt2", "gemma2", "gemma3", "qwen3_moe", "mamba", "jamba", "rwkv7",
                             "deepseek_v3", "cohere", "nemotron_h", "qwen3_next", "lfm2_moe", "phixtral")
                 if t in configs()]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> InterpretableModel:
    return tiny_llama(tokenizer=WordTokenizer(), max_position_embeddings=2**14)


def recompute(model: InterpretableModel, vector: np.ndarray, positions, steps: int) -> list[int]:
    """Greedy generation by running the whole sequence again for each token, without a cache."""
    ids = list(PROMPT)
    for _ in range(steps):
        here = [p for p in positions if p < len(ids)] if isinstance(positions, list) else positions
        edit = {"layers.1.resid_post": add_vector(vector, positions=here)}
        ids.append(int(mx.argmax(model.trace(ids, edit).output[0, -1]).item()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_edits_in_generation_equal_a_full_recompute(model_type, mode):
    model = InterpretableModel(build(model_type))
    vector = np.random.default_rng(0).standard_normal(model.d_model).astype(np.float32)
    positions = mode if mode in ("all", "prompt", "generated") else MODES[mode]
    edit = {"layers.1.resid_post": add_vector(vector)}
    generated = model.generate(PROMPT, 6, edit, positions=positions, prefill_step_size=3)
    assert generated == recompute(model, vector, MODES[mode], 6)


@pytest.mark.parametrize("port", ["q", "k", "v", "z"])
@pytest.mark.parametrize("heads", [1, 2])
def test_per_head_edits_in_generation_equal_a_full_recompute(port, heads):
    model = tiny_llama(num_key_value_heads=heads)
    for positions in ([2], slice(1, None, 2)):
        edit = {f"layers.1.attn.{port}": scale(-3.0)}
        ids = list(PROMPT)
        for _ in range(5):
            placed = {f"layers.1.attn.{port}": scale(-3.0, positions=positions)}
            ids.append(int(mx.argmax(model.trace(ids, placed).output[0, -1]).item()))
        assert model.generate(PROMPT, 5, edit, positions=positions, prefill_step_size=4) == ids[len(PROMPT) :]


def test_a_prompt_longer_than_the_prefill_chunk_is_edited_throughout(model):
    prompt = [(7 * i) % 60 for i in range(2100)]
    edit = {"layers.1.mlp": noise(2.0, seed=1)}
    first = model.generate(prompt, 1, edit)
    whole = model.trace(prompt, edit).output[0, -1]
    assert first == model.tokenizer.decode([int(mx.argmax(whole).item())])


def test_a_stream_that_is_closed_within_a_long_prompt_reads_no_more_of_it(backend):
    opened = mlxterp.load_demo(backend).model
    ids, read = opened.tokenize("Once upon a time there was a red ball."), []

    def watched(x):
        read.append(x.shape[1])
        return x

    edits = declared_edits(opened.anatomy, {"layers.0.mlp": watched})
    stream = opened.language_model.stream(ids, 3, edits, prefill_step_size=2)
    for parts in (1, 2, 3):
        assert next(stream) == (None, "") and read == [2] * parts
    stream.close()
    assert read == [2, 2, 2]
    assert len(list(opened.stream_generate(ids, 3, prefill_step_size=2))) <= 3


def test_text_streams_in_pieces_that_add_up(model):
    whole = model.generate("the cat sat", max_tokens=12)
    assert "".join(model.stream_generate("the cat sat", max_tokens=12)) == whole
    assert len(whole.split()) == 12


def test_a_list_of_prompts_gives_a_list(model):
    prompts = ["the cat sat", "a dog"]
    assert model.generate(prompts, 5) == [model.generate(p, 5) for p in prompts]


def test_the_text_ends_before_a_stop_string(model):
    words = model.generate("the cat sat", max_tokens=12).split()
    stop = " ".join(words[4:6])
    text = model.generate("the cat sat", max_tokens=12, stop=["never", stop])
    assert text == model.generate("the cat sat", max_tokens=12).split(stop)[0]


def test_sampling_repeats_with_a_seed_and_leaves_the_global_state_alone(model):
    mx.random.seed(5)
    expected = mx.random.normal((3,))
    mx.random.seed(5)
    a, b = (model.generate("the cat", 20, temperature=1.0, top_p=0.9, seed=s) for s in (1, 1))
    assert mx.array_equal(mx.random.normal((3,)), expected)
    assert a == b
    assert a != model.generate("the cat", 20, temperature=1.0, seed=2)


def test_edits_are_gone_after_generation_even_when_it_is_left_early(model):
    before = model.generate("the cat sat", 8)
    stream = model.stream_generate("the cat sat", 8, interventions={"layers.0": scale(-3.0)})
    next(stream)
    assert mx.array_equal(model(PROMPT), model(PROMPT))
    assert model.generate("the cat sat", 8) == before
    stream.close()


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"positions": "everywhere"},
        {"positions": [-1]},
        {"positions": slice(-3, None)},
        {"stop": [""]},
        {"interventions": {"layers.0": zero_out(positions=-1)}},
        {"interventions": [zero_out()]},
        {"chat": True},
        {"prefill_step_size": 0},
    ],
)
def test_bad_options_raise(model, options):
    with pytest.raises(InputError):
        model.generate("the cat", **options)


def test_what_learned_positions_cannot_hold_is_refused():
    model = InterpretableModel(build("gpt_bigcode" if "gpt2" not in configs() else "gpt2"))
    limit = model.language_model.max_positions
    assert limit is not None
    with pytest.raises(InputError, match="learned"):
        model.generate([1] * (limit - 3), 8)
    with pytest.raises(InputError, match="learned"):
        model.trace([1] * (limit + 1))
    with pytest.raises(InputError, match="learned"):
        model.loss([1] * (limit + 1))


def test_going_beyond_a_rope_models_length_warns():
    with pytest.warns(MlxterpWarning, match="made for 8"):
        tiny_llama(max_position_embeddings=8).generate([1, 2, 3], 10)
