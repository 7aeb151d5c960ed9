"""What `mlxterp demo` shows: the main job, from a text to its features to their texts to an edit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from ..backends import backend_of
from ..model import InterpretableModel
from ..sae import SAE
from ..sites import Array
from . import load_demo

TEXT = "Lily was very sad because she lost her red ball. She looked"
_CORPUS = 200
"""Stories that are searched."""


def run_tour(out: TextIO, text: str | None = None, backend: str | None = None) -> None:
    """Writes the tour to `out`."""
    text = text or TEXT
    model, sae, texts = load_demo(backend)
    layer, component = place_of(sae)
    say = _printer(out)
    say(f"{model}\n{sae}")

    say(f'\n1. Which features does this text activate?\n   "{text}"')
    top = _not_of_the_start(model, sae, text)
    for feature, activation in top:
        say(f"   feature {feature:>5}   activation {activation:6.2f}   {_peak(model, sae, text, feature)}")
    stories = [story for story in texts if len(model.tokenize(story)) <= 256][:_CORPUS]

    say(f"\n2. Which texts activate these features? (of {len(stories)} stories)")
    for feature, _ in top[:3]:
        say(f"   feature {feature}")
        found = model.get_top_texts_for_feature(feature, sae, stories, layer, component, top_k=4)
        for story, activation, position in found:
            say(f"     {activation:6.2f}   {_in_context(model, story, position)}")

    feature, before, after = strongest_effect(model, sae, text, [f for f, _ in top])
    say(f'\n3. What does feature {feature} do? The next token after "…{text[-24:]}"')
    say(f"   as it is:               {_likeliest(model, before)}")
    say(f"   with the feature off:   {_likeliest(model, after)}")

    say("\n4. And while the model writes:")
    off = {f"layers.{layer}.{component}": ablation(sae, feature)}
    for name, edit in (("as it is", None), (f"feature {feature} off", off)):
        story = model.generate(text, max_tokens=24, interventions=edit)
        say(f"   {name + ':':<18} …{' '.join(story.split())}")
    say("\nThe same calls work on any mlx-lm model. README.md goes on from here.")


def _not_of_the_start(model: InterpretableModel, sae: SAE, text: str) -> list[tuple[int, float]]:
    """The five strongest features, without those that peak on the token that begins every text."""
    layer, component = place_of(sae)
    top = model.get_top_features_for_text(text, sae, layer, component, top_k=20)
    peaks = {f: model.get_top_texts_for_feature(f, sae, [text], layer, component)[0][2] for f, _ in top}
    return [(f, a) for f, a in top if peaks[f] > 0][:5]


def place_of(sae: SAE) -> tuple[int, str]:
    """Layer and component that an SAE belongs to: (2, "resid_post")."""
    _, layer, component = str(sae.component).split(".", 2)
    return int(layer), component


def ablation(sae: SAE, feature: int) -> Callable[[Array], Array]:
    """An intervention that takes one feature's part out of an activation and leaves all else as it is."""

    def change(x: Array) -> Array:
        active = sae.encode(x)[..., feature : feature + 1]
        return x - active * backend_of(x).put(sae.W_dec[feature], x)

    return change


def strongest_effect(
    model: InterpretableModel, sae: SAE, text: str, features: list[int]
) -> tuple[int, np.ndarray, np.ndarray]:
    """The feature whose ablation changes the next token most, and its distribution before and after."""
    before = _next_token(model, text)
    after = {f: _next_token(model, text, {str(sae.component): ablation(sae, f)}) for f in features}
    feature = max(features, key=lambda f: float(np.abs(after[f] - before).sum()))
    return feature, before, after[feature]


def _next_token(model: InterpretableModel, text: str, edit: Any = None) -> np.ndarray:
    trace = model.trace(text, edit, capture=[])
    logits = model.language_model.backend.get(trace.output)[0, -1].astype(np.float64)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _likeliest(model: InterpretableModel, probabilities: np.ndarray) -> str:
    best = np.argsort(-probabilities)[:4]
    return "  ".join(f"{model.decode([int(i)])!r} {probabilities[i]:.0%}" for i in best)


def _peak(model: InterpretableModel, sae: SAE, text: str, feature: int) -> str:
    """The text's tokens with the one where the feature is strongest in brackets."""
    layer, component = place_of(sae)
    _, _, position = model.get_top_texts_for_feature(feature, sae, [text], layer, component)[0]
    return _in_context(model, text, position)


def _in_context(model: InterpretableModel, text: str, position: int, around: int = 7) -> str:
    pieces = model.to_str_tokens(text)
    start, end = max(0, position - around), position + around + 1
    before, after = "".join(pieces[start:position]), "".join(pieces[position + 1 : end])
    token = pieces[position]
    space = " " if token.startswith(" ") else ""
    return " ".join(f"{before}{space}[{token.strip()}]{after}".split())


def _printer(out: TextIO) -> Callable[[str], None]:
    def say(line: str) -> None:
        out.write(line + "\n")
        out.flush()

    return say
