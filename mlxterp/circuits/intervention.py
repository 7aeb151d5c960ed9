"""`FeatureIntervention`: what a model predicts with features set to values, beside what it predicts without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..core import checks
from ..core.numeric import log_softmax
from ..core.sparse import SparseFeatures
from ..data.text import TokenTexts
from ..edits.edits import Edit
from ..viz.lines import LinesView, Table
from .asked import Asked

_HELD = {
    "all": "everything is held", "attention+norms": "attention and norms are held", "attention": "attention is held",
    None: "nothing is held",
}  # fmt: skip
_SHOWN = 10


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """What a pass gives.

    Attributes:
        logits: float32, (vocabulary,).
        activations: Layer → features of each position.
    """

    logits: np.ndarray
    activations: Mapping[int, SparseFeatures]


class Predicted(NamedTuple):
    """A next token.

    Attributes:
        token: Its text.
        token_id: Its id.
        probability: With the intervention.
        before: Probability without it.
    """

    token: str
    token_id: int
    probability: float
    before: float


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FeatureIntervention(LinesView):
    """What features that are set to values do; see `model.feature_intervention`. `print` and notebooks show it.

    Attributes:
        logits: float32, (vocabulary,): of the prompt's last position, with the intervention. With something held they
            are before a final soft cap.
        logits_before: The same without it, in a pass that holds as much.
        activations: Layer → `SparseFeatures`, a row for each position: what its transcoder finds with the intervention.
            Of a feature that is set this is what the model computes, not the value.
        activations_before: The same without it.
        freeze: "all", "attention+norms", "attention" or None.
        edits: The interventions as edits of `mlxterp.steering`, for `model.steer` and `generate`, where nothing is
            held.
        asked: The features and their values, by layer.
        tokens: Text of each token of the prompt.
        ids: Their ids.
        written: What the model wrote with the edits, from the prompt as it was held, where `max_tokens` was given: a
            text, or token ids.
        tokenizer: Of the model; None without one.
    """

    logits: np.ndarray
    logits_before: np.ndarray
    activations: Mapping[int, SparseFeatures]
    activations_before: Mapping[int, SparseFeatures]
    freeze: str | None
    edits: tuple[Edit, ...]
    asked: tuple[Asked, ...]
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    written: Any = None
    tokenizer: Any = None

    @property
    def effect(self) -> np.ndarray:
        """float64, (vocabulary,): how each logit changes, less the mean change: as edges of a graph count it."""
        found = self.logits.astype(np.float64) - self.logits_before
        return found - found.mean()

    def likeliest(self, top_k: int = 10) -> list[Predicted]:
        """The likeliest next tokens with the intervention, then the lower id."""
        return self._predicted(np.argsort(-self.logits, kind="stable")[: checks.count(top_k, "top_k")])

    def _predicted(self, ids: np.ndarray) -> list[Predicted]:
        texts = TokenTexts(self.tokenizer)
        after, before = (np.exp(log_softmax(x)) for x in (self.logits, self.logits_before))
        return [
            Predicted(texts.after(self.ids, token), token, float(after[token]), float(before[token]))
            for token in ids.tolist()
        ]

    def __repr__(self) -> str:
        return f"FeatureIntervention({len(self.asked)} features, {_HELD[self.freeze]})"

    @property
    def _lines(self) -> Sequence[str]:
        before, after = (int(x.argmax()) for x in (self.logits_before, self.logits))
        one, other = self._predicted(np.array([before, after]))
        lines = [
            f"{len(self.asked)} feature{'s' * (len(self.asked) != 1)} set on {''.join(self.tokens)!r};"
            f" {_HELD[self.freeze]}",
            f"Likeliest next token: {one.token!r} ({one.before:.3f}), now {other.token!r} ({other.probability:.3f})",
        ]
        return lines if self.written is None else [*lines, f"Writes: {self.written!r}"]

    @property
    def _tables(self) -> Sequence[Table]:
        rows = []
        for one in self.asked[:_SHOWN]:
            columns = [
                found[one.layer].columns(np.array([one.feature]))[:, 0]
                for found in (self.activations_before, self.activations)
            ]
            for position in one.on_prompt.tolist()[:_SHOWN]:
                before, after = (float(column[position]) for column in columns)
                where = f"L{one.layer} #{one.feature} at {position} {self.tokens[position]!r}"
                rows.append([where, f"{before:.3f}", f"{one.value:.3f}", f"{after:.3f}"])
        ranked = [np.argsort(-x, kind="stable")[: _SHOWN // 2] for x in (self.logits_before, self.logits)]
        shown = list(dict.fromkeys(np.concatenate(ranked).tolist()))
        told = [
            [repr(one.token), f"{one.before:.3f}", f"{one.probability:.3f}", f"{change:+.3f}"]
            for one, change in zip(self._predicted(np.array(shown)), self.effect[shown], strict=True)
        ]
        return (
            Table(("feature", "activation", "set to", "found then"), rows[: 2 * _SHOWN]),
            Table(("next token", "before", "with it", "logit"), told),
        )
