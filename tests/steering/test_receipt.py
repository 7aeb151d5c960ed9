"""Receipts: figures are those of the model, statistics those of NumPy, verdicts those of the figures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import SAE, InputError, NotFiniteError
from mlxterp.steering import Calibration, Measure, Receipt, add_feature, calibrate
from mlxterp.steering.calibrate import _random
from mlxterp.steering.receipt import cost_gate, effect_gate, robustness_gate
from mlxterp.steering.trials import Row, Trials
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests.index.small import random_sae
from tests.tiny import WORDS, WordTokenizer, tiny_llama

STORIES = ("One day, a little", "Tom and Lily")
NEUTRAL = ("The bridge was closed.", "Mix the flour with water.")
NAN = float("nan")


# -- statistics -----------------------------------------------------------------------------------


def measure(steered: Any, random: Any, prompt: Any = None, name: str = "readout", **changes: Any) -> Measure:
    steered, random = np.array(steered, dtype=float), np.array(random, dtype=float)
    prompt = np.zeros(len(steered)) if prompt is None else np.array(prompt, dtype=float)
    return Measure(name=name, unit="prompt", steered=steered, random=random, prompt=prompt, seed=3, **changes)


def by_hand(values: list[float], seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean: 1000 draws with replacement, their 2.5th and 97.5th percentile."""
    draw, means = np.random.default_rng(seed), []
    for _ in range(1000):
        chosen = draw.integers(0, len(values), len(values))
        means.append(sum(values[i] for i in chosen) / len(values))
    means.sort()

    def at(share: float) -> float:
        place = share * (len(means) - 1)
        low = int(place)
        return means[low] + (place - low) * (means[min(low + 1, 999)] - means[low])

    return at(0.025), at(0.975)


def test_means_and_intervals_are_those_of_the_units_that_did_not_fail():
    found = measure(
        [1.0, NAN, 0.4, 0.7], [[0.1, 0.3], [0.0, 0.0], [NAN, 0.2], [NAN, NAN]], [0.5, 0.1, NAN, 0.0]
    )
    assert found.value == pytest.approx(0.7) and found.interval == pytest.approx(by_hand([1.0, 0.4, 0.7], 3))
    assert found.control == pytest.approx((0.2 + 0.0 + 0.2) / 3)
    assert found.control_interval == pytest.approx(by_hand([0.2, 0.0, 0.2], 3))
    assert found.asked_interval == pytest.approx(by_hand([0.5, 0.1, 0.0], 3))
    assert found.above == pytest.approx(0.5)  # of the first and the third: the others have no pair
    assert found.above_interval == pytest.approx(by_hand([0.8, 0.2], 3))
    assert found.failures == 1 + 3 + 1
    assert found.value_as_wrong == pytest.approx(2.1 / 4)


def test_one_unit_has_no_interval():
    found = measure([1.0], [[0.0]])
    assert found.value == 1.0 and all(map(math.isnan, (*found.interval, *found.above_interval)))
    assert effect_gate((found,), 0.2).verdict == "unclear"


# -- verdicts -------------------------------------------------------------------------------------

STRONG, SMALL, SAME = [0.9, 0.8, 0.7], [0.12, 0.1, 0.11], [[0.9], [0.9], [0.6]]
NOTHING = [[0.0], [0.0], [0.0]]


@pytest.mark.parametrize(
    ("steered", "random", "verdict"),
    [
        (STRONG, NOTHING, "shows"),
        (SMALL, NOTHING, "weak"),
        (STRONG, SAME, "none"),
        ([NAN] * 3, SAME, "unclear"),
    ],
)
def test_an_effect_shows_where_it_is_large_and_random_directions_show_less(steered, random, verdict):
    assert effect_gate((measure(steered, random),), 0.2).verdict == verdict


@pytest.mark.parametrize(
    ("divergence", "random", "perplexity", "verdict"),
    [
        (STRONG, NOTHING, 1.5, "some"), (STRONG, SAME, 1.5, "none"), (STRONG, SAME, 2.5, "too much"),
        (SMALL, STRONG, 1.0, "none"), ([NAN] * 3, SAME, 1.0, "unclear"),
    ],
)  # fmt: skip
def test_a_cost_is_none_where_random_directions_cost_as_much(divergence, random, perplexity, verdict):
    random = random if isinstance(random[0], list) else [[x] for x in random]
    losses = measure([math.log(perplexity)] * 3, NOTHING, logarithmic=True)
    assert cost_gate(measure(divergence, random), losses, 2.0).verdict == verdict


