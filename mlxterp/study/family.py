"""A feature beside other dictionaries, and what a meta-SAE takes it apart into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.controls import DRAWS, Controlled, random_like
from ..core.sparse import SparseFeatures
from ..errors import InputError
from ..geometry.meta_sae import MetaSAE
from ..geometry.neighbours import cosine_neighbours
from ..geometry.splitting import theta_of
from ..geometry.token_features import run_texts
from ..index import FeatureIndex
from ..index.by_token import texts_in
from ..index.source import Source
from ..sae import SAE, SAECollection
from ..viz.lines import Table
from .evidence import LEFT_OUT, Evidence

_TEXTS = 200
"""Texts of the index on which dictionaries are compared, at most."""
_STRONGEST, _TOP = 20, 5
_METAS, _MEMBERS = 8, 6


@dataclass(frozen=True, eq=False, slots=True)
class Beside:
    """Another dictionary of the family, with the features of both on the same tokens."""

    sae: SAE
    own: SparseFeatures
    other: SparseFeatures


def family_of(family: SAECollection, source: Source) -> list[SAE]:
    """The other SAEs of a family, by width.

    Raises:
        InputError: It is no collection, or does not have this SAE.
    """
    if not isinstance(family, SAECollection):
        raise InputError(f"family= is an SAECollection, got {type(family).__name__}.")
    saes = list(family.values())
    own = source.sae.fingerprint
    if not any(sae.fingerprint == own for sae in saes):
        raise InputError(
            f"family= has no SAE that is the index's, {source.sae!r}; it has widths {family.widths}."
        )
    return sorted((sae for sae in saes if sae.fingerprint != own), key=lambda sae: sae.d_hidden)


def on_texts(index: FeatureIndex, source: Source, others: list[SAE]) -> list[Beside]:
    """Features of this SAE and of the others on texts of the index.

    Raises:
        InputError: There are no others, or one reads another component.
    """
    if not others:
        raise InputError("The family has no other SAE.")
    odd = [
        sae for sae in others if sae.component != source.sae.component or sae.d_model != source.sae.d_model
    ]
    if odd:
        raise InputError(f"{odd[0]!r} of the family reads another component than {source.sae!r}.")
    texts = texts_in(index, range(0, index.n_texts, max(1, index.n_texts // _TEXTS))[:_TEXTS])
    rows = run_texts(source.anatomy, texts, source.component.name)[0]
    own = source.sae.encode_sparse(rows)
    return [Beside(sae, own, sae.encode_sparse(rows)) for sae in others]


def relatives_of(feature: int, source: Source, several: list[Beside], control: bool, seed: int) -> Evidence:
    """The nearest feature of each other dictionary, and those that fire on its strongest tokens."""
    rows, figures, out = [], [], []
    for one in several:
        row = source.sae.W_dec[[feature]]
        found = cosine_neighbours(row, one.sae.W_dec, 1)
        near, cosine = int(found.ids[0, 0]), float(found.cosines[0, 0])
        theta = theta_of(source.sae.W_dec, one.sae.W_dec, seed) if control else float("nan")
        strongest = _strongest(one.own, feature)
        firing = _firing(one.other, strongest)
        share, density = _share(one.other, near, strongest)
        out.append(cosine > theta)
        label = one.sae.concepts.label_of(near, marked=True) or ""
        beyond = f"{theta:.3f}" if control else "left out"
        rows.append(
            [f"{one.sae.d_hidden}/{near}", f"{cosine:.3f}", beyond, f"{share:.0%}", f"{density:.1%}", label]
        )
        for f, part, base in (row for row in firing if row[0] != near):
            label = one.sae.concepts.label_of(f, marked=True) or ""
            rows.append([f"{one.sae.d_hidden}/{f}", "", "", f"{part:.0%}", f"{base:.1%}", label])
        figures.append({"width": one.sae.d_hidden, "nearest": near, "cosine": cosine, "theta": theta,
                        "firing": firing})  # fmt: skip
    names = ", ".join(f"{row['width']}/{row['nearest']} (cosine {row['cosine']:.3f})" for row in figures)
    heads = [
        "width/feature",
        "cosine",
        "random 99 %",
        "active on its strongest tokens",
        "on all tokens",
        "label",
    ]
    return Evidence(
        "Features of other widths", (f"nearest in direction: {names}",),
        "the cosine that 99 % of covariance-matched directions do not reach; and how often each is active anywhere"
        if control else LEFT_OUT, any(out) if control else None, (Table(heads, rows),), {"widths": figures},
    )  # fmt: skip


def universality_of(feature: int, several: list[Beside], control: bool, seed: int) -> Evidence:
    """The feature of each other dictionary that is active most alike, beside shuffled tokens.

    Raises:
        InputError: It is active on none of the tokens.
    """
    rows, found = [], []
    for one in several:
        own = _column(one.own, feature)
        if not own.any():
            raise InputError(f"It is active on none of the {one.own.n} tokens that were compared.")
        scaled = _correlations(own, one.other)
        best = int(scaled.argmax())
        draw = np.random.default_rng([seed, one.sae.d_hidden])
        drawn = [
            _correlations(draw.permutation(own), one.other).max() for _ in range(DRAWS if control else 0)
        ]
        beside = Controlled(float(scaled[best]), None, np.array(drawn), "tokens shuffled", seed)
        found.append({"width": one.sae.d_hidden, "feature": best, "correlation": beside})
        label = one.sae.concepts.label_of(best, marked=True) or ""
        rows.append([f"{one.sae.d_hidden}/{best}", str(beside) if control else f"{beside.value:.3f}", label])
    names = ", ".join(f"{one['width']}/{one['feature']} ({one['correlation'].value:.3f})" for one in found)
    stands = all(one["correlation"].stands_out for one in found) if control else None
    return Evidence(
        "Active alike in other dictionaries", (f"largest correlation of activations: {names}",),
        f"its activations on shuffled tokens, {DRAWS} draws" if control else LEFT_OUT, stands,
        (Table(["width/feature", "correlation", "label"], rows),), {"dictionaries": found},
    )  # fmt: skip


def meta_latents_of(
    index: FeatureIndex, source: Source, feature: int, meta: MetaSAE, control: bool, seed: int
) -> Evidence:
    """Meta-latents of the feature, with other features that share them.

    Raises:
        InputError: The meta-SAE is of another SAE, or the feature is dead.
    """
    if not isinstance(meta, MetaSAE):
        raise InputError(f"meta= is a MetaSAE of this SAE, got {type(meta).__name__}.")
    W = source.sae.W_dec
    row = W[feature] / max(float(np.linalg.norm(W[feature])), 1e-12)
    if meta.rows.shape != W.shape or not np.allclose(meta.rows[feature], row, atol=1e-4):
        raise InputError(
            f"meta= is of other directions than {source.sae!r}: train_meta_sae(sae) makes one of it."
        )
    parts, share = meta.decompose(feature), meta.explained(feature)
    rows = []
    for latent, weight in parts[:_METAS]:
        members = [f for f, _ in meta.members(latent) if f != feature][:_MEMBERS]
        named = ", ".join(f"{f}{f' {index.label(f)}' if index.label(f) else ''}" for f in members)
        rows.append([str(latent), f"{weight:.3f}", named or "none"])
    drawn = _explained(meta, random_like(meta.rows, "covariance", seed)[:DRAWS]) if control else np.empty(0)
    beside = Controlled(share, None, drawn, "covariance-matched rows", seed)
    unseen = (
        feature in meta.held_out
    )  # only then is the comparison with rows that training did not see a fair one
    told = "" if unseen else "; no verdict: training saw this feature's row, and none of the random ones"
    return Evidence(
        "Meta-latents", (f"{len(parts)} meta-latents explain {share:.0%} of its direction",),
        f"share explained {beside}{told}" if control else LEFT_OUT, beside.stands_out if unseen and control else None,
        (Table(["meta-latent", "weight", "features that have it too"], rows),),
        {"meta_latents": parts, "beside": beside},
    )  # fmt: skip


def _explained(meta: MetaSAE, rows: np.ndarray) -> np.ndarray:
    """Share of each row, around the mean row, that the meta-SAE explains."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    around = unit.astype(np.float64) - meta.sae.b_dec
    off = unit.astype(np.float64) - meta.sae.decode(meta.sae.encode(unit))
    return 1 - (off**2).sum(axis=1) / np.maximum((around**2).sum(axis=1), 1e-20)


