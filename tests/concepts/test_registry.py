"""The registry of names: the guide's dictionary, to a file and back, and nothing odd let in."""

from __future__ import annotations

import json
import stat
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import Explanation, FeatureRegistry, InputError, SAEError
from mlxterp.concepts import Concepts
from tests.sae.test_sae import make_sae

words = st.text(max_size=12)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
entries = st.fixed_dictionaries(
    {"name": names},
    optional={
        "description": words,
        "examples": st.lists(words, max_size=3),
        "confidence": words | st.floats(allow_nan=False, allow_infinity=False),
        "notes": words,
        "source": names,
    },
)


@given(st.dictionaries(st.integers(0, 10**9), entries, max_size=5))
def test_saving_and_loading_gives_the_same_back_as_plain_json(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("registry") / "sae_features.json"
    FeatureRegistry(found).save(path)
    assert FeatureRegistry.load(path) == found
    assert json.loads(path.read_text()) == {str(feature): entry for feature, entry in found.items()}
    assert {int(k): v for k, v in FeatureRegistry(json.loads(path.read_text())).items()} == found


def test_it_is_a_dictionary_by_feature_id():
    registry = FeatureRegistry({"7": {"name": "seven"}, 3: {"name": "three"}})
    assert list(registry) == [3, 7] and len(registry) == 2 and 7 in registry and 8 not in registry
    one: Any = np.int64(1)
    registry[one] = {"name": "one", "examples": ("a", "b")}
    assert registry[1]["examples"] == ["a", "b"] and registry.label(one) == "one"
    del registry[7]
    assert registry.label(7) is None and registry.get(7) is None
    with pytest.raises(KeyError):
        registry[7]


def test_what_was_put_in_is_copied():
    mine: dict[str, Any] = {"name": "one", "examples": ["a"]}
    registry = FeatureRegistry({1: mine})
    mine["examples"].append("b")
    mine["name"] = "other"
    assert registry[1] == {"name": "one", "examples": ["a"]}


def test_a_search_finds_every_word_in_any_case_names_first():
    registry = FeatureRegistry(
        {
            1: {"name": "places", "notes": "strong for Gold Coast"},
            2: {"name": "Golden things", "examples": ["a gold medal"]},
            3: {"name": "sums"},
        }
    )
    assert registry.search("GOLD") == [2, 1]
    assert registry.search("medal golden") == [2] and registry.search("silver") == []
    assert registry.search("") == [1, 2, 3]


BAD: list[Any] = [
    [1], 3, "x", {"a": {"name": "x"}}, {-1: {"name": "x"}}, {1.0: {"name": "x"}}, {True: {"name": "x"}},
    {"01": {"name": "x"}}, {"٣": {"name": "x"}}, {"9" * 5000: {"name": "x"}}, {1: {"name": "a"}, "1": {"name": "b"}},
    {1: None}, {1: []}, {1: {}}, {1: {"name": 3}}, {1: {"name": "x", "notes": []}}, {1: {"name": "x", "tags": []}},
    {1: {"name": "x", "examples": "abc"}}, {1: {"name": "x", "examples": [1]}}, {1: {"name": "x", "description": None}},
    {1: {"name": "x", "confidence": float("nan")}}, {1: {"name": "x", "confidence": True}}, {"sae": "abc"}, {None: {}},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=[str(i) for i in range(len(BAD))])
def test_anything_else_is_refused_with_what_came(bad):
    with pytest.raises(InputError, match=r"Feature|feature|Expected|bound"):
        FeatureRegistry(bad)


FILES = [
    b"", b"{", b"[]", b"null", b'{"1": {"name": "a"}, "1": {"name": "b"}}', b'{"1": {"name": "a", "name": "b"}}',
    b'{"1": {"name": "a", "confidence": NaN}}', b'{"1": {"name": "a", "confidence": 1e999}}', b"\xff\xfe\x00",
    b"[" * 200_000, b'{"1": {"name": ' + b'{"a":' * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("content", FILES, ids=[str(i) for i in range(len(FILES))])
def test_a_damaged_or_hostile_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "sae_features.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"sae_features\.json"):
        FeatureRegistry.load(path)


def test_a_file_that_is_not_there_or_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        FeatureRegistry.load(tmp_path / "nothing.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        FeatureRegistry().save(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]  # no draft is left


def test_an_entry_spoilt_since_leaves_the_old_file(tmp_path):
    path = tmp_path / "sae_features.json"
    registry = FeatureRegistry({1: {"name": "one"}})
    registry.save(path)
    registry[1]["examples"] = float("nan")
    with pytest.raises(InputError, match="examples"):
        registry.save(path)
    assert FeatureRegistry.load(path).label(1) == "one"
    assert not stat.S_IMODE(path.stat().st_mode) & 0o111


def test_names_bound_to_an_sae_are_refused_on_another(tmp_path):
    sae, other = make_sae(), make_sae(seed=5)
    path = FeatureRegistry({1: {"name": "one"}}, sae).save(tmp_path / "f.json")
    assert FeatureRegistry.load(path, sae).label(1) == "one"
    assert FeatureRegistry.load(path).fingerprint == sae.fingerprint
    with pytest.raises(SAEError, match="another SAE"):
        FeatureRegistry.load(path, other)
    with pytest.raises(SAEError, match="this SAE has 40"):
        FeatureRegistry({40: {"name": "x"}}, sae)
    with pytest.raises(InputError, match="fingerprint"):
        FeatureRegistry({}, sae=3)
    plain = FeatureRegistry({1: {"name": "one"}}).save(tmp_path / "g.json")
    assert FeatureRegistry.load(plain, other).fingerprint == other.fingerprint


@pytest.mark.parametrize("confidence", [np.float32(0.5), np.int64(1), np.array(0.5)])
def test_numbers_of_any_library_are_kept_as_numbers(confidence, tmp_path):
    registry = FeatureRegistry({3: {"name": "cats", "confidence": confidence}})
    assert FeatureRegistry.load(registry.save(tmp_path / "names.json"))[3]["confidence"] == float(confidence)


def test_what_a_registry_takes_it_reads_again(tmp_path):
    largest = 10**18 - 1
    path = FeatureRegistry({largest: "far", np.int64(3): "near"}).save(tmp_path / "names.json")
    assert dict(FeatureRegistry.load(path)) == {3: {"name": "near"}, largest: {"name": "far"}}
    with pytest.raises(InputError, match="is no feature id"):
        FeatureRegistry({largest + 1: "too far"})


def test_a_name_says_who_gave_it_and_an_explainers_is_nobodys_name():
    registry = FeatureRegistry({1: "ball", 2: {"name": "toys", "source": "gpt-x", "notes": "n"}})
    assert (registry.source(1), registry.source(2), registry.source(3)) == ("person", "gpt-x", None)
    concepts = Concepts(4)
    concepts.load_concepts(registry)
    assert list(concepts.names) == [1]
    [told] = concepts.explanations[2]
    assert (told.text, told.source, told.provenance) == ("toys", "gpt-x", {"notes": "n"})
    assert FeatureRegistry({5: Explanation(5, "toys", "gpt-x")}).source(5) == "gpt-x"


@pytest.mark.parametrize("entry", ["", " ", {"name": "\n"}, {"name": "a", "source": ""}])
def test_an_empty_name_is_none(entry):
    with pytest.raises(InputError, match="is empty"):
        FeatureRegistry({1: entry})
