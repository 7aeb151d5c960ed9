"""Whether an SAE is poor where it is checked, and why.

`check` asks. A `Judgement` compares what the SAE explains with what nothing explains (the mean), with what an
SAE that has learnt nothing explains (`untrained`), with its own figures, and with its own place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations.exclusions import are_sinks, sink_length
from ..anatomy.anatomy import Anatomy
from ..core.integers import is_integer, is_number
from ..core.sites import Component
from ..errors import ComponentError
from ..sae import SAE
from ..sae.adapt import read, trained_elsewhere
from ..sae.untrained import untrained_variance
from .subject import Subject

_TOKENS = 2048
"""At most so many are judged by."""
_LEFT = 0.85
"""An SAE that leaves more than this share of what an untrained one leaves has hardly learnt anything."""
_LEFT_EARLY = 0.45
"""The same where its training is known to have ended early."""
_FEW_STEPS = 200
_ELSEWHERE = 0.7
"""It belongs elsewhere where it leaves less than this share of what it leaves here."""
_BELOW, _BELOW_SEEN = 0.15, 0.3
"""A stated figure is missed where the SAE falls short of it by more than this; the second where the figure is of
tokens that training saw several times, on which every SAE does better."""
_APART = 0.05
"""Encoder and decoder of an SAE that works point the same way: the mean cosine is above this."""
_MANY_DEAD = 0.5


@dataclass(frozen=True, eq=False, slots=True)
class Judgement:
    """What an SAE explains on tokens that are neither first nor sinks, and what it is compared with."""

    value: float
    """Explained variance."""
    untrained: float
    """The same of an SAE of this shape and L0 that has learnt nothing (`untrained_variance`)."""
    own_place: str | None
    """The component that its metadata names, where that is another than the one it is judged at."""
    own_value: float | None
    """Explained variance there; None where this model has no such component."""
    scale: float = 1.0
    """By how much its reconstructions would have to be longer, around their mean."""
    scaled_value: float = float("-inf")
    """Explained variance with that."""

    @staticmethod
    def of(subject: Subject, l0: float) -> Judgement:
        """Judges an SAE by up to 2048 tokens.

        Args:
            l0: Active features of a token, as measured.
        """
        anatomy, sae = subject.anatomy, subject.sae
        own = trained_elsewhere(anatomy, sae, subject.place.name)
        place = None if own is None else _known(anatomy, own)
        places = [subject.place, subject.target, *([place] if place is not None else [])]
        x, y, *others = _rows(anatomy, places, subject.contexts)
        kept = without_sinks(anatomy, subject.place, x)
        x, y, *others = (rows[kept] for rows in (x, y, *others))
        same = others and others[0].shape == x.shape and np.array_equal(others[0], x)
        if same:  # two names of one value
            own, others = None, []
        target = None if subject.target is subject.place else y
        own_value = explained(sae, others[0], others[0] if target is None else y) if others else None
        if own_value == float("-inf"):  # of another width: nothing can be said of it
            own_value = None
        untrained = untrained_variance(x, target, sae.d_hidden, l0)
        return Judgement(explained(sae, x, y), untrained, own, own_value, *_scaled(sae, x, y))

    def left(self) -> float:
        """What the SAE leaves unexplained, as a share of what an untrained one leaves."""
        return self._share(self.value)

    def _share(self, value: float) -> float:
        return (1 - value) / max(1 - self.untrained, 1e-9)

    def _is_of_another_scale(self) -> bool:
        """Whether one factor makes a good SAE of it."""
        better = 1 - self.scaled_value < _ELSEWHERE * (1 - self.value)
        return better and self._share(self.scaled_value) <= _LEFT

    def elsewhere(self, here: str) -> tuple[str, bool] | None:
        """A sentence on the SAE's own place, and whether it speaks against this one; None where this is it."""
        if self.own_place is None:
            return None
        if self.own_value is None:
            return f"Its metadata says that it was trained on {self.own_place}, not on {here}.", False
        figures = f"explained variance {self.own_value:.2f} there, {self.value:.2f} here"
        call = f"Check it there: component={self.own_place!r}."
        if 1 - self.own_value < _ELSEWHERE * (1 - self.value):
            what = _what_is_wrong(self.own_place, here)
            return (
                f"{what}: this SAE reconstructs {self.own_place} far better than {here}, and its metadata names it:"
                f" {figures}. {call}"
            ), True
        return (
            f"Its metadata says that it was trained on {self.own_place}, not on {here}: {figures}. {call}",
            False,
        )

    def reasons(
        self, sae: SAE, expected: Mapping[str, float], recovered: Mapping[str, float]
    ) -> Iterator[str]:
        """Why it is poor, each reason with what is likely behind it; none where it is not.

        Args:
            expected: Stated figures.
            recovered: Measured shares of the loss, by the names of the stated ones.
        """
        behind = " ".join(_behind(sae))
        if self._is_of_another_scale():
            yield (
                f"Poor: wrong scale: reconstructions {self.scale:.3g} times as long (around their mean) would explain"
                f" {self.scaled_value:.2f} of the variance, as they are they explain {self.value:.2f}."
            )
        elif self.value <= 0:
            yield (
                f"Poor: the mean activation explains more than this SAE (explained variance {self.value:.2f}; the mean"
                f" has 0, an untrained SAE of this shape and L0 {self.untrained:.2f}). {behind}"
            )
        elif self.left() > (_LEFT_EARLY if _ended_early(sae) else _LEFT):
            than = "below" if self.value < self.untrained else "too near to"
            yield (
                f"Poor: explained variance {self.value:.2f} is {than} the {self.untrained:.2f} of an untrained SAE of"
                f" this shape and L0. {behind}"
            )
        elif (said := expected.get("explained_variance", 0.0)) - _allowed(sae, said) > self.value:
            yield (
                f"Poor: explained variance is {self.value:.2f}, {said:.2f} was stated. Are these texts like those it"
                " was trained on, and is it the same checkpoint of the model?"
            )
        for name, found in recovered.items():
            said = expected.get(name)
            if said is not None and said - _BELOW > found:
                yield f"Poor: {name.replace('_', ' ')} is {found:.2f}, {said:.2f} was stated."


