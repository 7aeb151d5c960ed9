"""Nothing in a file of any format is passed over: it is used, known to change nothing, or named."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxterp import SAE, MlxterpWarning, SAEError
from mlxterp.sae.formats.passed_over import passed_over
from mlxterp.sae.formats.settings import Settings
from tests.sae.test_format_settings import B_DEC, B_ENC, W_DEC, W_ENC, D, N, X, saelens, write
from tests.sae.test_formats import NAMES, NOT_IN_THE_FILE, SHARED, io_of, needs_fixtures

torch = pytest.importorskip("torch", reason="many of these files are PyTorch's")


def copied(name: str, tmp_path: Path) -> Path:
    folder = tmp_path / "sae"
    shutil.copytree(SHARED / name, folder, ignore=shutil.ignore_patterns("io.npz"))
    return folder


def load(folder: Path, name: str) -> SAE:
    return SAE.load(folder, **NOT_IN_THE_FILE.get(name, {}))


def weights_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".npz", ".pt", ".pth"))


def add_array(path: Path, name: str, array: np.ndarray) -> None:
    if path.suffix == ".safetensors":
        save_file({**load_file(path), name: array}, path)
    elif path.suffix == ".npz":
        with np.load(path) as file:
            np.savez(path, **{n: file[n] for n in file.files}, **{name: array})  # type: ignore[arg-type]
    else:
        held = torch.load(path, weights_only=True)
        held.get("sae_state_dict", held)[name] = torch.tensor(array)
        torch.save(held, path)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_no_reader_uses_is_refused_by_name(name, tmp_path):
    folder = copied(name, tmp_path)
    for path in weights_of(folder):
        add_array(path, "surprise.scale", np.full(3, 2.0, np.float32))
    with pytest.raises(SAEError, match=r"surprise\.scale"):
        load(folder, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_setting_that_no_reader_knows_is_named_once(name, nested, tmp_path):
    import yaml

    folder, added = copied(name, tmp_path), []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".yaml")):
        text = path.read_text()
        config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        inner = next((config[key] for key in ("trainer", "sae") if nested and key in config), None)
        (config if inner is None else inner)["surprise_scale"] = 2.0
        path.write_text(json.dumps(config) if path.suffix == ".json" else yaml.safe_dump(config))
        added.append(path.name)
    if not added:
        pytest.skip("this format has no settings")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sae = load(folder, name)
    said = [str(w.message) for w in caught if "surprise_scale" in str(w.message)]
    assert len(said) == 1 and added[0] in said[0] and "sae.check" in said[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        np.testing.assert_array_equal(
            sae.encode(io_of(name)["x"]), load(SHARED / name, name).encode(io_of(name)["x"])
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error::mlxterp.MlxterpWarning")
@pytest.mark.filterwarnings("ignore:This BatchTopK SAE")
def test_what_the_libraries_write_is_read_without_a_word(name):
    load(SHARED / name, name)


# -- what changes a number is read or refused ---------------------------------------------------


def flat(tmp_path: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A folder of SAELens from before version 6."""
    arrays = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC} | (arrays or {})
    return write(tmp_path, {"d_in": D, "d_sae": N} | config, arrays, ("cfg.json", "sae_weights.safetensors"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation_fn_str": "gelu"}, "unknown activation_fn_str 'gelu'"),
        ({"activation_fn_str": "relu", "activation_fn": "topk"}, "says two activations: topk, relu"),
        ({"normalize_activations": 5}, "'normalize_activations' is 5"),
        ({"normalize_activations": "twice"}, "unknown normalize_activations 'twice'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"apply_b_dec_to_input": "no"}, "'apply_b_dec_to_input' is 'no'"),
        ({"finetuning_scaling_factor": "yes"}, "'finetuning_scaling_factor' is 'yes'"),
        ({"reshape_activations": "hook_q"}, "unknown reshape_activations"),
        ({"architecture": "temporal", "sae_diff_type": "nullify"}, "unknown sae_diff_type"),
        ({"activation_fn_str": "topk"}, "lacks 'k'"),
        ({"architecture": "temporal", "sae_diff_type": "topk"}, "lacks 'kval_topk'"),
        ({"architecture": "transcoder", "finetuning_scaling_factor": True}, "is not known of transcoder"),
    ],
)
def test_a_value_that_saelens_does_not_have_is_refused(tmp_path, config, message):
    with pytest.raises(SAEError, match=message):
        SAE.load(flat(tmp_path, **config))


def test_a_k_that_the_activation_does_not_use_is_named(tmp_path):
    with pytest.warns(MlxterpWarning, match=r"cfg\.json: activation_fn_kwargs\.k\)"):
        SAE.load(flat(tmp_path / "flat", activation_fn_str="relu", activation_fn_kwargs={"k": 4}))
    with pytest.warns(MlxterpWarning, match=r"cfg\.json: k\)"):
        SAE.load(saelens(tmp_path / "six", k=4, rescale_acts_by_decoder_norm=False))
    with pytest.raises(SAEError, match="rescale_acts_by_decoder_norm is not known of standard SAEs"):
        SAE.load(saelens(tmp_path / "seven", rescale_acts_by_decoder_norm=True))


def test_scaling_factors_that_are_not_all_one_need_the_setting(tmp_path):
    ones = np.ones(N, np.float32)
    assert np.array_equal(SAE.load(flat(tmp_path / "a", {"scaling_factor": ones})).W_dec, W_DEC)
    with pytest.raises(SAEError, match="holds scaling_factor"):
        SAE.load(flat(tmp_path / "b", {"scaling_factor": 2 * ones}))
    path = flat(tmp_path / "c", {"scaling_factor": 2 * ones}, finetuning_scaling_factor=True)
    assert np.array_equal(SAE.load(path).W_dec, 2 * W_DEC)


@pytest.mark.filterwarnings("error::mlxterp.MlxterpWarning")
def test_a_checkpoint_takes_its_scale_from_beside_it(tmp_path):
    folder = saelens(tmp_path, normalize_activations="expected_average_only_in")
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.5, "has_whitening": false}')
    expected = np.maximum((0.5 * X - B_DEC) @ W_ENC + B_ENC, 0)
    out, features = SAE.load(folder)(X)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out, (expected @ W_DEC + B_DEC) / 0.5, rtol=1e-3, atol=1e-3)


