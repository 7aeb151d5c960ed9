"""How blocks add to the residual stream, found by numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import InterpretableModel
from mlxterp.anatomy.residual import Branch, Precision, find_rule
from tests.architectures import build, configs

RNG = np.random.default_rng(0)
PRE, A, M = (RNG.standard_normal((1, 8, 16)) for _ in range(3))
EXACT = Precision(4e-6)


def test_a_sequential_block_is_two_additions_around_a_middle():
    mid = PRE + A
    rule = find_rule(PRE, mid + 0.5 * M, {"norm": PRE, "norm2": mid, "mlp": M}, {"attn": A, "mlp": M}, EXACT)
    assert rule.kind == "sequential" and rule.middle == "norm2"
    assert rule.attn == Branch("attn", 1.0)
    assert rule.mlp is not None and rule.mlp.module == "mlp" and rule.mlp.scale == pytest.approx(0.5)


def test_the_outermost_of_equal_modules_is_named():
    rule = find_rule(PRE, PRE + A, {}, {"mixer.out": A, "mixer": A}, EXACT)
    assert (rule.kind, rule.attn) == ("single", Branch("mixer", 1.0))


def test_a_parallel_block_is_two_additions_at_once():
    rule = find_rule(PRE, PRE + A + M, {"norm": PRE}, {"attn": A, "mlp": M}, EXACT)
    assert (rule.kind, rule.attn, rule.mlp) == ("parallel", Branch("attn", 1.0), Branch("mlp", 1.0))


def test_what_is_not_a_module_is_known_by_subtraction():
    mid = PRE + A
    rule = find_rule(PRE, mid + M, {"norm2": mid}, {"attn": A}, EXACT)
    assert (rule.kind, rule.attn, rule.mlp) == ("middle", Branch("attn", 1.0), None)


def test_a_block_that_adds_nothing_known_has_no_rule():
    assert find_rule(PRE, M, {"norm": PRE}, {"attn": A}, EXACT).kind == "none"


TYPES = ("llama", "falcon_h1", "glm4", "gemma2", "cohere", "minicpm", "recurrent_gemma", "mamba", "olmo2")


@pytest.mark.parametrize("model_type", [t for t in TYPES if t in configs()])
def test_sixteen_bit_weights_give_the_same_rules(model_type):
    mx = pytest.importorskip("mlx.core")
    rules = []
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        raw = build(model_type)
        raw.set_dtype(dtype)
        model = InterpretableModel(raw)
        found = [model.anatomy._scan.rule(i) for i in range(model.n_layers)]
        rules.append([(r.kind, r.middle, _rounded(r.attn), _rounded(r.mlp)) for r in found])
    assert rules[0] == rules[1] == rules[2]


def _rounded(branch: Branch | None) -> tuple[str, float] | None:
    return None if branch is None else (branch.module, round(branch.scale, 1))
