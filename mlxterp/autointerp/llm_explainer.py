"""`LLMExplainer`: a language model explains features, by windows where they are active and where they are not.

Of several candidates the one is kept whose texts our own model and SAE fire on best: the generation test as a choice,
which needs no training (SAEExplainer, 2026, trains on that reward).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..concepts.explanations import Explanation
from ..core import checks
from ..core.integers import is_listable
from ..core.options import names_options
from ..errors import FeatureIndexError, InputError
from ..index.feature_index import FeatureIndex
from ..index.peaks import attached
from ..lens.feature_logits import feature_logits
from . import written_texts
from .examples import Drawn, Sample
from .generation import TESTED_BY, Outcome, generation_job, written
from .judges import check_does, tokens_so_far
from .marks import whole
from .replies import Told, explanation_in
from .styles import LEVELS, LISTED, STYLES, VERSION, Options, Shown, Style, rendered
from .writers import Prompt, Writer

_WARMTH = 0.7
"""Temperature of several candidates."""
_THINKING = 400
"""Tokens more, where steps are asked for."""
BATCH = 16
"""Features that a file keeps at a time."""
_KEPT = 2000
"""Characters of a reply that the provenance keeps."""
_AGAIN = "it says what stands in the prompt again"
_WAYS = {1: "reads", 2: "writes", 3: "writes", 4: "reads"}
"""What an explanation by a method of "max-act-logits" is of: what the feature has read, or what comes next."""


@dataclass(frozen=True, eq=False, slots=True)
class _Candidate:
    """One explanation of a feature, the reply it is from, and what its texts showed."""

    told: Told
    reply: str
    tested: Outcome | None = None


class LLMExplainer:
    """Asks a language model what windows have in common.

    A reply that says "unclear", is empty or cannot be read gives no explanation: `left_out` has the reason. Longer
    explanations than the style allows are cut, and say so. Provenance holds the digest of the prompt and its words, the
    reply, tokens and seconds of the run, and, with the first explanation of a run, the prompt as it was sent.

    Args:
        judge: Who writes: an `OpenAIJudge`, a `LocalJudge`, or any `Writer`.
        style: "arena" (marked windows, one short sentence), "delphi" (with strengths and rules) or "max-act-logits"
            (lists of tokens, of what follows them and of what is made likelier; a name of 1 to 6 words).
        top_logits: Whether tokens that the feature makes likelier are shown; None goes by the style. Needs an index
            with its model and SAE.
        quantised: Whether marked tokens have their strength, 1 to 10; None goes by the style.
        examples: Worked cases that the prompt shows, of "token", "substring" and "concept"; None takes all, () none.
        cot: Whether the model is asked to think in steps first.
        contrast: Whether windows are shown where the feature is not active, each looked up (`Plan.contrast`).
        n: Candidates. Of several, written at `temperature`, the one with the best F1 of the generation test is kept.
        temperature: None takes 0 for one candidate and 0.7 for several.
        max_tokens: Of a reply; None goes by the style.
        writer: Who writes the texts that candidates are tested on; None takes `judge`.
        seed: Of the draws, in [0, 2**64).

    Raises:
        InputError: There is no such style or case, or a setting is none.

    Examples:
        >>> from mlxterp import autointerp
        >>> explainer = autointerp.LLMExplainer(autointerp.LocalJudge(model), "delphi", contrast=True)
        >>> drawn = autointerp.collect(index, [ball], autointerp.Plan(least=1), verbose=False)[ball]
        >>> "<< ball>>" in explainer.prompt(drawn.explaining).text
        True
    """

    @names_options
    def __init__(
        self, judge: Writer, style: str = "arena", *, top_logits: bool | None = None, quantised: bool | None = None,
        examples: Iterable[str] | None = None, cot: bool = False, contrast: bool = False, n: int = 1,
        temperature: float | None = None, max_tokens: int | None = None, writer: Writer | None = None, seed: int = 0,
    ):  # fmt: skip
        for given, what in ((judge, "judge"), (judge if writer is None else writer, "writer")):
            check_does(given, what, "write", "LocalJudge(model), or OpenAIJudge(url, model)")
        self._style = STYLES[checks.choice(style, "style", STYLES)]
        self._named, self._judge, self._writer = style, judge, judge if writer is None else writer
        self._options = Options(
            top_logits=self._style.top_logits
            if top_logits is None
            else checks.flag(top_logits, "top_logits"),
            quantised=self._style.quantised if quantised is None else checks.flag(quantised, "quantised"),
            levels=_levels(examples, self._style.levels),
            cot=checks.flag(cot, "cot"),
            contrast=checks.flag(contrast, "contrast"),
        )
        self._n, self._seed = checks.count(n, "n"), checks.seed(seed)
        warmth = (_WARMTH if self._n > 1 else 0.0) if temperature is None else temperature
        self._warmth = checks.temperature(warmth)
        if self._n > 1 and not self._warmth:
            raise InputError(
                f"n={self._n} candidates at temperature 0 are one and the same. Give a temperature above 0."
            )
        most = self._style.tokens + _THINKING * self._options.cot
        self._tokens = most if max_tokens is None else checks.count(max_tokens, "max_tokens")
        self.left_out: dict[int, str] = {}
        """Features of the last run without an explanation, and why."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that explanations depend on, beside who writes and the version of the words."""
        return {
            "options": self._shown_options(), "temperature": self._warmth, "seed": self._seed,
            "max_tokens": self._tokens, "n": self._n, "writer": self._writer.name,
        }  # fmt: skip

    @property
    def name(self) -> str:
        """The explanations' source: who wrote them, the style, and the version of its words."""
        return f"{self._judge.name}, {self._named} style {VERSION}"

    def prompt(self, samples: Sequence[Sample], promoted: Sequence[str] = ()) -> Prompt:
        """What is asked for a feature with these windows.

        Args:
            promoted: Tokens that it makes likelier.
        """
        active = tuple(sample.example for sample in samples if sample.active)
        active = active[:LISTED] if self._named == "max-act-logits" else active
        inactive = tuple(sample.example for sample in samples if not sample.active)
        text = rendered(self._style, self._options, Shown(active, inactive, promoted))
        return Prompt(text, "explain", examples=active)

    def explain(self, feature_id: int, samples: Sequence[Sample]) -> Explanation | None:
        """What a feature means; None where nothing can be said, and `left_out` says why.

        Raises:
            InputError: The index is needed, for `top_logits` or several candidates: see `explain_all`.
        """
        if self._options.top_logits or self._n > 1:
            raise InputError(
                "top_logits and n > 1 need the index with its model and SAE: index.explain(features, explainer=…)."
            )
        active = tuple(sample for sample in samples if sample.active)
        rest = tuple(sample for sample in samples if not sample.active)
        drawn = [Drawn(feature_id, active, contrast=rest)]
        self.check_windows(drawn)
        [told] = self.explained(None, drawn)
        return told if isinstance(told, Explanation) else None

    def explain_all(self, index: FeatureIndex, drawn: Sequence[Drawn]) -> list[Explanation | str]:
        """An explanation of each feature, or the reason why there is none. All are asked for together.

        Raises:
            FeatureIndexError: `top_logits` or several candidates need the index's model and SAE, and it has none.
            InputError: `contrast` is asked for, and the plan draws no such windows.
        """
        self.check_windows(drawn)
        return self.explained(index, drawn)

    # -- one run ------------------------------------------------------------------------------

    def check_windows(self, drawn: Sequence[Drawn]) -> None:
        """Sees to it that there are windows of each kind that is shown.

        Raises:
            InputError: `contrast` is asked for, and there are none.
        """
        if self._options.contrast and drawn and not any(one.contrast for one in drawn):
            raise InputError(
                "contrast=True shows windows where a feature is not active: Plan(contrast={'random': 5})."
            )

    def explained(self, index: FeatureIndex | None, drawn: Sequence[Drawn]) -> list[Explanation | str]:
        """The same as `explain_all`, of some of the features whose windows were checked together."""
        started, before = time.perf_counter(), self._used()
        promoted = self._promoted(index, [one.feature_id for one in drawn])
        if self._n > 1 and index is not None:
            attached(index)
        prompts = [
            self.prompt((*one.explaining, *one.contrast), tokens)
            for one, tokens in zip(drawn, promoted, strict=True)
        ]
        several = [prompt for prompt in prompts for _ in range(self._n)]
        replies = self._judge.write(several, self._tokens, temperature=self._warmth, seed=self._seed)
        groups = [
            [_Candidate(self._read(reply), whole(reply or "")) for reply in replies[k : k + self._n]]
            for k in range(0, len(replies), self._n)
        ]
        if self._n > 1 and index is not None:
            groups = self._tested(index, drawn, groups)
        best = [max(group, key=_worth) for group in groups]  # the first of equals
        seconds, used = time.perf_counter() - started, self._used()
        run = {
            "features": len(drawn), "tokens_in": used[0] - before[0], "tokens_out": used[1] - before[1],
            "seconds": round(seconds, 3),
        }  # fmt: skip
        found: list[Explanation | str] = []
        for one, prompt, group, chosen in zip(drawn, prompts, groups, best, strict=True):
            if chosen.told.text is None:
                found.append(chosen.told.reason)
                continue
            first = not any(isinstance(other, Explanation) for other in found)
            about = self._about(prompt, group, chosen, run) | (
                {"example_prompt": prompt.text} if first else {}
            )
            found.append(Explanation(one.feature_id, chosen.told.text, self.name, provenance=about))
        self.left_out = {
            one.feature_id: told for one, told in zip(drawn, found, strict=True) if isinstance(told, str)
        }
        return found

    def _read(self, reply: str | None) -> Told:
        style, starts = self._style, "" if self._options.cot else self._style.ending
        told = explanation_in(reply, style.labels, style.words, self._options.cot, starts)
        return Told(reason=_AGAIN, method=told.method) if told.text and _is_of(style, told.text) else told

    def _promoted(self, index: FeatureIndex | None, features: Sequence[int]) -> list[tuple[str, ...]]:
        """Tokens that each feature makes likelier; none where they are not asked for."""
        if not self._options.top_logits or index is None or not features:
            return [()] * len(features)
        try:
            source = attached(index)
        except FeatureIndexError as error:
            raise FeatureIndexError(
                f"top_logits shows what a feature makes likelier, which its model and SAE say. {error} Or leave it out:"
                " LLMExplainer(…, top_logits=False)."
            ) from error
        found = feature_logits(
            source.anatomy, source.sae, features, LISTED, component=source.component.name,
            tokenize=source.anatomy.model.tokenize,
        )  # fmt: skip
        return [tuple(token for token, _ in one.promoted) for one in found]

    def _tested(
        self, index: FeatureIndex, drawn: Sequence[Drawn], groups: Sequence[list[_Candidate]]
    ) -> list[list[_Candidate]]:
        """Candidates with what their texts showed; features of which all say the same are not tested."""
        differ = [len({one.told.text for one in group} - {None}) > 1 for group in groups]
        jobs, features, keys = [], [], []
        for k, (one, group) in enumerate(zip(drawn, groups, strict=True)):
            for text in dict.fromkeys(c.told.text for c in group if differ[k] and c.told.text is not None):
                plain = [sample for sample in one.contrast if sample.kind == "random"] or list(one.contrast)
                jobs.append(generation_job(text, one.explaining, [plain], part=1))
                features.append(one.feature_id)
                keys.append((k, text))
        texts = written(index, features, jobs, self._writer, self._seed)
        found = {
            key: texts.tested(feature, job) for key, feature, job in zip(keys, features, jobs, strict=True)
        }
        return [
            [_Candidate(c.told, c.reply, found.get((k, str(c.told.text)))) for c in group]
            for k, group in enumerate(groups)
        ]

    # -- where it comes from ------------------------------------------------------------------

    def _about(
        self, prompt: Prompt, group: Sequence[_Candidate], chosen: _Candidate, run: dict[str, Any]
    ) -> dict[str, Any]:
        told = chosen.told
        about: dict[str, Any] = {
            "style": self._named, "prompts": VERSION, "options": self._shown_options(), "writer": self._judge.name,
            "temperature": self._warmth, "seed": self._seed, "max_tokens": self._tokens,
            "prompt": hashlib.sha256(prompt.text.encode()).hexdigest()[:16], "reply": chosen.reply[:_KEPT], "run": run,
        }  # fmt: skip
        if told.cut:
            about["cut_from_words"] = told.cut
        if self._named == "max-act-logits" and told.method in _WAYS:
            about |= {"method": told.method, "of": _WAYS[told.method]}
        if self._n > 1:
            about["candidates"] = [_described(one) for one in group]
            about[TESTED_BY] = {"writer": self._writer.name, "prompts": written_texts.VERSION}
        return about

    def _shown_options(self) -> dict[str, Any]:
        return {**asdict(self._options), "levels": list(self._options.levels)}

    def _used(self) -> tuple[int, int]:
        """Tokens in and out of all who write here."""
        several = {id(one): tokens_so_far(one) for one in (self._judge, self._writer)}
        return sum(one for one, _ in several.values()), sum(one for _, one in several.values())


