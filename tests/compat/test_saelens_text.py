"""TransformerLens's text and generation, and where its models and SAELens's tokens come from, in both wings."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest

from mlxterp import ConfigWarning, InputError, MlxterpWarning, NoTokenizerError
from mlxterp.compat.saelens import SAE, ActivationsStore, HookedSAETransformer, get_act_name
from mlxterp.compat.saelens import loading as loading_module
from tests.compat.lens import BOS, IDS, BosTokenizer, at, numpy, opened, random_sae
from tests.tiny import WORDS, WordTokenizer

# -- text ----------------------------------------------------------------------------------------


def test_text_gets_a_bos_once_unless_one_says_otherwise(gpt2, folders, backend):
    words = [WORDS.index(w) for w in ("the", "cat", "sat")]
    assert numpy(gpt2, gpt2.to_tokens("the cat sat")).tolist() == [[BOS, *words]]
    assert numpy(gpt2, gpt2.to_tokens("the cat sat", prepend_bos=False)).tolist() == [words]
    assert numpy(gpt2, gpt2.to_tokens(["the", "the cat sat"])).tolist() == [[BOS, 0, 0, 0], [BOS, *words]]
    gpt2.cfg.default_prepend_bos = False
    assert numpy(gpt2, gpt2.to_tokens("the cat sat")).tolist() == [words]

    class Adding(BosTokenizer):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [BOS, *super().encode(text)]

    adds = opened(folders["gpt2"], backend, Adding())
    assert adds.cfg.tokenizer_prepends_bos
    assert numpy(adds, adds.to_tokens("the cat sat")).tolist() == [[BOS, *words]]
    assert numpy(adds, adds.to_tokens("the cat sat", prepend_bos=False)).tolist() == [words]
    none = opened(folders["gpt2"], backend, WordTokenizer())
    assert numpy(none, none.to_tokens("the cat sat")).tolist() == [words]
    with pytest.raises(InputError, match="no BOS"):
        none.to_tokens("the cat sat", prepend_bos=True)


def test_text_runs_as_its_tokens_do(gpt2):
    for text in ("the cat sat", ["the cat sat", "a dog"]):
        tokens = gpt2.to_tokens(text)
        found, expected = numpy(gpt2, gpt2(text)), numpy(gpt2, gpt2(tokens))
        assert np.allclose(found[0], expected[0], atol=1e-5) and found.shape == expected.shape
    assert np.allclose(
        numpy(gpt2, gpt2("the cat", prepend_bos=False)), numpy(gpt2, gpt2([[0, 1]])), atol=1e-6
    )


def test_tokens_and_strings(gpt2):
    assert (
        gpt2.to_str_tokens("the cat")
        == ["<bos>", "the", "cat"]
        == gpt2.to_str_tokens(gpt2.to_tokens("the cat"))
    )
    assert gpt2.to_str_tokens(["the", "a cat"]) == [["<bos>", "the"], ["<bos>", "a", "cat"]]
    assert gpt2.to_str_tokens([0, 1]) == ["the", "cat"] == gpt2.to_str_tokens(np.array([[0, 1]]))
    assert (
        gpt2.to_string(gpt2.to_tokens("the cat")) == ["<bos> the cat"] and gpt2.to_string([0, 1]) == "the cat"
    )
    assert gpt2.to_single_token("cat") == 1 and gpt2.to_single_str_token(1) == "cat"
    assert gpt2.get_token_position("cat", "a cat a cat") == 2
    assert gpt2.get_token_position("cat", "a cat a cat", mode="last", prepend_bos=False) == 3
    with pytest.raises(InputError, match="2 tokens"):
        gpt2.to_single_token("the cat")
    with pytest.raises(InputError, match="does not occur"):
        gpt2.get_token_position("dog", "a cat")
    with pytest.raises(InputError, match="right"):
        gpt2.to_tokens("a cat", padding_side="left")
    with pytest.warns(MlxterpWarning, match="cut to the 128"):
        assert gpt2.to_tokens(" ".join(["cat"] * 200)).shape == (1, 128)
    assert gpt2.to_tokens(" ".join(["cat"] * 200), truncate=False).shape == (1, 201)


def test_a_model_without_tokenizer_says_so(folders, backend):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        model = HookedSAETransformer(folders["gpt2"], backend=backend)
    assert (
        model(IDS).shape == (1, 10, 200)
        and model.generate(IDS, max_new_tokens=2, do_sample=False).shape[0] == 1
    )
    with pytest.raises(NoTokenizerError, match="tokenizer="):
        model.to_tokens("the cat")


def test_losses(gpt2):
    logits, loss = gpt2(["the cat sat on", "a dog"], return_type="both")
    assert logits.shape == (2, 5, 200)
    expected = gpt2.interpretable.loss([[BOS, 0, 1, 2, 3], [BOS, 4, 12]])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    each = numpy(gpt2, gpt2(["the cat sat on", "a dog"], return_type="loss", loss_per_token=True))
    assert (
        each.shape == (2, 4)
        and each.sum() / 6 == pytest.approx(expected, rel=1e-5)
        and (each[1, 2:] == 0).all()
    )
    assert gpt2(IDS, return_type=None) is None
    with pytest.raises(InputError, match="two tokens"):
        gpt2([[3]], return_type="loss")


# -- generation ----------------------------------------------------------------------------------


def test_greedy_generation_begins_with_the_prompt_and_goes_on_as_ours(model):
    ours = model.interpretable.generate([BOS, 0, 1], max_tokens=6)
    assert model.generate("the cat", max_new_tokens=6, do_sample=False, verbose=False) == "the cat" + ours
    assert model.generate(["the cat"], max_new_tokens=6, temperature=0.0) == ["the cat" + ours]
    tokens = numpy(model, model.generate([[BOS, 0, 1], [4, 12, 3]], max_new_tokens=6, top_k=1))
    assert tokens.shape[0] == 2 and tokens[0, :3].tolist() == [BOS, 0, 1] and 3 < tokens.shape[1] <= 9
    assert model.tokenizer.decode(tokens[0, 3:].tolist()) == ours
    assert isinstance(model.generate(IDS, max_new_tokens=2, return_type="str"), list | str)


def test_hooks_and_saes_act_in_generation(model):
    plain = model.generate("the cat", max_new_tokens=8, do_sample=False, return_type="tokens")
    shapes: list[tuple[int, ...]] = []

    def replace_prompt(x: Any, hook: Any) -> None:
        shapes.append(tuple(x.shape))
        if x.shape[1] > 1:
            x[:, [1]] = x[:, [1]] * -30

    with model.hooks(fwd_hooks=[(at(0, "resid_pre"), replace_prompt)]):
        hooked = model.generate("the cat", max_new_tokens=8, do_sample=False, return_type="tokens")
    assert numpy(model, hooked).tolist() != numpy(model, plain).tolist()
    assert shapes[-1] == (1, 1, 64) and shapes[0][1] > 1
    with model.saes(random_sae(), use_error_term=True):
        same = model.generate("the cat", max_new_tokens=8, do_sample=False, return_type="tokens")
    assert numpy(model, same).tolist() == numpy(model, plain).tolist()


def test_a_frequency_penalty_keeps_tokens_from_coming_again(model):
    found = numpy(model, model.generate(IDS, max_new_tokens=30, freq_penalty=1e4, temperature=0.5, seed=1))
    assert len(set(found[0].tolist())) == found.shape[1] > 15
    again = numpy(model, model.generate(IDS, max_new_tokens=30, freq_penalty=1e4, temperature=0.5, seed=1))
    assert np.array_equal(found, again)


def test_generation_that_cannot_be_is_refused(gpt2):
    for options in ({"stop_at_eos": False}, {"return_type": "embeds"}, {"max_new_tokens": 0}, {"top_k": 0}):
        with pytest.raises(InputError):
            gpt2.generate("the cat", **options)


# -- where models and tokens come from -----------------------------------------------------------


def test_loading_warns_once_of_what_is_not_processed(folders, backend, monkeypatch):
    monkeypatch.setattr(loading_module, "_TOLD", set())
    load = partial(HookedSAETransformer.from_pretrained, str(folders["gpt2"]), backend=backend)
    with pytest.warns(MlxterpWarning, match="not folded"):
        load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(default_prepend_bos=False)
        HookedSAETransformer.from_pretrained_no_processing(str(folders["gpt2"]), backend=backend)
    assert model.cfg.default_prepend_bos is False
    with pytest.raises(InputError, match="first_n_layers"):
        load(first_n_layers=1)
    with pytest.raises(InputError, match="dtype"):
        load(dtype="int8")
    half = load(dtype="float16")
    assert half.cfg.dtype == "float16" and "float16" in str(half(IDS).dtype)


def test_facts_of_the_model(folders, backend):
    cfg = opened(folders["llama"], backend).cfg
    assert (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_head, cfg.n_key_value_heads) == (3, 64, 4, 16, 2)
    assert (cfg.d_vocab, cfg.n_ctx, cfg.d_mlp, cfg.dtype) == (200, 128, 96, "float32")
    assert opened(folders["gpt2"], backend).cfg.n_key_value_heads is None


def test_the_head_and_the_embedding_are_the_models_own(model):
    logits, cache = model.run_with_cache(IDS)
    final = model.interpretable.trace(IDS, capture=["final_norm"]).activations["final_norm"]
    found = numpy(model, final) @ numpy(model, model.W_U) + numpy(model, model.b_U)
    assert np.abs(found - numpy(model, logits)).max() < 1e-4
    assert np.allclose(numpy(model, model.W_E)[IDS[0]], numpy(model, cache["embed"])[0], atol=1e-6)


def test_unembedding_what_the_final_norm_makes_of_the_last_stream_gives_the_logits(model):
    logits, cache = model.run_with_cache(IDS)
    normed = model.ln_final(cache["resid_post", -1])
    assert np.allclose(numpy(model, normed), numpy(model, cache["unembed.hook_in"]), atol=1e-5)
    assert np.allclose(numpy(model, model.unembed(normed)), numpy(model, logits), atol=1e-4)
    with pytest.raises(InputError, match=r"\(…, 64\)"):
        model.unembed(numpy(model, logits))


def test_a_store_joins_texts_to_contexts(gpt2):
    texts = ["the cat sat", "a dog", "", "it saw one big red hat and then"]
    sae = SAE(random_sae(context_size=5, prepend_bos=True))
    store = ActivationsStore.from_sae(gpt2, sae, dataset=texts, store_batch_size_prompts=2, device="cpu")
    first = numpy(gpt2, store.get_batch_tokens())
    ids = WordTokenizer().encode
    assert first.tolist() == [[BOS, *ids("the cat sat"), BOS], [BOS, *ids("a dog"), BOS, *ids("it")]]
    assert store.context_size == 5 and store.store_batch_size == 2
    with pytest.raises(StopIteration):
        store.get_batch_tokens(9, raise_at_epoch_end=True)
    tokens = store.get_batch_tokens()
    assert np.array_equal(numpy(gpt2, tokens), first)
    expected = gpt2.run_with_cache(tokens)[1]["resid_pre", 1]
    assert np.array_equal(numpy(gpt2, store.get_activations(tokens)), numpy(gpt2, expected))
    with pytest.raises(InputError, match="dataset=None"):
        ActivationsStore.from_sae(gpt2, sae)
    with pytest.raises(InputError, match="fewer"):
        ActivationsStore.from_sae(gpt2, sae, dataset=["a"], context_size=100).get_batch_tokens()


def test_the_course_runs_on_a_trained_model(shared, backend):
    folder = str(shared / "data" / "models" / "tinystories_instruct_3m_gpt2")
    model = HookedSAETransformer.from_pretrained_no_processing(folder, backend=backend)
    prompt = "Once upon a time, there was a little girl named Lily. She"
    tokens = model.to_tokens(prompt)
    assert tokens[0, 0].item() == model.tokenizer.bos_token_id and model.to_str_tokens(prompt)[1:3] == [
        "Once",
        " upon",
    ]
    own = random_sae("layers.4.resid_pre", d_in=128, d_out=128)
    sae = SAE(own.on(backend), use_error_term=True)
    name = f"{sae.cfg.hook_name}.hook_sae_acts_post"
    _, cache = model.run_with_cache_with_saes(
        tokens, saes=[sae], stop_at_layer=(sae.cfg.hook_layer or 0) + 1, names_filter=[name]
    )
    assert cache[name][..., [3, 5]].shape == (1, tokens.shape[1], 2)
    assert model(prompt, return_type="loss").item() < 2.5
    assert model.run_with_saes(prompt, saes=[sae], return_type="loss").item() == pytest.approx(
        model(prompt, return_type="loss").item(), abs=1e-4
    )
    latent = sae.W_dec[7]
    steered = latent * (40 / float((latent**2).sum()) ** 0.5)

    def patch(activations: Any, hook: Any, seq_pos: list[int], latent_vector: Any) -> None:
        if activations.shape[1] > 1:
            activations[:, seq_pos] = latent_vector

    options: dict[str, Any] = {"temperature": 0.5, "freq_penalty": 2.0, "verbose": False}
    hook = partial(patch, latent_vector=steered, seq_pos=[3, 4])
    with model.hooks(fwd_hooks=[(get_act_name("resid_pre", 2), hook)]):
        output = model.generate(prompt, max_new_tokens=10, **options)
    assert output.startswith(prompt) and len(output) > len(prompt)
