"""How a decoder block adds to the residual stream, found by looking at one small forward pass.

Names of norms and branches mean different things in different architectures, so the numbers decide:
which inner module's input is the stream between the two additions, and which modules' outputs,
times which scalars, are what was added. `anatomy` runs the pass and uses the `BlockRule`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

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
    """What one decoder block adds: resid_post = resid_pre + attn_out + mlp_out (+ further_out).

    A branch of None that `kind` or `more` says is there is known only by subtraction.
    """

    kind: str
    """"sequential" (both additions known), "parallel" (both known, added at once), "middle" (the
    stream between them is known, one or both additions only by subtraction), "single" (one
    addition), or "none" (not a single residual stream)."""
    middle: str | None = None
    """The module whose input is resid_mid; None where it is resid_pre + attn_out."""
    attn: Branch | None = None
    mlp: Branch | None = None
    more: bool = False
    """Whether the block goes on after the MLP's addition: it adds again, or scales the stream."""
    after: str | None = None
    """With `more`: the module whose input is the stream after the MLP's addition; None where it is
    resid_mid + mlp_out."""
    further: Branch | None = None
    """With `more`: the one thing that is added then."""


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
    whole = whole or _going_on(pre, post, middles, outputs, precision)
    if whole:  # a norm's output can look like the stream in 16 bit: the closest fit is the stream itself
        return min(whole)[2]
    single = _branch(pre, post, outputs, precision)
    if single:
        return BlockRule("single", None, single, None)
    pair = _together(pre, post, outputs, precision, 2)
    if pair:
        return BlockRule("parallel", None, pair[0], pair[1])
    if halves:
        halves.sort(key=lambda rule: [b is None or b.scale != 1.0 for b in (rule.mlp, rule.attn)])
        return _told_apart(halves[0], post, inputs, outputs, precision)
    three = _together(pre, post, outputs, precision, 3)
    return (
        BlockRule("parallel", None, three[0], three[1], True, None, three[2]) if three else BlockRule("none")
    )


def _going_on(
    pre: np.ndarray,
    post: np.ndarray,
    middles: Sequence[tuple[str, np.ndarray]],
    outputs: Recorded,
    precision: Precision,
) -> list[tuple[float, int, BlockRule]]:
    """Rules of blocks that do something after the MLP's addition, each with its error and number.

    Two of the additions are known at least, so that the second is the MLP's and not a later one.
    """
    full: list[tuple[float, int, BlockRule]] = []
    open_ended: list[tuple[float, int, BlockRule]] = []
    scaled: list[tuple[float, int, BlockRule]] = []
    for module, mid in middles:
        attn = _branch(pre, mid, outputs, precision)
        if attn is None and any(_same(mid, out) for out in outputs.values()):
            continue  # not an addition: a norm makes the stream (rwkv7's first block)
        begun = _error(pre, mid, attn, outputs) if attn else 0.0
        rest = {name: out for name, out in outputs.items() if attn is None or name != attn.module}
        for after, state in middles:
            mlp = None if after == module or _same(state, mid) else _branch(mid, state, rest, precision)
            if mlp is None or mlp.scale < 0:
                continue
            further = _branch(state, post, rest, precision)
            error = begun + _error(mid, state, mlp, outputs)
            if further and further.module != mlp.module:
                error += _error(state, post, further, outputs)
                rule = BlockRule("sequential" if attn else "middle", module, attn, mlp, True, after, further)
                full.append((error + (0 if attn else 1e3), len(full), rule))
            elif attn:
                rule = BlockRule("sequential", module, attn, mlp, True, after)
                open_ended.append((error, len(open_ended), rule))
        if attn and (mlp := _rescaled(mid, post, rest, precision)):
            scaled.append((begun, len(scaled), BlockRule("sequential", module, attn, mlp, True)))
    return full or open_ended or scaled


def _told_apart(
    rule: BlockRule, post: np.ndarray, inputs: Recorded, outputs: Recorded, precision: Precision
) -> BlockRule:
    """A rule whose MLP is known by subtraction, with the MLP's addition told from one after it.

    Modules that take the same input are one sublayer together (experts beside a shared MLP).
    """
    if rule.mlp is not None or rule.attn is None or rule.middle is None:
        return rule
    rest = {name: out for name, out in outputs.items() if name != rule.attn.module}
    pair = _together(inputs[rule.middle], post, rest, precision, 2)
    if pair is None:
        return rule
    first, second = (inputs.get(branch.module) for branch in pair)
    if first is None or second is None or _same(first, second):
        return rule
    return BlockRule("sequential", rule.middle, rule.attn, pair[0], True, None, pair[1])


def _rescaled(mid: np.ndarray, post: np.ndarray, outputs: Recorded, precision: Precision) -> Branch | None:
    """The outermost module that is added to `mid` before a scalar multiplies the sum to `post`."""
    found = []
    for module, out in outputs.items():
        size = float(np.vdot(out, out))
        if size == 0 or not np.isfinite(size):
            continue
        (a, b), *_ = np.linalg.lstsq(np.stack([mid.ravel(), out.ravel()], axis=1), post.ravel(), rcond=None)
        if abs(a) < 1e-6 or abs(a - 1) < 1e-3 or abs(b / a - 1) > 1e-2:
            continue
        if _explains(post - a * mid, a * out, False) and precision.agree(
            a * mid + a * out, post, a * mid, a * out
        ):
            found.append(Branch(module, 1.0))
    return min(found, key=lambda branch: branch.module.count("."), default=None)


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


def _together(
    pre: np.ndarray, post: np.ndarray, outputs: Recorded, precision: Precision, n: int
) -> tuple[Branch, ...] | None:
    """So many modules, in the order they were called, that together lead from `pre` to `post`."""
    found: list[tuple[Branch, ...]] = []
    for names in _apart(list(outputs), n):
        values = [outputs[name] for name in names]
        solution, *_ = np.linalg.lstsq(
            np.stack([x.ravel() for x in values], axis=1), (post - pre).ravel(), rcond=None
        )
        for scales in ((1.0,) * n, tuple(map(float, solution))):
            terms = [scale * x for scale, x in zip(scales, values, strict=True)]
            fits = _explains(post - pre, sum(terms, np.zeros(())), set(scales) == {1.0})
            if min(map(abs, scales)) > 1e-6 and fits and precision.agree(sum(terms, pre), post, pre, *terms):
                found.append(tuple(map(Branch, names, scales)))
                break
    depth = lambda branches: sum(branch.module.count(".") for branch in branches)  # noqa: E731
    return min(found, key=depth, default=None)


def _apart(names: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All choices of n modules of which none lies within another."""
    for chosen in combinations(names, n):
        if not any(b.startswith(a + ".") or a.startswith(b + ".") for a, b in combinations(chosen, 2)):
            yield chosen


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b))