def _is_of(style: Style, text: str) -> bool:
    """Whether an explanation is one of the prompt's worked cases, or begins like a sentence of what it asks."""
    cases = [explanation_in(case, style.labels).text for case in style.cases.values()]
    words = re.sub(r"^\W*\d+[.)]\s*", "", text.removesuffix(" …")).lower().split()
    asked = " ".join(style.task.split()).lower()
    return any(case and text.startswith(case) for case in cases) or (
        len(words) >= 4 and " ".join(words[:6]) in asked
    )


def _worth(candidate: _Candidate) -> tuple[bool, float]:
    """What candidates are chosen by: one that says something, then F1."""
    f1 = float("nan") if candidate.tested is None else candidate.tested.f1
    return candidate.told.text is not None, -1.0 if np.isnan(f1) else f1


def _described(candidate: _Candidate) -> dict[str, Any]:
    """A candidate as JSON takes it."""
    about: dict[str, Any] = {"text": candidate.told.text, "reason": candidate.told.reason}
    tested = candidate.tested
    if tested is not None and len(tested.fitting):
        figures = {"f1": tested.f1, "precision": tested.precision, "recall": tested.recall}
        about |= {name: None if np.isnan(value) else round(value, 4) for name, value in figures.items()}
        about |= {"texts": len(tested.draws), "lost": sum(tested.lost)}
    return about


def _levels(given: Iterable[str] | None, levels: tuple[str, ...]) -> tuple[str, ...]:
    """Which worked cases are shown.

    Raises:
        InputError: There is no such case.
    """
    if given is None:
        return levels
    several = list(given) if is_listable(given) else [given]
    return tuple(dict.fromkeys(checks.choice(one, "An entry of examples", LEVELS) for one in several))
