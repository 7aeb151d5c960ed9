"""Whether calibrated steering of an SAE's features brings up their words, beside random directions and prompting.

    pip install ".[cpu,torch]" && python benchmarks/steer_features.py

The model is tinystories_instruct_3m_gpt2 of ../shared (8 layers, d_model 128). A TopK SAE (4096 features, k 16,
layers.4.resid_post) is trained on tinystories.txt without its last 1000 stories, four epochs, and kept in --work;
the index is built on the last 1000. What is steered is decided before anything is written:

    words    lower case, 3 letters or more, one token, no function words, in at most a fifth of the index's texts and
             in none of the prompts; the most frequent first
    feature  what index.search(word) gives first, if its score (F1 of "fires" and "is this word") is at least 0.5 and
             no word before took it; the first 20

Each is calibrated (steering.calibrate, defaults) on 12 beginnings of stories, then steered at its best strength on 20
others with other seeds. Each continuation counts: its share of tokens that are the word, whether the word occurs
at all, and the unsteered model's perplexity on it after the beginning alone. Beside it, on the same beginnings and
seeds: unsteered; random directions of the same length, three draws; the word in the prompt, "dog." and a line
break as calibrate does, and in the model's own format, "Words: dog" and "Story:". Where no range is found nothing is
steered, and the unsteered text counts. Intervals: 95 %, bootstrap over features, and prompts within.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report

from mlxterp import steering

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = SHARED / "models" / "tinystories_instruct_3m_gpt2"
COMPONENT = "layers.4.resid_post"
HELD_OUT, SPECIFIC, COMMON = 1000, 0.5, 0.2
TOKENS, TEMPERATURE, DRAWS, SEED = 40, 0.7, 3, 1000
CALIBRATED_ON = (
    "Once upon a time, there was a", "One day,", "Lily and Ben", "Tom was", "Once there was a", "Sara went to",
    "It was a", "The next morning,", "Mia had a", "Max and his", "Anna could not", "After that,",
)  # fmt: skip
TESTED_ON = (
    "Once upon a time, in a", "One morning, Jack", "Tim and Sue", "Lucy was", "There once was a", "Amy wanted to",
    "It was very", "The next day,", "Bob had a", "Emma and her", "Sam did not", "Later,", "One night,", "Jill saw",
    "A long time ago,", "Every day, Leo", "Zoe and Dan", "Ella was very", "In the morning,", "Once, a",
)  # fmt: skip
FUNCTION = """
about above after again all also always and another any anyone anything are around away back because been before
behind being below between both but can cannot could couldn did didn does doesn doing don down each either else
enough even ever every everyone everything everywhere few for from had hadn has have having her here hers
herself him himself his how inside into isn its itself just less let lot lots many may maybe might more most
much must myself near never next nobody none nor not nothing now off often once one ones only onto other others
our ours out outside over own perhaps quite rather really same several shall she should shouldn since some
somebody someone something sometimes somewhere soon still such than that the their theirs them themselves then
there these they this those though through today together tomorrow too toward towards two under until upon very
was wasn were weren what whatever when where which while who whole whom whose why will with within without won
would wouldn yes yesterday yet you your yours yourself
"""
Values = dict[str, np.ndarray]
"""For each measure, (prompts,)."""
MEASURES = ("share of tokens", "share of texts", "nats")
CONDITIONS = ("unsteered", "steered", "random direction", "prompt: word", "prompt: the model's format")
COMPARED = (
    ("steered", "unsteered"), ("steered", "random direction"), ("random direction", "unsteered"),
    ("prompt: word", "unsteered"), ("prompt: the model's format", "unsteered"),
    ("steered", "prompt: the model's format"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wing", default="torch", choices=["torch", "mlx"])
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlxterp-steer-features")
    args = parser.parse_args()
    model = mlxterp.InterpretableModel(str(MODEL), backend=args.wing)
    text = (SHARED / "text" / "tinystories.txt").read_text(encoding="utf-8")
    texts = [story.strip() for story in text.split("<|endoftext|>") if story.strip()]
    sae = trained(model, texts[:-HELD_OUT], args.work, args.wing)
    index = model.build_index(sae, texts[-HELD_OUT:], args.work / "index", verbose=False)
    chosen = specific(model, index, texts[-HELD_OUT:], args.features)
    evaluated = model.evaluate_sae(sae, texts[-200:], COMPONENT, max_tokens=20_000)
    rows: dict[str, Any] = {
        "explained variance of the SAE": round(float(evaluated.explained_variance), 3),
        "features": len(chosen),
    }
    plain = written(model, [])
    found: dict[str, dict[str, Values]] = {}
    ranges: dict[str, bool] = {}
    for word, feature, score in chosen:
        calibration = steering.calibrate(
            model, sae, feature, index=index, concept=word, prompts=CALIBRATED_ON, max_tokens=TOKENS,
            temperature=TEMPERATURE, verbose=False, receipt=False,
        )  # fmt: skip
        found[word] = conditions(model, sae, index, calibration, word, plain)
        ranges[word] = calibration.range is not None
        rows[f"feature {feature}: {word}"] = described(calibration, score, found[word])
        sys.stdout.write(f"{word}: {rows[f'feature {feature}: {word}']}\n")
        sys.stdout.flush()
    rows["features without a range (they count as unsteered)"] = sum(not has for has in ranges.values())
    rows |= summary("", list(found.values()))
    if not all(ranges.values()):
        rows |= summary("with a range only: ", [found[word] for word, has in ranges.items() if has])
    report("steer_features", rows, NOTES)


def trained(model: mlxterp.InterpretableModel, texts: list[str], work: Path, wing: str) -> mlxterp.SAE:
    """The SAE, trained once and kept."""
    folder = work / "sae"
    if not folder.exists():
        store = mlxterp.collect_activations(
            model, texts, [COMPONENT], work / "activations", dtype="float32", exclude=("first", "sinks")
        )
        config = mlxterp.SAETrainConfig(d_hidden=4096, k=16, epochs=4)
        mlxterp.train_sae(
            store, config, wing, component=COMPONENT, device="cpu" if wing == "torch" else None
        ).save(folder)
    return mlxterp.SAE.load(folder, backend=wing)


def specific(
    model: mlxterp.InterpretableModel, index: mlxterp.FeatureIndex, texts: list[str], n: int
) -> list[tuple[str, int, float]]:
    """(word, feature, score) by the rule above."""
    found = [re.findall(r"\b[a-z]{3,}\b", text) for text in texts]
    counts = Counter(word for words in found for word in words)
    spread = Counter(word for words in found for word in set(words))
    prompts = set(re.findall(r"\w+", " ".join([*CALIBRATED_ON, *TESTED_ON]).lower()))
    chosen: list[tuple[str, int, float]] = []
    for word, _ in counts.most_common():
        common = spread[word] > COMMON * len(texts)
        if common or word in FUNCTION.split() or word in prompts or len(model.tokenize(" " + word)) != 1:
            continue
        hits = index.search(word, 1)
        if hits and hits[0].score >= SPECIFIC and all(hits[0].feature_id != f for _, f, _ in chosen):
            chosen.append((word, hits[0].feature_id, hits[0].score))
        if len(chosen) == n:
            break
    return chosen


def conditions(
    model: mlxterp.InterpretableModel, sae: mlxterp.SAE, index: mlxterp.FeatureIndex,
    calibration: steering.Calibration, word: str, plain: list[str],
) -> dict[str, Values]:  # fmt: skip
    """What each condition writes, measured; one value for each prompt, random directions' draws averaged."""
    unsteered = measured(model, plain, word)
    found = {"unsteered": unsteered, "steered": unsteered, "random direction": unsteered}
    feature, strength = calibration.feature, calibration.best
    if strength is not None:
        edit = steering.add_feature(sae, feature, strength, units="max", index=index)
        found["steered"] = measured(model, written(model, [edit]), word)
        length = strength * steering.max_activation(sae, feature, index) * np.linalg.norm(sae.W_dec[feature])
        draws = []
        for draw in range(DRAWS):
            vector = np.random.default_rng([SEED, feature, draw]).normal(size=sae.d_out)
            random = steering.add_direction(vector / np.linalg.norm(vector), float(length), COMPONENT)
            draws.append(measured(model, written(model, [random]), word))
        found["random direction"] = {m: np.mean([draw[m] for draw in draws], axis=0) for m in MEASURES}
    found["prompt: word"] = measured(model, written(model, [], f"{word}.\n"), word)
    found["prompt: the model's format"] = measured(
        model, written(model, [], f"Words: {word}\nStory:\n"), word
    )
    return found


