"""What `sae.check` says of SAEs that are good, and of SAEs that are not, on easy and on hard layers.

    python benchmarks/check_verdicts.py [--smollm2 FOLDER]

Models: the demo and the three small ones of ../shared, each at four places: the first and the last residual stream,
an MLP and an attention in between. At each, SAEs (4 x d_model features, k d_model / 8) are trained on 20,000 tokens of
tinystories.txt with `SAETrainConfig`'s defaults, and ones that are no good are made of them; the checks see other
stories. With FOLDER (made by ../shared/tools/fetch_smollm2.py) also the SAE of SmolLM2-135M-Instruct in ../shared, on
WikiText. A row says how many were called poor, how many led to any finding, and what they left of what an untrained
SAE leaves. All of it takes a quarter of an hour of processor time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report

from mlxterp.weights import SAEWeights

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODELS = ("stories260K", "TinyStories-656K", "tinystories_instruct_3m_gpt2")
TOKENS, HELD_OUT, CHECKED, CHECKED_OF_LARGE = 20_000, 60, 1000, 300
ARCHITECTURES = ("batchtopk", "jumprelu", "relu", "gated")
"""Trained at one place of each model, beside topk at all."""
Case = tuple[str, mlxterp.SAE, str]
"""Of what kind an SAE is, and where it is checked."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm2", type=Path, help="a folder with SmolLM2-135M-Instruct")
    args = parser.parse_args()
    found: dict[str, list[tuple[str, mlxterp.SAECheck]]] = defaultdict(list)
    demo = mlxterp.load_demo("mlx")
    models = {"demo": demo.model}
    models |= {
        name: mlxterp.InterpretableModel(str(SHARED / "models" / name), backend="mlx") for name in MODELS
    }
    texts = stories()
    made = {name: saes(model, texts[:-HELD_OUT]) for name, model in models.items()}
    for name, model in models.items():
        for kind, sae, place in cases(name, made):
            found[kind].append((f"{name} {place}", checked(model, sae, texts[-HELD_OUT:], place)))
    found["good: the demo's SAE"].append(("demo", checked(demo.model, demo.sae, texts[-HELD_OUT:])))
    if args.smollm2:
        model = mlxterp.InterpretableModel(str(args.smollm2), backend="mlx")
        for kind, sae, place in cases_of_smollm2():
            found[kind].append((f"SmolLM2 {place}", checked(model, sae, wikitext(), place, CHECKED_OF_LARGE)))
    report("check_verdicts", {kind: row(found[kind]) for kind in sorted(found, reverse=True)}, NOTES)


NOTES = [
    "poor: how many of the checks; told: how many had any finding; left: the share of what an untrained SAE leaves",
    "good ones should not be poor; an SAE at another place is poor only where it fits its own far better",
]


def row(checks: list[tuple[str, mlxterp.SAECheck]]) -> dict[str, Any]:
    """What the checks of one kind say, and those that say otherwise than most."""
    left = [left_of(check) for _, check in checks]
    poor = [where for where, check in checks if check.poor]
    good = [where for where, check in checks if not check.poor]
    return {
        "checks": len(checks),
        "poor": len(poor),
        "told": sum(not check.ok for _, check in checks),
        "left": [min(left), max(left)],
        "explained_variance": [round(f(check.judged_variance for _, check in checks), 3) for f in (min, max)],
        "otherwise": min(poor, good, key=len),
    }


def left_of(check: mlxterp.SAECheck) -> float:
    """What an SAE leaves unexplained, as a share of what an untrained one leaves."""
    return round((1 - check.judged_variance) / max(1 - check.untrained_variance, 1e-9), 3)