def test_whitened_activations_are_not_passed_over(tmp_path):
    folder = saelens(tmp_path, normalize_activations="covariance_whitening")
    with pytest.warns(MlxterpWarning, match="expects whitened activations"):
        SAE.load(folder)
    save_file({"mean": B_DEC}, folder / "activation_whitening.safetensors")
    with pytest.raises(SAEError, match="Let SAELens finish it"):
        SAE.load(folder)


def with_k(folder: Path, k: int) -> Path:
    """A dictionary of dictionary_learning whose weights say 3 and whose settings say k."""
    arrays = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T, "b_dec": B_DEC}
    state = {n: torch.tensor(np.ascontiguousarray(a)) for n, a in arrays.items()} | {"k": torch.tensor(3)}
    torch.save(state, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "activation_dim": D, "dict_size": N, "k": k}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return folder


def test_two_different_k_of_dictionary_learning_are_refused(tmp_path):
    with pytest.raises(SAEError, match=r"says k 4, .*ae\.pt holds k 3.*k="):
        SAE.load(with_k(tmp_path, 4))
    assert SAE.load(tmp_path, k=2).k == 2
    assert SAE.load(with_k(tmp_path, 3)).k == 3


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("sparsify_topk", "cfg.json", {"activation": "jumprelu"}, "unknown activation 'jumprelu'"),
        ("sparsify_groupmax", "cfg.json", {"signed": True}, "signed is known with"),
        ("hub_gemma_scope2_resid", "config.json", {"type": "crosscoder"}, "unknown type 'crosscoder'"),
        ("hub_gemma_scope2_resid", "config.json", {"affine_connection": "no"}, "'affine_connection' is"),
        ("hub_gemma_scope2_resid", "config.json", {"affine_connection": True}, "lacks affine_skip"),
        ("hub_gemma_scope2_transcoder_affine", "config.json", {"affine_connection": False}, "holds affine_s"),
        ("hub_gemma_scope2_resid", "config.json", {"width": "64"}, "'width' is '64'"),
        ("hub_llama_scope", "hyperparams.json", {"use_glu_encoder": True}, "gated linear encoder"),
        ("hub_llama_scope", "hyperparams.json", {"jump_relu_threshold": -0.1}, "below 0"),
        ("hub_llama_scope", "hyperparams.json", {"norm_activation": "batch-wise"}, "unknown norm_act"),
        ("hub_llama_scope_r1", "config.json", {"use_glu_encoder": True}, "gated linear encoder"),
        ("hub_llama_scope_r1", "config.json", {"use_decoder_bias": False}, "holds decoder.bias"),
        ("hub_llama_scope_r1", "config.json", {"act_fn": "topk"}, "unknown act_fn 'topk'"),
        ("openmoss_v2_topk", "config.json", {"apply_decoder_bias_to_pre_encoder": True}, "apply_decoder"),
        ("openmoss_v2_topk", "config.json", {"dtype": "float4"}, "unknown dtype"),
        ("dictionary_learning_topk", "config.json", {"buffer": {"io": "both"}}, "unknown io 'both'"),
        ("hub_temporal_raw", "conf.yaml", {"sae": {"sae_type": "MP"}}, "unknown sae_type 'MP'"),
        ("hub_temporal_raw", "conf.yaml", {"sae": {"inference_mode_batchtopk": True}}, "BatchTopK threshold"),
        ("hub_temporal_raw", "conf.yaml", {"sae": {"sae_diff_type": "batchtopk"}}, "unknown sae_diff_type"),
        ("mlxterp_topk", "config.json", {"normalize_input": "yes"}, "'normalize_input' is 'yes'"),
        ("hub_circuit_tracer_transcoder", "config.yaml", {"model_kind": "other"}, "unknown model_kind"),
        ("saelens5_topk_actfn", "cfg.json", {"architecture": "crosscoder"}, "unknown architecture 'cross"),
        ("saelens5_tanhrelu", "cfg.json", {"architecture": "crosscoder"}, "unknown architecture 'cross"),
    ],
)
@needs_fixtures
def test_a_value_that_changes_numbers_is_read_or_refused(tmp_path, name, file, change, message):
    import yaml

    folder = copied(name, tmp_path)
    path = next(folder.rglob(file))
    config = yaml.safe_load(path.read_text())  # JSON is YAML
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    with pytest.raises(SAEError, match=message):
        load(folder, name)


