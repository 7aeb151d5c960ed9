"""Absorption in `geometry.py`: concepts of the 3M model, and the first letters of SmolLM2's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from geometry_given import COMPONENT, SHARED, WIDTHS, Given, Read  # isort: skip  (it brings one_thread)

import numpy as np
from geometry_rows import Row, measured, plain, rounded

import mlxterp
from mlxterp import geometry
from mlxterp.core.controls import bootstrap
from mlxterp.data.text import TokenTexts
from mlxterp.geometry import Controlled

MOST = 3000
"""Tokens of each class that a probe is trained on, and that absorption is measured on."""
FEWEST = 100
PRONOUNS = "he she they it him her them his their its we us you i me my your our"
ANIMALS = """dog cat bird fish bear bunny rabbit frog duck cow pig horse lion mouse fox bee butterfly dragon elephant
monkey sheep goat owl turtle squirrel puppy kitten dogs cats birds"""
NUMBERS = "one two three four five six seven eight nine ten"
FEMALE = "she her lily sara mia anna lucy amy sue jane daisy mom girl"
CONCEPTS: dict[str, Callable[[str], bool]] = {
    "pronoun": lambda text: text.strip().lower() in PRONOUNS.split(),
    "animal": lambda text: text.strip().lower() in ANIMALS.split(),
    "-ed": lambda text: text.strip().lower().endswith("ed") and len(text.strip()) > 3,
    "starts with s": lambda text: text.strip().lower()[:1] == "s" and len(text.strip()) > 2,
    "starts with b": lambda text: text.strip().lower()[:1] == "b" and len(text.strip()) > 2,
    "capitalised": lambda text: text.strip()[:1].isupper(),
    "number word": lambda text: text.strip().lower() in NUMBERS.split(),
    "female": lambda text: text.strip().lower() in FEMALE.split(),
    "punctuation": lambda text: bool(text.strip()) and not any(c.isalnum() for c in text),
}
"""Of a token's text. "inside quotes" depends on the tokens before and is made by itself."""
SMOLLM2 = "layers.14.resid_post"
LETTER_TOKENS, LETTER_WIDTH, WORDS = 150_000, 2048, 2000


@dataclass(frozen=True)
class Measured:
    """Absorption of one concept by one SAE.

    Attributes:
        concept, width, seed: Of which.
        found: What was found; None where the probe does not know the concept.
    """

    concept: str
    width: int
    seed: int
    found: geometry.Absorption | None


def absorption(given: Given) -> dict[str, Row]:
    """Concepts by width: the rate beside random probes, and the absorbers' cosine beside theirs."""
    made = list(_absorptions(given))
    rows: dict[str, Row] = {}
    for width in WIDTHS[1:]:
        for concept in dict.fromkeys(one.concept for one in made):
            several = [one.found for one in made if (one.concept, one.width) == (concept, width)]
            name = f"{width}, {concept}"
            rows |= {
                f"{name}: F1 of the probe": plain([None if f is None else f.probe.f1.value for f in several]),
                f"{name}: fully absorbed": measured(None if f is None else f.full for f in several),
                f"{name}: absorber's cosine with the probe": measured(
                    None if f is None or not f.found.full.any() else f.cosine for f in several
                ),
                f"{name}: fully absorbed, beside shuffled labels": measured(
                    None if f is None else f.full_shuffled for f in several
                ),
            }
    return _summary(rows) | _separation([one.found for one in made if one.found is not None]) | rows


