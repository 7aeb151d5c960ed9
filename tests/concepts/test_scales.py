"""Factors of features: set, reset, kept as JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import InputError, UnknownFeatureError
from mlxterp.concepts import Concepts

WIDTH = 10
SCALES = st.dictionaries(
    st.integers(0, WIDTH - 1), st.just(1.0) | st.floats(allow_nan=False, allow_infinity=False)
)


@given(SCALES)
def test_scales_survive_json(scales):
    concepts, other = Concepts(WIDTH), Concepts(WIDTH)
    for feature, scale in scales.items():
        concepts.manipulate_concept(feature, scale)
    assert concepts.scales == {f: scales[f] for f in sorted(scales) if scales[f] != 1}
    assert list(concepts.scales) == sorted(concepts.scales)
    config = concepts.get_manipulation_config()
    assert json.loads(json.dumps(config)) == config
    other.load_manipulation_config(json.loads(json.dumps(config)))
    assert other.scales == concepts.scales
    other.load_manipulation_config(scales)
    assert other.scales == concepts.scales


def test_a_scale_of_one_resets_a_feature_and_a_name_stands_for_its_features():
    concepts = Concepts(WIDTH)
    concepts.load_concepts({1: ["family", "home"], 2: "home", 3: "science"})
    concepts.manipulate_concept("home", 1.5)
    concepts.manipulate_concept(np.int64(3), np.float32(0.5))  # pyright: ignore[reportArgumentType]
    assert concepts.scales == {1: 1.5, 2: 1.5, 3: 0.5}
    concepts.manipulate_concept(2, 1)
    assert concepts.get_manipulation_config() == {"1": 1.5, "3": 0.5}
    concepts.reset_manipulations("family")
    concepts.reset_manipulations(7)
    assert concepts.scales == {3: 0.5}
    concepts.manipulate_concept(0, -2)
    concepts.scales[0] = 5
    assert concepts.scales == {0: -2.0, 3: 0.5}
    concepts.reset_manipulations()
    assert concepts.scales == {} == concepts.get_manipulation_config()


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, "2", None, True, 10**400, [1.0]])
def test_a_scale_that_is_no_finite_number_is_refused_and_changes_nothing(scale):
    concepts = Concepts(WIDTH)
    concepts.manipulate_concept(1, 3)
    with pytest.raises(InputError, match="finite number"):
        concepts.manipulate_concept(2, scale)
    with pytest.raises(InputError, match=r"The scale of feature 2 is .* finite number"):
        concepts.load_manipulation_config({"1": 2.0, "2": scale})
    assert concepts.scales == {1: 3.0}


def test_features_and_names_that_are_not_there_are_refused():
    concepts = Concepts(WIDTH)
    for feature in (-1, WIDTH, np.int64(99)):
        with pytest.raises(
            UnknownFeatureError, match=rf"No feature {feature}: this SAE has 10, numbered 0 to 9"
        ):
            concepts.manipulate_concept(feature, 2)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UnknownFeatureError):
            concepts.reset_manipulations(feature)  # pyright: ignore[reportArgumentType]
    for feature in (1.0, True, None):
        with pytest.raises(InputError, match="is no feature"):
            concepts.manipulate_concept(feature, 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"No concept 'home': call sae.concepts.load_concepts\(…\) first"):
        concepts.manipulate_concept("home", 2)
    concepts.load_concepts({1: "home", 2: "science"})
    with pytest.raises(InputError, match="No feature is named 'hom'; there are 2 names, such as 'home'"):
        concepts.manipulate_concept("hom", 2)
    assert concepts.scales == {}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ([1], "Expected {feature: scale}, got list"),
        ({"1": 2.0, 1: 2.0}, "Feature 1 comes twice"),
        ({"x": 2.0}, "'x' is no feature"),
    ],
)
def test_a_config_that_is_wrong_changes_nothing(config, expected):
    concepts = Concepts(WIDTH)
    concepts.manipulate_concept(1, 3)
    with pytest.raises(InputError, match=expected):
        concepts.load_manipulation_config(config)
    with pytest.raises(UnknownFeatureError):
        concepts.load_manipulation_config({"0": 2.0, "10": 2.0})
    assert concepts.scales == {1: 3.0}


def test_there_is_no_sae_without_features_and_the_printed_form_says_what_is_there():
    for width in (0, -1, 2.0, None):
        with pytest.raises(InputError, match="d_hidden is"):
            Concepts(width)  # pyright: ignore[reportArgumentType]
    concepts = Concepts(WIDTH)
    concepts.load_concepts({1: "home"})
    concepts.manipulate_concept(1, 3)
    concepts.enable_text_tracking()
    assert repr(concepts) == "Concepts(10 features: 1 named, 1 scaled; 0 texts recorded, tracking on)"