@pytest.mark.parametrize(
    ("activation", "message"), [(None, "lacks activation"), ("GELU", "unknown activation")]
)
@needs_fixtures
def test_an_openai_sae_says_what_it_is(tmp_path, activation, message):
    folder = copied("openai_topk", tmp_path)
    held = torch.load(folder / "3.pt", weights_only=True)
    del held["activation"]
    torch.save(held | ({} if activation is None else {"activation": activation}), folder / "3.pt")
    with pytest.raises(SAEError, match=message):
        SAE.load(folder)


@needs_fixtures
def test_llama_scope_r1_may_rank_by_decoder_norms(tmp_path):
    folder, x = copied("hub_llama_scope_r1", tmp_path), io_of("hub_llama_scope_r1")["x"]
    path = folder / "config.json" if (folder / "config.json").exists() else next(folder.rglob("config.json"))
    config = json.loads(path.read_text()) | {"sparsity_include_decoder_norm": True}
    path.write_text(json.dumps(config))
    a = load_file(path.with_name("sae_weights.safetensors"))
    h = x @ (0.9 * a["encoder.weight"].T) + a["encoder.bias"]
    norms = np.linalg.norm(a["decoder.weight"], axis=0)
    expected = h * (h * norms > np.exp(a["log_jumprelu_threshold"]))
    np.testing.assert_allclose(load(folder, "hub_llama_scope_r1").encode(x), expected, rtol=1e-3, atol=1e-3)


