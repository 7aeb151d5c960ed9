"""`first_letter`: the task by which absorption was found: which letter a word begins with.

A prompt names a word, and at its last token a probe for each letter says whether it begins with that letter. Where the
probes know it, absorption of the features that know it can be measured; where a probe's F1 is below 0.6, nothing is
said. The paper used models of 2 billion parameters (Chanin et al. 2024); smaller ones often do not know the letters.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.controls import DRAWS, MOST_DRAWS, Controlled, bootstrap
from ..core.integers import is_listable
from ..core.options import checks_options, names_options
from ..core.progress import hidden
from ..core.texts import listed
from ..data.text import TokenTexts
from ..errors import InputError
from ..hooks.session import ModelSession
from ..lens.writing import written_component
from ..sae import SAE
from ..viz.lines import LinesView, Table
from .absorption import Absorption, absorption
from .concept_examples import read
from .probes import LEAST_F1, Probe, fitted

TEMPLATE = " tree has the first letter: T\n lamp has the first letter: L\n {word} has the first letter:"
"""Examples before the word show the task, and keep it from the text's first position, where activations are of their
own kind."""
_SHORTEST = 3
"""Letters of a word of the vocabulary."""
_BATCH_TOKENS = 8192
_HEADS = ("letter", "words", "probe F1", "full", "control", "fraction", "main features", "verdict")


@names_options
def first_letter(
    model: Model, sae: SAE, letters: str | Sequence[str] = string.ascii_lowercase, *,
    words: Sequence[str] | None = None, n_words: int = 4000, template: str = TEMPLATE, at: str | None = None,
    C: float = 1.0, holdout: float = 0.3, max_mains: int = 10, split_gain: float = 0.03, control: bool = True,
    draws: int = DRAWS, seed: int = 0, verbose: bool = True,
) -> FirstLetter:  # fmt: skip
    """Fits a probe for each letter, and measures absorption for those whose F1 on held-out words is at least 0.6.

    Args:
        model: An `InterpretableModel` with a tokenizer.
        sae: An SAE of one of its components.
        letters: Which ones.
        words: None takes words of the vocabulary: tokens of a space and at least three lower-case letters.
        n_words: At most so many, chosen at random.
        template: The prompt; {word} stands for the word, whose last token is read.
        at: Component; None is the SAE's own.
        C, holdout: See `probe`.
        max_mains, split_gain: See `absorption`.
        control: Whether controls are computed.
        draws: Of each, at least 20.
        seed: Of the choice of words, of the split and of the first draw.
        verbose: Show a bar of letters where the output is a terminal.

    Raises:
        InputError: No tokenizer, no words, letters that are none, or a template without {word}.
        SAEError: See `absorption`.

    Examples:
        >>> from mlxterp import geometry
        >>> found = geometry.first_letter(model, sae, "bs", n_words=300, control=False, verbose=False)
        >>> sorted({*found.absorptions, *found.refused})
        ['b', 's']
    """
    session = session_of(model, ModelSession)
    session.require_tokenizer()
    asked, seed = _letters(letters), checks.seed(seed)
    C, holdout = checks.finite(C, "C", above=0.0), checks.finite(holdout, "holdout", above=0.0, below=1.0)
    draws = checks.count(draws, "draws", DRAWS, MOST_DRAWS) if checks.flag(control, "control") else 0
    place = written_component(session.anatomy, sae, at).name
    chosen = _words(session, words, checks.count(n_words, "n_words"), seed)
    texts, position = _prompts(session, chosen, template)
    examples = read(session, place, texts, 0, position, _BATCH_TOKENS)
    first = np.array([word[0].lower() for word in chosen])
    probes: dict[str, Probe] = {}
    found: dict[str, Absorption] = {}
    refused: dict[str, str] = {}
    from tqdm.auto import tqdm

    for letter in tqdm(asked, desc="first letter", unit="letter", disable=hidden(verbose)):
        try:
            own = replace(examples, labels=first == letter)
            known = probes[letter] = fitted(place, own, C=C, holdout=holdout, draws=0, seed=seed)
            if known.f1.value < LEAST_F1:
                refused[letter] = f"the probe's F1 is below {LEAST_F1}"
                continue
            known = probes[letter] = fitted(place, own, C=C, holdout=holdout, draws=draws, seed=seed)
            found[letter] = absorption(
                sae, known, max_mains=max_mains, split_gain=split_gain, control=draws > 0, draws=draws or DRAWS,
                seed=seed,
            )  # fmt: skip
        except InputError as error:
            refused[letter] = str(error)
    return FirstLetter(
        component=place, words=tuple(chosen), probes=probes, absorptions=found, refused=refused, seed=seed
    )


@checks_options
@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class FirstLetter(LinesView):
    """Absorption letter by letter; made by `first_letter`. `print` and notebooks show the table.

    Attributes:
        component: Path of the component that was read.
        words: All words.
        probes: Of each letter that enough words begin with, weak ones too.
        absorptions: Of each letter whose probe knows it.
        refused: Why the other letters have none.
        seed: Of everything.
    """

    component: str
    words: tuple[str, ...]
    probes: Mapping[str, Probe]
    absorptions: Mapping[str, Absorption]
    refused: Mapping[str, str]
    seed: int

    @property
    def full(self) -> Controlled | None:
        """Mean share fully absorbed over the letters that have one, beside random directions; None for no letter."""
        return self._mean([one.full for one in self.absorptions.values()])

    @property
    def fraction(self) -> Controlled | None:
        """Mean absorption fraction likewise."""
        return self._mean([one.fraction for one in self.absorptions.values()])

    def _mean(self, figures: list[Controlled]) -> Controlled | None:
        if not figures:
            return None
        values = np.array([figure.value for figure in figures])
        drawn = np.mean([figure.control for figure in figures], axis=0)
        interval = bootstrap(values, seed=self.seed)
        return Controlled(float(values.mean()), interval, drawn, figures[0].kind, self.seed)

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each letter, as dicts (for `pandas.DataFrame`)."""
        rows = []
        for letter in sorted({*self.probes, *self.refused}):
            known, found = self.probes.get(letter), self.absorptions.get(letter)
            rows.append({
                "letter": letter, "words": sum(word[0].lower() == letter for word in self.words),
                "f1": None if known is None else known.f1.value,
                "full": None if found is None else found.full.value,
                "control": None if found is None else found.full.control_mean,
                "fraction": None if found is None else found.fraction.value,
                "mains": () if found is None else found.mains,
                "verdict": self.refused.get(letter, ""),
            })  # fmt: skip
        return rows

    def __repr__(self) -> str:
        return f"<FirstLetter at {self.component}: {len(self.absorptions)} of {len(self.table)} letters measured>"

    def _title(self) -> str:
        return f"First letters at {self.component}"

    @property
    def _lines(self) -> list[str]:
        head = (
            f"First letters of {len(self.words)} words at {self.component}: {len(self.absorptions)} letters measured,"
            f" {len(self.refused)} refused"
        )
        if self.full is None or self.fraction is None:
            return [head, "no letter is known well enough for a verdict"]
        return [head, f"full: {self.full}", f"fraction: {self.fraction}"]

    @property
    def _tables(self) -> list[Table]:
        rows = [
            [row["letter"], str(row["words"]),
             *(_shown(row[name]) for name in ("f1", "full", "control", "fraction")),
             ", ".join(map(str, row["mains"])), row["verdict"]]
            for row in self.table
        ]  # fmt: skip
        return [Table(_HEADS, rows)]


