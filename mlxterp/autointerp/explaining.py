"""`explain`: a sentence for each feature, from windows that no score of it will see."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from ..concepts import store
from ..concepts.explanations import Explanation
from ..core.feature_ids import Feature
from ..core.options import names_options
from ..core.progress import hidden
from ..errors import InputError, warn
from ..index.feature_index import FeatureIndex
from .examples import Drawn, Examples, described, examples_for
from .explainers import Explainer, TokenListExplainer
from .finished import Finished
from .judges import Judge, check_does
from .llm_explainer import BATCH, LLMExplainer
from .plan import Plan
from .scoring import score


@names_options
def explain(
    index: FeatureIndex,
    features: Feature | Iterable[Feature],
    explainer: Explainer | None = None,
    judge: Judge | None = None,
    *,
    plan: Plan | None = None,
    examples: Examples | None = None,
    path: str | os.PathLike | None = None,
    verbose: bool = True,
) -> list[Explanation]:
    """Explains features, by windows of the index that `score` does not judge on.

    `sae.concepts.add_explanations(found)` keeps them with the SAE.

    Args:
        index: Of the features; with its SAE attached, where `plan` asks for neighbours.
        explainer: None takes `TokenListExplainer()`, which asks no language model; `LLMExplainer` asks one.
        judge: Scores what was explained, by detection and without a control; None leaves it without a score.
        plan: Of the windows; None takes `Plan()`.
        examples: What `collect` drew for these features, in place of `plan`.
        path: A file that keeps each explanation as it is made. The same call with it goes on after an interruption, and
            explains nothing again. (Scores are kept by `score(path=…)`.)
        verbose: Whether bars show how many are done.

    Returns:
        An explanation for each feature that has enough windows and of which something can be said, with its
        provenance. One warning counts the others, by reason.

    Raises:
        InputError: `plan` and `examples` are both given, `examples` are of another index, or the file of another call.
        UnknownFeatureError: A feature lies outside [0, d_hidden).

    Examples:
        >>> from mlxterp import autointerp
        >>> [told] = index.explain(ball, autointerp.TokenListExplainer(1), plan=autointerp.Plan(least=1))
        >>> told.text
        'fires on "ball"'
    """
    explainer = TokenListExplainer() if explainer is None else explainer
    check_does(explainer, "explainer", "explain", "TokenListExplainer(), or LLMExplainer(judge)")
    if judge is not None:
        check_does(
            judge, "judge", "probabilities", "TokenListJudge(), LocalJudge(model), OpenAIJudge(url, model)"
        )
    drawn = examples_for(index, features, plan, examples, verbose)
    about = {"index": described(index), "explainer": explainer.name, "plan": asdict(drawn.plan)}
    settings = {"settings": explainer.settings} if isinstance(explainer, LLMExplainer) else {}
    finished = Finished(path, {"call": "explain", **about, **settings})
    found, silent = [], dict(drawn.left_out)
    asked = [one for one in drawn.values() if not one.reason]
    for one, told in zip(asked, _told(index, explainer, asked, finished, verbose), strict=True):
        if isinstance(told, str):
            silent[one.feature_id] = told
        else:
            found.append(replace(told, provenance={**about, **told.provenance}))
    if silent:
        feature, reason = next(iter(silent.items()))
        said = Counter("too few windows" if f in drawn.left_out else why for f, why in silent.items())
        counts = f" ({', '.join(f'{n}: {why}' for why, n in said.most_common())})" if len(silent) > 1 else ""
        warn(
            f"{len(silent)} of {len(drawn)} features have no explanation; feature {feature}: {reason}.{counts}"
        )
    if judge is None or not found:
        return found
    return score(
        index, found, judge, ["detection"], examples=drawn, controls=False, verbose=verbose
    ).explanations


def _told(
    index: FeatureIndex, explainer: Explainer, asked: Sequence[Drawn], finished: Finished, verbose: bool
) -> list[Explanation | str]:
    """An explanation of each feature, or why there is none, now or in a call that this one goes on with."""
    from tqdm.auto import tqdm

    if isinstance(explainer, LLMExplainer):
        explainer.check_windows(asked)
    left = [one for one in asked if _known(finished, one.feature_id) is None]
    size = BATCH if isinstance(explainer, LLMExplainer) else 1
    with tqdm(total=len(left), desc="explain", unit="feature", disable=hidden(verbose), delay=1.0) as bar:
        for start in range(0, len(left), size):
            some = left[start : start + size]
            for one, told in zip(some, _explained(index, explainer, some), strict=True):
                _keep(finished, one.feature_id, told)
            bar.update(len(some))
    known = [_known(finished, one.feature_id) for one in asked]
    found = [told for told in known if told is not None]
    if isinstance(explainer, LLMExplainer):
        explainer.left_out = {
            one.feature_id: told for one, told in zip(asked, found, strict=True) if isinstance(told, str)
        }
    return found


def _explained(
    index: FeatureIndex, explainer: Explainer, some: Sequence[Drawn]
) -> Sequence[Explanation | str]:
    if isinstance(explainer, LLMExplainer):
        return explainer.explained(index, some)
    several = [explainer.explain(one.feature_id, (*one.explaining, *one.contrast)) for one in some]
    return [f"{explainer.name} can say nothing of it" if told is None else told for told in several]


def _keep(finished: Finished, feature: int, told: Explanation | str) -> None:
    said = told if isinstance(told, str) else store.entries({}, {feature: [told]})[str(feature)][0]
    finished.put(str(feature), said)


def _known(finished: Finished, feature: int) -> Explanation | str | None:
    """What was said of a feature; None where it was not asked."""
    said = finished.get(str(feature))
    if said is None or isinstance(said, str):
        return said
    try:
        return store.explanation_of(feature, said)
    except InputError:  # an edited file; it is asked again
        return None