def written(model: mlxterp.InterpretableModel, edits: list[steering.Edit], before: str = "") -> list[str]:
    """Continuations of the prompts."""
    return model.generate(
        [before + prompt for prompt in TESTED_ON], TOKENS, temperature=TEMPERATURE,
        seed=[SEED + i for i in range(len(TESTED_ON))], steer=[edits] * len(TESTED_ON),
    )  # fmt: skip


def measured(model: mlxterp.InterpretableModel, texts: list[str], word: str) -> Values:
    """Of the texts as continuations of the prompts alone."""
    forms = [ids for ids in (model.tokenize(form) for form in (" " + word, word)) if len(ids) == 1]
    values = np.zeros((len(MEASURES), len(texts)))
    for i, (prompt, text) in enumerate(zip(TESTED_ON, texts, strict=True)):
        # generate leaves a space out that a continuation begins with.
        before, ids = model.tokenize(prompt), model.tokenize(" " * text[:1].isalnum() + text)
        hits = sum([token] in forms for token in ids)
        nats = model.loss([*before, *ids]) * (len(before) + len(ids) - 1) - model.loss(before) * (
            len(before) - 1
        )
        values[:, i] = hits / max(len(ids), 1), hits > 0, nats / max(len(ids), 1)
    return dict(zip(MEASURES, values, strict=True))


