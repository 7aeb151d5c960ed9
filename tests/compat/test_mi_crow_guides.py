"""Mi-Crow's two guides run as they stand, with the imports of `mlxterp.compat.mi_crow`, on a real model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InterpretableModel
from mlxterp.compat.mi_crow import LanguageModel, TopKSae
from tests.compat.guides import CORE, CSV, DISCOVERY, left_over, state_of, trained_sae
from tests.ranking import assert_tracked
from tests.stories import brute_force

LAYER = "transformer.h.0.attn.c_proj"
"""Where the guide's c_attn is three times as wide as any SAE of its size."""
N_LATENTS, K = 256, 8
CONTEXT = f"""\
# "After training an SAE, you can discover concepts by:"
sae.load_state_dict(torch.load("sae_model.pt"))
handle = lm.attach_sae(sae, layer_signature="{LAYER}")
dataset_texts = dataset.texts
"""

pytest.importorskip("torch")


def test_the_blocks_are_all_the_code_of_the_guides(shared):
    discovery, core = shared / "spec/mi_crow_concept_discovery.txt", shared / "spec/mi_crow_core_concepts.txt"
    with_csv = [*DISCOVERY[:5], CSV, *DISCOVERY[5:]]
    assert left_over(discovery, with_csv) == []
    sentence = (
        "forwards()and generation withgenerate() - Layer Access: Inspect and manipulate individual layers"
    )
    assert left_over(core, CORE) == [sentence]
    for i in range(len(CORE)):  # what is left out is noticed
        assert len(left_over(core, CORE[:i] + CORE[i + 1 :])) > 1
    for i in range(len(with_csv)):
        assert left_over(discovery, with_csv[:i] + with_csv[i + 1 :])


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory) -> Path:
    """Where the guides run: with an SAE in Mi-Crow's layout, and the curated table."""
    import torch

    place = tmp_path_factory.mktemp("guides")
    model = InterpretableModel(str(shared / "data/models/tinystories_instruct_3m_gpt2"))
    stories = (shared / "data/text/tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    store = mlxterp.collect_activations(
        model,
        [text for text in stories if text.strip()][:60],
        LAYER,
        place / "x",
        dtype="float32",
        progress=False,
    )
    x = np.concatenate([store.read(i, store.components[0]) for i in range(len(store.counts))])
    sae = trained_sae(x, N_LATENTS, K)
    torch.save(state_of(sae, "gpt2lmheadmodel_transformer_h_0_attn_c_proj"), place / "sae_model.pt")
    (place / "curated_concepts.csv").write_text(CSV)
    return place


@pytest.fixture
def run(shared, folder, monkeypatch, backend) -> Callable[[str, dict[str, Any]], None]:
    """Runs a block of a guide with the guide's own imports, sizes, model and layer replaced."""
    monkeypatch.chdir(folder)
    replaced = {
        "from mi_crow.": "from mlxterp.compat.mi_crow.",
        '"gpt2"': repr(str(shared / "data/models/tinystories_instruct_3m_gpt2")),
        "transformer.h.0.attn.c_attn": LAYER,
        "n_latents=4096": f"n_latents={N_LATENTS}",
        "n_inputs=768": "n_inputs=128",
        "k=32": f"k={K}",
    } | ({"device=device,": 'device="mlx",'} if backend == "mlx" else {})  # the guide's line gives "cpu" here

    def execute(block: str, names: dict[str, Any]) -> None:
        for theirs, ours in replaced.items():
            block = block.replace(theirs, ours)
        exec(compile(block, "the guide", "exec"), names)

    return execute


@pytest.fixture
def names(run) -> dict[str, Any]:
    """After the model was loaded."""
    found: dict[str, Any] = {}
    run(CORE[0], found)
    return found


pytestmark = pytest.mark.filterwarnings("ignore:There is no device 'cuda' here:mlxterp.MlxterpWarning")


def searched(lm: LanguageModel, sae: TopKSae, texts: list[str]) -> dict[int, list[tuple[str, float]]]:
    return brute_force(lm.model, sae, list(dict.fromkeys(texts)), "layers.0.attn.c_proj")


