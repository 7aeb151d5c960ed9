"""Indexes of activations that are made up, without a model: every shape that a real one can have, in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlxterp import FeatureIndex
from mlxterp.activations.exclusions import Rule
from mlxterp.core.sparse import SparseFeatures
from mlxterp.data.dataset import ListedTexts
from mlxterp.index.building import finish
from mlxterp.index.folder import IndexMeta, ShardRecord, shard_path, write_meta
from mlxterp.index.plan import shard_plans
from mlxterp.index.shard import write_shard


@dataclass(frozen=True)
class Made:
    """Texts and what fires on them.

    Attributes:
        tokens: The token ids of each text.
        activations: float32 (tokens, d_hidden) of each text.
    """

    tokens: list[list[int]]
    activations: list[np.ndarray]

    @property
    def d_hidden(self) -> int:
        """Number of features."""
        return self.activations[0].shape[1]


def piece(token: int) -> str:
    """The text of a token id."""
    return f" w{token}"


def adversarial(seed: int, d_hidden: int = 24, texts: int = 14, vocabulary: int = 9) -> Made:
    """Few tokens and few values, so that everything has ties; texts that begin alike, empty ones, dead features, a
    dense one, signed ones, and one text that is longer than a shard."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, vocabulary, int(rng.integers(1, 12))).tolist() for _ in range(texts)]
    tokens[2] = tokens[0][:]
    tokens[3] = [*tokens[0][: len(tokens[0]) // 2], 1, 2]
    tokens[5] = []
    tokens[6] = rng.integers(0, vocabulary, 70).tolist()
    said: dict[tuple[int, ...], np.ndarray] = {}
    density = rng.random(d_hidden) ** 3
    density[:2] = 0  # dead
    density[2] = 1  # everywhere
    signs = np.where(np.arange(d_hidden) % 3 == 0, -1, 1)
    found = []
    for ids in tokens:
        rows = np.zeros((len(ids), d_hidden), np.float32)
        for at in range(len(ids)):
            key = tuple(ids[: at + 1])  # what begins alike has equal activations
            if key not in said:
                values = rng.integers(1, 5, d_hidden) * rng.choice([0.5, 1.0], d_hidden)
                mixed = np.where(rng.random(d_hidden) < 0.2, -signs, signs)
                said[key] = (values * mixed * (rng.random(d_hidden) < density)).astype(np.float32)
            rows[at] = said[key]
        found.append(rows)
    return Made(tokens, found)


def made_index(folder: Path, made: Made, shard_tokens: int = 17, positions: int | None = 12) -> FeatureIndex:
    """The index of them."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"{number}:" + "".join(map(piece, ids)) for number, ids in enumerate(made.tokens)]
    by_text = dict(zip(texts, made.tokens, strict=True))
    sae = {"fingerprint": "0" * 64, "d_hidden": made.d_hidden, "described": "made up"}
    model = {"name": None, "type": "made", "positions": positions, "probe": [1.0], "weights": None}
    meta = IndexMeta(sae, model, "layers.0.resid_post", Rule((), None, 1e9), 20, shard_tokens, 0)
    for plan in shard_plans(ListedTexts(texts), by_text.__getitem__, positions, shard_tokens):
        rows = [np.zeros((0, made.d_hidden), np.float32)]
        for one in plan.pieces:
            dense = made.activations[plan.first_text + one.text]
            rows.append(dense[one.start : one.start + len(one.tokens)])
        features = SparseFeatures.from_dense(np.concatenate(rows)).transpose()
        digest = write_shard(shard_path(folder, plan.number), plan, features)
        first = plan.first_text
        record = ShardRecord(
            first, first + plan.continues, len(plan.texts), plan.n_tokens, len(features.values), {},
            plan.data_hash(), plan.windowed, plan.ends, digest,
        )  # fmt: skip
        meta = meta.with_shard(record)
    write_meta(folder, meta)
    finish(folder, meta, lambda ids: [piece(token) for token in ids])
    return FeatureIndex.open(folder)
