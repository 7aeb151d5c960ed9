"""Writes the quality report of the demo model and its SAE, as Markdown, to standard output.

    python tools/demo_model/report.py --models stories260K TinyStories-656K --examples 5 --weaker 5
    python tools/demo_model/report.py --models … --readings tools/demo_model/readings.json

All of it is measured on the stories held out from both. What a reader made of the features is no
measurement: it is in the file of readings, {feature id: [kind, name]}, and is printed beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from mlxterp import SAE, InterpretableModel, SparseFeatures, load_demo
from mlxterp.demo import FOLDER

CONTEXT = 256
FEATURES = 50
"""How many are drawn for reading."""
KINDS = ("meaning", "phrase", "word", "fragment", "unclear")
_BEFORE, _AFTER = 7, 3
"""Tokens shown around the one where a feature is strongest."""


def main() -> None:
    """Measures and prints."""
    options = _arguments()
    model, sae, stories = load_demo()
    print_losses(model, options.models, stories)
    print_samples(model)
    fired = Fired.on(model, sae, stories)
    print_sae(model, sae, stories, fired)
    readings = json.loads(options.readings.read_text(encoding="utf-8")) if options.readings else {}
    print_features(fired, readings, options.examples, options.weaker)


# -- the model ------------------------------------------------------------------------------------


def print_losses(ours: InterpretableModel, folders: Sequence[Path], stories: list[str]) -> None:
    """Nats per character of each model, with its own tokenizer."""
    _say("## Loss on the held-out stories\n")
    _say("| model | parameters | tokens | nats per token | nats per character | without the end token |")
    _say("|---|---|---|---|---|---|")
    others = ((folder.name, folder, InterpretableModel(folder)) for folder in folders)
    for name, folder, model in (("this model", FOLDER / "model", ours), *others):
        losses = [story_losses(model, story) for story in stories]
        tokens, characters = sum(map(len, losses)), sum(map(len, stories))
        total, end = sum(float(x.sum()) for x in losses), sum(float(x[-1]) for x in losses)
        _say(
            f"| {name} | {_parameters(folder):,} | {tokens:,} | {total / tokens:.4f}"
            f" | {total / characters:.4f} | {(total - end) / characters:.4f} |"
        )


def _parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", "np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def story_losses(model: InterpretableModel, story: str) -> np.ndarray:
    """Nats of every token of a story, alone behind the beginning token, and of the end token.

    Every token is predicted once. In a story longer than the context the window moves by half a
    context at a time, so that later tokens still see at least that much before them.
    """
    tokenizer = model.language_model.tokenizer
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = model.tokenize(story)
    ids = [*([] if ids[0] == begin else [begin]), *ids, end]
    found = []
    for window, counted in _windows(ids):
        scores = model.language_model.backend.get(model.trace(window[:-1], capture=[]).output)[0]
        scores = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
        chosen = scores[np.arange(len(window) - 1), window[1:]]
        found.append((np.log(np.exp(scores).sum(axis=-1)) - chosen)[counted:])
    return np.concatenate(found)


def _windows(ids: list[int]) -> Iterator[tuple[list[int], int]]:
    """Pieces, and how many predictions at the start of each the piece before has counted."""
    half = CONTEXT // 2
    yield ids[: CONTEXT + 1], 0
    for start in range(half, len(ids) - 1 - half, half):
        yield ids[start : start + CONTEXT + 1], half


def print_samples(model: InterpretableModel) -> None:
    """Ten stories, seeds 0 to 9, none left out."""
    _say("\n## Ten samples, none left out\n")
    _say("Temperature 0.7, top-p 0.95, seeds 0 to 9; from the beginning token alone, then from an opening.\n")
    for seed in range(10):
        prompt = "" if seed < 5 else "Once upon a time"
        room = CONTEXT - len(model.tokenize(prompt))
        text = model.generate(prompt, max_tokens=room, temperature=0.7, top_p=0.95, seed=seed)
        _say(f"{seed}. " + " ".join((prompt + text).split()) + "\n")


# -- the SAE --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Fired:
    """Where the features fire on some texts, of which the first 256 tokens count but for the first."""

    pieces: list[list[str]]
    """Tokens of each text, as strings."""
    texts: np.ndarray
    """int64, (tokens,): the text of each token."""
    positions: np.ndarray
    """int64, (tokens,): its position there."""
    features: SparseFeatures
    """What is active on each token."""

    @classmethod
    def on(cls, model: InterpretableModel, sae: SAE, texts: Sequence[str]) -> Fired:
        place, pieces, values = str(sae.component), [], []
        for text in texts:
            ids = model.tokenize(text)[:CONTEXT]
            run = model.trace(ids, capture=[place], stop_after=place)
            values.append(model.language_model.backend.get(run.activations[place])[0, 1:])
            pieces.append(model.to_str_tokens(text)[:CONTEXT])
        lengths = [len(rows) for rows in values]
        return cls(
            pieces,
            np.repeat(np.arange(len(texts)), lengths),
            np.concatenate([np.arange(1, n + 1) for n in lengths]),
            sae.encode_sparse(np.concatenate(values)),
        )

    @property
    def live(self) -> np.ndarray:
        """Features that are active somewhere, ascending."""
        return np.unique(self.features.indices)

    def density(self, feature: int) -> float:
        """Share of tokens on which it is active."""
        return float((self.features.indices == feature).sum()) / self.features.n

    def ranked(self, feature: int) -> list[int]:
        """Tokens where it is active, strongest first: the strongest of each text, no context twice."""
        pairs = np.flatnonzero(self.features.indices == feature)
        pairs = pairs[np.argsort(-self.features.values[pairs], kind="stable")]
        seen_texts: set[int] = set()
        seen: set[str] = set()
        kept = []
        for token in (np.searchsorted(self.features.indptr, pairs, side="right") - 1).tolist():
            text, shown = int(self.texts[token]), self.in_context(token)
            if text not in seen_texts and shown not in seen:
                kept.append(token)
                seen_texts.add(text)
                seen.add(shown)
        return kept

    def in_context(self, token: int) -> str:
        """The tokens around one, which stands in **bold**."""
        pieces, at = self.pieces[int(self.texts[token])], int(self.positions[token])
        before, after = pieces[max(1, at - _BEFORE) : at], pieces[at + 1 : at + 1 + _AFTER]
        peak = pieces[at].strip() or "⏎"
        space = " " if pieces[at].startswith(" ") else ""
        shown = f"{''.join(before)}{space}\0{peak}\0{''.join(after)}"
        return _escaped(" ".join(shown.split())).replace("\0", "**")


def print_sae(model: InterpretableModel, sae: SAE, stories: list[str], fired: Fired) -> None:
    """Its figures on all held-out tokens."""
    found = sae.evaluate(model, stories, max_tokens=sum(len(model.tokenize(s)) for s in stories))
    _say("## The SAE\n\n| | |\n|---|---|")
    _say(f"| what | {sae} |")
    _say(f"| explained variance | {found.explained_variance:.4f} |")
    _say(f"| active features of a token | {found.l0:.1f} |")
    _say(f"| features that fire on the held-out stories | {len(fired.live):,} of {sae.d_hidden:,} |")
    _say(
        f"| on more than 1 %, 10 % of tokens | {found.denser_than(0.01):.1%}, {found.denser_than(0.1):.1%} |"
    )
    _say(f"| loss recovered, of mean's and of zero's | {found.loss_recovered_mean:.4f},"
         f" {found.loss_recovered_zero:.4f} |")  # fmt: skip
    _say(f"| KL with the reconstruction in place | {found.kl_with_sae:.3f} nats per token |")


def print_features(fired: Fired, readings: dict[str, list[str]], examples: int, weaker: int) -> None:
    """Features drawn at random among those that fire, with their strongest examples."""
    drawn = sorted(np.random.default_rng(0).choice(fired.live, FEATURES, replace=False).tolist())
    _say(f"\n## {FEATURES} features drawn at random (seed 0)\n")
    kinds = Counter(readings[str(f)][0] for f in drawn if str(f) in readings)
    if readings:
        named = sum(kinds[kind] for kind in KINDS) - kinds["unclear"]
        counts = ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS)
        _say(f"**{named} of {len(drawn)} have a name ({named / len(drawn):.0%})**: {counts}.\n")
    _say("| feature | kind | name | density | strongest examples |\n|---|---|---|---|---|")
    for feature in drawn:
        kind, name = readings.get(str(feature), ["", ""])
        ranked = fired.ranked(feature)
        rest = ranked[examples:]
        spread = [rest[i] for i in np.linspace(0, len(rest) - 1, min(weaker, len(rest))).astype(int)]
        shown = "<br>".join(map(fired.in_context, ranked[:examples]))
        if weaker:
            shown += "<br>weaker: " + "<br>".join(map(fired.in_context, spread))
        _say(f"| {feature} | {kind} | {name} | {fired.density(feature):.2%} | {shown} |")


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "*_|<`" else c for c in text)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", type=Path, nargs="*", default=[], help="folders of models to compare with"
    )
    parser.add_argument("--examples", type=int, default=5, help="strongest examples of each feature")
    parser.add_argument("--weaker", type=int, default=0, help="more examples, spread over its other texts")
    parser.add_argument("--readings", type=Path, help="JSON: {feature id: [kind, name]}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
