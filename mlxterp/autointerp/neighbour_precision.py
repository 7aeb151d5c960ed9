"""`neighbour_precision`: does an explanation hold for its feature alone, or for near ones too?"""

from __future__ import annotations

from dataclasses import replace

from ..concepts.explanations import Explanation
from ..core import checks
from ..core.options import names_options
from ..index.feature_index import FeatureIndex
from .feature_score import FeatureScore
from .judges import Judge
from .plan import Plan, plan_of
from .scoring import score

_WINDOWS = 2
"""Inactive windows for each neighbour."""
_MOST = 10_000
"""Neighbours, of which each costs a look-up."""


@names_options
def neighbour_precision(
    explanation: Explanation, index: FeatureIndex, judge: Judge | None = None, n: int = 10, *,
    plan: Plan | None = None, batch_size: int = 256, verbose: bool = True,
) -> FeatureScore:  # fmt: skip
    """Precision of an explanation among windows of its feature and windows where only near features are active.

    Both sorts count as much, so a judge that always says the same gets 0.5. An explanation that is too wide ("verbs",
    where the feature fires on some verbs) is found here, and not among random windows.

    Args:
        explanation: Of a feature of the index.
        index: With its SAE attached.
        judge: None takes `TokenListJudge()`.
        n: Features with the nearest decoder rows. Two windows for each are looked for, in which that feature is active
            and this one is not.
        plan: Of the windows; its inactive ones are replaced by the neighbours'. None takes the one that the explanation
            was made by.
        batch_size: Questions that a judge is given at a time.
        verbose: Whether bars show how many are done.

    Returns:
        The explanation with its score "neighbour_precision"; `details["neighbour_precision"].false_positives` are
        windows that it holds for by mistake.

    Raises:
        InputError: A setting is none.
        FeatureIndexError: The index has no SAE.

    Examples:
        >>> from mlxterp import autointerp
        >>> [told] = index.explain(ball, plan=autointerp.Plan(least=1), verbose=False)
        >>> autointerp.neighbour_precision(told, index, verbose=False).scores["neighbour_precision"].chance
        0.5
    """
    checks.instance(explanation, "explanation", Explanation)
    n = checks.count(n, "n", 1, _MOST)
    plan = plan_of(explanation) if plan is None else checks.instance(plan, "plan", Plan)
    plan = replace(plan, negatives={"neighbour": _WINDOWS * n}, neighbours=n)
    found = score(
        index, explanation, judge, ["neighbour_precision"], plan=plan, controls=False, batch_size=batch_size,
        verbose=verbose,
    )  # fmt: skip
    return found[0]
