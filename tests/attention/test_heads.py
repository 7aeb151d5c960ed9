"""Row U9: what every head is, on a model whose heads are known, beside its controls."""

from __future__ import annotations

import numpy as np
import pytest

import mlxterp.visualization as vis
from mlxterp import ComponentError, InputError, InterpretableModel
from mlxterp.attention import HeadScore, HeadScores, head_effect, head_scores
from mlxterp.attention.head_types import head_pairs
from mlxterp.attention.random_tokens import RepeatedTokens, ordinary_tokens
from tests.architectures import build
from tests.viz.reading import ATTRIBUTES, TAGS, Reader

N = 24
PREVIOUS, INDUCTION = (0, 0), (1, 1)


@pytest.fixture
def found(circuit) -> HeadScores:
    return head_scores(circuit, n_random_tokens=N, copying=True)


def others(found: HeadScores, head: tuple[int, int]) -> np.ndarray:
    return ~(found.heads == head).all(axis=1)


def test_u9_the_known_heads_score_above_95_and_no_other_above_10(found):
    for score, head in (
        ("induction", INDUCTION),
        ("previous_token", PREVIOUS),
        ("repeated_token", INDUCTION),
    ):
        assert found.of(*head, score).value > 0.95
        assert found.mean(score)[others(found, head)].max() < 0.1, score
    for score in ("duplicate_token", "first_token", "current_token"):
        assert found.mean(score).max() < 0.1, score
    assert found.types() == {
        "induction": [INDUCTION], "previous_token": [PREVIOUS], "duplicate_token": [], "first_token": [],
        "current_token": [], "unknown": [(0, 1), (0, 2), (1, 0), (1, 2)],
    }  # fmt: skip


def test_u9_shuffled_tokens_leave_nothing_of_induction_and_all_of_positions(found):
    induction = found.of(*INDUCTION, "induction")
    assert induction.control_mean < 0.15 and induction.stands_out and len(induction.control) == 20
    assert found.control["previous_token"][:, 0].mean() > 0.95
    assert found.of(*PREVIOUS, "previous_token").control_mean == found.chance["previous_token"] < 0.1
    assert found.chance["previous_token"] == pytest.approx(
        found.mean("previous_token")[1], abs=1e-6
    )  # reads all alike


def test_u9_the_ov_circuit_says_which_head_writes_what_it_reads(found):
    copying = found.mean("copying")
    assert copying[~others(found, INDUCTION)] > 10 and np.abs(copying[others(found, INDUCTION)]).max() < 1
    assert found.of(*INDUCTION, "copying").stands_out
    assert found.values["copying"].shape == (N, 6)


def test_u9_intervals_are_over_draws_and_draws_repeat_with_the_seed(circuit):
    one, same, other = (
        head_scores(circuit, n_random_tokens=8, seed=seed, control=False) for seed in (3, 3, 4)
    )
    assert np.array_equal(one.values["entropy"], same.values["entropy"])
    assert not np.array_equal(one.values["entropy"], other.values["entropy"])
    interval = one.interval("induction")
    assert (interval[:, 0] <= one.mean("induction") + 1e-12).all() and (
        interval[:, 1] >= interval[:, 0]
    ).all()
    assert "no control" in str(one) and one.of(*INDUCTION, "induction").stands_out is None


def test_u9_induction_heads_are_detected_by_name(circuit):
    (head,) = vis.detect_induction_heads(circuit, n_random_tokens=N)
    assert isinstance(head, HeadScore) and (head.layer, head.head, head.head_type) == (1, 1, "induction")
    assert (
        head.score > 0.95 and head.control is not None and head.control < 0.15 and head.interval is not None
    )
    assert vis.detect_induction_heads(circuit, N, layers=[0]) == []
    with pytest.raises(InputError, match="threshold"):
        vis.detect_induction_heads(circuit, N, threshold=2)


def test_u9_head_types_of_a_text_and_of_random_tokens(circuit):
    text = [5, 9, 2, 7, 1, 30, 8, 12, 44, 3, 21, 60]
    of_text = vis.detect_head_types(circuit, text, 0.4)
    assert of_text["previous_token"] == [PREVIOUS] and set(of_text) == {
        "previous_token", "first_token", "current_token", "unknown",
    }  # fmt: skip
    assert vis.detect_head_types(circuit, threshold=0.3, n_random_tokens=N)["induction"] == [INDUCTION]
    with pytest.raises(InputError, match="one text"):
        vis.detect_head_types(circuit, [text, text])