def _column(features: SparseFeatures, feature: int) -> np.ndarray:
    """float64, (tokens,): activations of one feature."""
    found = np.zeros(features.n)
    mine = features.indices == feature
    found[features.row_ids[mine]] = features.values[mine]
    return found


def _correlations(own: np.ndarray, other: SparseFeatures) -> np.ndarray:
    """float64, (d_hidden,): correlation of a column with each feature; 0 for those that never vary."""
    width, n = other.d_hidden, len(own)
    values = other.values.astype(np.float64)
    total = np.bincount(other.indices, values, minlength=width)
    square = np.bincount(other.indices, values**2, minlength=width)
    product = np.bincount(other.indices, values * own[other.row_ids], minlength=width)
    covariance = product / n - own.mean() * total / n
    spread = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0)) * own.std()
    return np.where(spread > 1e-12, covariance / np.maximum(spread, 1e-12), 0.0)


def _strongest(features: SparseFeatures, feature: int) -> np.ndarray:
    """The tokens on which a feature is strongest."""
    own = np.abs(_column(features, feature))
    best = np.argsort(-own, kind="stable")[:_STRONGEST]
    return best[own[best] > 0]


def _firing(features: SparseFeatures, tokens: np.ndarray) -> list[tuple[int, float, float]]:
    """(feature, share of these tokens, of all) of those that are active there most beyond what they are anywhere."""
    if not len(tokens):
        return []
    hits = np.bincount(features.take(tokens).indices, minlength=features.d_hidden) / len(tokens)
    density = np.bincount(features.indices, minlength=features.d_hidden) / features.n
    best = np.argsort(density - hits, kind="stable")[:_TOP]
    return [(int(f), float(hits[f]), float(density[f])) for f in best if hits[f] > density[f]]


def _share(features: SparseFeatures, feature: int, tokens: np.ndarray) -> tuple[float, float]:
    active = _column(features, feature) != 0
    return (float(active[tokens].mean()) if len(tokens) else 0.0), float(active.mean())