def test_the_concept_discovery_guide_runs(run, names, backend, capsys):
    for block in DISCOVERY:
        run(block, names)
    lm, sae, dataset = names["lm"], names["sae"], names["dataset"]
    assert lm.model.language_model.backend.name == backend
    assert sae.k == K and sae.d_hidden == N_LATENTS

    top_texts = names["top_texts"]
    assert_tracked(top_texts, searched(lm, sae, dataset.texts), 10)
    assert json.loads(Path("top_texts.json").read_text()) == {
        str(neuron): [list(pair) for pair in pairs] for neuron, pairs in top_texts.items()
    }
    flat = json.loads(Path("top_texts_flat.json").read_text())
    assert [(row["neuron"], row["text"], row["activation"]) for row in flat] == [
        (neuron, *pair) for neuron, pairs in top_texts.items() for pair in pairs
    ]
    assert {f: [c.name for c in named] for f, named in sae.concepts.names.items()} == {
        0: ["family relationships", "parent-child interactions"],
        1: ["nature and outdoors", "animals and wildlife"],
        2: ["scientific terminology", "academic language"],
    }
    assert names["sorted_neurons"][:10] == [
        (neuron, pytest.approx(mean)) for neuron, mean in _most_active(top_texts)
    ]
    assert names["concept_counts"] == dict.fromkeys([r.split(",")[1] for r in CSV.splitlines()[1:]], 1)
    assert all(act > 0.5 for pairs in names["filtered_texts"].values() for _, act in pairs)
    out = capsys.readouterr().out
    assert (
        "Most active neurons:" in out and "Concepts: ['nature and outdoors', 'animals and wildlife']" in out
    )

    outputs, encodings = names["outputs"], names["encodings"]  # of the 300 texts
    longest = max(len(lm.model.tokenize(text)) for text in dataset.texts)
    assert tuple(outputs.logits.shape) == (300, longest, lm.model.vocab_size)
    assert tuple(encodings["input_ids"].shape) == tuple(encodings["attention_mask"].shape) == (300, longest)
    after = sae.concepts.get_top_texts()  # of 6 distinct texts by now, cut to 5
    assert max(map(len, after.values())) <= 5
    assert_tracked(after, searched(lm, sae, [*dataset.texts, *names["test_texts"]]), 5)


def _most_active(top_texts: dict[int, list[tuple[str, float]]]) -> list[tuple[int, float]]:
    means = {neuron: sum(v for _, v in pairs) / len(pairs) for neuron, pairs in top_texts.items()}
    return sorted(means.items(), key=lambda pair: pair[1], reverse=True)[:10]


def test_the_core_concepts_guide_runs(run, names):
    run(CORE[5], names)  # a data set, for `dataset_texts`
    run(CORE[1], names)
    with pytest.raises(mlxterp.InputError, match="enable_text_tracking"):
        names["sae"].concepts.get_top_texts()
    run(CONTEXT, names)
    for block in CORE[2:]:
        run(block, names)
    lm, sae = names["lm"], names["sae"]
    assert_tracked(names["top_texts"], searched(lm, sae, names["dataset_texts"]), 10)
    assert sae.concepts.scales == {42: 0.5}
    assert names["dataset"].name == "wikitext" and names["dataset"].text_field == "text"
    assert names["store"].base_path == Path("store")


def test_manipulation_is_compared_with_and_without_controllers(run, names):
    run(CORE[5], names)
    run(CORE[1], names)
    run(CONTEXT, names)
    lm, sae, prompt = names["lm"], names["sae"], ["Once upon a time there was a dog."]
    get = lm.model.language_model.backend.get
    before = get(lm.inference.execute_inference(prompt)[0].logits)
    feature = lm.model.get_top_features_for_text(prompt[0], sae, 0, "attn.c_proj", top_k=1)[0][0]
    sae.concepts.manipulate_concept(neuron_idx=feature, scale=3.0)
    changed = get(lm.inference.execute_inference(prompt, with_controllers=True)[0].logits)
    assert np.array_equal(
        get(lm.inference.execute_inference(prompt, with_controllers=False)[0].logits), before
    )
    assert not np.allclose(changed, before, atol=1e-3)
    text, plain = lm.generate(prompt[0], 8), lm.generate(prompt[0], 8, with_controllers=False)
    sae.concepts.reset_manipulations()
    assert np.array_equal(get(lm.forwards(prompt)[0].logits), before)
    assert lm.generate(prompt, 8) == [plain] and isinstance(text, str)
    names["handle"].detach()
