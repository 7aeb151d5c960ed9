"""What users get wrong in geometry is named where it enters; what says the same in another form is taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, MlxterpWarning, SAECollection, SAEError, geometry
from mlxterp.geometry import TokenSets
from tests.geometry.families import COMPONENT, NARROW, WIDE, activations, family, parts, sae_of
from tests.geometry.planting import opened

ASK: Any = geometry
"""For what the type checker would not let through."""


def named(model: str, rows: np.ndarray, bias: float = -0.4) -> mlxterp.SAE:
    sae = sae_of(rows, bias)
    sae.metadata["model"] = model
    return sae


def refused(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


# -- families -------------------------------------------------------------------------------------


def test_a_family_of_two_models_is_refused_wherever_it_is_asked():
    one, other = named("gpt2", np.eye(NARROW, 16)), named("meta-llama/Llama-3", parts(), -0.75)
    mixed = SAECollection({NARROW: one, WIDE: other})
    for call in (
        lambda: mlxterp.load_family([one, other]),
        lambda: geometry.splitting(mixed, NARROW, WIDE, activations(200)),
        lambda: geometry.stitching(mixed, NARROW, WIDE, activations(200)),
        lambda: mixed.firing_on(NARROW, 0, WIDE, activations(200)),
        mixed.same_component,
    ):
        refused(call, SAEError, "of the model 'meta-llama/Llama-3', SAE .* of 'gpt2'")


@pytest.mark.parametrize(
    "same", ["openai-community/gpt2", "gpt2-small", "~/models/run7", "mlx-community/gpt2-4bit"]
)
def test_names_of_one_model_and_folders_are_no_two_models(same):
    one = named("gpt2", np.eye(NARROW, 16))
    assert SAECollection({NARROW: one, WIDE: named(same, parts(), -0.75)}).same_component() == COMPONENT
    assert SAECollection({NARROW: one, WIDE: sae_of(parts())}).same_component() == COMPONENT


def test_widths_may_be_one_or_several_of_any_kind():
    pandas = pytest.importorskip("pandas")
    both = family()
    both[NARROW].concepts.load_concepts({1: "red"})
    for widths in (
        NARROW,
        np.int64(NARROW),
        [NARROW],
        np.array([NARROW]),
        pandas.Series([NARROW]),
        iter([NARROW]),
    ):
        assert [one.width for one in ASK.search(both, "red", widths=widths)] == [NARROW]
    for widths in (np.array([NARROW]), pandas.Series([NARROW]), iter([NARROW]), np.int64(NARROW)):
        assert ASK.load_family(both, widths=widths).widths == [NARROW]
    for widths, words in (
        ([], "widths is empty"),
        ("8", "an entry of widths is '8'"),
        ([8.0], "an entry of widths"),
    ):
        refused(lambda widths=widths: ASK.load_family(both, widths=widths), InputError, words)


def test_what_a_search_cannot_use_is_named():
    both = family()
    both[NARROW].concepts.load_concepts({1: "red"})
    refused(lambda: ASK.search(both, "red", embed="all-MiniLM"), InputError, "expected a function from texts")
    refused(lambda: ASK.search(both, "red", indexes=[1]), InputError, "indexes is list")
    refused(lambda: family().search("red"), InputError, re.escape("indexes={width: FeatureIndex}"))


def test_activations_come_as_tables_lists_and_generators_and_texts_ask_for_their_model():
    pandas = pytest.importorskip("pandas")
    both, x = family(), activations(400)
    expected = geometry.splitting(both, NARROW, WIDE, x, control=False)
    columns = [f"x{i}" for i in range(16)]
    for given in (
        pandas.DataFrame(x, columns=columns),
        x.tolist(),
        (row for row in x),
        x.reshape(4, 100, 16),
    ):
        found = ASK.splitting(both, np.int64(NARROW), np.int32(WIDE), given, control=False)
        assert np.array_equal(found.is_child, expected.is_child)
    for texts in (["a", "b"], pandas.Series(["a", "b"]), np.array(["a", "b"]), (text for text in "ab"), "a"):
        refused(
            lambda t=texts: geometry.splitting(both, NARROW, WIDE, t),
            InputError,
            "need the model: model=model",
        )
    for wrong, words in (
        (None, "index is None"),
        (Path("x.npy"), "x.npy"),
        ({"a": x}, "no features of width 8"),
    ):
        refused(lambda w=wrong: geometry.splitting(both, NARROW, WIDE, w), InputError, words)


def test_activations_of_a_wing_are_taken_in_its_own_numbers(backend):
    both, x = family(), activations()
    if backend == "mlx":
        import mlx.core as mx

        given: Any = mx.array(x).astype(mx.bfloat16)
    else:
        import torch

        given = torch.from_numpy(x).bfloat16().requires_grad_()
    found = geometry.splitting(both, NARROW, WIDE, given, control=False)
    assert found.is_child.sum() == 18
    probe = geometry.probe(None, "x", given[:40], given[40:80], allow_weak=True, control=False)
    assert probe.says(given).shape == (4000,)


# -- probes and absorption ------------------------------------------------------------------------


def test_probes_take_rows_of_any_kind_and_name_an_empty_side():
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(40, 16)) + 3 * np.eye(16)[0], draw.normal(size=(40, 16))
    expected = geometry.probe(None, "x", one, other, control=False).f1.value
    for form in (np.ndarray.tolist, list, iter):
        assert geometry.probe(None, "x", form(one), form(other), control=False).f1.value == expected
    probe = ASK.probe
    for empty in ([], np.zeros((0, 16)), ()):
        refused(
            lambda e=empty: probe(None, "x", one, e), InputError, "negative holds no texts or activations"
        )
    refused(lambda: probe(None, None, one, other), InputError, "component is None")
    known = probe(None, "x", one, other, control=False)
    refused(lambda: known.says(np.full((2, 16), np.nan)), InputError, "not finite")


def test_an_sae_of_another_place_than_the_probe_is_told(backend):
    model, sae, stories = opened(backend)
    ball, dog = (
        [text[: text.index(word)][-60:] + word for text in stories if word in text][:12]
        for word in (" ball", " dog")
    )
    here = geometry.probe(model, "blocks.1.hook_resid_post", ball, dog, allow_weak=True, control=False)
    assert here.component == "layers.1.resid_post"
    there = geometry.probe(model, "layers.2.resid_post", ball, dog, allow_weak=True, control=False)
    with pytest.warns(MlxterpWarning, match=r"reads layers\.2\.resid_post, the SAE was trained on layers\.1"):
        geometry.absorption(sae, there, allow_weak=True, control=False)


# -- meta-SAEs, co-activation, sets ---------------------------------------------------------------


def test_labels_of_a_meta_sae_may_be_a_column_and_their_keys_are_numbers():
    pandas = pytest.importorskip("pandas")
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    meta = geometry.train_meta_sae(rows, 6, 2, epochs=1, control=False, verbose=False)
    words = [f"word{i % 5}" for i in range(60)]
    expected = meta.label(0, words)
    for given in (
        pandas.Series(words),
        np.array(words),
        iter(words),
        {np.int64(i): w for i, w in enumerate(words)},
    ):
        assert meta.label(0, given) == expected
    refused(lambda: meta.label(0, {"x": "a"}), InputError, "labels has the key 'x'")
    refused(lambda: ASK.train_meta_sae(Path("sae")), InputError, "got PosixPath|got WindowsPath")


def test_what_co_activation_cannot_use_is_named():
    some = family()[WIDE].encode_sparse(activations(200))
    texts = (i // 9 for i in range(200))
    assert ASK.coactivation(some, level="text", text_ids=texts, control=False).n == 23
    where = np.zeros(200, np.int64)
    refused(
        lambda: geometry.coactivation(some, level="window", text_ids=where, positions=where - 1),
        InputError, "positions count from 0",
    )  # fmt: skip
    found = geometry.coactivation(some, control=False)
    refused(lambda: ASK.apart(family()[WIDE], found), InputError, "found is SAE")
    refused(lambda: geometry.apart(found, np.zeros((WIDE, 16))), InputError, "Fewer than two directions")


def test_a_set_that_the_tokenizer_lacks_says_why(demo):
    sets = TokenSets.standard(demo.model.tokenizer)
    for call in (lambda: sets["Hangul"], lambda: sets.only("Hangul")):
        refused(call, InputError, r"'Hangul': left out \(0 tokens of this tokenizer\)")
    refused(lambda: sets.only("nouns", "colours"), InputError, "No set 'colours'. There are: ")
    assert "Hangul" not in sets and sets.get("Hangul") is None


def test_two_models_are_aligned_by_saes(demo):
    refused(
        lambda: ASK.aligned_activations(demo.model, 3, demo.model, demo.sae, ["a b"]),
        InputError,
        "a is an SAE",
    )


# -- what users hold --------------------------------------------------------------------------------


def test_a_label_of_another_width_is_no_label_of_the_narrow_one():
    both = family()
    both[NARROW].concepts.load_concepts({1: "red"})
    found: Any = geometry.splitting(both, NARROW, WIDE, activations(400), control=False)
    assert found.label(np.int64(NARROW), 1) == found.label(NARROW, 1) != ""
    for bad in (NARROW + 1, [], None, True, np.array([NARROW, WIDE])):
        refused(lambda bad=bad: found.label(bad, 1), InputError, "width is .*; this is of the widths")
    refused(lambda: found.label(NARROW, NARROW), mlxterp.UnknownFeatureError, f"No feature {NARROW}")


def test_scores_of_a_map_come_in_every_form_or_are_named():
    torch = pytest.importorskip("torch")
    drawn: Any = ASK.decoder_map(family(), method="pca")
    ones = torch.ones(len(drawn), requires_grad=True)
    for given in (ones, ones.bfloat16(), [1.0] * len(drawn)):
        assert drawn.with_scores({"a": given}).scores["a"].tolist() == [1.0] * len(drawn)
    refused(lambda: drawn.with_scores({"a": ["x"]}), InputError, "no array of numbers")
    refused(lambda: drawn.with_scores(None), InputError, "scores is {name: values}, got NoneType")


@pytest.mark.parametrize(
    "labels", [[None] * 10 + [1] * 10, ["a"] * 10 + [float("nan")] * 10, ["a"] * 10 + [2] * 10]
)
def test_labels_that_are_missing_or_mixed_are_named(labels):
    pytest.importorskip("sklearn")
    sae: Any = sae_of(parts())
    column = np.array(labels, dtype=object)
    refused(
        lambda: sae.probe((activations(20), column), ks=[1], verbose=False),
        InputError,
        "is missing|several types",
    )


def test_examples_of_a_concept_belong_together():
    torch = pytest.importorskip("torch")
    rows = activations(6)
    labels = torch.tensor([True, False] * 3)
    found: Any = geometry.ConceptExamples(torch.tensor(rows), ASK.ConceptExamples(rows, labels).labels)
    assert found.labels.tolist() == labels.tolist() and len(found.take([0, 2])) == 2
    for bad in ("x", [0.5], [99], torch.ones(2, requires_grad=True)):
        refused(lambda bad=bad: found.take(bad), InputError, "rows are")
    for name in ("texts", "positions", "tokens"):
        refused(
            lambda name=name: ASK.ConceptExamples(rows, labels, **{name: ["a", "b"]}),
            InputError,
            f"{name} are",
        )


def test_arguments_of_another_kind_are_named_where_they_enter():
    rows, two = activations(40), family()
    found: Any = geometry.coactivation(mlxterp.SparseFeatures.from_dense(np.abs(rows)), control=False)
    for call, words in (
        (lambda: found.graph(5, "phi", "names"), "label is str; expected a function"),
        (lambda: ASK.random_like(rows, np.array([1, 2])), "kind=array"),
        (lambda: mlxterp.load_family(np.array(3)), "Expected {key: SAE}"),
        (lambda: ASK.probe(None, "x", rows, -rows, draws=10**20), "draws is 10+; it must be"),
        (lambda: ASK.coactivation(found.rows, level="text", text_ids=[[1], [1, 2]]), "text_ids is"),
    ):
        refused(call, InputError, words)
    assert mlxterp.load_family(two, widths=np.array(NARROW)).widths == [NARROW]


def test_a_model_without_a_name_is_no_other_model():
    one, other = named("gpt2", np.eye(NARROW, 16)), named("llama", parts(), -0.75)
    other.metadata["model_type"] = "llama"
    assert mlxterp.load_family([one, other]).widths == [NARROW, WIDE]


@pytest.mark.parametrize("name", ["epochs", "control_epochs"])
def test_a_meta_sae_that_would_never_be_done_is_refused(name):
    refused(
        lambda: ASK.train_meta_sae(parts(), 4, **{name: 10**20}),
        InputError,
        r"it must be an integer in \[1, 1000000\]",
    )
