"""Two features side by side: how alike they point, how often they are active together, on which tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ..index.summary import SAMPLE
from ..sae.directions import unit_rows
from .shown_index import ShownIndex

_TOKENS = 20
_ALL, _SAMPLED = "all tokens", f"a sample of {SAMPLE:,} tokens"

Side = tuple[ShownIndex, int]


def compared(a: Side, b: Side) -> dict[str, Any]:
    """What two features have in common; of one index, or of two."""
    (one, f), (other, g) = a, b
    same = one is other
    texts = same or _same_texts(one, other)
    cosine, why = _cosine(a, b)
    found: dict[str, Any] = {
        "a": _side(a), "b": _side(b), "cosine": cosine, "jaccard": None, "jaccard_over": _SAMPLED if same else _ALL,
        "shared_texts": None, "tokens": _tokens(a, b), "why_null": why,
    }  # fmt: skip
    if same:
        found["jaccard"] = one.index.coactivation(f, g)
    elif texts:
        found["jaccard"] = _jaccard(a, b)
    else:
        told = "The two indexes are of different texts, so nothing can be said of what is active together."
        found["why_null"] = f"{why} {told}" if why else told
    if texts:
        found["shared_texts"] = len(np.intersect1d(_places(a)[:, 0], _places(b)[:, 0]))
    return found


def _side(side: Side) -> dict[str, Any]:
    shown, feature = side
    stats = shown.index.stats(feature)
    return {
        "source": str(shown.number), "id": feature, "label": shown.index.label(feature), "count": stats.count,
        "texts": stats.n_texts, "max": stats.maximum,
    }  # fmt: skip


def _cosine(a: Side, b: Side) -> tuple[float | None, str | None]:
    """The cosine of the decoder rows, and why there is none."""
    one, other = a[0].sae, b[0].sae
    if one is None or other is None:
        return None, "Without the SAE there are no directions to compare: serve the index with it."
    if one.d_out != other.d_out:
        return None, f"The SAEs write {one.d_out} and {other.d_out} numbers, which have no angle."
    rows = [unit_rows(sae.W_dec[[f]])[0] for sae, f in ((one, a[1]), (other, b[1]))]
    if not all(row.any() for row in rows):
        return None, "A row of zeros has no direction."
    return float(rows[0] @ rows[1]), None


def _same_texts(one: ShownIndex, other: ShownIndex) -> bool:
    """Whether two indexes hold the same texts, token for token."""
    mine, others = one.index._meta, other.index._meta
    said = (
        [(shard.data, shard.tokens) for shard in mine.shards],
        [(shard.data, shard.tokens) for shard in others.shards],
    )
    if said[0] == said[1]:
        return True
    if (mine.n_texts, mine.n_tokens) != (others.n_texts, others.n_tokens):
        return False
    texts = (
        (one.index._reader.text(i), other.index._reader.text(i)) for i in range(mine.n_texts)
    )  # shards may be cut otherwise
    return all(a == b for a, b in texts)


def _places(side: Side) -> np.ndarray:
    """int64 (n, 2): text and position of the tokens where a feature is active."""
    firings = side[0].index._reader.firings(side[1])
    return np.stack([firings.text_ids, firings.positions], axis=1).astype(np.int64)


def _jaccard(a: Side, b: Side) -> float:
    mine, others = ({(int(t), int(p)) for t, p in _places(side)} for side in (a, b))
    either = len(mine | others)
    return len(mine & others) / either if either else 0.0


def _tokens(a: Side, b: Side) -> dict[str, Any]:
    """Tokens that both are active on, and those of one alone, commonest first."""
    mine, others = _counted(a), _counted(b)
    both = sorted(mine.keys() & others.keys(), key=lambda token: (-min(mine[token], others[token]), token))
    alone = [
        [
            [token, n]
            for token, n in sorted(own.items(), key=lambda item: (-item[1], item[0]))
            if token not in other
        ]
        for own, other in ((mine, others), (others, mine))
    ]
    return {
        "both": [[token, mine[token], others[token]] for token in both[:_TOKENS]],
        "only_a": alone[0][:_TOKENS], "only_b": alone[1][:_TOKENS],
    }  # fmt: skip


def _counted(side: Side) -> Counter[str]:
    shown, feature = side
    ids, counts = np.unique(shown.index._reader.token_ids(feature), return_counts=True)
    found: Counter[str] = Counter()
    for token, n in zip(ids.tolist(), counts.tolist(), strict=True):
        found[shown.index._piece(token)] += n
    return found
