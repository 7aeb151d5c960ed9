"""What is remembered of searched texts holds exactly as long as nothing that the model computes with changes."""

from __future__ import annotations

import copy
import gc
import itertools
import weakref
from typing import Any

import numpy as np
import pytest

from mlxterp import InterpretableModel, steering
from mlxterp.features import cache
from mlxterp.features.search import top_texts
from mlxterp.variants import TopK
from tests.letters import TEXTS, TOKENIZER, LetterTokenizer, llama_of_mlx, random_sae

FEATURE = 4


@pytest.fixture(autouse=True)
def however_slow_the_machine_is(monkeypatch):
    monkeypatch.setattr(cache, "_AT_ONCE", 1e9)


@pytest.fixture
def model(letter_model: InterpretableModel) -> InterpretableModel:
    return letter_model


def width(model: InterpretableModel) -> int:
    with model.trace([1, 2]) as t:
        pass
    return int(t.activations["layers.1.mlp"].shape[-1])


class Counter:
    """Counts the tokens that a model runs."""

    def __init__(self, model: InterpretableModel, monkeypatch: pytest.MonkeyPatch):
        lm, run = model.language_model, model.language_model.run
        self.tokens = 0

        def counted(batch, *args, **kwargs):
            self.tokens += int(batch.lengths.sum())
            return run(batch, *args, **kwargs)

        monkeypatch.setattr(lm, "run", counted)

    def during(self, function) -> int:
        before = self.tokens
        function()
        return self.tokens - before


def ask(model: InterpretableModel, sae, feature: int = FEATURE) -> list[tuple[str, float, int]]:
    return model.get_top_texts_for_feature(feature, sae, TEXTS, 1, top_k=100)


def everything(model: InterpretableModel, sae) -> list[Any]:
    """The answers for all features, so that no change can hide."""
    return [ask(model, sae, feature) for feature in range(sae.d_hidden)]


def without_memory(model: InterpretableModel, sae) -> list[Any]:
    lm, component = model.language_model, model.anatomy.component("layers.1.mlp")
    tokenize = lm.tokenize
    return [
        top_texts(lm, feature, sae, TEXTS, component, tokenize=tokenize, top_k=100)
        for feature in range(sae.d_hidden)
    ]


def assert_noticed(model: InterpretableModel, change, sae=None) -> None:
    """After `change`, every answer is the new one; the old ones were others."""
    sae = sae or random_sae(width(model), d_hidden=24)
    before = everything(model, sae)
    change()
    found = everything(model, sae)
    model.feature_cache.clear()
    expected = everything(model, sae)
    assert found == expected
    assert found != before


# -- it saves passes ----------------------------------------------------------------------------


def test_further_features_of_the_same_texts_run_no_model(model, monkeypatch):
    sae, counter = random_sae(width(model)), Counter(model, monkeypatch)
    total = sum(len(TOKENIZER.encode(text)) for text in TEXTS)
    first = ask(model, sae)
    assert counter.during(lambda: ask(model, sae, 5)) == 0
    assert model.get_top_texts_for_feature(4, sae, list(TEXTS), 1, top_k=100) == first
    for changed in (
        lambda: model.get_top_texts_for_feature(4, sae, [*TEXTS[:-1], "x"], 1),
        lambda: model.get_top_texts_for_feature(4, sae, TEXTS, 0),
        lambda: model.get_top_texts_for_feature(4, random_sae(sae.d_model, k=5), TEXTS, 1),
        lambda: model.get_top_texts_for_feature(4, sae, TEXTS, 1, component="resid_post"),
    ):
        assert counter.during(changed) > 2
    assert 2 < counter.during(lambda: model.get_top_texts_for_feature(4, sae, TEXTS[:2], 1)) < total


def test_answers_are_the_same_with_and_without_memory(model):
    sae = random_sae(width(model), d_hidden=24)
    assert everything(model, sae) == everything(model, sae) == without_memory(model, sae)


