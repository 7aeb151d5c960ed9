"""The numbers are those of TransformerLens (without processing) and of SAELens, run on the same weights."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import ConfigWarning, InterpretableModel
from mlxterp.compat.saelens import SAE, HookedSAETransformer, get_act_name
from mlxterp.variants import JumpReLU, ReLU, TopK
from tests.compat.lens import random_sae
from tests.small import SHAPES, checkpoint

sae_lens = pytest.importorskip("sae_lens", reason="pip install sae-lens, in an environment of its own")
torch = pytest.importorskip("torch")
transformer_lens = pytest.importorskip("transformer_lens")
pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS: dict[str, dict[str, Any]] = {}
"""What `checkpoint` made, before it wrote it."""
IDS = [[3, 14, 15, 92, 65, 35, 89, 79, 32, 38], [5, 4, 3, 2, 1, 9, 8, 7, 6, 11]]


def genuine(kind: str, folder: Path, processed: bool = False) -> Any:
    """The checkpoint as a model of SAELens, its weights as they are or as `from_pretrained` leaves them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    conversions = importlib.import_module("transformer_lens.pretrained.weight_conversions")

    logging.disable(logging.WARNING)
    shape = SHAPES[kind]
    common = {
        "n_layers": 3,
        "d_model": 64,
        "n_heads": 4,
        "d_head": 16,
        "n_ctx": 128,
        "d_vocab": 200,
        "seed": 0,
    }
    if kind == "gpt2":
        settings = {"d_mlp": 256, "act_fn": "gelu_new", "normalization_type": "LN"}
        settings |= {"original_architecture": "GPT2LMHeadModel"}
    else:
        settings = {
            "d_mlp": 96, "act_fn": "silu", "normalization_type": "RMS", "positional_embedding_type": "rotary",
            "rotary_dim": 16, "rotary_adjacent_pairs": False, "gated_mlp": True, "final_rms": True,
            "n_key_value_heads": shape["num_key_value_heads"], "eps": 1e-6, "original_architecture": "LlamaForCausalLM",
        }  # fmt: skip
    cfg = transformer_lens.HookedTransformerConfig(**common, **settings, device="cpu")
    hf: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    hf.load_state_dict(WEIGHTS[kind], strict=True)
    model = sae_lens.HookedSAETransformer(cfg)
    convert = getattr(conversions, f"convert_{kind}_weights")
    steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    model.load_and_process_state_dict(convert(hf, cfg), **dict.fromkeys(steps, processed))
    return model.eval()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained

    def saving(self: Any, *args: Any, **options: Any) -> Any:
        WEIGHTS[request.param] = {name: x.clone() for name, x in self.state_dict().items()}
        return save(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        patch.setattr(PreTrainedModel, "save_pretrained", saving)
        folder = checkpoint(request.param, tmp_path_factory.mktemp(request.param))
        ours = HookedSAETransformer(InterpretableModel(folder))
    return genuine(request.param, folder), ours


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory, both: Any) -> Any:
    kind = both[1].interpretable.language_model.model_type
    return genuine(kind, checkpoint(kind, tmp_path_factory.mktemp("again")), processed=True)


def get(ours: HookedSAETransformer, x: Any) -> np.ndarray:
    return np.asarray(ours.interpretable.language_model.backend.get(x))


def close(ours: HookedSAETransformer, found: Any, expected: Any, share: float = 2e-5) -> bool:
    a, b = get(ours, found), expected.detach().numpy()
    return a.shape == b.shape and float(np.abs(a - b).max()) <= share * max(1.0, float(np.abs(b).max()))


def test_every_activation_is_theirs(both):
    theirs, ours = both
    tokens = torch.tensor(IDS)
    with torch.no_grad():
        logits, cache = theirs.run_with_cache(tokens)
        loss = theirs(tokens, return_type="loss")
    found, mine = ours.run_with_cache(IDS)
    assert close(ours, found, logits) and float(loss) == pytest.approx(
        ours(IDS, return_type="loss").item(), rel=1e-5
    )
    shared = [name for name in cache if name in mine]
    assert len(shared) >= 3 * 14
    for name in shared:
        assert close(ours, mine[name], cache[name]), name
    left = {name.rpartition(".")[2] for name in cache if name not in mine}
    assert left <= {"hook_pos_embed", "hook_scale", "hook_attn_scores", "hook_pre_linear"}


def test_hooks_change_what_theirs_change(both):
    theirs, ours = both

    def change(x: Any, hook: Any) -> Any:
        if hook.name.endswith("pattern"):
            x[:, 1, 4:, 2] = 0
            return None
        return x * 0.5

    names = [get_act_name(name, layer) for name, layer in
             (("resid_pre", 1), ("z", 0), ("v", 2), ("q", 1), ("k", 0), ("pattern", 1), ("mlp_out", 0), ("attn_out", 2),
              ("resid_mid", 1), ("mlp_post", 2), ("normalized1ln1", None), ("resid_post", 2))]  # fmt: skip
    for name in names:
        with torch.no_grad():
            expected = theirs.run_with_hooks(torch.tensor(IDS), fwd_hooks=[(name, change)])
        assert close(ours, ours.run_with_hooks(IDS, fwd_hooks=[(name, change)]), expected), name


