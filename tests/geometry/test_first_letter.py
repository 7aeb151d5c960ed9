"""The first-letter task: letters that a probe knows are measured, others are refused with the reason."""

from __future__ import annotations

import pytest

from mlxterp import InputError, geometry, load_demo
from tests.letters import random_sae

WORDS = [letter * n for letter in "bcdk" for n in range(1, 13)]
"""Their last token is their first letter."""


@pytest.fixture
def letters(letter_model):
    return geometry.first_letter(
        letter_model, random_sae(letter_model.d_model), "bcz", words=WORDS, template="{word}",
        at="layers.0", verbose=False,
    )  # fmt: skip


def test_d10_letters_that_are_known_are_measured_and_others_refused(letters):
    assert sorted(letters.absorptions) == ["b", "c"] and sorted(letters.refused) == ["z"]
    assert "0 different positive" in letters.refused["z"]
    for letter, found in letters.absorptions.items():
        assert found.probe is letters.probes[letter] and found.probe.f1.value == 1
        assert all(text[0] == letter for text in (found.examples.texts[row] for row in found.rows))
    mean = sum(found.full.value for found in letters.absorptions.values()) / 2
    assert letters.full is not None and letters.full.value == pytest.approx(mean)
    assert len(letters.full.control) == 20


def test_its_table_has_a_row_for_each_letter(letters, tmp_path):
    assert [(row["letter"], row["words"]) for row in letters.table] == [("b", 12), ("c", 12), ("z", 0)]
    assert "2 letters measured, 1 refused" in str(letters) and "20 draws" in str(letters)
    assert letters.to_html(tmp_path / "letters.html").read_text(encoding="utf-8").count("<tr>") == 4


def test_d10_a_model_that_does_not_know_the_letters_gets_no_verdict():
    model, sae, _ = load_demo()
    found = geometry.first_letter(model, sae, "sb", n_words=400, verbose=False)
    assert found.full is None and found.fraction is None and not found.absorptions
    assert found.refused == dict.fromkeys("sb", "the probe's F1 is below 0.6")
    assert "no letter is known well enough for a verdict" in str(found)
    assert len(found.words) == 400 and all(word.islower() and len(word) >= 3 for word in found.words)
    texts = found.probes["s"].examples
    pairs = zip(texts.texts, texts.tokens, strict=True)
    assert all(text.endswith(f"\n{token} has the first letter:") for text, token in pairs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"letters": ""}, "letters"),
        ({"letters": ["ab"]}, "letters"),
        ({"letters": 3}, "letters"),
        ({"words": ["3rd"]}, "no letter"),
        ({"template": "first letter"}, "holds {word} once"),
        ({"draws": 4}, "draws"),
    ],
)
def test_what_cannot_be_is_named(options, said):
    model, sae, _ = load_demo()
    with pytest.raises(InputError, match=said):
        geometry.first_letter(model, sae, **options)