def stated(sae: SAE) -> dict[str, float]:
    """Figures that an SAE's metadata has: published ones, those on held-out text, or those of its training."""
    found: dict[str, float] = {}
    for part in (sae.metadata, sae.metadata.get("held_out"), sae.metadata.get("training")):
        if not isinstance(part, Mapping):
            continue
        for name in ("l0", "explained_variance", "loss_recovered_mean", "loss_recovered_zero"):
            value = part.get(name)
            if is_number(value):
                found.setdefault(name, float(value))
    if "l0" not in found and sae.k is not None:
        found["l0"] = float(sae.k)
    return found


def explained(sae: SAE, x: np.ndarray, y: np.ndarray) -> float:
    """Explained variance of y (tokens, d_out), given x (tokens, width); -inf where the SAE does not take x."""
    if x.shape[1] != sae.d_model or y.shape[1] != sae.d_out:
        return float("-inf")
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = y.astype(np.float64)
        error = ((wanted - sae.reconstruct(x)) ** 2).sum()
        total = ((wanted - wanted.mean(axis=0)) ** 2).sum()
    found = float(1 - error / total) if total > 0 else float("-inf")
    return found if np.isfinite(found) else float("-inf")


def _scaled(sae: SAE, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The factor that suits reconstructions best, around their mean, and explained variance with it."""
    rebuilt = np.asarray(sae.reconstruct(x), dtype=np.float64)
    rebuilt -= rebuilt.mean(axis=0)
    wanted = y.astype(np.float64)
    wanted -= wanted.mean(axis=0)
    square, total = float((rebuilt**2).sum()), float((wanted**2).sum())
    if not (0 < square < np.inf and 0 < total < np.inf):
        return 1.0, float("-inf")
    scale = float((rebuilt * wanted).sum()) / square
    return scale, 1 - float(((wanted - scale * rebuilt) ** 2).sum()) / total


def without_sinks(anatomy: Anatomy, place: Component, x: np.ndarray) -> np.ndarray:
    """Booleans (tokens,): which of a place's activations are no attention sinks, by the measure of all calls.

    A few sinks hold most of the variance of some models, and SAEs are usually trained without them.
    """
    kept = ~are_sinks(np.linalg.norm(x, axis=1), sink_length(anatomy.model, place))
    return kept if kept.any() else ~kept


def _rows(anatomy: Anatomy, places: list[Component], contexts: list[list[int]]) -> list[np.ndarray]:
    """Activations of each place, (tokens, width), without each context's first token."""
    runs, left = [], _TOKENS
    for context in contexts:
        runs.append([rows[1:] for rows in read(anatomy, places, np.array(context[: left + 1]))])
        left -= len(runs[-1][0])
        if left < 1:
            break
    return [np.concatenate([run[i] for run in runs]) for i in range(len(places))]


def _known(anatomy: Anatomy, name: str) -> Component | None:
    try:
        return anatomy.component(name)
    except ComponentError:
        return None


def _what_is_wrong(own: str, here: str) -> str:
    parts = [name.split(".", 2) for name in (own, here)]
    if parts[0][:1] != ["layers"] or parts[1][:1] != ["layers"] or parts[0][1] == parts[1][1]:
        return "Wrong component"
    return "Wrong layer" if parts[0][2:] == parts[1][2:] else "Wrong layer and component"


def _training(sae: SAE) -> Mapping[str, Any]:
    found = sae.metadata.get("training")
    return found if isinstance(found, Mapping) else {}


def _allowed(sae: SAE, said: float) -> float:
    """How far an SAE may fall short of an explained variance that it states."""
    facts = _training(sae)
    seen_again = facts.get("explained_variance") == said and (_count(facts, "epochs") or 1) > 1
    return _BELOW_SEEN if seen_again else _BELOW


def _count(facts: Mapping[str, Any], name: str) -> int | None:
    found = facts.get(name)
    return found if is_integer(found) else None


def _ended_early(sae: SAE) -> bool:
    """Whether its metadata says that its training was short or cut short."""
    steps = _count(_training(sae), "steps")
    return _training(sae).get("interrupted") is True or (steps is not None and steps < _FEW_STEPS)


def _behind(sae: SAE) -> Iterator[str]:
    """What the SAE itself tells of the likely causes."""
    facts = _training(sae)
    steps, tokens, dead = (_count(facts, name) for name in ("steps", "tokens", "dead_features"))
    length = f"{steps:,} steps on {tokens:,} tokens" if steps is not None and tokens is not None else None
    if length and _ended_early(sae):
        cut = " before it was interrupted" if facts.get("interrupted") is True else ""
        yield (
            f"Undertrained: it was trained for {length}{cut}. Train longer (more epochs, or a smaller batch_size), or"
            " on more text."
        )
    elif length:
        yield f"It was trained for {length}."
    else:
        yield "Its files do not say how long it was trained: perhaps it is untrained, or another model's."
    if dead is not None and dead > _MANY_DEAD * sae.d_hidden:
        yield f"{dead:,} of {sae.d_hidden:,} features were dead when its training ended: train with fewer features."
    if sae.d_out == sae.d_model:
        products = np.einsum("df,fd->f", sae.W_enc, sae.W_dec, dtype=np.float64)
        lengths = np.linalg.norm(sae.W_enc, axis=0) * np.linalg.norm(sae.W_dec, axis=1)
        cosine = float(np.mean(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)))
        if cosine < _APART:
            yield (
                "Its encoder and decoder do not belong together (mean cosine of a feature's two directions"
                f" {cosine:.2f}); is the file in order?"
            )
