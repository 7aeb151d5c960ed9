"""How a decoder block adds to the residual stream, found by looking at one small forward pass.

Names of norms and branches mean different things in different architectures, so the numbers decide:
which inner module's input is the stream between the two additions, and which modules' outputs,
times which scalars, are what was added. `anatomy` runs the pass and uses the `BlockRule`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Recorded = dict[str, np.ndarray]
"""Module path → value, float64, shaped like the stream."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A module whose output, times `scale`, is added to the stream."""

    module: str
    scale: float


@dataclass(frozen=True, slots=True)
class BlockRule:
    """What one decoder block adds: resid_post = resid_pre + attn_out + mlp_out.

    A branch of None that `kind` says is there is known only by subtraction.
    """

    kind: str
    """"sequential" (both additions known), "parallel" (both known, added at once), "middle" (the
    stream between them is known, one or both additions only by subtraction), "single" (one
    addition), or "none" (not a single residual stream)."""
    middle: str | None = None
    """The module whose input is resid_mid; None where it is resid_pre + attn_out."""
    attn: Branch | None = None
    mlp: Branch | None = None


@dataclass(frozen=True, slots=True)
class Precision:
    """What rounding allows for: a sum of two values, each as large as the stream, in this dtype."""

    step: float

    def agree(self, found: np.ndarray, expected: np.ndarray, *terms: np.ndarray) -> bool:
        """Whether two values differ by no more than rounding of `terms`, nearly everywhere."""
        size = sum((np.abs(term) for term in terms), np.abs(expected))
        return bool(np.mean(np.abs(found - expected) <= self.step * size + 1e-12) > 0.995)


def find_rule(
    pre: np.ndarray,
    post: np.ndarray,
    inputs: Recorded,
    outputs: Recorded,
    precision: Precision,
) -> BlockRule:
    """The rule that explains one block's values.

    Args:
        pre: The block's input (batch, positions, d_model); `post` its output.
        inputs: First inputs of the modules inside, in the order they were called.
        outputs: Their outputs, likewise; only those shaped like the stream.
    """
    middles = [(m, mid) for m, mid in inputs.items() if not _same(mid, pre) and not _same(mid, post)]
    halves, whole = [], []
    for module, mid in middles:
        attn = _branch(pre, mid, outputs, precision)
        mlp = _branch(mid, post, outputs, precision)
        if attn and mlp:
            error = _error(pre, mid, attn, outputs) + _error(mid, post, mlp, outputs)
            whole.append((error, len(whole), BlockRule("sequential", module, attn, mlp)))
        elif attn or mlp:
            halves.append(BlockRule("middle", module, attn, mlp))
    if whole:  # a norm's output can look like the stream in 16 bit: the closest fit is the stream itself
        return min(whole)[2]
    single = _branch(pre, post, outputs, precision)
    if single:
        return BlockRule("single", None, single, None)
    pair = _pair(pre, post, outputs, precision)
    if pair:
        return BlockRule("parallel", None, *pair)
    halves.sort(key=lambda rule: [b is None or b.scale != 1.0 for b in (rule.mlp, rule.attn)])
    return halves[0] if halves else BlockRule("none")


def _branch(start: np.ndarray, end: np.ndarray, outputs: Recorded, precision: Precision) -> Branch | None:
    """The outermost module whose scaled output leads from `start` to `end`."""
    found = []
    for module, out in outputs.items():
        for scale in _scales(end - start, out):
            if _explains(end - start, scale * out, scale == 1.0) and precision.agree(
                start + scale * out, end, start, scale * out
            ):
                found.append(Branch(module, scale))
                break
    return min(found, key=lambda b: (b.scale != 1.0, b.module.count(".")), default=None)


def _error(start: np.ndarray, end: np.ndarray, branch: Branch, outputs: Recorded) -> float:
    return float(np.linalg.norm(end - start - branch.scale * outputs[branch.module]))


def _explains(added: np.ndarray, out: np.ndarray, plain: bool) -> bool:
    """Whether an output is most of what was added; in 16 bit, rounding alone would allow too much."""
    return float(np.square(added - out).sum()) <= (0.2 if plain else 0.01) * float(np.square(added).sum())


def _scales(added: np.ndarray, out: np.ndarray) -> tuple[float, ...]:
    """1, and the scalar that fits best, if that is another."""
    square = float(np.vdot(out, out))
    if square == 0 or not np.isfinite(square):
        return ()
    scale = float(np.vdot(out, added)) / square
    return (1.0,) if abs(scale - 1) < 1e-3 or abs(scale) < 1e-6 else (1.0, scale)


def _pair(
    pre: np.ndarray, post: np.ndarray, outputs: Recorded, precision: Precision
) -> tuple[Branch, Branch] | None:
    """Two modules, in the order they were called, that together lead from `pre` to `post`."""
    found: list[tuple[Branch, Branch]] = []
    for a, b in _pairs(list(outputs)):
        x, y = outputs[a], outputs[b]
        solution, *_ = np.linalg.lstsq(
            np.stack([x.ravel(), y.ravel()], axis=1), (post - pre).ravel(), rcond=None
        )
        for s, t in ((1.0, 1.0), (float(solution[0]), float(solution[1]))):
            fits = _explains(post - pre, s * x + t * y, s == t == 1.0)
            if (
                min(abs(s), abs(t)) > 1e-6
                and fits
                and precision.agree(pre + s * x + t * y, post, pre, s * x, t * y)
            ):
                found.append((Branch(a, s), Branch(b, t)))
                break
    depth = lambda pair: pair[0].module.count(".") + pair[1].module.count(".")  # noqa: E731
    return min(found, key=depth, default=None)


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if not second.startswith(first + ".") and not first.startswith(second + "."):
                yield first, second


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b))