@pytest.mark.parametrize("exclude", ["bos", "sinks", ("bos", "sinks")])
def test_what_is_excluded_is_remembered_apart(model, monkeypatch, exclude):
    sae, counter = random_sae(width(model)), Counter(model, monkeypatch)
    tokenizer, bos = model.language_model.tokenizer, TOKENIZER.encode("")[0]
    monkeypatch.setattr(tokenizer, "bos_token_id", bos, raising=False)

    def asked(feature: int, memory: bool = True) -> Any:
        model.feature_cache.enabled = memory
        return model.get_top_texts_for_feature(feature, sae, TEXTS, 1, top_k=100, exclude=exclude)

    some = range(0, sae.d_hidden, 7)
    expected = [asked(f, memory=False) for f in some]
    asked(0)
    ask(model, sae)
    assert counter.during(lambda: asked(1)) == 0 and len(model.feature_cache) == 2
    assert [asked(f) for f in some] == expected
    monkeypatch.setattr(tokenizer, "bos_token_id", bos + 1)
    assert (counter.during(lambda: asked(1)) > 0) == (exclude != "sinks")


def test_clearing_forgets_and_switching_off_keeps_nothing(model, monkeypatch):
    sae, counter = random_sae(width(model)), Counter(model, monkeypatch)
    ask(model, sae)
    assert len(model.feature_cache) == 1 and model.feature_cache.nbytes > 0
    model.feature_cache.clear()
    assert len(model.feature_cache) == 0
    assert counter.during(lambda: ask(model, sae)) > 0
    model.feature_cache.enabled = False
    assert len(model.feature_cache) == 0
    for _ in range(2):
        assert counter.during(lambda: ask(model, sae)) > 0
    assert len(model.feature_cache) == 0 and "switched off" in repr(model.feature_cache)
    model.feature_cache.enabled = True
    ask(model, sae)
    assert counter.during(lambda: ask(model, sae)) == 0


def test_no_more_is_kept_than_the_limits_say(monkeypatch):
    model, sae = llama_of_mlx(), random_sae(32)
    for texts in itertools.combinations(TEXTS, 5):
        model.get_top_texts_for_feature(3, sae, list(texts), 1)
    assert len(model.feature_cache) == cache.ENTRIES
    model.feature_cache.clear()
    before = ask(model, sae)
    model.feature_cache.clear()
    monkeypatch.setattr(cache, "LIMIT", 100)
    assert ask(model, sae) == before
    assert len(model.feature_cache) == 0


def test_nothing_is_kept_where_reading_the_weights_takes_longer_than_the_pass(monkeypatch):
    model, sae = llama_of_mlx(), random_sae(32)
    lm = model.language_model
    monkeypatch.setattr(cache, "_AT_ONCE", 0.0)
    memory, before = model.feature_cache, ask(model, sae)
    memory.clear()
    memory._digest_seconds, memory._token_seconds = 10.0, 0.001  # as measured at the last question
    monkeypatch.setattr(lm, "state_digest", lambda: pytest.fail("the weights were read"))
    assert ask(model, sae) == before and len(memory) == 0


# -- whose it is --------------------------------------------------------------------------------


def test_the_memory_is_the_sessions_and_gone_with_it():
    model = llama_of_mlx()
    ask(model, random_sae(32))
    memory = weakref.ref(model.feature_cache)
    del model
    gc.collect()
    assert memory() is None
    kept = [value for value in vars(cache).values() if isinstance(value, (dict, list, set)) and value]
    assert not [item for value in kept for item in value if isinstance(item, cache.Entry)]


def test_models_are_kept_apart():
    one, two, sae = llama_of_mlx(), llama_of_mlx(seed=4), random_sae(32)
    answers = [model.get_top_texts_for_feature(3, sae, TEXTS, 1) for model in (one, two, one, two)]
    assert answers[:2] == answers[2:]
    assert answers[0] != answers[1]


def test_a_copy_starts_without_memory():
    memory = llama_of_mlx().feature_cache
    memory.enabled = False
    assert not copy.deepcopy(memory).enabled and len(copy.deepcopy(memory)) == 0


# -- what is noticed in MLX ---------------------------------------------------------------------


def parts(model: InterpretableModel) -> Any:
    return model.language_model.model  # type: ignore[attr-defined]


