"""What an edit cannot do is said with what to do instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import SAE, InputError, InterpretableModel, SAEError, UnknownFeatureError, steering
from mlxterp.steering import add_direction, amplify, feature
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights

ANY: Any = steering
"""For what the type checker would not let through."""


@pytest.fixture
def model() -> InterpretableModel:
    pytest.importorskip("mlx.core")
    from tests.tiny import tiny_llama

    return tiny_llama(vocab_size=100)


def sae_of(width: int, **metadata: Any) -> SAE:
    zeros = np.zeros((width, 8), np.float32)
    return SAE(SAEWeights(zeros, zeros[0], zeros.T.copy(), np.zeros(width, np.float32)), TopK(2), metadata)


@pytest.mark.parametrize("bad", [[1, 2], "5", "ball", 1.5, None, np.array([1, 2])])
def test_what_is_no_feature_id_is_told_from_a_feature_that_is_not_there(bad):
    sae = sae_of(16)
    for make in (lambda f: amplify(sae, f, 2.0), lambda f: feature(sae, f)):
        with pytest.raises(
            UnknownFeatureError, match=r"its id, an integer; .* list of edits\. index\.search"
        ):
            make(bad)
        with pytest.raises(UnknownFeatureError, match=r"No feature 8: this SAE has 8, numbered 0 to 7\.$"):
            make(8)


def test_another_width_names_both_arguments_and_the_saes_own_model(model):
    place = "layers.1.mlp"
    here = r"puts out \d+ numbers .* has 7\. Choose another component \(at=…, or layer_signature=… of attach_sae\)"
    with pytest.raises(SAEError, match=here + r", or the model that it was trained on \(gpt2-small\)\."):
        model.attach_sae(sae_of(7, model="gpt2-small"), place)
    with pytest.raises(SAEError, match=here + r", or the model that it was trained on\."):
        model.attach_sae(sae_of(7), place)
    with pytest.raises(SAEError, match=here), model.steer(add_direction(np.ones(7), 1.0, at=place)):
        pass


@pytest.mark.parametrize("bad", [0, 2.5, "", [], True, np.array([1, 2])])
def test_a_place_that_is_no_component_is_named_and_never_passed_over(bad):
    vector = steering.SteeringVector("layers.1.resid_post", [1.0, 2.0])
    for make in (
        lambda: ANY.add_direction(vector, at=bad),
        lambda: ANY.project_out(vector, at=bad),
        lambda: ANY.direction(vector, at=bad),
        lambda: ANY.add_direction(vector).at(bad),
    ):
        with pytest.raises(InputError, match=r"at=.* names no component"):
            make()


def test_settings_of_edits_are_true_or_false_and_edits_are_edits():
    with pytest.raises(InputError, match="preserve_norm is 'no'; it must be True or False"):
        ANY.add_direction([1.0, 2.0], preserve_norm="no")
    with pytest.raises(InputError, match="edit is None; it must be an Edit"):
        ANY.norm_preserving(None)
    with pytest.raises(InputError, match="Positions are integers"):
        ANY.add_direction([1.0, 2.0], positions=[[1], [1, 2]])
