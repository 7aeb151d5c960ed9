"""Vectors in blocks give the products that they give one by one."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp.backends.host.columns import ColumnPlan
from mlxterp.core.frozen import SourceVectors


@pytest.mark.parametrize("seed", range(8))
def test_products_in_blocks_are_those_of_each_vector(seed):
    draw = np.random.default_rng(seed)
    rows, positions, width = 3, 5, 4
    gradients = {
        (layer, 0): draw.normal(size=(rows, positions, width)).astype(np.float32) for layer in (0, 1)
    }
    columns = []
    for layer in (0, 1, 0):  # a source may come twice; a position may have many vectors, or none
        n = int(draw.integers(0, 30))
        at = np.sort(draw.choice(positions, n, p=draw.dirichlet(np.full(positions, 0.5))))
        columns.append(SourceVectors((layer, 0), at, draw.normal(size=(n, width)).astype(np.float32)))
    plan = ColumnPlan(columns)
    products = [gradients[one.key].transpose(1, 0, 2)[one.positions] @ one.vectors for one in plan.blocks]
    expected = [np.einsum("rnw,nw->rn", gradients[one.key][:, one.positions], one.vectors) for one in columns]
    assert np.allclose(plan.gathered(products), np.concatenate(expected, axis=1), atol=1e-5)