def words_of(texts) -> list[int]:
    """Token ids that are in some texts and not in the shortest."""
    shortest = set(TOKENIZER.encode(min(texts, key=len)))
    return sorted({i for text in texts for i in TOKENIZER.encode(text)} - shortest)


def named(*changes: Any) -> dict[str, Any]:
    return {change.__name__: change for change in changes}


def mlx_changes() -> dict[str, Any]:
    return changes_of_mlx_weights() | changes_of_mlx_modules()


def changes_of_mlx_weights() -> dict[str, Any]:
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map

    def negate_rows(model):
        table = parts(model).model.embed_tokens.weight
        for row in words_of(TEXTS):
            table[row] = -table[row]

    def one_number(model):
        parts(model).model.layers[1].mlp.down_proj.weight[3, 5] = 9.0

    def a_norm(model):
        parts(model).model.layers[0].input_layernorm.weight[7] = -4.0

    def update(model):
        parts(model).update(tree_map(lambda x: x * 1.5, parts(model).parameters()))

    def load_weights(model):
        flat: Any = tree_flatten(parts(model).parameters())
        parts(model).load_weights([(name, x + 0.05) for name, x in flat])

    def casted(model):
        parts(model).set_dtype(mx.float16)

    return named(negate_rows, one_number, a_norm, update, load_weights, casted)


def changes_of_mlx_modules() -> dict[str, Any]:
    import mlx.nn as nn

    def lora(model):
        from mlx_lm.tuner.lora import LoRALinear

        mlp = parts(model).model.layers[1].mlp
        mlp.down_proj = LoRALinear.from_base(mlp.down_proj, r=2)
        mlp.down_proj.lora_b = mlp.down_proj.lora_b + 0.3

    def quantized(model):
        nn.quantize(
            parts(model), group_size=32, bits=4, class_predicate=lambda path, m: path.endswith("gate_proj")
        )

    def a_frequency(model):
        parts(model).model.layers[0].self_attn.rope.base = 3.0

    def a_scale(model):
        parts(model).model.layers[1].self_attn.scale = 3.0

    def another_function(model):
        block = parts(model).model.layers[1].mlp
        block.down_proj = Doubled(block.down_proj)

    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __call__(self, x):
            return 2 * self.inner(x)

    return named(lora, quantized, a_frequency, a_scale, another_function)


@pytest.mark.parametrize(
    "change",
    ["negate_rows", "one_number", "a_norm", "update", "load_weights", "lora", "quantized", "casted",
     "a_frequency", "a_scale", "another_function"],
)  # fmt: skip
def test_every_change_of_an_mlx_model_is_noticed(change):
    model = llama_of_mlx()
    assert_noticed(model, lambda: mlx_changes()[change](model))


def test_an_adapter_put_on_and_taken_off_is_noticed_both_times():
    model = llama_of_mlx()
    sae, mlp = random_sae(32, d_hidden=24), parts(model).model.layers[1].mlp
    plain, own = everything(model, sae), mlp.down_proj
    mlx_changes()["lora"](model)
    adapted = everything(model, sae)
    mlp.down_proj.lora_b[0, 0] = 5.0
    changed = everything(model, sae)
    mlp.down_proj.scale = 0.0
    silent = everything(model, sae)
    mlp.down_proj = own
    assert plain != adapted != changed
    assert everything(model, sae) == plain == silent


def test_a_model_changed_while_its_class_is_patched_is_noticed(monkeypatch):
    model = llama_of_mlx()
    cls = type(parts(model).model.layers[1].mlp)
    plain = cls.__call__
    assert_noticed(model, lambda: monkeypatch.setattr(cls, "__call__", lambda self, x: -plain(self, x)))


# -- what is noticed in torch -------------------------------------------------------------------


def block(model: Any) -> Any:
    return parts(model).model.layers[1]


def torch_changes() -> dict[str, Any]:
    return changes_of_torch_weights() | changes_of_torch_modules()


