"""SAELens's SAEs in a model and by themselves, in both wings."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from mlxterp import (
    ComponentError,
    InputError,
    MlxterpWarning,
    SAEError,
    available_backends,
    interventions,
    steering,
)
from mlxterp.compat.saelens import SAE, HookedSAETransformer, get_pretrained_saes_directory
from mlxterp.variants import InputForm, JumpReLU, ReLU
from tests.compat.lens import IDS, numpy, random_sae

# -- SAEs in the model ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["resid_pre", "attn.z", "mlp_out"])
def test_an_sae_without_its_error_is_the_reconstruction_patched_in(model, place):
    own = random_sae(f"layers.1.{place}", form=InputForm(heads=place == "attn.z"))
    found = numpy(model, model.run_with_saes(IDS, saes=[SAE(own)]))

    def patch(x: Any) -> Any:
        if x.ndim == 3:
            return own.reconstruct(x)
        return own.reconstruct(x.swapaxes(1, 2)).swapaxes(1, 2)

    expected = numpy(model, model.interpretable.trace(IDS, {f"layers.1.{place}": patch}, capture=[]).output)
    assert np.abs(found - expected).max() < 1e-5
    plain = numpy(model, model(IDS))
    assert np.abs(found - plain).max() > 1e-2
    whole = numpy(model, model.run_with_saes(IDS, saes=SAE(own), use_error_term=True))
    assert np.abs(whole - plain).max() < 1e-5 * np.abs(plain).max()
    assert np.array_equal(numpy(model, model(IDS)), plain)


def test_the_cache_of_spliced_saes_adds_up(model):
    sae, hook = SAE(random_sae(), use_error_term=True), "blocks.1.hook_resid_pre"
    logits, cache = model.run_with_cache_with_saes(IDS, saes=[sae])
    x = model.run_with_cache(IDS)[1][hook]
    parts = {
        key: numpy(model, cache[f"{hook}.hook_sae_{key}"])
        for key in ("input", "acts_post", "recons", "error", "output")
    }
    assert hook not in cache and f"{hook}.hook_sae_acts_pre" not in cache
    assert np.array_equal(parts["input"], numpy(model, x))
    assert np.allclose(parts["acts_post"], sae.sae.encode(numpy(model, x)), atol=1e-5)
    assert np.allclose(parts["recons"], sae.sae.reconstruct(numpy(model, x)), atol=1e-5)
    assert np.allclose(parts["recons"] + parts["error"], parts["output"]) and np.allclose(
        parts["output"], parts["input"], atol=1e-5
    )
    assert np.array_equal(numpy(model, logits), numpy(model, model.run_with_saes(IDS, saes=[sae])))
    _, only = model.run_with_cache_with_saes(
        IDS, saes=[sae], stop_at_layer=2, names_filter=[f"{hook}.hook_sae_acts_post"], use_error_term=False
    )
    assert list(only) == [f"{hook}.hook_sae_acts_post"] and only[f"{hook}.hook_sae_acts_post"].shape == (
        1,
        10,
        96,
    )


def test_zeroing_a_latent_with_the_error_term_is_ablating_it(model):
    own = random_sae()
    features = own.encode(numpy(model, model.run_with_cache(IDS)[1]["resid_pre", 1]))
    latent = int(features.sum(axis=(0, 1)).argmax())

    def ablate(acts: Any, hook: Any) -> Any:
        acts[..., latent] = 0
        return acts

    hooked = [("blocks.1.hook_resid_pre.hook_sae_acts_post", ablate)]
    found = model.run_with_hooks_with_saes(IDS, saes=[own], use_error_term=True, fwd_hooks=hooked)
    with model.interpretable.steer(steering.ablate(own, latent)):
        expected = numpy(model, model.interpretable(IDS))
    assert np.abs(numpy(model, found) - expected).max() < 1e-4
    assert np.abs(numpy(model, found) - numpy(model, model(IDS))).max() > 1e-3


def test_a_transcoder_writes_where_it_was_trained_to(model):
    own = random_sae("layers.1.mlp.input", ReLU(), component_out="layers.1.mlp_out")
    sae = SAE(own)
    assert sae.cfg.metadata.hook_name_out == "blocks.1.hook_mlp_out"
    found = numpy(model, model.run_with_saes(IDS, saes=[sae]))
    x = model.interpretable.trace(IDS, capture=["layers.1.mlp.input"]).activations["layers.1.mlp.input"]
    put = {"layers.1.mlp_out": interventions.replace_with(own.reconstruct(x))}
    expected = numpy(model, model.interpretable.trace(IDS, put, capture=[]).output)
    assert np.abs(found - expected).max() < 1e-5
    _, cache = model.run_with_cache_with_saes(IDS, saes=[sae], use_error_term=True)
    assert "blocks.1.hook_mlp_out.hook_sae_error" in cache and "blocks.1.mlp.hook_in" in cache
    whole = numpy(model, model.run_with_saes(IDS, saes=[sae], use_error_term=True))
    assert np.abs(whole - numpy(model, model(IDS))).max() < 1e-4


def test_attached_saes_stay_until_they_are_reset_and_blocks_restore_them(model):
    plain = numpy(model, model(IDS))
    first, second, other = (SAE(random_sae(seed=i)) for i in range(3))
    elsewhere = SAE(random_sae("layers.2.resid_post"))
    model.add_sae(first)
    one = numpy(model, model(IDS))

    def fail() -> None:
        with model.saes(saes=[second, elsewhere]):
            attached = {"blocks.1.hook_resid_pre": second, "blocks.2.hook_resid_post": elsewhere}
            assert model.acts_to_saes == attached
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert model.acts_to_saes == {"blocks.1.hook_resid_pre": first} and np.array_equal(
        numpy(model, model(IDS)), one
    )
    model.run_with_saes(IDS, saes=other, reset_saes_end=False)
    assert model.acts_to_saes == {"blocks.1.hook_resid_pre": other}
    model.add_hook("blocks.1.hook_resid_pre.hook_sae_acts_post", lambda x, hook: x * 0)
    with pytest.raises(ComponentError, match="hook_sae_input"):
        model.add_hook("blocks.1.hook_resid_pre", lambda x, hook: x)
    model.reset_saes()
    assert model.acts_to_saes == {} and np.array_equal(numpy(model, model(IDS)), plain)
    with pytest.raises(ComponentError, match="while an SAE is attached"):
        model.add_hook("blocks.1.hook_resid_pre.hook_sae_acts_post", lambda x, hook: x)
    with pytest.raises(ComponentError, match="No SAE reads"):
        model.reset_saes("blocks.1.hook_resid_pre")


def test_saes_that_do_not_fit_are_refused(gpt2):
    with pytest.raises(SAEError, match="64"):
        gpt2.add_sae(SAE(random_sae(d_in=32, d_out=32)))
    with pytest.raises(SAEError, match="hook_name"):
        gpt2.add_sae(SAE(random_sae(None)))
    with pytest.raises(InputError, match="Expected an SAE"):
        gpt2.add_sae("sae")
    with pytest.raises(InputError, match="hook_sae_output"):
        gpt2.add_sae(random_sae(), exclude_special_tokens=True)
    said = SAE(random_sae(None))
    said.cfg.metadata["hook_name"] = "blocks.2.hook_resid_pre"
    gpt2.add_sae(said)
    assert list(gpt2.acts_to_saes) == ["blocks.2.hook_resid_pre"]


# -- SAEs by themselves --------------------------------------------------------------------------


def test_an_sae_has_saelenss_names_and_unpacks_as_it_used_to(backend, tmp_path):
    own = random_sae(activation=JumpReLU(), model="gpt2-small", context_size=128, prepend_bos=True)
    own.save(tmp_path / "sae", format="saelens")
    sae = SAE.load_from_disk(tmp_path / "sae", backend=backend)
    one, cfg, sparsity = sae
    assert one is sae is sae[0] and sparsity is None and cfg["d_sae"] == 96 and len(sae) == 3
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.hook_layer) == (64, 96, 1)
    assert sae.cfg.architecture == "jumprelu" == sae.cfg.architecture()
    assert sae.cfg.hook_name == sae.cfg.metadata.hook_name == "blocks.1.hook_resid_pre"
    assert sae.cfg.metadata.context_size == 128 and sae.cfg.metadata.nothing is None
    assert sae.cfg.__dict__["model_name"] == "gpt2-small" and sae.cfg.prepend_bos is True
    with pytest.raises(AttributeError, match="d_in"):
        _ = sae.cfg.d_hidden
    assert sae.W_enc.shape == (64, 96) and sae.W_dec[3].shape == (64,) and sae.threshold.shape == (96,)
    again = SAE.load_from_pretrained(sae.save_model(tmp_path / "again"), backend=backend)
    assert again.sae.fingerprint == sae.sae.fingerprint


def test_encode_decode_and_call_are_those_of_the_sae(gpt2, backend):
    x = gpt2.run_with_cache(IDS)[1]["resid_pre", 1]
    for form in (InputForm(), InputForm("layer_norm")):
        own = random_sae(activation=ReLU(), form=form)
        sae = SAE(own.on(backend))
        out = numpy(gpt2, own.reconstruct(x))
        acts = sae.encode(x)
        assert np.array_equal(numpy(gpt2, acts), numpy(gpt2, own.encode(x)))
        assert np.allclose(numpy(gpt2, sae.decode(acts)), out, atol=1e-5)
        assert np.array_equal(numpy(gpt2, sae(x)), out)
        sae.use_error_term = True
        assert np.allclose(numpy(gpt2, sae(x)), numpy(gpt2, x), atol=1e-5)
        assert type(sae.W_dec) is type(x) and np.array_equal(numpy(gpt2, sae.W_dec), own.W_dec)
    with pytest.raises(SAEError, match="encode"):
        SAE(random_sae(form=InputForm("layer_norm"))).decode(acts)


def test_heads_come_back_as_heads(gpt2):
    sae = SAE(random_sae("layers.1.attn.z", form=InputForm(heads=True)))
    z = gpt2.run_with_cache(IDS)[1]["z", 1]
    acts = sae.encode(z)
    assert acts.shape == (1, 10, 96) and sae.decode(acts).shape == z.shape == sae(z).shape


def test_options_without_meaning_here_are_refused(tmp_path):
    random_sae().save(tmp_path / "sae")
    assert SAE.load_from_disk(tmp_path / "sae", dtype="float32").cfg.d_in == 64
    with pytest.raises(InputError, match="bfloat16"):
        SAE.load_from_disk(tmp_path / "sae", dtype="bfloat16")
    with pytest.raises(InputError, match=r"mlxterp\.SAE"):
        SAE(3)  # type: ignore[arg-type]
    with pytest.raises(SAEError, match="threshold"):
        _ = SAE(random_sae()).threshold


def test_a_published_sae_is_asked_for_by_release_and_id(backend, monkeypatch):
    asked: list[Any] = []

    def fake(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return random_sae(neuronpedia_id="gpt2-small/1-res-jb").on(backend)

    monkeypatch.setattr("mlxterp.sae.SAE.from_pretrained", fake)
    sae, cfg, _ = SAE.from_pretrained(
        release="gpt2-small-res-jb", sae_id="blocks.1.hook_resid_pre", backend=backend
    )
    assert asked == [(("gpt2-small-res-jb", "blocks.1.hook_resid_pre", backend, None), {"revision": None})]
    assert sae.cfg.neuronpedia_id == cfg["neuronpedia_id"] == "gpt2-small/1-res-jb"
    triple = SAE.from_pretrained_with_cfg_and_sparsity(
        "gpt2-small-res-jb", "blocks.1.hook_resid_pre", backend=backend
    )
    assert (
        isinstance(triple, tuple)
        and triple[1]["hook_name"] == "blocks.1.hook_resid_pre"
        and triple[2] is None
    )


def test_a_device_is_torchs_or_named_in_a_warning(backend, tmp_path, monkeypatch):
    monkeypatch.setattr("mlxterp.compat.saelens.sae._TOLD", set())
    random_sae().save(tmp_path / "sae")
    load = partial(SAE.load_from_disk, tmp_path / "sae", device="cpu", backend=backend)
    if backend == "mlx":
        with pytest.warns(MlxterpWarning, match="default device"):
            load()
    assert load().to("cpu").device == load().cfg.device == "cpu" or backend == "mlx"


@pytest.mark.parametrize(("device", "wing"), [("cpu", "torch"), (None, "mlx"), ("mlx", "mlx")])
def test_a_device_of_torch_runs_torch_and_none_runs_mlx(folders, tmp_path, device, wing):
    if len(available_backends()) < 2:
        pytest.skip("needs both backends")
    random_sae().save(tmp_path / "sae")
    sae = SAE.load_from_disk(tmp_path / "sae", device=device)
    model = HookedSAETransformer.from_pretrained_no_processing(str(folders["gpt2"]), device)
    assert sae.sae.backend == model.interpretable.language_model.backend.name == wing
    assert model.cfg.model_name == str(folders["gpt2"])
    _, cache = model.run_with_cache_with_saes(IDS, saes=[sae])
    found = cache["blocks.1.hook_resid_pre.hook_sae_acts_post"]
    assert type(found).__module__.partition(".")[0] == wing
    assert wing == "mlx" or sae.device == "cpu"


def test_backend_decides_where_it_is_given_beside_a_device(backend, tmp_path, monkeypatch):
    monkeypatch.setattr("mlxterp.compat.saelens.sae._TOLD", {"SAEs"})
    random_sae().save(tmp_path / "sae")
    assert SAE.load_from_disk(tmp_path / "sae", device="cpu", backend=backend).sae.backend == backend
    with pytest.raises(InputError, match="expected 'cuda'"):
        SAE.load_from_disk(tmp_path / "sae", device="tpu")


def test_the_directory_of_published_saes():
    release = get_pretrained_saes_directory()["gpt2-small-res-jb"]
    assert release.model == "gpt2-small" and "blocks.7.hook_resid_pre" in release.saes_map
    assert release.neuronpedia_id["blocks.7.hook_resid_pre"] == "gpt2-small/7-res-jb"
    assert release.__dict__["repo_id"] == "jbloom/GPT2-Small-SAEs-Reformatted"
