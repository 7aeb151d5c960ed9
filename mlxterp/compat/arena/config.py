"""`AutoInterpConfig`: the section's settings, by its names, and those of its bonus exercises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...core import checks
from ...core.feature_ids import ANY, feature_ids

LEVELS = ("token", "substring", "concept")
"""Kinds of latents that a prompt can show example explanations of."""


@dataclass
class AutoInterpConfig:
    """What `AutoInterp` gathers and asks.

    Attributes:
        latents: The latents.
        buffer: Tokens on both sides of a window's middle.
        no_overlap: Whether no window's middle lies within `buffer` of that of a stronger one in its context.
        act_threshold_frac: Of a latent's largest activation: tokens above it are active.
        total_tokens: Tokens to look at, at most.
        scoring: Whether explanations are scored too.
        max_tokens_in_explanation: Of a reply that explains.
        use_examples_in_explanation_prompt: Whether the prompt shows what explanations look like.
        n_top_ex_for_generation: Windows to explain from.
        n_top_ex_for_scoring: Windows to score on where the latent is active.
        n_random_ex_for_scoring: Windows to score on where it is not, each looked up.
        examples: Which kinds of example explanations a prompt shows: of "token", "substring", "concept".
        top_logits: Tokens that the latent promotes, listed in the prompt; 0 for none.
        quantised: Whether the prompt gives the activation of each active token as a whole number of 1 to 10.
        cot: Whether the reply may think in four steps before it explains.
        seed: Of everything that is drawn.
        concurrency: Requests that are open at a time.

    Raises:
        InputError: A setting is none.
        UnknownFeatureError: `latents` holds what is no feature id.

    Examples:
        >>> from mlxterp.compat.arena import AutoInterpConfig
        >>> cfg = AutoInterpConfig(latents=[9, 11], scoring=True)
        >>> cfg.n_latents, cfg.n_top_ex, cfg.n_ex_for_scoring
        (2, 14, 12)
    """

    latents: Any
    buffer: int = 10
    no_overlap: bool = False
    act_threshold_frac: float = 0.1
    total_tokens: int = 500_000
    scoring: bool = False
    max_tokens_in_explanation: int = 25
    use_examples_in_explanation_prompt: bool = True
    n_top_ex_for_generation: int = 10
    n_top_ex_for_scoring: int = 4
    n_random_ex_for_scoring: int = 8
    examples: tuple[str, ...] = field(default=LEVELS, kw_only=True)
    top_logits: int = field(default=0, kw_only=True)
    quantised: bool = field(default=False, kw_only=True)
    cot: bool = field(default=False, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    concurrency: int = field(default=8, kw_only=True)

    def __post_init__(self) -> None:
        self.latents = feature_ids(self.latents, ANY, "latents")
        for name, least in _LEAST.items():
            setattr(self, name, checks.count(getattr(self, name), name, least))
        for name in _FLAGS:
            setattr(self, name, checks.flag(getattr(self, name), name))
        self.act_threshold_frac = checks.fraction(self.act_threshold_frac, "act_threshold_frac")
        levels = (self.examples,) if isinstance(self.examples, str) else tuple(self.examples)
        self.examples = tuple(checks.choice(one, "An entry of examples", LEVELS) for one in levels)
        self.seed = checks.seed(self.seed)

    @property
    def n_top_ex(self) -> int:
        """Windows where the latent is active, for both."""
        return self.n_top_ex_for_generation + self.n_top_ex_for_scoring

    @property
    def max_tokens_in_prediction(self) -> int:
        """Of a reply that lists numbers of windows."""
        return 2 * self.n_ex_for_scoring + 5

    @property
    def n_ex_for_scoring(self) -> int:
        """Windows to score on."""
        return self.n_top_ex_for_scoring + self.n_random_ex_for_scoring

    @property
    def n_latents(self) -> int:
        """Latents."""
        return len(self.latents)


_LEAST = {
    "buffer": 0, "total_tokens": 1, "max_tokens_in_explanation": 1, "n_top_ex_for_generation": 1,
    "n_top_ex_for_scoring": 0, "n_random_ex_for_scoring": 0, "top_logits": 0, "concurrency": 1,
}  # fmt: skip
"""The least value of each count."""
_FLAGS = ("no_overlap", "scoring", "use_examples_in_explanation_prompt", "quantised", "cot")