def test_u9_any_function_of_a_pattern_finds_heads(circuit):
    text = [5, 9, 2, 7, 1, 30]
    (head,) = vis.find_attention_pattern(circuit, text, lambda a: a[4, 3], threshold=0.9)
    assert head.name == "L0H0" and head.head_type == "custom"
    with pytest.raises(InputError, match="pattern_fn gives"):
        vis.find_attention_pattern(circuit, text, lambda a: float("nan"))
    with pytest.raises(InputError, match="expected a function"):
        vis.find_attention_pattern(circuit, text, 3)  # type: ignore[arg-type]


def test_u9_a_detector_classifies_by_its_thresholds():
    detector = vis.AttentionPatternDetector()
    a = np.eye(8, k=-3)
    assert detector.analyze_head(a) == {"previous_token": 0, "first_token": 0.125, "current_token": 0}
    assert detector.classify_head(a, 4) == ["induction"] and detector.classify_head(a) == ["unknown"]
    assert vis.AttentionPatternDetector(first_token_threshold=0.1).classify_head(a) == ["first_token"]
    with pytest.raises(InputError, match="one head"):
        detector.analyze_head(np.ones((2, 3, 3)))


def test_u9_the_result_is_a_table_points_and_a_page(found, tmp_path):
    table = found.to_pandas()
    assert len(table) == 6 and {"induction_low", "induction_control", "copying"} <= set(table.columns)
    read = Reader(found.fragment())
    assert {tag for tag, _ in read.elements} <= TAGS
    assert all(set(attributes) <= ATTRIBUTES for _, attributes in read.elements)
    assert "L1H1" in found.to_str(color=False).splitlines()[6] and "All 6 heads" in read.everything
    assert found.to_html(tmp_path / "heads.html").stat().st_size > 5000
    pytest.importorskip("matplotlib")
    assert found.scatter("entropy", "distance").axes[0].get_xlabel() == "entropy score"
    with pytest.raises(InputError, match="score is 'charm'"):
        found.scatter("charm")


# -- what depends on them -------------------------------------------------------------------------


def test_u9_without_the_induction_head_the_second_repetition_is_no_longer_known(circuit):
    effect = head_effect(circuit, [INDUCTION], n_random_tokens=N)
    assert effect.loss < 1 and effect.ablated > 20
    assert effect.effect.value == pytest.approx(effect.ablated - effect.loss)
    assert np.abs(effect.effect.control).max() < 1e-3 and effect.effect.stands_out
    assert effect.above_interval[0] > 3 and len(effect.by_draw) == 20 and len(effect.random_heads) == 20
    assert all(heads in (((1, 0),), ((1, 2),)) for heads in effect.random_heads)
    assert "more than random heads" in str(effect)


def test_u9_heads_are_named_by_pairs_by_scores_and_by_arrays():
    both = [HeadScore(0, 1, 0.5), HeadScore(1, 2, 0.4)]
    assert (
        head_pairs(both)
        == head_pairs([(0, 1), (1, 2)])
        == head_pairs(np.array([[0, 1], [1, 2]]))
        == [(0, 1), (1, 2)]
    )
    assert head_pairs((1, 2)) == head_pairs(both[1]) == head_pairs([both[1], (1, 2)]) == [(1, 2)]


def test_u9_a_head_that_writes_nothing_has_no_effect(circuit):
    effect = head_effect(circuit, HeadScore(1, 2, 0.5), n_random_tokens=N)
    assert effect.effect.value == pytest.approx(0, abs=1e-5) and not effect.effect.stands_out
    assert "no more than random heads" in str(effect)


def test_u9_the_effect_can_be_asked_of_texts(circuit):
    texts = [[*range(i, i + 9), *range(i, i + 9)] for i in range(3)]
    effect = head_effect(circuit, [(-1, 1)], texts)
    assert effect.heads == (INDUCTION,) and effect.effect.value > 1 and len(effect.by_draw) == 3
    for bad, said in ((texts[0], "two texts"), (5, "expected 'induction'"), ("anything", "'induction'")):
        with pytest.raises(InputError, match=said):
            head_effect(circuit, [INDUCTION], bad)


@pytest.mark.parametrize(
    ("heads", "said"),
    [([], "empty"), ([(1, 5)], "layer 1 has 3 heads"), ([(1, -1)], "numbered from 0"), ([3], "heads= holds 3"),
     ([(1, 0), (1, 1)], "leaves 1 others")],
)  # fmt: skip
def test_u9_heads_that_cannot_be_are_named(circuit, heads, said):
    with pytest.raises(InputError, match=said):
        head_effect(circuit, heads, n_random_tokens=N)


