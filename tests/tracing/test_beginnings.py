"""What prompts begin with alike is read once, and the texts are those of each prompt alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from mlxterp import InterpretableModel, MlxterpWarning, steering
from mlxterp.backends.host.prefill import prefilled
from mlxterp.backends.host.row_passes import Reading
from mlxterp.core.continuations import Continuation
from mlxterp.core.positions import first_position
from mlxterp.core.sites import Site, SiteEdit
from mlxterp.interventions import add_vector
from tests.architectures import build, configs
from tests.edits.test_edits import PLACE, make_sae
from tests.tracing.together import compared

MLX = ("llama", "gemma3", "gpt_oss", "mamba", "jamba")
TORCH = ("llama", "gemma3_text", "bloom", "mamba", "jamba")
BEGINNING = 24


def prompts(vocabulary: int, lengths: tuple[int, ...] = (1, 4, 4, 9)) -> list[list[int]]:
    """Prompts with one beginning and so many tokens of their own."""
    rng = np.random.default_rng(0)
    shared = rng.integers(0, vocabulary, BEGINNING).tolist()
    return [[*shared, *rng.integers(0, vocabulary, n).tolist()] for n in lengths]


def check(model: InterpretableModel, given: list[list[int]], **options: Any) -> None:
    """Every text is that of its prompt alone, or parted at a tie."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        found = compared(model, given, max_tokens=5, **options)
    assert found.equal + len(found.ties) == len(given) and len(found.ties) <= 1


@pytest.mark.parametrize("model_type", MLX)
def test_mlx_architectures_give_together_what_they_give_alone(model_type):
    pytest.importorskip("mlx_lm")
    if model_type not in configs():
        pytest.skip("its shape stands in ../shared")
    model = InterpretableModel(build(model_type))
    check(model, prompts(model.vocab_size))


@pytest.mark.parametrize("model_type", TORCH)
def test_torch_architectures_give_together_what_they_give_alone(model_type):
    tiny = pytest.importorskip("tests.backends.tiny_torch").tiny
    check(InterpretableModel(tiny(model_type).model), prompts(61))


def test_edits_act_as_alone(model):
    sae, given = make_sae(), prompts(model.vocab_size)
    one = steering.add_feature(sae, 3, 4.0)
    own = [steering.add_feature(sae, f, 4.0) for f in range(len(given))]
    later = [steering.add_feature(sae, f, 4.0, positions="generated") for f in range(len(given))]
    vectors = np.random.default_rng(2).standard_normal((len(given), model.d_model)).astype(np.float32)
    for steer in (one, own, later, [None, one, one, None]):
        check(model, given, steer=steer)
    for position in (3, BEGINNING):
        changes = [{PLACE: add_vector(v, positions=position)} for v in vectors]
        check(model, given, interventions=changes)


def test_identical_prompts_differ_by_their_seeds_alone(model):
    same = [prompts(model.vocab_size, (4,))[0]] * 4
    check(model, same, temperature=0.9, seed=[1, 2, 3, 4])


def read(model: InterpretableModel, edits: list[list[SiteEdit]], shared: int = 8) -> int:
    """How many tokens are read of prompts with these edits."""
    given = prompts(model.vocab_size, tuple(range(4, 4 + len(edits))))
    rows = [Continuation(ids, 1, edits=own) for ids, own in zip(given, edits, strict=True)]
    language_model: Any = model.language_model
    passes = language_model.passes(rows)
    counted, plain = [], passes.read
    passes.read = lambda batch, ids: (counted.append(ids.size), plain(batch, ids))[1]
    prefilled(passes, rows, range(len(rows)), Reading(2048, shared=shared))
    return sum(counted) + (0 if passes.reads_last else len(rows))


def edit(model: InterpretableModel, first: int = 0, by_token: bool = True) -> SiteEdit:
    """One that changes nothing."""
    return SiteEdit(
        Site(model.language_model.layers[0]), lambda x, _run, _n: x, by_token=by_token, first=first
    )


def test_a_beginning_is_read_once_where_all_edits_of_it_are_the_same(model):
    own = sum(range(4, 8))
    once, each = BEGINNING + own, 4 * BEGINNING + own
    same, many = edit(model), edit(model, by_token=False)
    assert read(model, [[]] * 4) == once
    assert read(model, [[same]] * 4) == once
    assert read(model, [[edit(model, BEGINNING)] for _ in range(4)]) == once
    assert read(model, [[edit(model, BEGINNING)], [], [], []]) == once
    assert read(model, [[edit(model)] for _ in range(4)]) == each
    assert read(model, [[same], [], [], []]) == each
    assert read(model, [[many]] * 4) == each
    assert read(model, [[]] * 4, shared=0) == each
    assert read(model, [[]] * 4, shared=BEGINNING) == each  # too little is saved for four lengths


def test_where_edits_begin_to_act():
    assert [first_position(p) for p in (None, "all", "prompt", "prompt[1:]", 0, 7, [9, 4], slice(5, None))] == [
        0, 0, 0, 1, 0, 7, 4, 5,
    ]  # fmt: skip
    assert first_position(slice(None)) == first_position(-2) == 0
    assert first_position("generated") == first_position([]) > 10**12