@pytest.mark.parametrize("error", [False, True])
@pytest.mark.parametrize("activation", [TopK(9), JumpReLU()], ids=repr)
def test_spliced_saes_compute_what_theirs_do(both, tmp_path, activation, error):
    theirs, ours = both
    random_sae("layers.1.resid_pre", activation).save(tmp_path / "sae", format="saelens")
    a, b = sae_lens.SAE.load_from_disk(str(tmp_path / "sae")), SAE.load_from_disk(tmp_path / "sae")
    with torch.no_grad():
        logits, cache = theirs.run_with_cache_with_saes(torch.tensor(IDS), saes=[a], use_error_term=error)
    found, mine = ours.run_with_cache_with_saes(IDS, saes=[b], use_error_term=error)
    assert close(ours, found, logits, 1e-4)
    inner = [name for name in cache if ".hook_sae_" in name and not name.endswith("acts_pre")]
    assert inner == [name for name in mine if ".hook_sae_" in name] and len(inner) == 4 + error
    for name in inner:
        assert close(ours, mine[name], cache[name], 1e-4), name
    assert (b.cfg.hook_name, b.cfg.d_sae) == (a.cfg.metadata.hook_name, a.cfg.d_sae)
    assert b.cfg.architecture() == a.cfg.architecture()


@pytest.mark.parametrize("error", [False, True])
@pytest.mark.parametrize("hook", ["mlp.hook_in", "ln2.hook_normalized"])
def test_spliced_transcoders_compute_what_theirs_do(both, tmp_path, hook, error):
    theirs, ours = both
    random_sae("layers.1.mlp.input", ReLU(), component_out="layers.1.mlp_out").save(
        tmp_path / "sae", format="saelens"
    )
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    config["metadata"]["hook_name"] = f"blocks.1.{hook}"
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    a, b = sae_lens.SAE.load_from_disk(str(tmp_path / "sae")), SAE.load_from_disk(tmp_path / "sae")
    with torch.no_grad():
        logits, cache = theirs.run_with_cache_with_saes(torch.tensor(IDS), saes=[a], use_error_term=error)
    found, mine = ours.run_with_cache_with_saes(IDS, saes=[b], use_error_term=error)
    assert close(ours, found, logits, 1e-4)
    name = "blocks.1.hook_mlp_out.hook_sae_acts_post"
    assert close(ours, mine[name], cache[name], 1e-4)


def test_processed_weights_give_the_same_but_for_a_constant(both, processed):
    _, ours = both
    with torch.no_grad():
        logits, cache = processed.run_with_cache(torch.tensor(IDS))
    found, mine = ours.run_with_cache(IDS)
    apart = get(ours, found) - logits.numpy()
    assert np.abs(apart - apart.mean(axis=-1, keepdims=True)).max() < 1e-3
    if processed.cfg.normalization_type == "LNPre":
        stream = get(ours, mine["resid_pre", 2])
        centred = stream - stream.mean(axis=-1, keepdims=True)
        assert np.abs(centred - cache["resid_pre", 2].numpy()).max() < 1e-3
    for name in ("z", "pattern", "post"):
        assert (
            close(ours, mine[name, 1], cache[name, 1], 1e-3) or name == "z"
        )  # value biases are folded there
    for name in ("normalized2ln1", "normalized1ln2", "normalized"):
        assert close(ours, mine[name], cache[name], 1e-3), name


def test_an_sae_of_centred_weights_is_fitted_to_the_model_as_it_is(both, processed, tmp_path):
    _, ours = both
    sae = random_sae("layers.1.resid_pre", center_writing_weights=True)
    sae.save(tmp_path / "sae", format="saelens")
    a, b = sae_lens.SAE.load_from_disk(str(tmp_path / "sae")), SAE.load_from_disk(tmp_path / "sae")
    name = "blocks.1.hook_resid_pre.hook_sae_acts_post"
    with torch.no_grad():
        logits, cache = processed.run_with_cache_with_saes(torch.tensor(IDS), saes=[a])
    found, mine = ours.run_with_cache_with_saes(IDS, saes=[b])
    assert close(ours, mine[name], cache[name], 1e-3)
    apart = get(ours, found) - logits.numpy()
    assert np.abs(apart - apart.mean(axis=-1, keepdims=True)).max() < 1e-2


def test_greedy_generation_is_theirs(both):
    theirs, ours = both
    for row in IDS:
        options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "verbose": False}
        # With its cache TransformerLens 3.9 gives GPT-2's new tokens other positions than without.
        uncached = {"use_past_kv_cache": False, "stop_at_eos": False}
        expected = theirs.generate(torch.tensor([row]), **uncached, **options)[0].tolist()
        found = get(ours, ours.generate([row], **options))[0].tolist()
        assert found == expected[: len(found)] and len(found) > len(row)


def test_short_names_are_theirs():
    their_name = importlib.import_module("transformer_lens.utils").get_act_name
    cases: list[Any] = [("k", 6, "a"), ("pre", 2), ("normalized", 27, "ln2"), ("attn", 3), ("resid_pre", 3)]
    cases += [("mlp_out", 3), ("result", 0), ("rot_q", 1), ("mlp_post", 4)]
    cases += [
        ("k6",),
        ("scale4ln1",),
        ("pre5",),
        ("embed",),
        ("pos_embed",),
        ("normalized",),
        ("hook_embed",),
    ]
    for args in cases:
        assert get_act_name(*args) == their_name(*args), args