def test_robustness_counts_the_forms_on_which_it_shows():
    shows, weak, none = (measure(*pair) for pair in ((STRONG, NOTHING), (SMALL, NOTHING), (STRONG, SAME)))
    one = measure([1.0], [[0.0]])
    for forms, verdict in (
        ((shows, shows), "holds"), ((shows, none), "partly"), ((none, none), "none"), ((weak, none), "weak"),
        ((), "unclear"), ((one,), "unclear"),
    ):  # fmt: skip
        named = tuple(replace(form, name=str(i)) for i, form in enumerate(forms))
        assert robustness_gate(named, 0.2).verdict == verdict


# -- measured on a model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated() -> dict[str, tuple[Any, SAE, Calibration]]:
    """The demo in every installed wing, and a feature's calibration with a receipt."""
    found = {}
    for wing in mlxterp.available_backends():
        demo = mlxterp.load_demo(wing)
        found[wing] = demo.model, demo.sae, calibrate(
            demo.model, demo.sae, 5, [0.3], "norm", concept="ball", prompts=STORIES, neutral=NEUTRAL, max_tokens=4,
            paraphrases=("One morning, a small", "Lily and Tom"), temperature=0.0, seed=7, verbose=False,
        )  # fmt: skip
    return found


def receipt_of(calibration: Calibration) -> Receipt:
    assert calibration.receipt is not None
    return calibration.receipt


def test_the_effect_is_what_the_calibration_read_beside_random_directions_and_the_prompt(calibrated):
    for model, sae, found in calibrated.values():
        receipt, scale = receipt_of(found), found.scale
        [effect] = receipt.effect.measures
        plain = np.abs(found.unsteered.readout)
        assert receipt.strength == 0.3 and receipt.directions == 20 and effect.random.shape == (2, 10)
        assert np.allclose(effect.steered, (np.abs(found.strengths[0].written.readout) - plain) / scale)
        assert np.allclose(effect.prompt, (np.abs(found.prompting.readout) - plain) / scale)
        trials = Trials(model.session, sae, 5, sae.component, STORIES, 4, 0.0, 7, frozenset())
        written = trials.run([_random(sae, 5, "norm", 0.3, None, found, 7, 12)])  # the second prompt's third
        assert effect.random[1, 2] == pytest.approx((abs(written.readout[1]) - plain[1]) / scale)


