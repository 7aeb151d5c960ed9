"""ARENA's section "Understanding latents", row by row: its calls run under their names and give what ours give.

`CALLS` lists what a row's code calls, and what is used of the results later on. Rows whose exercises the section has
not written yet (absorption, meta-SAEs, logit lens) are held by the claims that it names. Maps and clusters (D7 to D9)
are in `test_arena_map`, autointerp (D14 to D21) in `test_arena_autointerp`, the study of a latent (D2) in
`tests/study`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import mlxterp
from mlxterp import SAETrainConfig, geometry, train_sae
from mlxterp.compat.saelens import SAE, HookedSAETransformer
from mlxterp.sae.pretrained import find_pretrained
from tests.geometry.planting import opened
from tests.geometry.test_absorption import PARENTS, Hierarchy, trained
from tests.geometry.test_enrichment import PLANTED, planted
from tests.geometry.test_meta_sae import ATOMS, an_sae, composed
from tests.geometry.test_universality import rearranged, sae_of
from tests.index.small import TEXTS
from tests.sae.test_from_pretrained import repository
from tests.small import checkpoint

RELEASE = "gpt2-small-res-jb-feature-splitting"
WIDTHS = [768 << n for n in range(7)]
CALLS = {
    "D3": (
        "SAE.from_pretrained", "device=str(device)", ")[0]", "HookedSAETransformer.from_pretrained", '"gpt2-small"',
        "device=device", RELEASE, "blocks.8.hook_resid_pre_{width}", "768 * (2**n)", "range(7)",
    ),
    "D3, used later": (".W_dec", "model.W_U", "model.to_str_tokens"),
    "D6": ("top activating examples", "latents which fire on both", "embedding similarity"),
    "D10": ("starts with E", "weakly project onto the feature direction", "causally mediate"),
    "D11": ("decomposed into more atomic", "recovers this structure", "more precise causal interventions"),
    "D12": ("universal features", "token enrichment analysis"),
}  # fmt: skip
"""Row → calls, arguments, attributes and names in its code; of rows without code, the words of its questions."""


def test_the_section_has_what_the_table_lists(shared):
    section = (shared / "spec" / "arena_understanding_latents.txt").read_text(encoding="utf-8")
    lacking = [word for words in CALLS.values() for word in words if word not in section]
    assert not lacking


# -- D1: terms ------------------------------------------------------------------------------------


def test_D1_the_guide_says_that_features_split_across_latents():
    page = Path(mlxterp.__file__).parent.parent / "docs" / "geometry.md"
    if not page.is_file():
        pytest.skip("the package was installed without its pages")
    [told] = re.findall(r"<!-- D1 -->\n\n?(.*?)\n\n", page.read_text(encoding="utf-8"), re.DOTALL)
    assert "feature" in told.lower() and re.search(r"split\s+across\s+several\s+\*?latents", told)


# -- D3: a family from the hub, and its model -----------------------------------------------------

PROGRAM = """
import json, sys
import numpy as np
import mlxterp
from mlxterp.compat.saelens import SAE, HookedSAETransformer

device, release, tokens = sys.argv[1], sys.argv[2], [[3, 14, 15, 92, 65, 35]]
ids = {width: f"blocks.8.hook_resid_pre_{width}" for width in [768 * 2**n for n in range(7)]}
saes = {width: SAE.from_pretrained(release, one, device=str(device))[0] for width, one in ids.items()}
gpt2 = HookedSAETransformer.from_pretrained("gpt2-small", device=device)
_, cache = gpt2.run_with_cache(tokens)
x = np.asarray(cache["blocks.8.hook_resid_pre"])[0]