def _absorptions(given: Given) -> Iterator[Measured]:
    labels = _labels(given.read, given.model)
    texts = np.unique(given.read.texts)
    for seed in given.seeds:
        draw = np.random.default_rng(seed)
        first = np.isin(given.read.texts, draw.permutation(texts)[: len(texts) // 2])
        for concept, has in labels.items():
            train, test = (_some(half, has, draw) for half in (first, ~first))
            probe = geometry.probe(
                None,
                COMPONENT,
                *(given.activations[rows] for rows in train),
                allow_weak=True,
                control=False,
                seed=seed,
            )
            rows = np.concatenate(test)
            for width in WIDTHS[1:]:
                known = probe.f1.value >= 0.6 and len(train[0]) >= FEWEST
                found = geometry.absorption(
                    given.family(seed)[width], probe, (given.activations[rows], has[rows]), seed=seed
                ) if known else None  # fmt: skip
                yield Measured(concept, width, seed, found)


def _some(half: np.ndarray, has: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tokens with and without the concept, as many of both."""
    sides = [np.flatnonzero(half & side) for side in (has, ~has)]
    n = min(MOST, *map(len, sides))
    return draw.choice(sides[0], n, replace=False), draw.choice(sides[1], n, replace=False)


def _labels(tokens: Read, model: mlxterp.InterpretableModel) -> dict[str, np.ndarray]:
    """Concept → bool, (n,)."""
    text = TokenTexts(model.tokenizer)
    before = [int(model.tokenize("a")[-1])]
    ids, place = np.unique(tokens.tokens, return_inverse=True)
    known = [text.after(before, int(i)) for i in ids]
    found = {name: np.array([rule(one) for one in known])[place] for name, rule in CONCEPTS.items()}
    quotes = np.array([any(mark in one for mark in '"“”') for one in known])[place]
    inside = np.zeros(len(place), dtype=bool)
    for number in np.unique(tokens.texts):
        at = np.flatnonzero(tokens.texts == number)
        inside[at] = (np.cumsum(quotes[at]) % 2 == 1) & ~quotes[at]
    return found | {"inside quotes": inside}


def _summary(rows: dict[str, Row]) -> dict[str, Row]:
    """In how many rows a figure stands out of its control in every seed."""
    kinds = ("fully absorbed", "absorber's cosine with the probe", "fully absorbed, beside shuffled labels")
    found = {}
    for kind in kinds:
        several = [row for name, row in rows.items() if name.endswith(f": {kind}")]
        n = sum(row.get("stands out") == "stands out" for row in several)
        found[f"concepts and widths of {len(several)} where it stands out in every seed: {kind}"] = Row(
            value=n, failures=sum("stands out" not in row for row in several)
        )
    return found


def _separation(found: list[geometry.Absorption]) -> dict[str, Row]:
    """How well the mean cosine of absorbers tells a concept's probe from a random one; the best cosine to ask for."""
    own = np.array([one.cosine.value for one in found if one.found.full.any()])
    random = np.concatenate([one.cosine.control for one in found])
    random = random[random != 0]  # draws without an absorber
    above = (own[:, None] > random).mean() + (own[:, None] == random).mean() / 2
    limits = np.unique(np.concatenate([own, random]))
    gain = [(own >= limit).mean() - (random >= limit).mean() for limit in limits]
    best = float(limits[int(np.argmax(gain))])
    counted = {"probes": len(own), "random probes": len(random), "failures": len(found) - len(own)}
    shares = {
        "share of concepts' probes at or above": rounded((own >= best).mean()),
        "share of random probes at or above": rounded((random >= best).mean()),
    }
    return {
        "absorbers' mean cosine tells a concept's probe from a random one (AUC)": Row(
            value=rounded(above), **counted
        ),
        "the cosine that separates them best": Row(value=rounded(best), **shares),
    }


def first_letter(given: Given) -> dict[str, Row]:
    """The paper's task on SmolLM2-135M-Instruct, with an SAE of 4096 features that was trained before."""
    return _letters(given, lambda _: mlxterp.SAE.load(SHARED / "saes" / "smollm2_l14_resid_post"))


def first_letter_small(given: Given) -> dict[str, Row]:
    """The same with an SAE of 2048 features that is trained here."""
    return _letters(given, lambda model: _small(model, given.work / "smollm2"))


def _letters(given: Given, opened: Callable[[mlxterp.InterpretableModel], mlxterp.SAE]) -> dict[str, Row]:
    if given.smollm2 is None:
        raise SystemExit("The first letters need --smollm2 FOLDER (see ../shared/tools/fetch_smollm2.py).")
    model = mlxterp.InterpretableModel(str(given.smollm2))
    sae = opened(model)
    made = [
        geometry.first_letter(model, sae, n_words=WORDS, seed=seed, verbose=False) for seed in given.seeds
    ]
    rows = {
        "letters measured, of 26": plain([len(one.absorptions) for one in made]),
        "letters refused (probe's F1 below .6, or too few words)": plain([len(one.refused) for one in made]),
        "F1 of the measured letters' probes": measured(_f1(one) for one in made),
        "fully absorbed, mean over letters": measured(one.full for one in made),
        "fully absorbed, beside shuffled labels": measured(_shuffled(one, "full_shuffled") for one in made),
        "absorption fraction, mean over letters": measured(one.fraction for one in made),
        "fraction, beside shuffled labels": measured(_shuffled(one, "fraction_shuffled") for one in made),
        "absorber's cosine with the probe, letters with one": measured(_cosine(one) for one in made),
    }
    for letter in sorted(set().union(*(one.absorptions for one in made))):
        several = [one.absorptions.get(letter) for one in made]
        rows[f"{letter}: fully absorbed"] = measured(None if f is None else f.full for f in several)
    return rows


def _small(model: mlxterp.InterpretableModel, folder: Path) -> mlxterp.SAE:
    """A TopK SAE of layer 14, trained on Wikipedia and stories once and kept."""
    if not folder.exists():
        wiki = (SHARED / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8")
        stories = (SHARED / "text" / "tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>")
        texts = [wiki[i : i + 1000] for i in range(0, len(wiki), 1000)] + stories[:400]
        texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
        config = mlxterp.SAETrainConfig(d_hidden=LETTER_WIDTH, k=32, batch_size=1024, tokens=LETTER_TOKENS)
        model.train_sae(14, texts, "resid_post", config, save_path=folder, verbose=False)
    return mlxterp.SAE.load(folder)


def _f1(found: geometry.FirstLetter) -> Controlled | None:
    """Of the probes of the letters that are measured, beside probes of shuffled labels."""
    return _over([found.probes[letter].f1 for letter in found.absorptions], found.seed)


def _shuffled(found: geometry.FirstLetter, name: str) -> Controlled | None:
    return _over([getattr(one, name) for one in found.absorptions.values()], found.seed)


def _cosine(found: geometry.FirstLetter) -> Controlled | None:
    """Of the letters with an absorbed word."""
    return _over([o.cosine for o in found.absorptions.values() if o.found.full.any()], found.seed)


def _over(figures: list[Controlled], seed: int) -> Controlled | None:
    """Mean over letters, as `FirstLetter.full` has it."""
    if not figures:
        return None
    values = np.array([figure.value for figure in figures])
    drawn = np.mean([figure.control for figure in figures], axis=0)
    return Controlled(float(values.mean()), bootstrap(values, seed=seed), drawn, figures[0].kind, seed)
