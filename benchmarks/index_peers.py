"""What a peer takes to say which texts activate every feature of an SAE; printed as JSON.

    pip install torch==2.13.0 sae-vis==0.3.7 sae-lens==5.11.0 frozendict tabulate "pyarrow<22"    (sae-vis)
    pip install torch==2.13.0 sae-dashboard==0.8.0 "pyarrow<22" && pip uninstall torchvision torchaudio
    pip install torch==2.13.0 mi-crow==1.0.0.post10 "pyarrow<22" "matplotlib<3.9" && pip uninstall torchvision
    pip install torch==2.13.0 eai-delphi==0.1.3 && pip uninstall torchvision torchaudio torchcodec
    PYTHON benchmarks/index_peers.py sae-vis --model FOLDER --sae FOLDER --texts texts.json

Each line needs an environment of its own. benchmarks/index.py runs this beside ours. The dashboards go over all
texts again for every 256 features: one such pass is timed over all tokens, and multiplied by the number of passes.
One thread, processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import torch

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "TQDM_DISABLE": "1",
}  # read when they are imported

CONTEXT, FEATURES = 128, 256
Timed = Callable[[torch.Tensor], Any]
"""A pass over token ids (contexts, CONTEXT), for `FEATURES` features."""


def seconds_of(job: Callable[[], Any]) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def token_ids(args: argparse.Namespace) -> torch.Tensor:
    """All texts in contexts, (contexts, CONTEXT)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    texts = json.loads(args.texts.read_text(encoding="utf-8"))
    ids = [i for text in texts for i in tokenizer(text)["input_ids"]]
    return torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).reshape(-1, CONTEXT)


def hooked(args: argparse.Namespace) -> Any:
    """The model as TransformerLens has it; its own loading by name would ask the hub for a config."""
    from sae_lens import HookedSAETransformer  # type: ignore[import-not-found]
    from transformer_lens import HookedTransformerConfig  # type: ignore[import-not-found]
    from transformer_lens.pretrained.weight_conversions import (  # type: ignore[import-not-found]
        convert_gpt2_weights,
    )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    own = theirs.config
    config = HookedTransformerConfig(
        n_layers=own.n_layer, d_model=own.n_embd, n_ctx=own.n_ctx, n_heads=own.n_head, d_head=own.n_embd // own.n_head,
        d_mlp=own.n_inner, d_vocab=own.vocab_size, act_fn=own.activation_function, eps=own.layer_norm_epsilon,
        normalization_type="LN", original_architecture="GPT2LMHeadModel", device="cpu", default_prepend_bos=False,
    )  # fmt: skip
    model = HookedSAETransformer(config, AutoTokenizer.from_pretrained(args.model))
    model.load_and_process_state_dict(
        convert_gpt2_weights(theirs, config), fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False,
    )  # fmt: skip
    ids = token_ids(args)[:2]
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True).hidden_states[layer_of(args) + 1]
        _, cached = model.run_with_cache(ids, names_filter=hook_of(args))
    assert torch.allclose(cached[hook_of(args)], expected, rtol=1e-3, atol=1e-3)
    return model


def layer_of(args: argparse.Namespace) -> int:
    return int(args.component.split(".")[1])


def hook_of(args: argparse.Namespace) -> str:
    return f"blocks.{layer_of(args)}.hook_resid_post"


def sae_dashboard(args: argparse.Namespace) -> tuple[Timed, str]:
    """`SaeVisRunner` as it is by default. It takes a TopK SAE only if that scales by the decoder's norm: made 1."""
    from sae_dashboard.sae_vis_data import SaeVisConfig  # type: ignore[import-not-found]
    from sae_dashboard.sae_vis_runner import SaeVisRunner  # type: ignore[import-not-found]
    from sae_lens import SAE  # type: ignore[import-not-found]

    model, sae = hooked(args), SAE.load_from_disk(str(args.sae))
    sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
    sae.cfg.rescale_acts_by_decoder_norm = True

    def run(ids: torch.Tensor) -> Any:
        config = SaeVisConfig(hook_point=hook_of(args), features=list(range(FEATURES)))
        return SaeVisRunner(config).run(encoder=sae, model=model, tokens=ids)

    does = (
        "SaeVisRunner, defaults: tables, histograms, 20 strongest and 10 quantile groups with logit effects"
    )
    return run, does