family = mlxterp.load_family(release, widths=list(ids))
own = mlxterp.InterpretableModel("openai-community/gpt2", backend=saes[768].sae.backend)
plain = np.array(own.trace(tokens).activations["layers.8.resid_pre"])[0]
off = [np.abs(family[w].encode(plain) - np.asarray(sae.encode(x))).max() for w, sae in saes.items()]
print(json.dumps({
    "widths": family.widths, "component": family.same_component(), "wing": saes[768].sae.backend,
    "same": [family[w].fingerprint == sae.sae.fingerprint for w, sae in saes.items()],
    "shapes": [list(sae.W_dec.shape) for sae in saes.values()], "W_U": list(gpt2.W_U.shape),
    "activations": float(np.abs(plain - x).max()),
    "features": float(max(off)),
    "hook": [sae.cfg.hook_name for sae in saes.values()][-1],
}))
"""
WIDE = 16
"""Of the model's stream, which is small here."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub with a small GPT-2 of nine layers and the family's SAEs for it."""
    pytest.importorskip("huggingface_hub")
    home = tmp_path_factory.mktemp("hub")
    shape = {"n_embd": WIDE, "n_layer": 9, "n_inner": 64}
    checkpoint("gpt2", repository(home, "openai-community/gpt2"), **shape)
    draw = np.random.default_rng(0)
    for width in WIDTHS:
        name = f"blocks.8.hook_resid_pre_{width}"
        entry = find_pretrained(RELEASE, name)
        folder = repository(home, entry.repo_id) / entry.path
        folder.mkdir(parents=True)
        config = {
            "d_in": WIDE, "d_sae": width, "hook_point": "blocks.8.hook_resid_pre", "model_name": "gpt2-small"
        }  # fmt: skip
        (folder / "cfg.json").write_text(json.dumps(config))
        rows = draw.standard_normal((width, WIDE)).astype(np.float32)
        arrays = {
            "W_enc": np.ascontiguousarray(rows.T), "b_enc": np.full(width, -2, np.float32), "W_dec": rows,
            "b_dec": np.zeros(WIDE, np.float32),
        }  # fmt: skip
        save_file(arrays, folder / "sae_weights.safetensors")
    return home


def test_D3_the_family_and_its_model_are_loaded_by_their_names(hub, backend):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(hub)}
    device = {"mlx": "mlx", "torch": "cpu"}[backend]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, device, RELEASE], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["widths"] == WIDTHS and found["component"] == "layers.8.resid_pre"
    assert found["wing"] == backend and all(found["same"]) and found["hook"] == "blocks.8.hook_resid_pre"
    assert found["shapes"] == [[width, WIDE] for width in WIDTHS] and found["W_U"] == [WIDE, 200]
    assert found["activations"] < 1e-6 and found["features"] < 1e-5


# -- D6: one latent in two widths -----------------------------------------------------------------

SENTENCES = [text[:60] for text in TEXTS] * 6


@pytest.fixture
def split(letter_model) -> tuple[HookedSAETransformer, dict[int, SAE], Any]:
    """A model and two SAEs by SAELens's names, and the family that they are."""
    family = geometry.train_family(
        letter_model, 1, SENTENCES, widths=(16, 40), k=4, epochs=1, batch_size=128, verbose=False
    )
    saes = {int(width): SAE(sae) for width, sae in family.items()}
    own = mlxterp.load_family({width: sae.sae for width, sae in saes.items()})
    return HookedSAETransformer(letter_model), saes, own


def features_on(model: HookedSAETransformer, saes: dict[int, SAE], text: str) -> dict[int, np.ndarray]:
    """{width: (tokens, width)}, from one cached pass for each SAE."""
    found = {}
    for width, sae in saes.items():
        _, cache = model.run_with_cache_with_saes(model.interpretable.tokenize(text), saes=[sae])
        [name] = [name for name in cache if name.endswith("hook_sae_acts_post")]
        found[width] = np.array(model.interpretable.language_model.backend.get(cache[name]))[0]
    return found


def test_D6_wide_latents_on_the_examples_of_a_narrow_one(split):
    model, saes, family = split
    texts = [text for text in dict.fromkeys(SENTENCES) if len(text) > 1]
    by_text = [features_on(model, saes, text) for text in texts]
    narrow, wide = (np.concatenate([one[width] for one in by_text]) for width in (16, 40))
    latent = int((narrow > 0).sum(axis=0).argmax())
    rows = np.argsort(-narrow[:, latent], kind="stable")[:5]
    share = (wide[rows] > 0).mean(axis=0)
    x = np.concatenate(
        [np.array(model.interpretable.trace(text).activations[family[16].component])[0] for text in texts]
    )
    for one in family.firing_on(16, latent, at=40, index=x, n=5):
        assert one.share == pytest.approx(share[one.feature_id]) and one.share > 0
        assert one.density == pytest.approx((wide[:, one.feature_id] > 0).mean())


def test_D6_latents_of_both_that_fire_on_one_sequence(split):
    model, saes, family = split
    found, by_hand = (
        family.both_on("on a red mat", model=model.interpretable),
        features_on(model, saes, "on a red mat"),
    )
    for width, rows in by_hand.items():
        for position, row in enumerate(rows):
            strongest = found.at(width, position)
            assert [f for f, _ in strongest][:1] == ([int(row.argmax())] if row.any() else [])
            assert [value for _, value in strongest] == pytest.approx(
                sorted(row[row > 0], reverse=True)[:3], rel=1e-4
            )


def test_D6_both_are_searched_by_the_embedding_of_a_description(split):
    _, _, family = split
    family[16].concepts.load_concepts({0: "cats that sit", 1: "zebras"})
    family[40].concepts.load_concepts({7: "a cat", 9: "colours"})
    words = ("cat", "zebra", "colour")

    def embed(texts: list[str]) -> np.ndarray:
        return np.array([[text.count(word) + 0.1 for word in words] for text in texts])

    labels = {(16, 0): "cats that sit", (16, 1): "zebras", (40, 7): "a cat", (40, 9): "colours"}
    rows = embed([*labels.values(), "cats"])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = dict(zip(labels, rows[:-1] @ rows[-1], strict=True))
    found = family.search("cats", embed)
    assert {(one.width, one.feature_id) for one in found[:2]} == {(16, 0), (40, 7)}
    assert [one.score for one in found] == pytest.approx(
        [cosines[one.width, one.feature_id] for one in found]
    )


# -- D10: absorption ------------------------------------------------------------------------------