def described(calibration: steering.Calibration, score: float, found: dict[str, Values]) -> dict[str, Any]:
    """One feature's row."""
    return {
        "score": round(score, 2), "output score": round(calibration.output_score, 3), "best": calibration.best,
        "range": calibration.range, "strengths": [row.strength for row in calibration.strengths],
    } | {
        name: [round(float(np.mean(found[name][m])), 4) for m in MEASURES[:2]]
        + [round(float(np.exp(np.mean(found[name]["nats"]))), 2)]
        for name in CONDITIONS
    }  # fmt: skip


def summary(prefix: str, found: list[dict[str, Values]]) -> dict[str, Any]:
    """Means of the conditions, and their differences with intervals."""
    rows: dict[str, Any] = {}
    table = {name: {m: np.array([f[name][m] for f in found]) for m in MEASURES} for name in CONDITIONS}
    for name, values in table.items():
        rows[f"{prefix}{name}"] = {m: round(float(values[m].mean()), 4) for m in MEASURES[:2]} | {
            "perplexity": round(float(np.exp(values["nats"].mean())), 2)
        }
    for one, other in COMPARED:
        rows[f"{prefix}{one} − {other}"] = {
            m: interval(table[one][m] - table[other][m]) for m in MEASURES[:2]
        }
        ratio = interval(table[one]["nats"] - table[other]["nats"])
        rows[f"{prefix}{one} − {other}"]["perplexity, times"] = [round(float(np.exp(x)), 3) for x in ratio]
    more = [
        f["steered"]["share of tokens"].mean() > f["random direction"]["share of tokens"].mean()
        for f in found
    ]
    rows[f"{prefix}features that write their word more than under random directions"] = int(sum(more))
    return rows


def interval(differences: np.ndarray, rounds: int = 10_000) -> list[float]:
    """[mean, low, high] of (features, prompts)."""
    draw = np.random.default_rng(0)
    features, prompts = differences.shape
    means = np.empty(rounds)
    for i in range(rounds):
        rows = draw.integers(features, size=(features, 1))
        means[i] = differences[rows, draw.integers(prompts, size=(features, prompts))].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return [round(float(x), 4) for x in (differences.mean(), low, high)]


NOTES = [
    f"means over features and {len(TESTED_ON)} continuations of {TOKENS} tokens, temperature {TEMPERATURE}; features:"
    " [share of tokens, share of texts, perplexity]",
    "differences: [mean, low, high], 95 % bootstrap over features and prompts within; perplexity as a ratio",
    "perplexity: of the unsteered model, after the beginning alone",
]


if __name__ == "__main__":
    main()
