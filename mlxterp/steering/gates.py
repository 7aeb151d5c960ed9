"""The three gates of a receipt, measured: what steering does, what it costs, and whether it holds in other forms.

Each prompt and each text has random directions of its own, `DRAWS` in all at least, so that a gate's control costs no
more than a few strengths. What is written by all of them is written together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil

import numpy as np

from ..core.controls import DRAWS
from ..core.numeric import log_softmax
from ..core.tokens import TokenBatch
from ..edits.edits import Edit
from ..errors import InputError
from ..tracing.generation import chat_ids, has_template
from .calibration import Calibration
from .receipt import Measure, Receipt, cost_gate, effect_gate, robustness_gate
from .trials import Row, Trials, steered

PARAPHRASES = (
    "It seems to me that", "One day later,", "She glanced at", "There used to be a", "This is", "At the time when we",
    "He told us", "They made their way to", "Later on,", "One of my friends",
)  # fmt: skip
"""The default prompts of `calibrate`, in other words."""
FRAMES = ("Here is a text.\n\n{prompt}", 'Someone wrote: "{prompt}')
"""What a prompt is set into; prompts take turns."""
CHAT = "Continue this text: {prompt}"
"""What a user says to a model with a chat template."""
UNRELATED = (
    "The bridge was closed for repairs, so the bus took the road along the river and arrived ten minutes late.",
    "Water boils at a lower temperature on a mountain because the air presses on it less.",
    "To make the dough, mix the flour with warm water and a little salt, and let it rest for an hour.",
    "The committee met on Tuesday and put off the decision about the new library until the spring.",
    "def mean(values):\n    total = sum(values)\n    return total / len(values)",
    "My grandmother kept a small garden behind the house, where tomatoes grew along the south wall.",
    "In 1905 a young clerk in Bern published four papers that changed physics.",
    "The second half began slowly, but after the first goal both teams played with more courage.",
    "Please send the signed form back by the end of the month, or call us if anything is unclear.",
    "Light rain is expected in the north, with clear skies and a cold wind near the coast.",
)
"""Texts of many kinds, on which a feature is not expected to matter."""


@dataclass(frozen=True, eq=False, slots=True)
class Controls:
    """Random directions, numbered, as edits of one strength.

    Attributes:
        edit: Makes the edit of a direction's number.
    """

    edit: Callable[[int], Edit]

    def by_unit(self, units: int) -> list[list[list[Edit]]]:
        """For each of so many units its directions, each as a list of one edit; no direction comes twice."""
        each, numbers = ceil(DRAWS / units), count()
        return [[[self.edit(next(numbers))] for _ in range(each)] for _ in range(units)]


def receipt(
    trials: Trials, found: Calibration, strength: float, edit: Edit, controls: Controls, asked: str,
    paraphrases: Sequence[str] | None, unrelated: Sequence[str], verbose: bool,
) -> Receipt:  # fmt: skip
    """What steering at one strength is worth.

    Args:
        trials: The prompts and how they are continued.
        found: The calibration that the strength is of.
        asked: What is put before a prompt or text instead of steering.
        paraphrases: The prompts in other words, as many; None where there are none.
    """
    forms, left_out = _forms(trials, asked, paraphrases)
    drawn = controls.by_unit(len(trials.prompts))
    effect, *others = _effects(trials, found, forms, [edit], drawn, verbose)
    of_texts = controls.by_unit(len(unrelated))
    divergence, perplexity = _costs(trials, unrelated, [edit], of_texts, asked)
    return Receipt(
        feature=found.feature, strength=strength, units=found.units, works=found.best is not None,
        effect=effect_gate((effect,), found.min_effect),
        cost=cost_gate(divergence, perplexity, found.max_perplexity),
        robustness=robustness_gate(tuple(others), found.min_effect),
        left_out=left_out, directions=sum(map(len, drawn)), min_effect=found.min_effect,
        max_perplexity=found.max_perplexity, seed=trials.seed,
    )  # fmt: skip


# -- effect and robustness: what is written after the prompts, in every form ---------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Form:
    """One form of all prompts: their token ids, and the same with the concept's words before them."""

    name: str
    plain: list[tuple[int, ...]]
    asking: list[tuple[int, ...]]
    texts: list[tuple[str | None, str | None]]
    """What watchers are told of both."""


def _forms(
    trials: Trials, asked: str, paraphrases: Sequence[str] | None
) -> tuple[list[_Form], tuple[str, ...]]:
    """The prompts as they are, then in other forms; and which forms are left out, and why."""
    forms, left_out = [_texts_form("as given", trials, trials.prompts, asked)], []
    framed = [FRAMES[i % len(FRAMES)].replace("{prompt}", prompt) for i, prompt in enumerate(trials.prompts)]
    others: dict[str, Callable[[str], _Form]] = {
        "in a frame": lambda name: _texts_form(name, trials, framed, asked)
    }
    if paraphrases is None:
        left_out.append("No paraphrases: paraphrases=[…] takes the prompts in other words, one for each.")
    else:
        others = {"paraphrase": lambda name: _texts_form(name, trials, paraphrases, asked)} | others
    if has_template(trials.session.tokenizer):
        others["chat template"] = lambda name: _chat_form(name, trials, asked)
    else:
        left_out.append("No chat template: the tokenizer has none.")
    for name, make in others.items():
        try:
            forms.append(make(name))
        except InputError as error:
            left_out.append(f"The form {name!r} is left out: {error}")
    return forms, tuple(left_out)