def test_the_state_of_another_sae_is_no_state_of_a_topk_sae():
    from mlxterp.compat.mi_crow import TopKSae

    sae = TopKSae(N, D, k=3, device="cpu")
    state = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    sae.load_state_dict(state)
    with pytest.raises(SAEError, match="holds threshold beside"):
        sae.load_state_dict({**state, "threshold": np.abs(B_ENC)})


# -- real releases ------------------------------------------------------------------------------

KISSANE = """
    {"seed": 49, "batch_size": 4096, "buffer_mult": 384, "lr": 0.0012, "num_tokens": 2000000000, "l1_coeff": 1.8,
     "beta1": 0.9, "beta2": 0.99, "dict_mult": 32, "seq_len": 128, "enc_dtype": "fp32", "model_name": "gpt2-small",
     "site": "z", "layer": 0, "device": "cuda", "reinit": "reinit", "head": "cat", "concat_heads": true,
     "resample_scheme": "anthropic", "anthropic_neuron_resample_scale": 0.2, "dead_direction_cutoff": 1e-06,
     "re_init_every": 25000, "anthropic_resample_last": 12500, "resample_factor": 0.01, "num_resamples": 4,
     "wandb_project_name": "x", "wandb_entity": "y", "save_state_dict_every": 50000, "b_dec_init": "zeros",
     "sched_type": "cosine_warmup", "sched_epochs": 1000, "sched_lr_factor": 0.1, "sched_warmup_epochs": 1000,
     "sched_finish": true, "anthropic_resample_batches": 100, "eval_every": 1000, "model_batch_size": 512,
     "buffer_size": 1572864, "buffer_batches": 12288, "name": "gpt2-small_0_24576_z"}"""
LLAMA_SCOPE = """
    {"device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "use_decoder_bias": true,
     "apply_decoder_bias_to_pre_encoder": false, "expansion_factor": 32, "bias_init_method": "all_zero",
     "decoder_exactly_fixed_norm": false, "sparsity_include_decoder_norm": true, "use_glu_encoder": false,
     "init_decoder_norm": 0.5, "init_encoder_norm": null, "init_encoder_with_decoder_transpose": true, "lp": 1,
     "l1_coefficient": 8e-05, "l1_coefficient_warmup_steps": 78125, "top_k": 50, "k_warmup_steps": 78125,
     "use_batch_norm_mse": true, "use_ghost_grads": false, "tp_size": 1, "ddp_size": 1}"""