def changes_of_torch_weights() -> dict[str, Any]:
    torch = pytest.importorskip("torch")

    def negate_rows(model):
        with torch.no_grad():
            for row in words_of(TEXTS):
                parts(model).get_input_embeddings().weight[row].neg_()

    def through_data(model):
        block(model).mlp.down_proj.weight.data[3, 5] = 9.0

    def through_numpy(model):
        block(model).mlp.down_proj.weight.detach().numpy()[3, 5] = 9.0

    def load_state_dict(model):
        parts(model).load_state_dict({name: x * 1.5 for name, x in parts(model).state_dict().items()})

    def a_buffer(model):
        parts(model).model.rotary_emb.inv_freq.data[0] = 0.01

    def casted(model):
        parts(model).to(torch.bfloat16)

    return named(negate_rows, through_data, through_numpy, load_state_dict, a_buffer, casted)


def changes_of_torch_modules() -> dict[str, Any]:
    torch = pytest.importorskip("torch")

    def a_hook(model):
        block(model).mlp.register_forward_hook(lambda module, args, out: -out)

    def an_adapter(model):
        mlp = block(model).mlp
        mlp.down_proj = torch.nn.Sequential(mlp.down_proj, torch.nn.Tanh())

    def an_epsilon(model):
        block(model).post_attention_layernorm.variance_epsilon = 100.0

    return named(a_hook, an_adapter, an_epsilon)


@pytest.mark.parametrize(
    "change",
    ["negate_rows", "through_data", "through_numpy", "load_state_dict", "a_buffer", "a_hook", "an_adapter",
     "casted", "an_epsilon"],
)  # fmt: skip
def test_every_change_of_a_torch_model_is_noticed(change, torch_folder):
    changes = torch_changes()
    model = InterpretableModel(torch_folder, tokenizer=LetterTokenizer(), backend="torch")
    assert_noticed(model, lambda: changes[change](model))


def test_weights_that_cannot_be_read_are_not_remembered(torch_folder, monkeypatch):
    torch = pytest.importorskip("torch")
    model = InterpretableModel(torch_folder, tokenizer=LetterTokenizer(), backend="torch")
    parts(model).model.layers[0].elsewhere = torch.zeros(2, device="meta")
    sae, counter = random_sae(width(model)), Counter(model, monkeypatch)
    for _ in range(2):
        assert counter.during(lambda: ask(model, sae)) > 0
    assert len(model.feature_cache) == 0


# -- tokenizer, SAE, and what acts --------------------------------------------------------------


def test_a_changed_tokenizer_is_noticed(model, monkeypatch):
    def encode(text: str) -> list[int]:  # the shortest text keeps its tokens
        return LetterTokenizer().encode(text) if len(text) < 2 else LetterTokenizer().encode(text.upper())

    assert_noticed(model, lambda: monkeypatch.setattr(model.tokenizer, "encode", encode, raising=False))


def test_another_activation_of_the_same_sae_object_is_noticed():
    model, sae = llama_of_mlx(), random_sae(32, d_hidden=24)

    def fewer() -> None:
        sae.activation = TopK(2)

    assert_noticed(model, fewer, sae)


def test_what_acts_on_a_model_is_noticed(model):
    sae = random_sae(width(model), d_hidden=24)
    plain = everything(model, sae)
    push = np.linspace(-9, 9, model.d_model, dtype=np.float32)
    with model.steer(steering.add_direction(push, at="layers.0.mlp")):
        assert everything(model, sae) != plain
    assert everything(model, sae) == plain


def test_the_lens_looks_again_at_a_norm_or_head_that_was_changed():
    import mlx.core as mx
    import mlx.nn as nn

    model = llama_of_mlx()
    sae, whole = random_sae(32, d_hidden=24), parts(model)
    sae.metadata["component"] = "layers.1.resid_post"
    before = model.feature_logits(sae, FEATURE).promoted
    norm = nn.LayerNorm(32)
    norm.weight = whole.model.norm.weight + mx.linspace(0, 1, 32)
    whole.model.norm = norm
    changed = model.feature_logits(sae, FEATURE).promoted
    whole.model.embed_tokens.weight[:100] = 0
    halved = model.feature_logits(sae, FEATURE).promoted
    fresh = InterpretableModel(whole, tokenizer=LetterTokenizer())
    assert before != changed != halved
    assert halved == fresh.feature_logits(sae, FEATURE).promoted
