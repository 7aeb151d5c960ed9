"""How often SmolLM2-135M-Instruct names what it is asked about: words by their residuals, and features of an SAE.

    python ../shared/tools/fetch_smollm2.py FOLDER
    python benchmarks/patchscope.py FOLDER --work CACHE [--words 100] [--features 50]

A word's residual in a sentence of its own (six layers), its embedding and a random direction take the place of X in a
question, as long as is usual there, before layer 2; then at most 12 tokens are written. An answer names the word if it
holds it, or its plural. "another word's" are the answers about other words, looked through for this one. Features of
the SAE at layer 14 are asked about at three lengths, beside covariance-matched random directions; what is looked for is
the word that they fire on most. Each word and feature is kept in CACHE, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report

from mlxterp import patchscopes
from mlxterp.core.controls import bootstrap
from mlxterp.geometry import random_like

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PROMPT = (
    '<|im_start|>user\nWhat does the word "X" mean?<|im_end|>\n<|im_start|>assistant\nThe word "X" means "'
)
WORDS = (  # noqa: SIM905
    "apple arm baby bag ball banana bear bed bee bell bird boat book bottle bowl box bread bridge brother bus butterfly"
    " cake camera car castle cat chair cheese chicken church clock cloud coat computer cow crown cup daughter desk"
    " doctor dog door dragon dress drum duck ear egg elephant eye family farm farmer father fire fish flag floor flower"
    " fly foot forest fox frog fruit garden gate ghost gift girl glass gold grass hair hand hat heart hill honey horse"
    " hospital house ice insect island jacket juice key king kitchen kitten knife lake lamp leaf leg letter library"
    " light lion map market milk mirror money monkey moon mother mountain mouse mouth music neck nest nose nurse ocean"
    " orange owl page paint paper park pen pencil phone piano picture pie pig pilot pizza plane planet plant police"
    " pond prince princess puppy queen rabbit rain ring river road robot rock roof room rope rose salt sand school sea"
    " seed sheep ship shirt shoe shop sister sky snake snow soap soldier soup spider spoon star stick stone store storm"
    " story street sugar sun table tail tea teacher team tent thief thunder ticket tiger toe tooth tower town toy train"
    " tree truck turtle uncle vegetable village wall watch water whale wheel wind window wing winter wolf wood zoo"
).split()
SOURCES, TARGET, NEW = (1, 6, 11, 16, 21, 26), 2, 12
FEATURE_SCALES = (0.5, 1.0, 2.0)
SAE_LAYER, READ_TOKENS, LEAST, SHARE = 14, 5000, 5, 0.5
DRAWS, TOGETHER = 20, 4


def names(text: str | None, word: str) -> bool:
    """Whether an answer holds the word, or its plural."""
    return bool(text and re.search(rf"\b{re.escape(word.strip().lower())}(s|es)?\b", text.lower()))


class Kept:
    """Rows of a file, one JSON object a line, by key; a half line at its end is cut off."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self.rows = path, dict[str, dict[str, Any]]()
        if path.exists():
            lines = path.read_text(encoding="utf-8").split("\n")
            path.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
            self.rows = {row["key"]: row for row in map(json.loads, lines[:-1])}

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a row."""
        self.rows[row["key"]] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class Asked:
    """The model, and vectors made as long as is usual where they are put."""

    def __init__(self, folder: Path, backend: str | None):
        self.model = mlxterp.InterpretableModel(folder, backend=backend)
        self.backend = self.model.language_model.backend
        usual = self.model.patchscope(
            np.ones(self.model.d_model),
            PROMPT,
            layer=TARGET,
            scales=[1.0],
            max_tokens=1,
            control=False,
            verbose=False,
        )
        self.length = usual.unit

    def texts(self, vectors: Sequence[np.ndarray], scales: Sequence[float]) -> list[str | None]:
        """What is written of each, all together."""
        unit = [v / np.linalg.norm(v) * self.length * s for v, s in zip(vectors, scales, strict=True)]
        return patchscopes.ask(
            self.model,
            np.stack(unit).astype(np.float32),
            PROMPT,
            layer=TARGET,
            max_tokens=NEW,
            stop='"',
            verbose=False,
        )

    def values(self, ids: list[int], components: Sequence[str]) -> list[np.ndarray]:
        """float32, (positions, d_model) of each component."""
        t = self.model.trace(ids, capture=list(components), stop_after=components[-1])
        return [
            np.asarray(self.backend.get(t.activations[name]))[0].astype(np.float32) for name in components
        ]


def sentences() -> list[str]:
    """Sentences of the stories."""
    text = (SHARED / "text" / "tinystories.txt").read_text(encoding="utf-8")
    return [one.strip() for one in re.split(r"(?<=[.!?])\s+|\n+", text) if 25 < len(one) < 120]


def sentences_of(model: Any, wanted: int) -> Iterator[tuple[str, str, int]]:
    """(word, its sentence, its position) for words that are one token; the first sentence that has it late enough."""
    known = sentences()
    for word in WORDS:
        token = [int(i) for i in model.tokenize(f"a {word}")]
        if len(token) != 2 or wanted < 1:
            continue
        for sentence in known:
            if re.search(rf"[a-z] {word}\b", sentence):
                ids = model.tokenize(sentence)
                place = ids.index(token[1]) if token[1] in ids else 0
                if place > 2:
                    yield word, sentence, place
                    wanted -= 1
                    break


def together(several: Sequence[Any]) -> list[Sequence[Any]]:
    """Those that are asked about in one batch; it is kept when all of it is done."""
    return [several[i : i + TOGETHER] for i in range(0, len(several), TOGETHER)]


def words(asked: Asked, kept: Kept, wanted: int) -> None:
    """Asks about the words that are not kept yet."""
    components = ["layers.0.resid_pre", *(f"layers.{layer}.resid_post" for layer in SOURCES)]
    found = list(enumerate(sentences_of(asked.model, wanted)))
    for some in together([one for one in found if one[1][0] not in kept.rows]):
        start, vectors = time.process_time(), []
        for number, (_, sentence, place) in some:
            own = [value[place] for value in asked.values(asked.model.tokenize(sentence), components)]
            vectors += [*own, np.random.default_rng([0, number]).normal(size=asked.model.d_model)]
        texts = asked.texts(vectors, [1.0] * len(vectors))
        seconds, each = (time.process_time() - start) / len(some), len(texts) // len(some)
        for i, (_, (word, sentence, _)) in enumerate(some):
            own_texts = texts[i * each : (i + 1) * each]
            kept.add({"key": word, "sentence": sentence, "texts": own_texts, "seconds": seconds})


def fired(asked: Asked, sae: mlxterp.SAE, wanted: int) -> list[tuple[int, str]]:
    """(feature, its word) of features that fire mostly on one word, by their ids."""
    counts: dict[int, dict[int, int]] = {}
    read, component = 0, f"layers.{SAE_LAYER}.resid_post"
    for sentence in sentences()[::7]:
        ids = [int(i) for i in asked.model.tokenize(sentence)]
        [rows] = asked.values(ids, [component])
        found = sae.encode_sparse(rows)
        for i in range(1, len(ids)):  # the first token is a sink
            for feature in found.indices[found.indptr[i] : found.indptr[i + 1]]:
                counts.setdefault(int(feature), {}).setdefault(ids[i], 0)
                counts[int(feature)][ids[i]] += 1
        read += len(ids)
        if read > READ_TOKENS:
            break
    chosen = []
    for feature in sorted(counts):
        token, most = max(counts[feature].items(), key=lambda item: (item[1], -item[0]))
        total, word = sum(counts[feature].values()), asked.model.decode([token])
        if total >= LEAST and most >= SHARE * total and word.strip().isalpha() and len(word.strip()) > 2:
            chosen.append((feature, word.strip().lower()))
    draw = np.random.default_rng(0).permutation(len(chosen))[:wanted]
    return [chosen[i] for i in sorted(draw)]


def features(asked: Asked, kept: Kept, wanted: int) -> None:
    """Asks about the features that are not kept yet."""
    if wanted < 1:
        return
    sae = mlxterp.SAE.load(SHARED / "saes" / f"smollm2_l{SAE_LAYER}_resid_post", backend=asked.backend.name)
    like = random_like(np.asarray(sae.W_dec)[::2], "covariance", 0)
    found, scales = list(enumerate(fired(asked, sae, wanted))), FEATURE_SCALES
    for some in together([one for one in found if str(one[1][0]) not in kept.rows]):
        start = time.process_time()
        pairs = [
            row for number, (feature, _) in some for row in (np.asarray(sae.W_dec)[feature], like[number])
        ]
        texts = asked.texts([v for v in pairs for _ in scales], [s for _ in pairs for s in scales])
        seconds, each = (time.process_time() - start) / len(some), len(texts) // len(some)
        for i, (_, (feature, word)) in enumerate(some):
            own_texts = texts[i * each : (i + 1) * each]
            kept.add({"key": str(feature), "word": word, "texts": own_texts, "seconds": seconds})


# -- what came of it -------------------------------------------------------------------------------


def share(hits: Sequence[bool]) -> str:
    """A share with its 95 % interval over words or features."""
    units = np.array(hits, dtype=np.float64)
    low, high = bootstrap(units)
    return f"{units.mean():.3f} [{low:.3f}, {high:.3f}]"


def others(rows: Sequence[dict[str, Any]], word: Callable[[dict], str], texts: Callable[[dict], list]) -> str:
    """How often answers about another one name this one: mean over 20 shifts, and the range of their middle 95 %."""
    found = []
    for shift in range(1, min(DRAWS, len(rows) - 1) + 1):
        pairs = zip(rows, [*rows[shift:], *rows[:shift]], strict=True)
        found.append(np.mean([any(names(t, word(one)) for t in texts(other)) for one, other in pairs]))
    low, high = np.quantile(found, [0.025, 0.975]) if found else (np.nan, np.nan)
    return f"{np.mean(found) if found else np.nan:.3f} [{low:.3f}, {high:.3f}]"


def table(kept_words: Kept, kept_features: Kept) -> dict[str, Any]:
    """The rows of the report."""
    rows, found = list(kept_words.rows.values()), dict[str, Any]()
    word = lambda row: row["key"]  # noqa: E731
    if rows:
        found["words asked about"] = len(rows)
        for i, layer in enumerate(SOURCES, 1):
            found[f"words, residual after layer {layer}: named"] = share(
                [names(r["texts"][i], r["key"]) for r in rows]
            )
            found[f"words, another word's after layer {layer}: named"] = others(
                rows, word, lambda row, i=i: [row["texts"][i]]
            )
        found["words, embedding: named"] = share([names(r["texts"][0], r["key"]) for r in rows])
        found["words, random direction: named"] = share([names(r["texts"][-1], r["key"]) for r in rows])
        found["words, processor seconds of each"] = float(np.mean([r["seconds"] for r in rows]))
    rows, n = list(kept_features.rows.values()), len(FEATURE_SCALES)
    if rows:
        found["features asked about"] = len(rows)
        for i, scale in enumerate(FEATURE_SCALES):
            found[f"features at {scale:g} natural lengths: their word named"] = share(
                [names(r["texts"][i], r["word"]) for r in rows]
            )
        found["features, at any length: their word named"] = share(
            [any(names(t, r["word"]) for t in r["texts"][:n]) for r in rows]
        )
        found["features, random direction at any length: named"] = share(
            [any(names(t, r["word"]) for t in r["texts"][n:]) for r in rows]
        )
        found["features, another feature's at any length: named"] = others(
            rows, lambda row: row["word"], lambda row: row["texts"][:n]
        )
    return found


def main() -> None:
    """Asks what was not asked yet, and reports all that is kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is done")
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--backend", default=None)
    parser.add_argument("--report-only", action="store_true", help="only write the table of what is kept")
    options = parser.parse_args()
    kept_words, kept_features = Kept(options.work / "words.jsonl"), Kept(options.work / "features.jsonl")
    if not options.report_only:
        asked = Asked(options.model, options.backend)
        words(asked, kept_words, options.words)
        features(asked, kept_features, options.features)
    notes = [
        "SmolLM2-135M-Instruct in float32; shares of words or features whose answer holds the word, with 95 % intervals"
        " by bootstrap over them; for another one's, the middle 95 % of 20 shifts",
        f"put before layer {TARGET}, at the natural length there; at most {NEW} new tokens, greedy",
    ]
    report("patchscope", table(kept_words, kept_features), notes)


if __name__ == "__main__":
    main()
