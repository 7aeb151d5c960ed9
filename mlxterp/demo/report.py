"""The page that `mlxterp demo` leaves: the tour's text, its features' cards, and what they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..index import FeatureIndex
from ..viz import FeatureCard, FeatureReport, Section, TokenView
from . import Demo
from .choosing import Noticed
from .effects import PROMPT, Ablation, Amplification

_INTRO = """A feature of a language model watches for one thing: it is on where that is in a text, and off everywhere \
else. Nobody chose what it watches for. To find out, look at where it is on.

The features below are named after the words they are most often on at. Orange is where a feature is on: the stronger, \
the darker."""


def write_report(
    path: Path,
    demo: Demo,
    index: FeatureIndex,
    text: str,
    features: Sequence[Noticed],
    ablated: Ablation,
    amplified: Amplification,
) -> Path:
    """Writes the page, which needs no network; returns its path.

    Raises:
        InputError: The folder does not exist.
    """
    parts: list[Section | TokenView | FeatureCard] = [
        Section("The text", "Where in it features are on: all of them together, then one line for each."),
        _strips(demo, index, text, features),
        Section("What they do in the model", _effects(text, ablated, amplified)),
        Section(
            "The features, one by one",
            f"In {index.n_texts} stories ({index.n_tokens:,} tokens: words, or pieces of words). “Promotes” lists"
            " what the feature by itself makes likelier to come next. The strongest examples come first; those of"
            " the lower tenths show where it is on weakly.",
        ),
        *(replace(index.feature(f.feature_id, 8), label=_label(f)) for f in features),
    ]
    return FeatureReport("What a language model notices", parts, _INTRO).to_html(path)


def _strips(demo: Demo, index: FeatureIndex, text: str, features: Sequence[Noticed]) -> TokenView:
    ids = [f.feature_id for f in features]
    view = demo.model.visualize_feature_activations(
        text, demo.sae, *demo.place, feature_ids=ids, exclude=(), index=index
    )
    return replace(view, labels={f.feature_id: _label(f) for f in features})


def _label(feature: Noticed) -> str:
    return ", ".join(feature.words[:4])


def _effects(text: str, ablated: Ablation, amplified: Amplification) -> str:
    off, up = ablated.feature, amplified.feature
    before, after = (
        ", ".join(f"“{token.strip()}” {share:.0%}" for token, share in tokens)
        for tokens in (ablated.before, ablated.after)
    )
    return (
        f"The word after “{text}”\n"
        f"    as it is: {before}\n"
        f"    with feature {off.feature_id} ({_label(off)}) switched off: {after}\n\n"
        f"And the text goes on\n"
        f"    as it is: {_line(ablated.story)}\n"
        f"    with feature {off.feature_id} switched off: {_line(ablated.story_without)}\n\n"
        f"A story that begins “{PROMPT}”\n"
        f"    as it is: {_line(amplified.story)}\n"
        f"    with feature {up.feature_id} ({_label(up)}) turned up: {_line(amplified.story_with)}"
    )


def _line(story: str) -> str:
    return " ".join(story.split())