def log_p(model: Any, ids: list[int], edit: Any = None) -> np.ndarray:
    with model.steer(*([edit] if edit else [])):
        logits = model.language_model.backend.get(model(ids))[0].astype(np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def test_the_cost_is_that_of_predictions_on_unrelated_texts(calibrated):
    for model, sae, found in calibrated.values():
        divergence, perplexity = receipt_of(found).cost.measures
        opening = model.tokenize("")
        steer = add_feature(sae, 5, 0.3, "norm")
        random = _random(sae, 5, "norm", 0.3, None, found, 7, 10)
        for i, text in enumerate(NEUTRAL):
            ids = model.tokenize(text)
            body = ids[len(opening) :]
            clean = log_p(model, ids)[len(opening) :]
            others = {
                "steered": log_p(model, ids, steer)[len(opening) :],
                "prompt": log_p(model, [*model.tokenize("ball.\n"), *body])[-len(body) :],
            }
            if i == 1:
                others["random"] = log_p(model, ids, random)[len(opening) :]
            for name, now in others.items():
                kl = np.mean([(np.exp(a) * (a - b)).sum() for a, b in zip(clean, now, strict=True)])
                rise = np.mean([clean[t, body[t + 1]] - now[t, body[t + 1]] for t in range(len(body) - 1)])
                at = (i, 0) if name == "random" else i
                assert getattr(divergence, name)[at] == pytest.approx(kl, abs=1e-4)
                assert getattr(perplexity, name)[at] == pytest.approx(rise, abs=1e-4)


def test_both_wings_give_one_receipt(calibrated):
    if len(calibrated) < 2:
        pytest.skip("one wing is installed")
    one, other = (receipt_of(found) for _, _, found in calibrated.values())
    assert [gate.verdict for gate in one.gates] == [gate.verdict for gate in other.gates]
    for mine, theirs in zip(one.cost.measures, other.cost.measures, strict=True):
        assert np.allclose(mine.random, theirs.random, atol=1e-3) and np.allclose(
            mine.prompt, theirs.prompt, atol=1e-3
        )
    assert [form.name for form in one.robustness.measures] == [
        "readout / maximum, paraphrase", "readout / maximum, in a frame",
    ]  # fmt: skip
    assert one.left_out == ("No chat template: the tokenizer has none.",)


@pytest.mark.filterwarnings("ignore:Several prompts are continued one by one")
def test_a_row_that_fails_is_counted_and_the_others_go_on(letter_model):
    model, wing = letter_model, letter_model.language_model.backend.name
    word = "hat" if wing == "mlx" else "q"  # letters are torch's tokens
    if wing == "mlx":  # whose embedding is the head too
        model = tiny_llama(3, tokenizer=WordTokenizer(), tie_word_embeddings=False)
    sae = random_sae(TopK(4), model.d_model, d_hidden=40, backend=wing)
    whole: Any = model.language_model.model  # type: ignore[attr-defined]
    weight = whole.model.embed_tokens.weight
    *_, broken = model.tokenize(word)
    (weight if wing == "mlx" else weight.data)[broken] = NAN
    trials = Trials(model.session, sae, 5, "layers.1.resid_post", ("the cat",), 1, 0.0, 0, frozenset())
    edits = [add_feature(sae, 5, 1.0, "raw", at="layers.1.resid_post")]
    rows = [
        Row(text, ids := tuple(model.tokenize(text)), ids, edits, 0) for text in ("the cat", f"the {word}")
    ]
    _, numbers, failures = trials.run_rows(rows)
    assert failures[0] is None and isinstance(failures[1], NotFiniteError)
    assert np.isfinite(numbers[0, 0]) and np.isnan(numbers[:, 1]).all()
    with pytest.raises(NotFiniteError):
        replace(trials, prompts=(f"the {word}",)).run(edits)


class ChatTokenizer(WordTokenizer):
    chat_template = "the {message} then"

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> list[int]:
        [message] = messages
        return [WORDS.index("the"), *self.encode(message["content"]), WORDS.index("then")]


def test_a_chat_template_is_a_form_where_the_tokenizer_has_one():
    if "mlx" not in mlxterp.available_backends():
        pytest.skip("mlx is not installed")
    model = tiny_llama(2, tokenizer=ChatTokenizer())
    rows = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    zeros = np.zeros(8, np.float32), np.zeros(32, np.float32)
    sae = SAE(
        SAEWeights(rows.T.copy(), zeros[0], rows, zeros[1]), TopK(2), {"component": "layers.0.resid_post"}
    )
    found = calibrate(
        model, sae, 1, [0.2], "norm", concept="dog", prompts=("the cat", "a dog"), neutral=("on a mat",),
        max_tokens=2, verbose=False,
    )  # fmt: skip
    receipt = receipt_of(found)
    assert [form.name.split(", ")[1] for form in receipt.robustness.measures] == [
        "in a frame",
        "chat template",
    ]
    assert receipt.left_out[0].startswith("No paraphrases")
    assert receipt.cost.verdict == "unclear"  # one text
    assert "No paraphrases" in str(receipt) and str(receipt) in str(found)


# -- how it is shown ------------------------------------------------------------------------------


def test_it_is_a_table_a_page_and_a_picture(calibrated, tmp_path):
    _, _, found = next(iter(calibrated.values()))
    receipt = receipt_of(found)
    assert [row["gate"] for row in receipt.table] == ["effect", "cost", "cost", "robustness", "robustness"]
    ratio = receipt.table[2]
    assert ratio["value"] == pytest.approx(math.exp(receipt.cost.measures[1].value))
    page = receipt.to_html(tmp_path / "receipt.html").read_text(encoding="utf-8")
    assert all(gate.verdict in page for gate in receipt.gates) and "Receipt of feature 5" in page
    pytest.importorskip("pandas")
    assert len(receipt.to_pandas()) == 5
    pytest.importorskip("matplotlib")
    assert len(receipt.plot(tmp_path / "receipt.png").axes) == 5


def test_failures_are_told():
    gate = effect_gate((measure([1.0, NAN, 0.8], NOTHING),), 0.2)
    told = Receipt(
        feature=1, strength=1.0, units="max", works=True, effect=gate, cost=replace(gate, name="cost"),
        robustness=replace(gate, name="robustness"), left_out=(), directions=20, min_effect=0.2, max_perplexity=2.0,
        seed=0,
    )  # fmt: skip
    assert told.failures == 3 and "as no effect: 0.600 in place of 0.900" in str(told)
    lost = (measure([NAN, 0.1], NOTHING[:2]), measure([NAN, NAN], NOTHING[:2]))  # of the same runs
    assert replace(told, cost=replace(gate, name="cost", measures=lost)).failures == 4


def test_paraphrases_are_as_many_as_prompts_and_a_receipt_can_be_left_out(calibrated):
    model, sae, _ = next(iter(calibrated.values()))
    quick: dict[str, Any] = {"prompts": STORIES, "max_tokens": 2, "concept": "ball", "verbose": False}
    with pytest.raises(InputError, match="2 prompts, but 1 paraphrases"):
        calibrate(model, sae, 5, [0.3], "norm", paraphrases=["One"], **quick)
    with pytest.raises(InputError, match="receipt is 'no'"):
        calibrate(model, sae, 5, [0.3], "norm", receipt="no", **quick)  # type: ignore[arg-type]
    assert calibrate(model, sae, 5, [0.3], "norm", receipt=False, **quick).receipt is None
