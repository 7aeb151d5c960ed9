"""`study`: asks everything that can be asked of one feature, and keeps what cannot be as a reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..autointerp import Judge
from ..autointerp.scores import Scores
from ..concepts.explanations import Explanation
from ..core import checks
from ..core.feature_ids import Feature
from ..core.options import names_options
from ..errors import InputError, MlxterpError
from ..geometry.enrichment import Enrichment, enrichment
from ..geometry.meta_sae import MetaSAE
from ..geometry.token_sets import TokenSets
from ..hooks.session import ModelSession
from ..index import FeatureIndex
from ..index.source import Source
from ..sae import SAECollection
from ..viz.view import View
from .directions import logits_of, neighbours_of
from .effects import causal_effect, steering_of
from .evidence import LEFT_OUT
from .explained import Windows, control_of, hard_negatives, said_of, scores_of, shuffled, windows_of, words_of
from .family import family_of, meta_latents_of, on_texts, relatives_of, universality_of
from .feature_study import FeatureStudy

_NO_MODEL = "the index was opened without its model and SAE: index.attach(model, sae)"
_SEED = 0
_GROUPS = ("form", "part of speech", "suffix")
"""Of the standard sets of tokens, those that are asked about where no sets are given."""


@names_options
def study(
    index: FeatureIndex, feature_id: Feature, *, family: SAECollection | None = None, meta: MetaSAE | None = None,
    token_sets: TokenSets | Mapping[str, Any] | None = None, judge: Judge | None = None,
    patchscope: View | None = None, control: bool = True,
) -> FeatureStudy:  # fmt: skip
    """One feature by every line of evidence there is, each beside its control.

    Card, explanation, scores, hard negatives, logits, enrichment, neighbours, steering and the effect of taking it out
    need the index, its model and its SAE alone; relatives and universality need a family, meta-latents a meta-SAE. What
    fails or is missing does not stop the rest: `reasons` says why.

    Args:
        index: With its model and SAE attached, for what runs the model.
        family: SAEs of several widths at one component, this one among them (`geometry.train_family`, `load_family`).
        meta: A meta-SAE of this SAE (`geometry.train_meta_sae`).
        token_sets: Sets of tokens, or rules for `TokenSets.of`; None takes some of the standard ones.
        judge: Who judges explanations, of `mlxterp.autointerp`; None looks for the words that they list.
        patchscope: What patch scoping of this feature gave, to be shown with the rest.
        control: Whether everything is held against its control. False leaves them out, and says so.

    Raises:
        UnknownFeatureError: There is no such feature.
        InputError: `family` does not have this SAE, or an argument is of another kind.

    Examples:
        >>> found = index.study(ball, control=False)
        >>> found.causal_effect.title, found.relatives, found.reasons["relatives"]
        ('Taken out where it is strongest', None, 'no family= was given')
        >>> found.to_html("study.html").name
        'study.html'
    """
    started, feature = time.perf_counter(), index.check_feature(feature_id)
    control = checks.flag(control, "control")
    if patchscope is not None and not isinstance(patchscope, View):
        raise InputError(f"patchscope= is what patch scoping gave, got {type(patchscope).__name__}.")
    if judge is not None and not callable(getattr(judge, "probabilities", None)):
        raise InputError(f"judge= is a judge of mlxterp.autointerp, got {type(judge).__name__}.")
    if meta is not None and not isinstance(meta, MetaSAE):
        raise InputError(f"meta= is a MetaSAE (geometry.train_meta_sae), got {type(meta).__name__}.")
    if token_sets is not None and not isinstance(token_sets, (TokenSets, Mapping)):
        raise InputError(f"token_sets= is a TokenSets, or rules by name, got {type(token_sets).__name__}.")
    if family is not None and index.source is not None:
        family_of(family, index.source)
    asking = _Study(index, feature, control, _SEED)
    asking.explanations(judge)
    asking.of_the_model(token_sets)
    asking.of_others(family, meta)
    asking.keep("card", lambda: index.feature(feature), "none is needed: these are counts of all ranks")
    scopes = "no patchscope= was given" if patchscope is None else (lambda: patchscope)
    asking.keep("scopes", scopes, "what it says itself")
    return FeatureStudy(
        feature_id=feature, label=index.label(feature), controls=asking.controls, reasons=asking.reasons, seed=_SEED,
        seconds=time.perf_counter() - started, **asking.found,
    )  # fmt: skip


@dataclass(eq=False, slots=True)
class _Study:
    """Lines of evidence as they come in."""

    index: FeatureIndex
    feature: int
    control: bool
    seed: int
    found: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, ask: Callable[[], Any] | str, control: str | None = None) -> Any:
        """Keeps a line of evidence, or why there is none.

        Args:
            ask: What gives it; a text is a reason.
            control: What it is held against; None takes what it says itself.
        """
        if isinstance(ask, str):
            self.reasons[name] = ask
            return None
        try:
            value = ask()
        except Exception as error:  # a judge of the user's may raise anything
            self.reasons[name] = _why(error)
            return None
        self.found[name] = value
        self.controls[name] = value.control if control is None else control
        return value

    # -- what it is said to mean --------------------------------------------------------------

    def explanations(self, judge: Judge | None) -> None:
        """Explanation, scores and hard negatives."""
        windows, why = None, ""
        try:
            windows = windows_of(self.index, self.feature, judge, self.seed)
        except MlxterpError as error:
            why = _why(error)
        told = said_of(self.index, self.feature)
        if told is None and windows is not None:
            told = words_of(self.feature, windows.drawn.explaining)
        if told is None or windows is None:
            reason = why if windows is None else "nothing can be said of it, not even words"
            self.keep("explanation", (lambda: told) if told is not None else reason, "its scores, below")
            self.keep("scores", reason)
            self.keep("hard_negatives", reason)
            return
        self._scored(told, windows)

    def _scored(self, told: Explanation, windows: Windows) -> None:
        scores = self.keep("scores", lambda: scores_of(self.index, told, windows), "")
        if scores is not None:
            told = scores[0].explanation
            self.controls["scores"] = self._shuffled(scores, windows) if self.control else LEFT_OUT
        self.keep("explanation", lambda: told, "its scores, below")
        self.keep("hard_negatives", lambda: hard_negatives(told, windows))

    def _shuffled(self, scores: Scores, windows: Windows) -> str:
        try:
            return control_of(shuffled(self.index, scores, windows, self.seed))
        except Exception as error:  # as in `keep`
            return f"it failed: {_why(error)}"

    # -- what it does -------------------------------------------------------------------------

    def of_the_model(self, token_sets: Any) -> None:
        """What needs model and SAE."""
        source = self.index.source
        for name, ask in {
            "logits": lambda one: logits_of(one, self.feature, self.control, self.seed),
            "neighbours": lambda one: neighbours_of(self.index, one, self.feature, self.control, self.seed),
            "steering": lambda one: steering_of(self.index, one, self.feature, self.control, self.seed),
            "causal_effect": lambda one: causal_effect(
                self.index, one, self.feature, self.control, self.seed
            ),
        }.items():
            self.keep(name, _NO_MODEL if source is None else (lambda ask=ask, source=source: ask(source)))
        found = self.keep(
            "enrichment", _NO_MODEL if source is None else (lambda: self._enrichment(source, token_sets)), ""
        )
        if found is not None:
            self.controls["enrichment"] = (
                f"features with a set: {found.passing}" if self.control else LEFT_OUT
            )

    def _enrichment(self, source: Source, given: Any) -> Enrichment:
        model = source.anatomy.model
        sets = _standard(model.tokenizer) if given is None else given
        session = ModelSession(model, source.name)
        where = None if source.sae.is_transcoder else source.component.name
        return enrichment(
            session, source.sae, [self.feature], sets, control=self.control, component=where, seed=self.seed
        )

    # -- beside others ------------------------------------------------------------------------

    def of_others(self, family: SAECollection | None, meta: MetaSAE | None) -> None:
        """What needs other dictionaries, or a meta-SAE."""
        source = self.index.source
        if source is None or family is None:
            reason = "no family= was given" if family is None else _NO_MODEL
            self.keep("relatives", reason)
            self.keep("universality", reason)
        else:
            self._relatives(source, family)
        if source is None or meta is None:
            self.keep("meta_latents", "no meta= was given" if meta is None else _NO_MODEL)
        else:
            self.keep(
                "meta_latents",
                lambda: meta_latents_of(self.index, source, self.feature, meta, self.control, self.seed),
            )

    def _relatives(self, source: Source, family: SAECollection) -> None:
        try:
            several = on_texts(self.index, source, family_of(family, source))
        except MlxterpError as error:
            for name in ("relatives", "universality"):
                self.keep(name, _why(error))
            return
        self.keep("relatives", lambda: relatives_of(self.feature, source, several, self.control, self.seed))
        self.keep("universality", lambda: universality_of(self.feature, several, self.control, self.seed))


def _why(error: Exception) -> str:
    """What is told of a failure: our own messages as they are, others with their kind."""
    said = str(error).rstrip(".")
    return said if isinstance(error, MlxterpError) and said else f"{type(error).__name__}: {said}"


def _standard(tokenizer: Any) -> TokenSets:
    """Standard sets that say something of most features."""
    sets = TokenSets.standard(tokenizer)
    chosen = [name for name in sets if sets.groups[name] in _GROUPS]
    return sets.only(*chosen) if chosen else sets
