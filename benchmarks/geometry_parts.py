"""What `geometry.py` measures, a function for each part: name → rows of the table."""

from __future__ import annotations

from geometry_given import LAYER, OTHER_LAYERS, WIDTHS, Given  # isort: skip  (it brings one_thread)

import numpy as np
from geometry_rows import Row, measured, plain

import mlxterp
from mlxterp import geometry
from mlxterp.core.controls import bootstrap
from mlxterp.geometry import Controlled

Rows = dict[str, Row]
NARROW, MIDDLE, WIDE = WIDTHS
PAIRS = ((NARROW, WIDE), (MIDDLE, WIDE))
ENRICHED = 60
"""Features whose enrichment is asked for."""
READ = 50_000
"""Tokens of universality and co-activation."""


def splitting(given: Given) -> Rows:
    """Confirmed children beside those of shuffled parents, and whether cosine says which features are new."""
    rows: Rows = {}
    for narrow, wide in PAIRS:
        made = [
            geometry.splitting(given.family(s), narrow, wide, given.activations, seed=s) for s in given.seeds
        ]
        stitched = [
            one.stitch(given.activations[:READ], seed=s) for one, s in zip(made, given.seeds, strict=True)
        ]
        name = f"{narrow} to {wide}"
        ratios = [one.confirmed.value / max(one.confirmed.control_mean, 0.05) for one in made]
        rows |= {
            f"{name}: confirmed children": measured(one.confirmed for one in made),
            f"{name}: as a multiple of shuffled parents' (these at least .05)": plain(ratios),
            f"{name}: coverage of a parent by its children": measured(one.coverage for one in made),
            f"{name}: cosine needed (99th percentile of the control)": plain([one.theta for one in made]),
            f"{name}: wide features that are judged": plain([int(one.live.sum()) for one in made]),
            f"{name}: of these near enough by cosine": plain([int(one.by_cosine.sum()) for one in made]),
            f"{name}: parents with two children or more": plain([len(one.split) for one in made]),
            f"{name}: nearest parent is that of the largest Jaccard index": plain(
                [o.agreement for o in made]
            ),
            f"{name}: AUC of a low cosine for 'adding it helps'": measured(one.auc for one in stitched),
            f"{name}: cosine that tells them apart best": plain([one.best_theta for one in stitched]),
        }
    return rows


def clusters(given: Given) -> Rows:
    """HDBSCAN in ten dimensions of UMAP: how many clusters, how much is in them, how tight they are."""
    places = {"3M": [given.family(s)[WIDE] for s in given.seeds], "demo": [given.demo[1]] * len(given.seeds)}
    rows: Rows = {}
    for place, saes in places.items():
        maps = [geometry.decoder_map(sae, seed=seed) for sae, seed in zip(saes, given.seeds, strict=True)]
        made = [one.clusters() for one in maps]
        rows |= {
            f"{place}: clusters": measured(one.count for one in made),
            f"{place}: share of features in none (noise)": measured(one.noise for one in made),
            f"{place}: mean cosine within a cluster": measured(one.tightness for one in made),
            f"{place}: clusters tighter than random groups of their size (q < .05)": plain(
                [float((one.q < 0.05).mean()) for one in made]
            ),
            f"{place}: clusters tighter than 95 % of the control's (chance: .05)": plain(
                [float((one.p_control < 0.05).mean()) for one in made]
            ),
            f"{place}: nearest neighbours kept in two dimensions": measured(one.kept for one in maps),
        }
    return rows


def enrichment(given: Given) -> Rows:
    """Token sets: what features pass, what random directions pass, by both nulls."""
    places = {
        f"3M, layer {n}": [(given.model, given.by_layer(s)[n]) for s in given.seeds]
        for n in (LAYER, *OTHER_LAYERS)
    }
    places["demo"] = [given.demo[:2]] * len(given.seeds)
    rows: Rows = {}
    for place, pairs in places.items():
        sets = geometry.TokenSets.standard(pairs[0][0].tokenizer)
        made = []
        for (model, sae), seed in zip(pairs, given.seeds, strict=True):
            features = np.random.default_rng(seed).choice(alive(sae), ENRICHED, replace=False).tolist()
            made.append(model.enrichment(sae, features, sets, seed=seed))
        rows |= {
            f"{place}: features with a set at q < .05": measured(one.passing for one in made),
            f"{place}: pairs at p < .05 by random directions": measured(
                one.pairs["directions"] for one in made
            ),
            f"{place}: pairs at p < .05 by shuffled tokens": measured(one.pairs["tokens"] for one in made),
            f"{place}: random directions with a set at q < .05 (false positives of the direction null)": plain(
                [one.passing.control_mean for one in made]
            ),
            f"{place}: random directions' pairs at p < .05 by shuffled tokens (false positives of that null)": plain(
                [one.pairs["tokens"].control_mean for one in made]
            ),
        }
    return rows


