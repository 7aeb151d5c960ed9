"""Published SAEs by name, from a cache of the hub laid out on disk, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxterp.sae.pretrained import find_pretrained

pytest.importorskip("huggingface_hub")
D, N = 8, 24
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def repository(home: Path, repo: str) -> Path:
    """A repository's folder in the cache."""
    root = home / "hub" / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    return root / "snapshots" / COMMIT


def ask(home: Path, code: str) -> Any:
    """What a fresh, offline Python prints as JSON."""
    program = f"import json, mlxterp\nfrom mlxterp import SAE\nprint(json.dumps({code}))"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def saelens(folder: Path, **config: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    arrays = {"W_enc": numbers(D, N), "b_enc": numbers(N), "W_dec": numbers(N, D), "b_dec": numbers(D)}
    save_file(arrays, folder / "sae_weights.safetensors")


def test_a_release_and_id_of_saelens(tmp_path):
    entry = find_pretrained("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    folder = repository(tmp_path, entry.repo_id) / entry.path
    saelens(folder, d_in=D, d_sae=N, hook_point="blocks.8.hook_resid_pre", model_name="gpt2-small")
    facts = ask(tmp_path, "SAE.from_pretrained('gpt2-small-res-jb', 'blocks.8.hook_resid_pre').metadata")
    assert facts["component"] == "layers.8.resid_pre"
    assert facts["release"] == "gpt2-small-res-jb" and facts["format"] == "saelens"
    assert facts["center_writing_weights"] is True  # of the table; the file does not say


def test_what_only_a_repositorys_name_says_is_read_from_the_cache(tmp_path):
    entry = find_pretrained("gemma-scope-2b-pt-mlp-canonical", "layer_3/width_16k/canonical")
    folder = repository(tmp_path, entry.repo_id) / entry.path
    folder.mkdir(parents=True)
    arrays = {"W_enc": numbers(D, N), "b_enc": numbers(N), "W_dec": numbers(N, D), "b_dec": numbers(D)}
    np.savez(folder / "params.npz", threshold=np.abs(numbers(N)), allow_pickle=False, **arrays)
    found = ask(
        tmp_path,
        "(lambda s: [s.component, s.activation.name, s.metadata['model']])"
        "(SAE.from_pretrained('gemma-scope-2b-pt-mlp-canonical', 'layer_3/width_16k/canonical'))",
    )
    assert found == ["layers.3.mlp_out", "jumprelu", "google/gemma-2-2b"]


def test_a_scale_that_no_file_holds_comes_from_the_table(tmp_path):
    entry = find_pretrained("llama_scope_r1_distill", "l3r_800m_slimpajama")
    assert entry.norm_scaling_factor
    folder = repository(tmp_path, entry.repo_id) / entry.path
    folder.mkdir(parents=True)
    config = {"d_model": D, "act_fn": "jumprelu", "norm_activation": "dataset-wise"}
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {
        "encoder.weight": numbers(N, D), "encoder.bias": numbers(N), "decoder.weight": numbers(D, N),
        "decoder.bias": numbers(D), "log_jumprelu_threshold": numbers(N),
    }  # fmt: skip
    save_file(arrays, folder / "sae_weights.safetensors")
    first = ask(
        tmp_path, "float(SAE.from_pretrained('llama_scope_r1_distill', 'l3r_800m_slimpajama').W_enc[0, 0])"
    )
    assert first == pytest.approx(float(arrays["encoder.weight"][0, 0]) * entry.norm_scaling_factor, rel=1e-5)


def test_a_folder_of_any_repository(tmp_path):
    saelens(
        repository(tmp_path, "maker/saes") / "layer_1", d_in=D, d_sae=N, hook_point="blocks.1.hook_mlp_out"
    )
    found = ask(tmp_path, "SAE.from_pretrained('maker/saes', 'layer_1').component")
    assert found == "layers.1.mlp_out"
    assert ask(tmp_path, "SAE.from_pretrained('maker/saes').d_hidden") == N
