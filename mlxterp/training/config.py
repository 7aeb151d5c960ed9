"""What a training run of an SAE is asked to do, checked when it is written down.

`SAETrainConfig` is what users say; `plan` makes of it and of the data a `TrainRecipe`, the objective of one SAE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from ..core import checks
from ..core.integers import as_integer
from ..core.options import check_options, checks_options
from ..errors import InputError, SAEError

_DEFAULT_EXPANSION = 16
MOST_EPOCHS = 1_000_000
"""More never end: even one row takes minutes."""
_OPTIONAL = ("d_hidden", "expansion_factor", "tokens", "epochs", "batch_size", "lr", "sparsity")
_NUMBERS: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("d_hidden", "k", "tokens", "batch_size"), partial(checks.count, error=SAEError)),
    "epochs": partial(checks.count, most=MOST_EPOCHS, error=SAEError),
    "seed": partial(checks.seed, error=SAEError),
    **dict.fromkeys(("expansion_factor", "lr", "bandwidth"), partial(checks.finite, above=0.0, error=SAEError)),
    **dict.fromkeys(("auxk", "sparsity"), partial(checks.finite, least=0.0, error=SAEError)),
    **dict.fromkeys(("dead_window", "warmup", "decay"), partial(checks.fraction, error=SAEError)),
}  # fmt: skip
"""How each is checked; those of `_OPTIONAL` may be None."""
_SHORTEST, _LONGEST = 200, 20_000
"""Steps between which the learning rate follows the length of the run."""
_HIGHEST = 0.015


@checks_options
@dataclass(frozen=True, slots=True)
class SAETrainConfig:
    """Settings of one SAE's training. The defaults follow the amount of text and suit a laptop.

    Attributes:
        d_hidden: Number of features; None takes `expansion_factor` x d_model.
        expansion_factor: d_hidden / d_model, where d_hidden is not given; None means 16.
        k: Features active on each token: exactly (topk), on average (batchtopk, matryoshka_batchtopk), or what the
            penalty aims at (jumprelu, relu, gated).
        architecture: "topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "relu" or "gated".
        tokens: At most this many tokens are used; None uses all.
        epochs: How often each token is seen; None takes it from the number of tokens: 16 times where there is little
            text, once from 1.04 million tokens on, and once where `batch_size` is given. At most a million.
        batch_size: Tokens in one step; None takes it from the number of tokens: 4096 in long runs.
        lr: Peak learning rate of Adam; None takes it from width and length of the run.
        seed: Decides initial weights and the order of tokens.
        auxk: Weight of the error that dead features are asked to explain; 0 leaves them dead.
        dead_window: A feature silent for this share of the run is dead (at most 10 million tokens).
        warmup: Share of the steps in which the learning rate rises (at most 1000 steps).
        decay: Share of the steps, at the end, in which it falls to 0.
        normalize: Whether to train in units in which a typical token lies sqrt(d_model) from the mean; the SAE comes
            out in the activations' own units.
        sparsity: Weight of the penalty of jumprelu, relu and gated. None: 1 for jumprelu; relu and gated let it
            follow, so that about k features are active.
        prefixes: How many first features reconstruct on their own (matryoshka_batchtopk); None takes d_hidden / 16,
            / 4, and all.
        bandwidth: Width of the window around a threshold in which it learns, in activations as normalised (jumprelu).
        target: Path of the component to predict, of the same tokens, which makes a transcoder; None makes an SAE.
        skip: Whether a transcoder has a linear path from input to output beside the features.

    Raises:
        SAEError: A setting cannot be used; the message says what can.

    Examples:
        >>> config = mlxterp.SAETrainConfig(expansion_factor=4, k=8, architecture="batchtopk")
        >>> config.width(d_model=192)
        768
    """

    d_hidden: int | None = None
    expansion_factor: float | None = None
    k: int = 32
    architecture: str = "topk"
    tokens: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int = 0
    auxk: float = 1 / 4
    dead_window: float = 0.05
    warmup: float = 0.05
    decay: float = 0.2
    normalize: bool = True
    sparsity: float | None = None
    prefixes: tuple[int, ...] | None = None
    bandwidth: float = 2.0
    target: str | None = None
    skip: bool = False

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise SAEError(
                f"Unknown architecture {self.architecture!r}. There are: {', '.join(ARCHITECTURES)}."
                " (SAELens's standard is relu here.)"
            )
        self._check_numbers()
        if self.d_hidden is not None and self.expansion_factor is not None:
            raise SAEError(
                f"d_hidden={self.d_hidden} and expansion_factor={self.expansion_factor} say the same thing"
                " in two ways. Give one of them."
            )
        self._check_kinds()
        if self.d_hidden is not None:
            self._check_against(self.d_hidden)

    def _check_numbers(self) -> None:
        """Checks every number and keeps it as Python's, which files can hold."""
        for name, check in _NUMBERS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if name in _OPTIONAL:
                check = partial(check, hint="Give a positive number, or None, which leaves it open.")
            object.__setattr__(self, name, check(value, name))

    def width(self, d_model: int) -> int:
        """d_hidden for activations of this width.

        Raises:
            SAEError: k or a prefix is larger.
        """
        if self.d_hidden is not None:
            return int(self.d_hidden)
        width = max(1, round((self.expansion_factor or _DEFAULT_EXPANSION) * d_model))
        self._check_against(width)
        return width

    def prefixes_of(self, d_hidden: int) -> tuple[int, ...]:
        """Matryoshka's prefixes, the last of which is d_hidden; none for other architectures."""
        if self.architecture != "matryoshka_batchtopk":
            return ()
        found = self.prefixes or tuple(max(1, d_hidden // share) for share in (16, 4))
        return tuple(sorted({*found, d_hidden}))

    def _check_kinds(self) -> None:
        for name in ("normalize", "skip"):
            if not isinstance(getattr(self, name), bool):
                raise SAEError(f"{name} is {getattr(self, name)!r}; it must be True or False.")
        if self.target is not None and not (isinstance(self.target, str) and self.target):
            raise SAEError(
                f"target is {self.target!r}; it names a component, such as 'layers.3.mlp', or is None."
            )
        if self.sparsity is not None and self.architecture in TOPK_FAMILY:
            raise SAEError(
                f"sparsity={self.sparsity} has no meaning for {self.architecture!r}: k says how many."
            )
        if self.prefixes is None:
            return
        if self.architecture != "matryoshka_batchtopk":
            raise SAEError(f"prefixes belong to 'matryoshka_batchtopk', not to {self.architecture!r}.")
        if not self.prefixes or not all((as_integer(p) or 0) >= 1 for p in self.prefixes):
            raise SAEError(
                f"prefixes is {self.prefixes!r}; it must hold numbers of features, at least 1 each."
            )

    def _check_against(self, d_hidden: int) -> None:
        if self.k > d_hidden:
            raise SAEError(
                f"k={self.k} is larger than d_hidden={d_hidden}: no more features can be active than there"
                " are. Choose a smaller k or more features."
            )
        if max(self.prefixes or (1,)) > d_hidden:
            raise SAEError(f"prefixes={self.prefixes} reach beyond d_hidden={d_hidden}.")


def config_of(config: Any, settings: Mapping[str, Any], call: str = "SAETrainConfig") -> SAETrainConfig:
    """The config of a call: what was given as one (or as a dictionary), and settings given beside it, which win.

    Raises:
        InputError: It is something else, or a setting is unknown.
        SAEError: A setting cannot be used.
    """
    known = [field.name for field in fields(SAETrainConfig)]
    if isinstance(config, SAETrainConfig):
        return replace(config, **settings) if settings else config
    if config is not None and not isinstance(config, Mapping):
        raise InputError(
            f"config is {type(config).__name__}; expected SAETrainConfig(…), or a dictionary of its settings."
        )
    merged = {**(config or {}), **settings}
    check_options(merged, known, call)
    return SAETrainConfig(**merged)


def learning_rate(d_hidden: int, steps: int, architecture: str = "topk", epochs: int = 1) -> float:
    """Peak learning rate of Adam that was measured to work: narrower SAEs and shorter runs take more.

    2e-4 / sqrt(d_hidden / 16384) * (20000 / steps)^0.6, for 200 to 20,000 steps (beyond, as at the end), and
    0.015 at most. In shorter runs a smaller rate leaves more unexplained, a larger one leaves features dead.
    Architectures that do not fix each token's number of features take half as much again, and so do runs that see
    their tokens several times.
    """
    length = min(max(steps, _SHORTEST), _LONGEST)
    rate = 2e-4 * math.sqrt(16_384 / d_hidden) * (_LONGEST / length) ** 0.6
    return min(_HIGHEST, rate if architecture == "topk" and epochs == 1 else 1.5 * rate)


TOPK_FAMILY = ("topk", "batchtopk", "matryoshka_batchtopk")
"""Architectures whose number of active features is given."""
ARCHITECTURES = (*TOPK_FAMILY, "jumprelu", "relu", "gated")
"""What can be trained."""


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """One SAE's objective. Squared errors are divided by `variance`, so that the loss is near 1 at first."""

    architecture: str
    """One of `ARCHITECTURES`."""
    k: int
    """Active features of a token: exactly (topk), on average (batchtopk, matryoshka_batchtopk), or what the
    penalty aims at (jumprelu, relu, gated)."""
    variance: float
    """Mean squared distance of the targets from their mean."""
    dead_after: int
    """A feature that has not fired for this many tokens is dead."""
    aux_k: int
    """At most this many dead features per token explain what the others left over."""
    aux_weight: float
    """Weight of that second error; 0 leaves it out."""
    prefixes: tuple[int, ...] = ()
    """matryoshka_batchtopk: numbers of first features that reconstruct on their own, ascending; the last is
    d_hidden."""
    sparsity: float | None = None
    """Weight of the penalty on active features; None lets it follow k (relu, gated) or takes 1 (jumprelu)."""
    bandwidth: float = 2.0
    """jumprelu: width of the window around a threshold in which it feels the loss."""