def meta(given: Given) -> Rows:
    """Meta-SAEs: variance of held-out decoder rows, and whether siblings share a meta-latent."""
    saes = {"3M": [given.family(s)[WIDE] for s in given.seeds], "demo": [given.demo[1]] * len(given.seeds)}
    rows: Rows = {}
    for place, several in saes.items():
        made = [
            geometry.train_meta_sae(sae, seed=seed, verbose=False)
            for sae, seed in zip(several, given.seeds, strict=True)
        ]
        rows |= {
            f"{place}: variance explained of held-out rows": measured(one.explained_variance for one in made),
            f"{place}: the same, trained to the end": plain([one.held_out_variance for one in made]),
            f"{place}: of the rows trained on": plain([one.train_variance for one in made]),
        }
        if place == "demo":
            continue
        for narrow, wide in PAIRS:
            shared = []
            for one, seed in zip(made, given.seeds, strict=True):
                found = geometry.splitting(
                    given.family(seed), narrow, wide, given.activations, control=False, seed=seed
                )
                children = {p: [c.feature_id for c in found.children(p)] for p in found.split}
                shared.append(one.shared(children, seed=seed) if children else None)
            rows |= {
                f"{place}: siblings ({narrow} to {wide}) that share a meta-latent, beside random pairs": measured(
                    None if one is None else one.random for one in shared
                ),
                f"{place}: the same ({narrow} to {wide}), beside pairs of the same cosine": measured(
                    None if one is None else one.matched for one in shared
                ),
            }
    return rows


def logit_classes(given: Given) -> Rows:
    """Shape of the logits by layer: median kurtosis and classes."""
    places = {f"3M, layer {n}": [(given.model, given.by_layer(s)[n]) for s in given.seeds] for n in
              sorted(given.by_layer(given.seeds[0]))}  # fmt: skip
    places["demo, layer 1"] = [given.demo[:2]] * len(given.seeds)
    rows: Rows = {}
    for place, pairs in places.items():
        made = [
            model.logit_classes(sae, seed=seed) for (model, sae), seed in zip(pairs, given.seeds, strict=True)
        ]
        rows[f"{place}: median kurtosis"] = measured(median_kurtosis(one) for one in made)
        for kind in ("prediction", "suppression", "partition"):
            rows[f"{place}: {kind}"] = measured(one.shares[kind] for one in made)
    return rows


def universality(given: Given) -> Rows:
    """Two training seeds: partners by decoder cosine and by activations."""
    rows: Rows = {}
    pairs = [(a, b) for i, a in enumerate(given.seeds) for b in given.seeds[i + 1 :]]
    for width in (MIDDLE, WIDE):
        made = [
            geometry.universality(
                given.family(a)[width], given.family(b)[width], activations=given.activations[:READ], seed=a
            )
            for a, b in pairs
        ]
        rows |= {
            f"{width}: decoder cosine (MMCS)": measured(one.mmcs for one in made),
            f"{width}: shared (decoder and encoder agree, both at least .7)": measured(
                one.shared_share for one in made
            ),
            f"{width}: correlation of activations": measured(one.correlation for one in made),
            f"{width}: decoder and activations name the same partner": plain([one.agreement for one in made]),
        }
    return rows


def coactivation(given: Given) -> Rows:
    """Features active together, and those that point the same way and are seldom active together."""
    rows: Rows = {}
    for width in (MIDDLE, WIDE):
        own, far = [], []
        for seed in given.seeds:
            sae = given.family(seed)[width]
            found = geometry.coactivation(sae.encode_sparse(given.activations[:READ]), seed=seed)
            own.append(found)
            far.append(geometry.apart(found, sae, seed=seed))
        rows |= {
            f"{width}: phi with the strongest partner": measured(one.strongest for one in own),
            f"{width}: pairs near in direction": plain([one.n_pairs for one in far]),
            f"{width}: of these together half as often as by chance or less": measured(
                o.counted for o in far
            ),
        }
    return rows


def median_kurtosis(found: geometry.LogitClasses) -> Controlled:
    """Median over features, beside the median of each draw of the control."""
    own = found.kurtosis[found.kurtosis > 0]
    draws = np.median(found.control_kurtosis, axis=1)
    interval = bootstrap(own, lambda rows: float(np.median(rows)), seed=found.seed)
    return Controlled(float(np.median(own)), interval, draws, "covariance-matched directions", found.seed)


def alive(sae: mlxterp.SAE) -> np.ndarray:
    """Features whose decoder row is not zero."""
    return np.flatnonzero(np.linalg.norm(sae.W_dec, axis=1))
