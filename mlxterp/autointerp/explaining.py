"""`explain`: a sentence for each feature, from windows that no score of it will see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from ..concepts.explanations import Explanation
from ..core.feature_ids import Feature
from ..core.options import names_options
from ..core.progress import hidden
from ..errors import warn
from ..index.feature_index import FeatureIndex
from .examples import Drawn, Examples, described, examples_for
from .explainers import Explainer, TokenListExplainer
from .judges import Judge
from .llm_explainer import LLMExplainer
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
    verbose: bool = True,
) -> list[Explanation]:
    """Explains features, by windows of the index that `score` does not judge on.

    `sae.concepts.add_explanations(found)` keeps them with the SAE.

    Args:
        index: Of the features; with its SAE attached, where `plan` asks for neighbours.
        explainer: None takes `TokenListExplainer()`, which asks no language model; `LLMExplainer` asks one.
        judge: Scores what was explained, by detection; None leaves it without a score.
        plan: Of the windows; None takes `Plan()`.
        examples: What `collect` drew for these features, in place of `plan`.
        verbose: Whether bars show how many are done.

    Returns:
        An explanation for each feature that has enough windows and of which something can be said, with its
        provenance. One warning counts the others, by reason.

    Raises:
        InputError: `plan` and `examples` are both given, or `examples` are of another index.
        UnknownFeatureError: A feature lies outside [0, d_hidden).

    Examples:
        >>> from mlxterp import autointerp
        >>> [told] = index.explain(ball, autointerp.TokenListExplainer(1), plan=autointerp.Plan(least=1))
        >>> told.text
        'fires on "ball"'
    """
    drawn = examples_for(index, features, plan, examples, verbose)
    explainer = TokenListExplainer() if explainer is None else explainer
    about = {"index": described(index), "explainer": explainer.name, "plan": asdict(drawn.plan)}
    found, silent = [], dict(drawn.left_out)
    asked = [one for one in drawn.values() if not one.reason]
    for one, told in zip(asked, _told(index, explainer, asked, verbose), strict=True):
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
    return score(index, found, judge, ["detection"], examples=drawn, verbose=verbose).explanations


def _told(
    index: FeatureIndex, explainer: Explainer, asked: Sequence[Drawn], verbose: bool
) -> list[Explanation | str]:
    """An explanation of each feature, or why there is none; a language model is asked for all at once."""
    from tqdm.auto import tqdm

    if isinstance(explainer, LLMExplainer):
        return explainer.explain_all(index, asked)
    found: list[Explanation | str] = []
    with tqdm(asked, desc="explain", unit="feature", disable=hidden(verbose), delay=1.0) as bar:
        for one in bar:
            told = explainer.explain(one.feature_id, (*one.explaining, *one.contrast))
            found.append(f"{explainer.name} can say nothing of it" if told is None else told)
    return found
