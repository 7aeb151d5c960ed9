"""`Example`: a window of tokens with one latent's activations, as the section shows it to a language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...backends.host.conversion import to_numpy
from ...core import checks
from ...errors import InputError
from ...model.interpretable import InterpretableModel
from ..saelens import HookedTransformer


class Example:
    """One sequence.

    Args:
        toks: Token ids.
        acts: The latent's activation on each.
        act_threshold: Tokens with more than that are active.
        model: A `HookedTransformer` of `mlxterp.compat.saelens`, or an `InterpretableModel`; its tokenizer is used.

    Attributes:
        toks: As a list.
        str_toks: The text of each token.
        acts: As a list.
        act_threshold: As given.
        toks_are_active: Whether each token's activation is above the threshold.
        is_active: Whether one is.

    Raises:
        InputError: There are not as many activations as tokens, or none.

    Examples:
        >>> from mlxterp.compat.arena import Example
        >>> tokens = model.tokenize("She saw a ball")
        >>> Example(tokens[1:], [0, 0, 0, 2.5], act_threshold=0.5, model=model).to_str(mark_toks=True)
        'She saw a<< ball>>'
    """

    def __init__(self, toks: Iterable[int], acts: Iterable[float], act_threshold: float, model: Any):
        self.toks = [int(token) for token in to_numpy(_listed(toks), "toks").reshape(-1).tolist()]
        self.acts = [float(act) for act in to_numpy(_listed(acts), "acts").reshape(-1).tolist()]
        if len(self.toks) != len(self.acts) or not self.toks:
            raise InputError(
                f"An Example has an activation for each token; got {len(self.toks)} tokens and {len(self.acts)}"
                " activations."
            )
        self.str_toks: list[str] = str_tokens(model, self.toks)
        self.act_threshold = checks.finite(act_threshold, "act_threshold")
        self.toks_are_active = [act > self.act_threshold for act in self.acts]
        self.is_active = any(self.toks_are_active)

    def to_str(self, mark_toks: bool = False) -> str:
        """The window in one line.

        Args:
            mark_toks: Whether active tokens stand between << and >>, neighbours together.

        Returns:
            Line breaks are shown as ↵; the sign for half a character is left out.
        """
        shown = [
            f"<<{token}>>" if mark_toks and active else token
            for token, active in zip(self.str_toks, self.toks_are_active, strict=True)
        ]
        return "".join(shown).replace(">><<", "").replace("�", "").replace("\n", "↵")

    def __repr__(self) -> str:
        return f"Example({self.to_str(mark_toks=True)!r})"


def str_tokens(model: Any, toks: Sequence[int]) -> list[str]:
    """The text of each token, decoded alone, as the section does it.

    Raises:
        InputError: It is no model of this library.
    """
    if not isinstance(model, (HookedTransformer, InterpretableModel)):
        raise InputError(
            f"model is a HookedTransformer or an InterpretableModel, got {type(model).__name__}."
        )
    return [str(text) for text in model.to_str_tokens([int(token) for token in toks])]


def _listed(given: Any) -> Any:
    """An iterator as a list; everything else as it is."""
    return list(given) if isinstance(given, Iterable) and not hasattr(given, "__len__") else given