def _texts_form(name: str, trials: Trials, prompts: Sequence[str], asked: str) -> _Form:
    tokenize, both = trials.session.plain.model.tokenize, [(prompt, asked + prompt) for prompt in prompts]
    plain, asking = ([trials.checked_ids(tokenize(pair[side])) for pair in both] for side in (0, 1))
    return _Form(name, plain, asking, list(both))


def _chat_form(name: str, trials: Trials, asked: str) -> _Form:
    model = trials.session.plain.model

    def ids(before: str, prompt: str) -> tuple[int, ...]:
        content = before + CHAT.replace("{prompt}", prompt)
        return trials.checked_ids(chat_ids(model, [{"role": "user", "content": content}]))

    plain, asking = ([ids(before, prompt) for prompt in trials.prompts] for before in ("", asked))
    return _Form(name, plain, asking, [(None, None)] * len(plain))


def _effects(
    trials: Trials, found: Calibration, forms: Sequence[_Form], edits: list[Edit],
    drawn: Sequence[Sequence[list[Edit]]], verbose: bool,
) -> list[Measure]:  # fmt: skip
    """How far the readout rises on each form of the prompts, as a share of the calibration's scale."""
    rows = [row for form in forms for row in _rows(trials, form, edits, drawn)]
    _, measured, _ = trials.run_rows(rows, verbose)
    sizes = np.abs(measured[0]).reshape(len(forms), len(trials.prompts), -1) / found.scale
    return [
        Measure(
            name=f"readout / maximum, {form.name}", unit="prompt", steered=of_form[:, 1] - of_form[:, 0],
            prompt=of_form[:, 2] - of_form[:, 0], random=of_form[:, 3:] - of_form[:, :1], seed=trials.seed,
        )
        for form, of_form in zip(forms, sizes, strict=True)
    ]  # fmt: skip


def _rows(
    trials: Trials, form: _Form, edits: list[Edit], drawn: Sequence[Sequence[list[Edit]]]
) -> Iterator[Row]:
    """For each prompt: unsteered, steered, asked, then along its random directions."""
    nothing: list[Edit] = []
    for i, directions in enumerate(drawn):
        (text, asking), plain = form.texts[i], form.plain[i]
        seed = trials.seed_of(i)
        yield Row(text, plain, plain, nothing, seed)
        yield Row(text, plain, plain, edits, seed)
        yield Row(asking, form.asking[i], plain, nothing, seed)
        for direction in directions:
            yield Row(text, plain, plain, direction, seed)


# -- cost: what becomes of predictions on unrelated texts ----------------------------------------------------


def _costs(
    trials: Trials, texts: Sequence[str], edits: list[Edit], drawn: Sequence[Sequence[list[Edit]]], asked: str
) -> tuple[Measure, Measure]:
    """KL to the unsteered model (nats per token), and by how much the loss rises, of every text."""
    found = np.full((len(texts), 2 + len(drawn[0]), 2), np.nan)
    for i, (text, directions) in enumerate(zip(texts, drawn, strict=True)):
        body, opening = _split(trials, text)
        clean = _predictions(trials, [*opening, *body], len(body), [])
        for j, changed in enumerate((edits, None, *directions)):
            before = (
                opening
                if changed is not None
                else [int(token) for token in trials.session.plain.model.tokenize(asked)]
            )
            now = _predictions(trials, [*before, *body], len(body), changed or [])
            found[i, j] = _apart(clean, now, np.array(body))
    named = (("KL to the unsteered model, nats a token", False), ("perplexity / the unsteered model's", True))
    divergence, perplexity = (
        Measure(
            name=name, unit="text", steered=found[:, 0, k], prompt=found[:, 1, k], random=found[:, 2:, k],
            seed=trials.seed, logarithmic=logarithmic,
        )
        for k, (name, logarithmic) in enumerate(named)
    )  # fmt: skip
    return divergence, perplexity


def _split(trials: Trials, text: str) -> tuple[list[int], list[int]]:
    """A text's token ids, and apart from them the specials that open every text."""
    tokenize = trials.session.plain.model.tokenize
    ids, opening = ([int(token) for token in tokenize(given)] for given in (text, ""))
    return (ids[len(opening) :], opening) if ids[: len(opening)] == opening else (ids, [])


def _predictions(trials: Trials, ids: list[int], last: int, edits: list[Edit]) -> np.ndarray | None:
    """log p of the next token after each of the `last` tokens, float64, (last, vocabulary); None where it failed."""
    limit = trials.session.plain.model.max_positions
    if limit is not None and len(ids) > limit:
        return None
    with steered(trials.session, edits):
        model = trials.session.running(ids).model
        batch = TokenBatch.from_rows([ids])
        logits = model.backend.get(model.forward(batch))[0, len(ids) - last :]
    return log_softmax(logits) if np.isfinite(logits).all() else None


def _apart(clean: np.ndarray | None, now: np.ndarray | None, body: np.ndarray) -> tuple[float, float]:
    """KL(clean ‖ now), mean over a text's tokens; and how much larger the mean -log p of its tokens is, nats."""
    if clean is None or now is None:
        return float("nan"), float("nan")
    divergence = float((np.exp(clean) * (clean - now)).sum(axis=-1).mean())
    at = np.arange(len(body) - 1), body[1:]
    return divergence, float((clean[at] - now[at]).mean()) if len(body) > 1 else float("nan")
