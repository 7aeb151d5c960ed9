"""Select and decode in Triton. Importing this file needs Triton; `kernels` does it when a GPU asks.

Triton has neither barriers nor threadgroup memory of one's own, so select is written otherwise than
`backends/kernels/select.body`: a row lies in registers and the k-th largest key is found by halving.
"""

from __future__ import annotations

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]

NAN = tl.constexpr(-(2**31) + 1)
"""Key of NaN: no number has it, and all are above it."""
OUTSIDE = tl.constexpr(-(2**31))
"""Key of a place beyond the row."""
LOWEST_PAIR = tl.constexpr(-(2**63))
LAST = tl.constexpr(0xFFFFFFFF)


@triton.jit
def select_row(scores, stride, ids, keys, d, k, BLOCK: tl.constexpr):
    """Ids and keys of the k largest of one row, by ascending id; BLOCK is a power of two from d up."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < d
    x = tl.load(scores + row * stride + places, mask=inside, other=0.0)
    bits = x.to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = tl.where((bits & 0x7FFFFFFF) == 0, 0, key)
    key = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, NAN, key)
    low = tl.min(tl.where(inside, key, 0x7FFFFFFF), axis=0).to(tl.int64)
    key = tl.where(inside, key, OUTSIDE)
    high = tl.max(key, axis=0).to(tl.int64)
    # At least k keys reach `low`, fewer than k exceed `high`.
    while low < high:
        middle = low + (high - low + 1) // 2
        reach = tl.sum((key >= middle.to(tl.int32)).to(tl.int32), axis=0)
        low = tl.where(reach >= k, middle, low)
        high = tl.where(reach > k, high, tl.where(reach == k, middle, middle - 1))
    floor = low.to(tl.int32)
    chosen = (key >= floor).to(tl.int32)
    if tl.sum(chosen, axis=0) > k:
        above = (key > floor).to(tl.int32)
        equal = (key == floor).to(tl.int32)
        lowest = (tl.cumsum(equal, axis=0) <= k - tl.sum(above, axis=0)).to(tl.int32)
        chosen = above + equal * lowest
    place = row * k + tl.cumsum(chosen, axis=0) - 1
    tl.store(ids + place, places, mask=chosen > 0)
    tl.store(keys + place, key, mask=chosen > 0)


@triton.jit
def sort_row(ids, keys, out_ids, out_values, k, BLOCK: tl.constexpr):
    """The k pairs of one row, strongest first, equals by ascending id; BLOCK is a power of two from k up."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    inside = places < k
    known = tl.load(ids + row * k + places, mask=inside, other=0).to(tl.int64)
    key = tl.load(keys + row * k + places, mask=inside, other=0).to(tl.int64)
    pair = tl.where(inside, (key << 32) | (known ^ LAST), LOWEST_PAIR)
    pair = tl.sort(pair, descending=True)
    best = (pair >> 32).to(tl.int32)
    bits = best ^ ((best >> 31) & 0x7FFFFFFF)
    tl.store(out_ids + row * k + places, (pair & LAST) ^ LAST, mask=inside)
    tl.store(out_values + row * k + places, bits.to(tl.float32, bitcast=True), mask=inside)


@triton.jit
def decode_row(ids, values, table, out, k, width, BLOCK: tl.constexpr):
    """BLOCK columns of one row of the sum, slot by slot; an empty slot reads nothing of the table."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for j in range(k):
        weight = tl.where(inside, tl.load(values + row * k + j), 0.0)
        entry = tl.load(ids + row * k + j).to(tl.int64)
        total += weight * tl.load(table + entry * width + columns, mask=weight != 0, other=0.0)
    tl.store(out + row * width + columns, total, mask=inside)
