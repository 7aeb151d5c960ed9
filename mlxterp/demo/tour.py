"""What `mlxterp demo` shows: from a text to its features, to their texts, to what they do in the model.

It is told to somebody who has never seen a feature. What is shown is chosen in `choosing`, what is
changed in the model is in `effects`, the page it leaves is in `report`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from ..index import FeatureExample, FeatureIndex
from ..viz.escaping import one_line, token_line
from ..viz.terminal import MARK, Screen, around
from . import Demo, load_demo
from .choosing import Noticed, noticed, story_index
from .effects import PROMPT, Ablation, Amplification, clearest_amplification, signs_of, strongest_ablation
from .report import write_report

TEXT = "Lily was very sad because she lost her red ball. She looked"
_FEATURES = 5
_SEARCHED = 3
"""Features whose texts are shown."""
_EXAMPLES = 4
_STRONG = 0.4
"""Share of the strongest activation that an example has at least."""
_IN = 3
"""Indentation of what belongs to a heading."""


def run_tour(
    screen: Screen, text: str | None = None, backend: str | None = None, report: Path | None = None
) -> None:
    """Tells the tour, and writes the report where a path is given.

    Raises:
        InputError: The text activates nothing, or the report cannot be written there.
    """
    text = TEXT if text is None else text
    demo = load_demo(backend)
    _introduce(screen, demo)
    started = time.perf_counter()
    index = story_index(demo)
    seconds = time.perf_counter() - started
    candidates = noticed(demo, index, text, 2 * _FEATURES)
    ablated = strongest_ablation(demo, text, candidates)
    features = candidates[:_FEATURES]
    if ablated.feature not in features:
        features[-1] = ablated.feature
    others = [feature for feature in features if feature is not ablated.feature] or features
    amplified = clearest_amplification(demo, others)
    examples = {f.feature_id: _varied(index.examples(f.feature_id, 30, before=12)) for f in features}
    most_varied = max(features, key=lambda f: len(set(map(_word, examples[f.feature_id]))))
    searched = list(
        {f.feature_id: f for f in (ablated.feature, amplified.feature, most_varied, *features)}.values()
    )
    in_order = sorted(features, key=lambda feature: feature.position)

    _heading(screen, 1, "Which features does this text switch on?")
    _tell_features(screen, demo, text, in_order)
    _heading(screen, 2, "Which other texts switch them on?")
    _tell_texts(screen, index, [f for f in in_order if f in searched[:_SEARCHED]], examples, seconds)
    _heading(screen, 3, "Does the model use them? One is switched off.")
    _tell_ablation(screen, text, ablated)
    _heading(screen, 4, "And if one is turned up?")
    _tell_amplification(screen, amplified)

    screen.write_line()
    screen.say("That is a feature: something the model notices (1, 2) and acts on (3, 4).", "bold")
    if report is not None:
        path = write_report(report, demo, index, text, in_order, ablated, amplified)
        screen.say(f"All of this, with many more examples, to open in a browser: {path.resolve()}")
    screen.write_line()
    screen.say("Now your own text, and any feature of it:")
    screen.write_line('mlxterp features "The cat sat on the mat."', indent=_IN)
    screen.write_line(f"mlxterp show {ablated.feature.feature_id}", indent=_IN)
    screen.say("The same works on any model that mlx-lm runs, with any published SAE: mlxterp --help.")


def _introduce(screen: Screen, demo: Demo) -> None:
    sae, width = demo.sae, demo.model.d_model
    screen.say("What does a language model notice in a text?", "bold")
    screen.write_line()
    screen.say(
        "A language model turns each word of a text into a list of numbers. In the small model used here, which"
        f" writes children's stories, there are {width} of them, and one by one they mean nothing to us."
    )
    active = f" About {sae.k} are on at each word." if sae.k else ""
    screen.say(
        "A sparse autoencoder (SAE) turns these numbers into something that we can read: features. Each feature"
        " watches for one thing. It is on where that thing is, and off everywhere else."
        f" This SAE has {sae.d_hidden:,} features.{active}"
    )
    screen.say(
        "Nobody chose what a feature watches for, and none has a name. To find out, look at where it is on."
    )


def _tell_features(screen: Screen, demo: Demo, text: str, features: Sequence[Noticed]) -> None:
    tokens = demo.model.to_str_tokens(text)
    screen.write_line(_marked(screen, tokens, [f.position for f in features]), indent=_IN)
    screen.write_line()
    rows = [(f.token.strip(), f"{f.feature_id}", _also(f)) for f in features]
    widths = [max(len(cell) for cell in column) for column in list(zip(*rows, strict=True))[:2]]
    for word, feature, also in rows:
        row = f"{word:<{widths[0]}}  feature {feature:>{widths[1]}}  {also}"
        screen.write_line(row, indent=_IN)
    screen.write_line()
    screen.say(
        "A feature may be on at one word only, or at several, for something that they share. What do they share?"
        " (Many more features are on in this text. Shown are some that are strong here and rare elsewhere.)"
    )


def _tell_texts(
    screen: Screen,
    index: FeatureIndex,
    features: Sequence[Noticed],
    examples: Mapping[int, list[FeatureExample]],
    seconds: float,
) -> None:
    screen.say(
        f"The model has just read {index.n_texts} other stories ({index.n_tokens:,} words or pieces of words, in"
        f" {seconds:.0f} s). An index keeps where each of the {index.d_hidden:,} features was on. Some of the strongest"
        " places:"
    )
    for feature in features:
        screen.write_line()
        head = f"feature {feature.feature_id}: on at {feature.stats.density:.1%} of all words"
        screen.write_line(head, "bold", indent=_IN)
        for example in examples[feature.feature_id]:
            screen.write_line(screen.snippet(*_excerpt(example), indent=_IN), indent=_IN)
        screen.write_line(
            f"makes likelier to come next: {', '.join(map(_quoted, feature.promoted))}", indent=_IN
        )


def _tell_ablation(screen: Screen, text: str, found: Ablation) -> None:
    feature = found.feature
    best = _quoted(found.before[0][0])
    screen.say(
        f"Feature {feature.feature_id} ({_named(feature)}) is taken out of the model's numbers; all else stays. Which"
        " word comes next?"
    )
    screen.write_line()
    screen.write_line(f"{text} …", indent=_IN)
    for name, tokens in (("as it is", found.before), ("switched off", found.after)):
        shown = "   ".join(f"{_quoted(token)} {share:.0%}" for token, share in tokens)
        screen.write_line(f"{name + ':':<14}{shown}", indent=_IN)
    screen.write_line()
    changed = abs(found.before_of_best - found.after_of_best) >= 0.1
    much = "The model uses it" if changed else "It matters little for this word"
    screen.say(f"{much}: {best} went from {found.before_of_best:.0%} to {found.after_of_best:.0%}.")


def _tell_amplification(screen: Screen, found: Amplification) -> None:
    feature = found.feature
    times = "" if found.strength == 1 else f"{found.strength:g} times "
    screen.say(
        f"Feature {feature.feature_id} ({_named(feature)}) is added at every word, {times}as strong as it ever was in"
        " the stories. The model begins a new one:"
    )
    screen.write_line()
    screen.write_line(f"{PROMPT} …", indent=_IN)
    for name, story in (("as it is", found.story), ("turned up", found.story_with)):
        shown = Text(f"{name + ':':<12}")
        shown.append_text(_with_words(screen, story, signs_of(feature)))
        screen.write_line(shown, indent=_IN)
    screen.write_line()
    screen.say("Marked are the words that the feature is on at, and those that it makes likelier.")


# -- parts of sentences -----------------------------------------------------------------------


def _heading(screen: Screen, number: int, title: str) -> None:
    screen.write_line()
    screen.say(f"{number}. {title}", "bold")


def _varied(examples: Sequence[FeatureExample]) -> list[FeatureExample]:
    """Some of the strongest examples, on different words first."""
    strong = [e for e in examples if e.activation >= _STRONG * examples[0].activation]
    words = [_word(e) for e in strong]
    order = sorted(range(len(strong)), key=lambda i: words[i] in words[:i])
    return [strong[i] for i in sorted(order[:_EXAMPLES])]


def _word(example: FeatureExample) -> str:
    return example.tokens[example.position - example.start].strip().casefold()


def _excerpt(example: FeatureExample) -> tuple[str, str, str]:
    """The words around the place, in one line, and whole where they begin in the middle of one."""
    before, token, after = around(example.tokens, example.position - example.start)
    if example.start == 0 and not example.text.startswith(example.tokens[0]):  # the beginning-of-text token
        before = before.removeprefix(example.tokens[0])
    if example.start:
        before = "…" + before[max(before.find(" "), 0) :]
    if example.start + len(example.tokens) < len(example.text):
        after += " …"
    return _spaced(before), token, _spaced(after)


def _spaced(text: str) -> str:
    """The text with one space for each run of white space."""
    return re.sub(r"\s+", " ", text)


def _also(feature: Noticed) -> str:
    others = [word for word in feature.words if word != feature.token.strip().casefold()][:5]
    return f"also on at: {', '.join(others)}" if others else "on at this word only"


def _named(feature: Noticed) -> str:
    return ", ".join(feature.words[:3])


def _quoted(token: str) -> str:
    return f"“{token_line(token.strip(' ') or token)}”"


def _marked(screen: Screen, tokens: Sequence[str], positions: Sequence[int]) -> Text:
    """The text with the tokens at these positions marked, without a beginning-of-text token."""
    shown = Text()
    for position, token in enumerate(tokens):
        bare = token.lstrip(" ")
        shown.append(token[: len(token) - len(bare)])
        if position in positions:
            shown.append(one_line(bare) if screen.colored else f"[{one_line(bare)}]", MARK)
        elif position or not bare.startswith("<|"):
            shown.append(one_line(bare))
    return shown


def _with_words(screen: Screen, story: str, words: Container[str]) -> Text:
    """The story with these words marked."""
    shown = Text()
    for part in re.split(r"(\w+)", one_line(_spaced(story))):
        if part.casefold() in words:
            shown.append(part if screen.colored else f"[{part}]", MARK)
        else:
            shown.append(part)
    return shown