def sae_vis(args: argparse.Namespace) -> tuple[Timed, str]:
    """The histogram and the 20 strongest sequences alone: the tables of correlations would take far longer."""
    from sae_vis.data_config_classes import (  # type: ignore[import-not-found]
        ActsHistogramConfig,
        Column,
        SaeVisConfig,
        SaeVisLayoutConfig,
        SeqMultiGroupConfig,
    )
    from sae_vis.data_storing_fns import SaeVisData  # type: ignore[import-not-found]

    model, sae = hooked(args), older_sae(args)

    def run(ids: torch.Tensor) -> Any:
        sequences = SeqMultiGroupConfig(top_acts_group_size=20, n_quantiles=0)
        layout = SaeVisLayoutConfig([Column(ActsHistogramConfig()), Column(sequences)])
        config = SaeVisConfig(features=list(range(FEATURES)), feature_centric_layout=layout)
        return SaeVisData.create(sae=sae, model=model, tokens=ids, cfg=config)

    return (
        run,
        "SaeVisData.create: histogram and the 20 strongest with logit effects; tables and quantiles left out",
    )


def older_sae(args: argparse.Namespace) -> Any:
    """The SAE in the classes of SAELens 5, which sae-vis is written for."""
    from sae_lens import SAE, SAEConfig  # type: ignore[import-not-found]
    from safetensors.torch import load_file

    weights = load_file(args.sae / "sae_weights.safetensors")
    d_in, d_sae = weights["W_enc"].shape
    given = json.loads((args.sae / "cfg.json").read_text(encoding="utf-8"))
    config = SAEConfig(
        architecture="standard", d_in=d_in, d_sae=d_sae, activation_fn_str="topk",
        activation_fn_kwargs={"k": given["k"]}, apply_b_dec_to_input=given["apply_b_dec_to_input"],
        finetuning_scaling_factor=False, context_size=CONTEXT, model_name="gpt2", hook_name=hook_of(args),
        hook_layer=layer_of(args), hook_head_index=None, prepend_bos=False, dataset_path="",
        dataset_trust_remote_code=False, normalize_activations="none", dtype="float32", device="cpu",
        sae_lens_training_version=None,
    )  # fmt: skip
    sae = SAE(config)
    sae.load_state_dict({name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
    return sae


DASHBOARDS = {"sae-dashboard": sae_dashboard, "sae-vis": sae_vis}


def dashboard(args: argparse.Namespace) -> dict[str, Any]:
    """One pass of some features over all texts, for all passes."""
    run, does = DASHBOARDS[args.peer](args)
    ids = token_ids(args)
    run(ids[:4])  # everything is imported
    taken = seconds_of(lambda: run(ids))
    passes = json.loads((args.sae / "cfg.json").read_text(encoding="utf-8"))["d_sae"] / FEATURES
    return {
        "does": f"{does}. One pass of {FEATURES} features over {ids.numel()} tokens took {taken:.0f} s,"
        f" × {passes:.0f} passes",
        "seconds": taken * passes,
    }


def mi_crow(args: argparse.Namespace) -> dict[str, Any]:
    """Its text tracking, which ranks by what comes before the k largest are chosen; on some texts, by tokens.

    It imports vision models that this needs nothing of, and their torchvision does not fit this torch.
    """
    import datasets  # type: ignore[import-not-found]  # noqa: F401  (looks for torchvision, so before it)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sys.modules["torchvision"] = mock.MagicMock()

    from mi_crow.language_model.language_model import LanguageModel  # type: ignore[import-not-found]
    from mi_crow.mechanistic.sae.modules.topk_sae import TopKSae  # type: ignore[import-not-found]
    from mi_crow.store.local_store import LocalStore  # type: ignore[import-not-found]
    from safetensors.torch import load_file

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.pad_token = tokenizer.eos_token
    theirs = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    weights = load_file(args.sae / "sae_weights.safetensors")
    d_in, d_sae = weights["W_enc"].shape
    sae = TopKSae(n_latents=d_sae, n_inputs=d_in)
    sae.sae_engine = sae._initialize_sae_engine(k=json.loads((args.sae / "cfg.json").read_text())["k"])
    linear = sae.sae_engine.encoder.final_block[0]
    linear.weight.data = weights["W_enc"].T.contiguous()
    linear.bias.data = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
    sae.sae_engine.eval()
    sae.context.text_tracking_k = 20
    with tempfile.TemporaryDirectory() as folder:
        model = LanguageModel(theirs, tokenizer, LocalStore(folder), model_id="tinystories")
        [layer] = [name for name in model.layers.get_layer_names() if name.endswith(f"h_{layer_of(args)}")]
        model.layers.register_hook(layer, sae)
        sae.concepts.enable_text_tracking()
        texts = sorted(json.loads(args.texts.read_text(encoding="utf-8")), key=len)
        lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
        n = len(texts) // 2
        model.inference.infer_texts(texts[:1], batch_size=1, autocast=False, stop_after_layer=layer)
        some = texts[n : n + 3]
        taken = seconds_of(
            lambda: model.inference.infer_texts(some, batch_size=1, autocast=False, stop_after_layer=layer)
        )
    tokens = sum(lengths[n : n + 3])
    does = f"text tracking, 20 texts for every feature; {taken:.1f} s for {tokens} tokens, scaled to {sum(lengths)}"
    return {"does": does, "seconds": taken / tokens * sum(lengths)}


def delphi(args: argparse.Namespace) -> dict[str, Any]:
    """Its cache of all activations, in one pass; then the examples of some features, read from the cache."""
    from delphi.config import CacheConfig, ConstructorConfig, SamplerConfig  # type: ignore[import-not-found]
    from delphi.latents import LatentCache, LatentDataset  # type: ignore[import-not-found]
    from delphi.sparse_coders.load_sparsify import sae_dense_latents  # type: ignore[import-not-found]
    from safetensors.torch import load_file
    from sparsify import SparseCoder, SparseCoderConfig  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    weights = load_file(args.sae / "sae_weights.safetensors")
    d_in, d_sae = weights["W_enc"].shape
    k = json.loads((args.sae / "cfg.json").read_text(encoding="utf-8"))["k"]
    coder = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k))
    coder.encoder.weight.data, coder.encoder.bias.data = weights["W_enc"].T.contiguous(), weights["b_enc"]
    coder.b_dec.data = weights["b_dec"]
    place = f"transformer.h.{layer_of(args)}"
    ids = token_ids(args)
    with tempfile.TemporaryDirectory() as folder:

        def cache_all() -> None:
            cache = LatentCache(model, {place: partial(sae_dense_latents, sae=coder)}, batch_size=8)
            cache.run(ids.numel(), ids)
            cache.save_splits(5, Path(folder))
            cache.save_config(Path(folder), CacheConfig(cache_ctx_len=CONTEXT), args.model)

        def read() -> int:
            dataset = LatentDataset(
                folder, SamplerConfig(n_examples_train=20, n_examples_test=0, train_type="top"),
                ConstructorConfig(min_examples=1, n_non_activating=0), tokenizer, [place],
                {place: torch.arange(0, d_sae, d_sae // FEATURES)},
            )  # fmt: skip
            return sum(1 for _ in dataset)

        cached = seconds_of(cache_all)
        found: list[int] = []
        taken = seconds_of(lambda: found.append(read()))
    does = (
        f"LatentCache and save_splits of all features, {cached:.0f} s; LatentDataset, the 20 strongest windows of 32"
        f" tokens, {taken:.1f} s for {found[0]} features, scaled to {d_sae}"
    )
    return {"does": does, "seconds": cached + taken / found[0] * d_sae}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", type=Path, required=True, help="as SAELens saves it")
    parser.add_argument("--texts", type=Path, required=True, help="a JSON list")
    parser.add_argument("--component", default="layers.4.resid_post")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with contextlib.redirect_stdout(sys.stderr):  # what the peers have to say
        found = PEERS[args.peer](args)
    found["does"] = f"{args.peer} {metadata.version(args.peer)}: {found['does']}"
    sys.stdout.write(json.dumps(found) + "\n")


PEERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    **dict.fromkeys(DASHBOARDS, dashboard),
    "mi-crow": mi_crow,
    "eai-delphi": delphi,
}

if __name__ == "__main__":
    main()
