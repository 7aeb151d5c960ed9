"""`explain`: a sentence for each feature, from windows that no score of it will see."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace

from ..concepts import store
from ..concepts.explanations import Explanation
from ..core.feature_ids import Feature
from ..core.options import names_options
from ..core.progress import hidden
from ..errors import warn
from ..index.feature_index import FeatureIndex
from .examples import Drawn, Examples, described, examples_for
from .explainers import Explainer, TokenListExplainer
from .finished import Finished
from .judges import Judge
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
        explainer: None takes `TokenListExplainer()`, which asks no language model.
        judge: Scores what was explained, by detection and without a control; None leaves it without a score.
        plan: Of the windows; None takes `Plan()`.
        examples: What `collect` drew for these features, in place of `plan`.
        path: A file that keeps each explanation as it is made. The same call with it goes on after an interruption, and
            explains nothing again. (Scores are kept by `score(path=…)`.)
        verbose: Whether bars show how many are done.

    Returns:
        An explanation for each feature that has enough windows and of which something can be said, with its
        provenance. One warning counts the others.

    Raises:
        InputError: `plan` and `examples` are both given, `examples` are of another index, or the file of another call.
        UnknownFeatureError: A feature lies outside [0, d_hidden).

    Examples:
        >>> from mlxterp import autointerp
        >>> [told] = index.explain(ball, autointerp.TokenListExplainer(1), plan=autointerp.Plan(least=1))
        >>> told.text
        'fires on "ball"'
    """
    from tqdm.auto import tqdm

    drawn = examples_for(index, features, plan, examples, verbose)
    explainer = TokenListExplainer() if explainer is None else explainer
    about = {"index": described(index), "explainer": explainer.name, "plan": asdict(drawn.plan)}
    finished = Finished(path, {"call": "explain", **about})
    found, silent = [], dict(drawn.left_out)
    asked = [one for one in drawn.values() if not one.reason]
    with tqdm(asked, desc="explain", unit="feature", disable=hidden(verbose), delay=1.0) as bar:
        for one in bar:
            told = _explained(explainer, one, finished)
            if told is None:
                silent[one.feature_id] = f"{explainer.name} can say nothing of it"
            else:
                found.append(replace(told, provenance={**about, **told.provenance}))
    if silent:
        feature, reason = next(iter(silent.items()))
        warn(f"{len(silent)} of {len(drawn)} features have no explanation; feature {feature}: {reason}.")
    if judge is None or not found:
        return found
    return score(
        index, found, judge, ["detection"], examples=drawn, controls=False, verbose=verbose
    ).explanations


def _explained(explainer: Explainer, drawn: Drawn, finished: Finished) -> Explanation | None:
    """What is said of a feature, now or in a call that this one goes on with."""
    feature = drawn.feature_id
    key = str(feature)
    if key not in finished:
        told = explainer.explain(feature, drawn.explaining)
        finished.put(key, None if told is None else store.entries({}, {feature: [told]})[key][0])
        return told
    said = finished.get(key)
    return None if said is None else store.explanation_of(feature, said)
