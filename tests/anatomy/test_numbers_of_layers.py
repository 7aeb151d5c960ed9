"""Layers and calls are given by whole numbers of any library."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import ComponentError, InputError
from tests.tiny import WordTokenizer, tiny_llama


@pytest.mark.parametrize("number", [1, np.int64(1), np.uint8(1), np.array(1)])
def test_a_modules_list_takes_numbers_of_any_library(number):
    pytest.importorskip("mlx_lm")
    model = tiny_llama(2, tokenizer=WordTokenizer())
    with model.trace("the cat"):
        expected = np.array(model.layers[1].mlp.output)
        assert np.array_equal(np.array(model.model.model.layers[number].mlp.output), expected)
        assert np.array_equal(np.array(model.layers[number].mlp.output), expected)
        for bad in (1.0, True, "1", None):
            with pytest.raises(ComponentError):
                model.model.model.layers[bad]  # type: ignore[index]
            with pytest.raises(InputError):
                model.layers[1].mlp.call(bad)  # type: ignore[arg-type]