def test_u9_ablating_is_replacing_by_the_mean(circuit):
    """The loss without the induction head, computed by hand from its mean output and a plain trace."""
    from mlxterp.interventions import replace_with

    effect = head_effect(circuit, [INDUCTION], n_random_tokens=N, seed=7)
    session, backend = circuit.session, circuit.language_model.backend
    tokens, reference = (RepeatedTokens.drawn(session, N, 2, 20, seed) for seed in (7, 8))
    z = backend.get(
        circuit.trace(reference.rows.tolist(), capture=["layers.1.attn.z"]).activations["layers.1.attn.z"]
    )
    mean = z[:, 1].mean(axis=(0, 1)).astype(np.float32)
    ids = tokens.rows[0]
    edited = circuit.trace(ids.tolist(), {"layers.1.attn.z": replace_with(mean, heads=1)}).output
    logits = backend.get(edited)[0].astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=-1))[:-1] - logits[np.arange(2 * N - 1), ids[1:]]
    plain = backend.get(circuit(ids.tolist()))[0].astype(np.float64)
    before = np.log(np.exp(plain).sum(axis=-1))[:-1] - plain[np.arange(2 * N - 1), ids[1:]]
    assert effect.by_draw[0] == pytest.approx((losses - before)[N:].mean(), abs=1e-4)


# -- the tokens -------------------------------------------------------------------------------------


class Vocabulary:
    """Ten words, of which some are special or added."""

    all_special_ids = (0, 1)
    bos_token_id = 0
    eos_token_id = 3

    def get_vocab(self):
        return {f"w{i}": i for i in range(10)}

    def get_added_vocab(self):
        return {"w9": 9}

    def encode(self, text):
        return [0, 2]

    def decode(self, ids):
        return " ".join(f"w{i}" for i in ids)


def test_u9_no_special_token_is_drawn_and_the_text_begins_as_texts_do(circuit_folder, backend):
    model = InterpretableModel(circuit_folder, tokenizer=Vocabulary(), backend=backend)
    assert ordinary_tokens(model.language_model).tolist() == [2, 4, 5, 6, 7, 8]
    tokens = RepeatedTokens.drawn(model.session, 5, 3, 20, 0)
    assert tokens.prefix == 1 and tokens.rows.shape == (20, 16) and set(tokens.rows[:, 0]) == {0}
    said = tokens.rows[:, 1:].reshape(20, 3, 5)
    assert (said == said[:, :1]).all() and all(len(set(row)) == 5 for row in said[:, 0])
    shuffled = tokens.shuffled[:, 1:].reshape(20, 3, 5)
    assert np.array_equal(shuffled[:, 0], said[:, 0])
    assert (
        np.array_equal(np.sort(shuffled, axis=-1), np.sort(said, axis=-1))
        and (shuffled[:, 1] != said[:, 1]).any()
    )
    with pytest.raises(InputError, match="6 tokens that are not special"):
        head_scores(model, n_random_tokens=7)


def test_u9_special_tokens_only_is_said(circuit_folder, backend):
    tokenizer = Vocabulary()
    tokenizer.get_added_vocab = lambda: {f"w{i}": i for i in range(10)}  # type: ignore[method-assign]
    model = InterpretableModel(circuit_folder, tokenizer=tokenizer, backend=backend)
    with pytest.raises(InputError, match="special tokens only"):
        head_scores(model)


def test_u9_a_text_of_special_tokens_only_has_no_types_of_heads(circuit_folder, backend):
    model = InterpretableModel(circuit_folder, tokenizer=Vocabulary(), backend=backend)
    for text in ([0], [0, 1, 9]):
        with pytest.raises(InputError, match="special tokens only"):
            vis.detect_head_types(model, text)
        with pytest.raises(InputError, match="special tokens only"):
            vis.find_attention_pattern(model, text, lambda pattern: 1.0)
    assert vis.detect_head_types(model, [0, 2])["unknown"] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [({"draws": 19}, "draws is 19"), ({"n_repeats": 1}, "n_repeats"), ({"n_random_tokens": 1}, "n_random_tokens"),
     ({"n_random_tokens": 40}, "80 tokens"), ({"seed": -1}, "seed")],
)  # fmt: skip
def test_u9_settings_that_cannot_be_are_named(circuit, change, said):
    with pytest.raises(InputError, match=said):
        head_scores(circuit, **change)


def test_u9_a_model_without_attention_says_so():
    pytest.importorskip("mlx.core")
    with pytest.raises(ComponentError, match="no attention pattern"):
        head_scores(InterpretableModel(build("mamba2")))
