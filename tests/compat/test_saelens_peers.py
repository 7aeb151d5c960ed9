"""The numbers are those of TransformerLens (without processing) and of SAELens, run on the same weights."""

from __future__ import annotations

import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import ConfigWarning, InterpretableModel
from mlxterp.compat.saelens import SAE, HookedSAETransformer, get_act_name
from mlxterp.variants import JumpReLU, TopK

from ..small import SHAPES, checkpoint
from .lens import random_sae

sae_lens = pytest.importorskip("sae_lens", reason="pip install sae-lens, in an environment of its own")
torch = pytest.importorskip("torch")
transformer_lens = pytest.importorskip("transformer_lens")
pytestmark = pytest.mark.filterwarnings("ignore")

WEIGHTS: dict[str, dict[str, Any]] = {}
"""What `checkpoint` made, before it wrote it."""
IDS = [[3, 14, 15, 92, 65, 35, 89, 79, 32, 38], [5, 4, 3, 2, 1, 9, 8, 7, 6, 11]]


def genuine(kind: str, folder: Path) -> Any:
    """The checkpoint as a model of SAELens, its weights as they are."""
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
    model.load_and_process_state_dict(
        convert(hf, cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
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
    print([n for n in cache if n not in mine])
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
