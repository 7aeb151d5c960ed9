"""How an SAE's pre-activations become features, and what happens to its input first: small values.

`h` below is the pre-activation (x - b_dec) @ W_enc + b_enc, in float32. Among equal values the lowest
feature id wins. The arrays that a variant needs beside the four weights lie in `SAEWeights.extra`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, ClassVar, cast, get_args

from .core.integers import is_integer, is_number, scalar
from .errors import SAEError


class _Settings:
    """Numbers of NumPy become Python's, which files can hold."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for entry in fields(cast(Any, self)):
            object.__setattr__(self, entry.name, scalar(getattr(self, entry.name)))


@dataclass(frozen=True, slots=True)
class ReLU:
    """max(h, 0)."""

    name: ClassVar[str] = "relu"


@dataclass(frozen=True, slots=True)
class TanhReLU:
    """tanh(max(h, 0)), of some SAEs of SAELens before version 6."""

    name: ClassVar[str] = "tanh_relu"


@dataclass(frozen=True, slots=True)
class Gated:
    """max(p * gate_scale + b_mag, 0) where h > 0, with p = h - b_enc (arXiv 2404.16014)."""

    name: ClassVar[str] = "gated"


@dataclass(frozen=True, slots=True)
class JumpReLU:
    """max(h, 0) where h > threshold, else 0 (arXiv 2407.14435)."""

    name: ClassVar[str] = "jumprelu"


@dataclass(frozen=True, slots=True)
class TopK(_Settings):
    """ReLU, then only the k largest of each token; among equals the lowest feature id wins.

    Attributes:
        k: Features kept of each token.
        relu: Whether negative ones become 0; False keeps the k largest h as they are.
    """

    k: int
    relu: bool = True
    name: ClassVar[str] = "topk"


@dataclass(frozen=True, slots=True)
class AbsTopK(_Settings):
    """The k of largest |h| of each token, with their sign.

    Attributes:
        k: Features kept of each token.
    """

    k: int
    name: ClassVar[str] = "abs_topk"


@dataclass(frozen=True, slots=True)
class BatchTopK(_Settings):
    """ReLU, then the k * n largest of the n rows of one call; earlier rows win among equals.

    For files that store no threshold: what a token shows depends on the rows it is encoded with.

    Attributes:
        k: Features active on each token, on average.
    """

    k: int
    name: ClassVar[str] = "batch_topk"


@dataclass(frozen=True, slots=True)
class GroupMax(_Settings):
    """ReLU, then the largest of each of k equal groups of neighbouring features.

    Attributes:
        k: Number of groups, a divisor of d_hidden.
    """

    k: int
    name: ClassVar[str] = "group_max"


@dataclass(frozen=True, slots=True)
class MatchingPursuit(_Settings):
    """Greedily the decoder row that explains most of what is left, again and again (SAELens).

    A token is done when its set of features did not change, or when what is left is short.

    Attributes:
        max_iterations: Rounds at most.
        residual_threshold: A token is done when what is left is shorter than this; 0 never ends it.
        stop_on_duplicate_support: Whether a token is done when a round takes a feature that it has already; else
            when a round adds nothing.
    """

    max_iterations: int
    residual_threshold: float = 0.0
    stop_on_duplicate_support: bool = True
    name: ClassVar[str] = "matching_pursuit"


@dataclass(frozen=True, slots=True)
class Temporal(_Settings):
    """What attention over earlier tokens does not predict (SAELens); needs whole texts (…, positions, d_model).

    Attributes:
        n_heads: Heads of the attention over earlier tokens.
        n_attn_layers: Layers of it.
        k: Features kept of what is not predicted; None keeps all that are positive.
        scale: Activations are multiplied by it first, and the reconstruction divided.
    """

    n_heads: int
    n_attn_layers: int
    k: int | None
    scale: float = 1.0
    name: ClassVar[str] = "temporal"


Activation = (
    ReLU | TanhReLU | Gated | JumpReLU | TopK | AbsTopK | BatchTopK | GroupMax | MatchingPursuit | Temporal
)
"""How pre-activations become features."""

FIXED_K = (TopK, AbsTopK, GroupMax)
"""The same number of features for each token."""

ELEMENTWISE = (ReLU, TanhReLU, Gated, JumpReLU)
"""Every feature is decided by itself."""