def checked(
    model: mlxterp.InterpretableModel,
    sae: mlxterp.SAE,
    texts: list[str],
    place: str | None = None,
    tokens: int = CHECKED,
) -> mlxterp.SAECheck:
    """One check, which says what it found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlxterp.MlxterpWarning)  # that the place is not the SAE's own
        found = model.check_sae(sae, texts, component=place, max_tokens=tokens)
    sys.stdout.write(f"{found.verdict} {left_of(found)} {found.component} {found.findings[:1]}\n")
    return found


# -- SAEs ---------------------------------------------------------------------------------------


def places_of(model: mlxterp.InterpretableModel) -> list[str]:
    last = len(model.layers) - 1
    middle = f"layers.{last // 2}.mlp", f"layers.{(last + 1) // 2}.attn"
    places = ("layers.0.resid_post", *middle, f"layers.{last}.resid_post")
    return [model.anatomy.component(place).name for place in places]


def saes(model: mlxterp.InterpretableModel, texts: list[str]) -> dict[str, dict[str, mlxterp.SAE]]:
    """By place and kind: those that are trained to the end, and those that are stopped after a few steps."""
    places = places_of(model)
    with tempfile.TemporaryDirectory() as folder:
        store = mlxterp.collect_activations(
            model, texts, places, folder, dtype="float32", tokens=TOKENS, progress=False
        )
        rows = {
            place: np.concatenate([store.read(i, place) for i in range(len(store.counts))])
            for place in places
        }
    found = {}
    for place, x in rows.items():
        made = {"good: topk": trained(x, place)}
        for steps in (5, 20):
            batch = -(-len(x) // steps)
            made[f"bad: stopped after {steps} steps"] = trained(x, place, batch_size=batch, epochs=1)
        if place == places[1]:
            made |= {f"good: {name}": trained(x, place, architecture=name) for name in ARCHITECTURES}
        made |= dict(untrained(x, place, made["good: topk"]))
        found[place] = made
    return found


def trained(x: np.ndarray, place: str, **settings: Any) -> mlxterp.SAE:
    width = x.shape[1]
    config = mlxterp.SAETrainConfig(d_hidden=4 * width, k=width // 8, **settings)
    return mlxterp.train_sae(x, config, "mlx", metadata={"component": place}, progress=False)


def untrained(x: np.ndarray, place: str, like: mlxterp.SAE) -> Iterator[tuple[str, mlxterp.SAE]]:
    """Random directions around the mean, of norm 1 and at the best scale."""
    directions = np.random.default_rng(0).standard_normal((like.d_hidden, like.d_model), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bias, mean = np.zeros(like.d_hidden, np.float32), x.mean(axis=0)
    weights = SAEWeights(directions.T.copy(), bias, directions, mean)
    sae = mlxterp.SAE(weights, like.activation, {"component": place}, backend="mlx")
    yield "bad: random", sae
    inside = sae.reconstruct(x) - mean
    scale = np.float32((inside * (x - mean)).sum() / (inside**2).sum())
    yield "bad: random, best scale", changed(sae, W_dec=directions * scale)


def cases(name: str, all_made: dict[str, dict[str, dict[str, mlxterp.SAE]]]) -> Iterator[Case]:
    """The SAEs of one model, what is made of them, and those of another model of the same width."""
    own = all_made[name]
    for i, (place, made) in enumerate(own.items()):
        yield from ((kind, sae, place) for kind, sae in made.items())
        sae = made["good: topk"]
        early = made["bad: stopped after 20 steps"]
        yield "bad: stopped after 20 steps, nothing said", without_facts(early, place), place
        yield from ((kind, other, place) for kind, other in spoilt(sae))
        elsewhere = list(own)[(i + 1) % len(own)]
        yield "bad: at another place", sae, elsewhere
        yield "bad: at another place, nothing said", without_facts(sae), elsewhere
        for other, theirs in all_made.items():
            if other != name and next(iter(theirs.values()))["good: topk"].d_model == sae.d_model:
                yield "bad: another model's", without_facts(list(theirs.values())[i]["good: topk"]), place


def spoilt(sae: mlxterp.SAE) -> Iterator[tuple[str, mlxterp.SAE]]:
    """A good SAE with its features exchanged, its space turned, or its numbers in another scale."""
    rng = np.random.default_rng(0)
    order = rng.permutation(sae.d_hidden)
    yield "bad: decoder shuffled", changed(sae, W_dec=sae.W_dec[order])
    yield "bad: encoder shuffled", changed(sae, W_enc=sae.W_enc[:, order])
    axes = rng.permutation(sae.d_model)
    yield (
        "bad: dimensions shuffled",
        changed(sae, W_enc=sae.W_enc[axes], W_dec=sae.W_dec[:, axes], b_dec=sae.b_dec[axes]),
    )
    turn = np.linalg.qr(rng.standard_normal((sae.d_model, sae.d_model)))[0].astype(np.float32)
    turned = {"W_enc": turn.T @ sae.W_enc, "W_dec": sae.W_dec @ turn, "b_dec": sae.b_dec @ turn}
    yield "bad: turned, as another model's", changed(sae, **turned)
    yield "bad: for activations a tenth as long", changed(sae, b_enc=sae.b_enc / 10, b_dec=sae.b_dec / 10)
    yield "bad: decoder three times as long", changed(sae, W_dec=sae.W_dec * np.float32(3))


def changed(sae: mlxterp.SAE, **arrays: np.ndarray) -> mlxterp.SAE:
    return mlxterp.SAE(replace(sae.weights, **arrays), sae.activation, sae.metadata, backend="mlx")


def without_facts(sae: mlxterp.SAE, place: str | None = None) -> mlxterp.SAE:
    """The same as from files that tell nothing of its training, and of its place only what is given."""
    return mlxterp.SAE(sae.weights, sae.activation, {"component": place} if place else {}, backend="mlx")


def cases_of_smollm2() -> Iterator[Case]:
    """The SAE of ../shared at its own layer, at others, and spoilt."""
    sae = mlxterp.SAE.load(SHARED / "saes" / "smollm2_l14_resid_post", backend="mlx")
    place = "layers.14.resid_post"
    yield "good: of SmolLM2, in ../shared", sae, place
    yield "bad: decoder shuffled", dict(spoilt(sae))["bad: decoder shuffled"], place
    for layer in (2, 26):
        yield "bad: at another place", sae, f"layers.{layer}.resid_post"


# -- texts --------------------------------------------------------------------------------------


def stories() -> list[str]:
    text = (SHARED / "text" / "tinystories.txt").read_text(encoding="utf-8")
    return [story.strip() for story in text.split("<|endoftext|>") if story.strip()]


def wikitext() -> list[str]:
    lines = (SHARED / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if len(line) > 400][:40]


if __name__ == "__main__":
    main()