def test_D10_a_main_latent_fails_where_absorbing_latents_point_a_little_along_the_probe():
    world = Hierarchy.made(0)
    sae = trained(world, 0)
    has = world.known[:3000, 0] > 0
    known = geometry.probe(None, "toy", world.train[:3000][has], world.train[:3000][~has], control=False)
    measured = (world.test @ world.directions, world.test[:, 0] > 0)
    found = geometry.absorption(sae, known, measured, max_mains=1)
    kids = world.test[found.rows, world.kids(0)].any(axis=1)
    assert PARENTS == 12 and found.found.full[kids].mean() >= 0.3 and found.found.full[~kids].mean() <= 0.01
    main = sae.encode(measured[0][found.rows])[:, found.mains[0]]
    assert (main[found.found.full] == 0).all()
    for one in found.absorbers:
        assert 0.025 <= one.cosine < 0.99 and one.feature != found.mains[0]
    assert found.cosine.stands_out


def test_D10_the_absorbing_latent_mediates_in_its_place(backend):
    model, sae, stories = opened(backend)
    ball, dog = (
        [text[: text.index(word)][-200:] + word for text in stories if word in text][:40]
        for word in (" ball", " dog")
    )
    gpt = HookedSAETransformer(model)
    known = geometry.probe(gpt.interpretable, "blocks.1.hook_resid_post", ball, dog, control=False)
    own = geometry.absorption(sae, known, control=False).mains[0]
    active = sae.encode_sparse(known.examples.activations).indices
    silent = int(np.setdiff1d(np.arange(sae.d_hidden), active)[0])
    found = geometry.absorption(sae, known, mains=silent, control=False)
    assert [one.feature for one in found.absorbers] == [own]
    told = found.mediation(gpt.interpretable, n=4)
    assert told.absorber.fall.mean() > 5 * abs(told.random.fall.mean())


# -- D11: meta-SAEs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def meta() -> tuple[np.ndarray, np.ndarray, geometry.MetaSAE]:
    """Atoms, which three of them each row is made of, and a meta-SAE of the rows."""
    atoms, rows, ids = composed()
    sae = SAE(an_sae(rows, component="layers.1.resid_post"))
    return atoms, ids, geometry.train_meta_sae(sae.sae, ATOMS, 3, control=False)


def test_D11_a_meta_sae_is_an_sae_of_decoder_rows(meta):
    _, _, found = meta
    rows = np.delete(found.rows, found.held_out, axis=0)
    config = SAETrainConfig(
        d_hidden=ATOMS, k=3, architecture="batchtopk", batch_size=256, epochs=found.epochs, seed=0
    )
    by_hand = train_sae(rows, config, progress=False)
    assert np.array_equal(by_hand.W_dec, found.sae.W_dec)


def test_D11_latents_are_decomposed_into_more_atomic_ones(meta):
    atoms, ids, found = meta
    nearest = (found.sae.W_dec @ atoms.T).argmax(axis=1)
    parts = [{int(nearest[one]) for one, _ in found.decompose(f)} for f in range(200)]
    recalled = [len(part & set(map(int, own))) / 3 for part, own in zip(parts, ids[:200], strict=True)]
    assert np.mean(recalled) > 0.9


def test_D11_latents_that_split_from_one_share_a_meta_latent(meta):
    _, ids, found = meta
    children = {atom: np.flatnonzero((ids == atom).any(axis=1))[:6].tolist() for atom in range(20)}
    shared = found.shared(children)
    assert shared.value > 0.9 and shared.matched.stands_out and shared.random.stands_out


def test_D11_a_meta_latent_is_taken_out_and_the_others_stay(meta):
    _, _, found = meta
    first, second, third = found.decompose(5)[:3]
    vector = found.without(5, first[0])
    left = dict(zip(*found.sae.encode_sparse(vector.vector[None].astype(np.float32)).row(0), strict=True))
    assert vector.component == "layers.1.resid_post" and first[0] not in left
    assert left[second[0]] == pytest.approx(second[1], rel=0.3) and left[third[0]] == pytest.approx(
        third[1], rel=0.3
    )


# -- D12: universal features, token-set enrichment ------------------------------------------------


def test_D12_universal_features_are_found_again_whatever_their_order(backend):
    sae = sae_of(seed=3).on(backend)
    order = np.random.default_rng(0).permutation(40)
    other = rearranged(sae, order, np.linspace(0.5, 2, 40))
    x = np.random.default_rng(1).normal(size=(500, 16)).astype(np.float32)
    found: Any = geometry.universality(SAE(sae).sae, SAE(other).sae, activations=x)
    assert found.shared_share.value == 1 and np.array_equal(order[found.decoder.ids], np.arange(40))
    assert found.mmcs.stands_out and found.correlation.stands_out


def test_D12_a_latent_that_writes_a_set_of_tokens_is_enriched_for_it(backend):
    found = planted(backend)
    model = HookedSAETransformer(opened(backend).model)
    texts = geometry.TokenSets.standard(model.tokenizer).texts
    assert [found.of(i)[0]["set"] for i in range(len(PLANTED))] == list(PLANTED)
    assert texts == geometry.TokenSets.standard(opened(backend).model.tokenizer).texts
    assert found.passing.value > found.passing.control_mean