EXTRA: dict[str, tuple[str, ...]] = {"jumprelu": ("threshold",), "gated": ("gate_scale", "b_mag")}
"""Arrays (d_hidden,) that an activation needs."""

NORMALISATIONS = ("none", "layer_norm", "constant_norm")


@dataclass(frozen=True, slots=True)
class InputForm:
    """What happens to activations before the encoder, and is undone after the decoder, token by token.

    Attributes:
        normalize: "none"; "layer_norm" (x - mean) / (std + 1e-5) with ddof 1; "constant_norm" x * sqrt(d_model) /
            |x|.
        center: Whether each token's mean is subtracted first: the SAE was trained on a model whose writing weights
            were centred.
        heads: Whether activations may come as (…, heads, d_head), which are flattened head by head.
        restore: Whether the reconstruction is brought back to the units of x; SAELens's transcoders do not.
    """

    normalize: str = "none"
    center: bool = False
    heads: bool = False
    restore: bool = True

    def __post_init__(self) -> None:
        for name in ("center", "heads", "restore"):
            if not isinstance(getattr(self, name), bool):
                raise SAEError(f"form: {name} is {getattr(self, name)!r}, expected True or False.")
        if self.normalize not in NORMALISATIONS:
            raise SAEError(
                f"Unknown input normalisation {self.normalize!r}. There are: {', '.join(NORMALISATIONS)}."
            )

    @property
    def trivial(self) -> bool:
        """Whether the encoder takes x as it is."""
        return self.normalize == "none" and not self.center

    @property
    def undone(self) -> bool:
        """Whether something is undone after the decoder."""
        return self.restore and not self.trivial


def activation_to_dict(activation: Activation) -> dict[str, Any]:
    """As JSON: {"name": "topk", "k": 32, …}."""
    return {"name": activation.name, **asdict(activation)}


def activation_from_dict(config: Mapping[str, Any]) -> Activation:
    """What `activation_to_dict` wrote.

    Raises:
        SAEError: There is no such activation, or its settings are not those it has.
    """
    known = {cls.name: cls for cls in get_args(Activation)}
    settings = dict(config)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in known:
        raise SAEError(f"Unknown activation {name!r}. This version knows: {', '.join(known)}.")
    cls = known[name]
    names = [field.name for field in fields(cls)]
    try:
        return cls(**settings)
    except TypeError as error:
        raise SAEError(f"{name} takes {', '.join(names) or 'no settings'}, got {settings}.") from error


def check_activation(activation: Activation, d_hidden: int) -> None:
    """Raises SAEError where a setting cannot be, for d_hidden features."""
    if not isinstance(activation, get_args(Activation)):
        raise SAEError(
            f"{activation!r} is not an activation. mlxterp.variants has:"
            f" {', '.join(cls.__name__ for cls in get_args(Activation))}."
        )
    _check_types(activation)
    k = getattr(activation, "k", None)
    optional = not isinstance(activation, (*FIXED_K, BatchTopK))
    if not (k is None and optional) and not (is_integer(k) and 1 <= k <= d_hidden):
        raise SAEError(f"k is {k!r}; with {d_hidden} features it must be an integer from 1 to {d_hidden}.")
    if isinstance(activation, GroupMax) and d_hidden % activation.k:
        raise SAEError(f"{d_hidden} features cannot be divided into {activation.k} equal groups.")
    if isinstance(activation, MatchingPursuit):
        rounds, most = activation.max_iterations, 100 * d_hidden
        if not (is_integer(rounds) and 1 <= rounds <= most):
            raise SAEError(f"max_iterations is {rounds!r}; it must be an integer from 1 to {most}.")


def _check_types(activation: Activation) -> None:
    """Every setting is what its annotation says."""
    kinds: dict[str, Callable[[Any], bool]] = {
        "int": is_integer,
        "int | None": lambda value: value is None or is_integer(value),
        "bool": lambda value: isinstance(value, bool),
        "float": lambda value: is_number(value) and isfinite(value),
    }
    for entry in fields(activation):
        value = getattr(activation, entry.name)
        if entry.name != "k" and not kinds[str(entry.type)](value):
            raise SAEError(f"{activation.name}: {entry.name} is {value!r}, expected {entry.type}.")
    if isinstance(activation, Temporal) and (
        min(activation.n_heads, activation.n_attn_layers) < 1 or activation.scale == 0
    ):
        raise SAEError(f"A temporal SAE needs at least one layer and head, and a scale; got {activation}.")