def _shown(figure: float | None) -> str:
    """ "" where there is none, or no control."""
    return "" if figure is None or np.isnan(figure) else f"{figure:.3f}"


def _letters(given: Any) -> list[str]:
    several = list(given) if isinstance(given, str) or is_listable(given) else []
    if not several or not all(isinstance(one, str) and len(one) == 1 and one.isalpha() for one in several):
        raise InputError(f"letters is {given!r}; expected letters, such as 'abc'.")
    return list(dict.fromkeys(one.lower() for one in several))


def _words(session: ModelSession, given: Any, n: int, seed: int) -> list[str]:
    """Different words, at most n."""
    if given is None:
        lm, tokenize = session.language_model, session.tokenize
        text = TokenTexts(session.tokenizer)
        before = [int(token) for token in (tokenize("a") if tokenize else [])[-1:]]
        pieces = (text.after(before, token) for token in range(lm.vocab_size))
        found = [piece[1:] for piece in pieces if piece.startswith(" ") and _is_word(piece[1:])]
    else:
        found = listed([given] if isinstance(given, str) else given)
        if bad := [word for word in found if not word[:1].isalpha()]:
            raise InputError(f"{bad[0]!r} begins with no letter; words= holds words.")
    found = sorted(set(found))
    if not found:
        raise InputError("The vocabulary has no words of a space and letters: give some, words=[…].")
    mixed = np.random.default_rng([seed, 17]).permutation(len(found))[:n]
    return [found[i] for i in np.sort(mixed)]


def _is_word(text: str) -> bool:
    return len(text) >= _SHORTEST and text.isascii() and text.isalpha() and text.islower()


def _prompts(session: ModelSession, words: Sequence[str], template: Any) -> tuple[list[str], int]:
    """The prompts, and the position of each word's last token, from the end."""
    if not isinstance(template, str) or template.count("{word}") != 1:
        raise InputError(f"template is {template!r}; it holds {{word}} once, where the word stands.")
    before, after = template.split("{word}")
    texts = [before + word + after for word in words]
    lengths = [
        tuple(map(int, session.batch(some).lengths))
        for some in (texts, [before + word for word in words])
    ]  # fmt: skip
    behind = {whole - part for whole, part in zip(*lengths, strict=True)}
    if len(behind) > 1:
        raise InputError(
            f"What follows {{word}} in template={template!r} has {min(behind)} to {max(behind)} tokens, depending on"
            " the word. Begin it with a space, so that the word's last token is the same everywhere."
        )
    return texts, -1 - behind.pop()