GEMMA_2 = '{"affine_connection": false, "type": "sae", "l0": 150, "model_name": "google/gemma-3-4b-pt"}'
SAELENS_3 = """
    {"model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8,
     "hook_point_head_index": null, "dataset_path": "Skylion007/openwebtext", "is_dataset_tokenized": false,
     "context_size": 128, "use_cached_activations": false, "cached_activations_path": "activations/x", "d_in": 8,
     "n_batches_in_buffer": 128, "total_training_tokens": 300000000, "store_batch_size": 32, "device": "mps",
     "seed": 42, "dtype": "torch.float32", "b_dec_init_method": "geometric_median", "expansion_factor": 32,
     "from_pretrained_path": null, "l1_coefficient": 8e-05, "lr": 0.0004, "lr_scheduler_name": null,
     "lr_warm_up_steps": 5000, "train_batch_size": 4096, "use_ghost_grads": false, "feature_sampling_window": 1000,
     "feature_sampling_method": null, "resample_batches": 1028, "feature_reinit_scale": 0.2,
     "dead_feature_window": 5000, "dead_feature_estimation_method": "no_fire", "dead_feature_threshold": 1e-06,
     "log_to_wandb": true, "wandb_project": "x", "wandb_entity": null, "wandb_log_frequency": 100,
     "n_checkpoints": 10, "checkpoint_path": "checkpoints/x", "d_sae": 24, "tokens_per_buffer": 67108864,
     "run_name": "x", "prepend_bos": true, "normalize_activations": null, "lp_norm": 1, "noise_scale": 0.0,
     "decoder_orthogonal_init": false, "activation_fn": "relu", "activation_fn_kwargs": {},
     "apply_b_dec_to_input": true,
     "mse_loss_normalization": null, "normalize_sae_decoder": true, "scale_sparsity_penalty_by_decoder_norm": false,
     "model_from_pretrained_kwargs": {"center_writing_weights": true}, "sae_lens_training_version": "3.1.0",
     "streaming": true, "training_tokens": 1, "finetuning_tokens": 0, "seqpos_slice": [null],
     "store_batch_size_prompts": 16, "train_batch_size_tokens": 4096, "adam_beta1": 0.9, "adam_beta2": 0.999,
     "lr_end": 1e-5, "lr_decay_steps": 0, "n_restart_cycles": 1, "autocast": false, "compile_sae": false,
     "eval_every_n_wandb_logs": 100, "n_eval_batches": 10, "model_kwargs": {}, "verbose": true,
     "hook_eval": "NOT_IN_USE",
     "hook_name": "blocks.8.hook_resid_pre", "hook_layer": 8, "act_store_device": "cpu", "jumprelu_bandwidth": 0.001}"""


@pytest.mark.parametrize(
    ("name", "file", "released"),
    [
        ("hub_connor_rob_hook_z", "*_cfg.json", KISSANE),
        ("hub_llama_scope", "hyperparams.json", LLAMA_SCOPE),
        ("hub_gemma_scope2_resid", "config.json", GEMMA_2),
    ],
)
@pytest.mark.filterwarnings("error::mlxterp.MlxterpWarning")
@needs_fixtures
def test_settings_of_real_releases_are_passed_over(tmp_path, name, file, released):
    folder, x = copied(name, tmp_path), io_of(name)["x"]
    path = next(folder.rglob(file))
    path.write_text(json.dumps(json.loads(released) | json.loads(path.read_text())))
    np.testing.assert_array_equal(load(folder, name).encode(x), load(SHARED / name, name).encode(x))


@pytest.mark.filterwarnings("error::mlxterp.MlxterpWarning")
def test_settings_of_the_first_gpt2_saes_are_passed_over(tmp_path):
    config = json.loads(SAELENS_3)
    assert SAE.load(flat(tmp_path, **config)).component == "layers.8.resid_pre"


@pytest.mark.parametrize(
    ("format", "name", "known"),
    [
        ("saelens", "metadata.anything.inside", True),
        ("saelens", "wandb_project", True),
        ("saelens", "activation_scale", False),
        ("saelens", "k", False),
        ("dictionary_learning", "trainer.lr", True),
        ("dictionary_learning", "trainer.k", False),
        ("sparsify", "batch_topk", False),
        ("gemma_scope", "anything", False),
        ("llamascopium", "dataset_average_activation_norm.blocks.3.hook_resid_post", True),
    ],
)
def test_a_name_is_passed_over_only_where_it_cannot_matter(format, name, known):
    assert passed_over(format, name) is known


def test_settings_remember_what_was_asked_for():
    config = Settings({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": 4})
    assert list(config.unasked()) == ["a", "b", "f"]
    assert config["a"] == 1 and config.get("b").get("c") == 2 and config.peek("f") == 4
    assert "f" in config and list(config.unasked()) == ["b.d", "f"]
    assert config.whole("b") == {"c": 2, "d": {"e": 3}} and type(config.whole("b")) is dict
    assert list(config.unasked()) == ["f"]
    config.forget()
    assert list(config.unasked()) == ["a", "b", "f"]
