"""Results by layer: what names a layer, and what is said of one that is not there."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import ComponentError
from mlxterp.core.by_layer import layer_key


def test_a_layer_is_named_by_any_integer():
    assert layer_key(np.int64(3), (1, 3)) == layer_key(-1, (1, 3), 4) == 3


@pytest.mark.parametrize("given", [0, 4, -1, "layers.1", None, [1], slice(0, 2), 1.0, True])
def test_another_is_a_component_error_and_a_key_error_with_the_layers_there_are(given):
    with pytest.raises(ComponentError, match="It has: 1, 3") as raised:
        layer_key(given, (1, 3))
    assert isinstance(raised.value, KeyError)
    assert ("counted from the end" in str(raised.value)) == (given == -1)
