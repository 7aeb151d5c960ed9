"""Directions from contrasted texts: what a component does on some texts and not on others.

    happy = difference_of_means(model, ["I love it", …], ["I hate it", …], "layers.10.resid_post")

`contrast_pass` runs the texts; the arithmetic here is NumPy's, in float64. `SteeringVector.save` keeps the result.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from ..anatomy.session import Model
from ..core.options import names_options
from ..core.sites import Component
from ..errors import InputError
from .contrast_pass import Texts, root_mean_square_length, run_sides, sides_of
from .vectors import SteeringVector

_FORMS = ("diff", "center")
_ROUNDING = 1e-6
"""Share of the activations' length below which a difference is rounding."""


@overload
def difference_of_means(
    model: Model, positive: Texts, negative: Texts, at: str | Component, *,
    position: str = "last", batch_tokens: int = 2048,
) -> SteeringVector: ...  # fmt: skip
@overload
def difference_of_means(
    model: Model, positive: Texts, negative: Texts, at: list[str] | tuple[str, ...], *,
    position: str = "last", batch_tokens: int = 2048,
) -> list[SteeringVector]: ...  # fmt: skip
@names_options
def difference_of_means(
    model: Model, positive: Texts, negative: Texts, at: Any, *,
    position: str = "last", batch_tokens: int = 2048,
) -> SteeringVector | list[SteeringVector]:  # fmt: skip
    """mean(h⁺) − mean(h⁻): from the negative texts to the positive ones, in the scale of the activations.

    The strongest simple baseline ("DiffMean", "CAA"); adding it once shifts the one mean onto the other.

    Args:
        model: An `InterpretableModel`.
        positive: Texts that have the property, or lists of token ids.
        negative: Texts that do not; there may be more or fewer of them.
        at: Path of a component, or a list of paths, all taken from one pass.
        position: What a text's h is: "last", its last token's activation, or "mean", the mean over its
            tokens, special ones included. Each text counts the same, however long.
        batch_tokens: Tokens of a batch, about.

    Returns:
        One vector for a path, a list of them, in its order, for a list; under canonical names.

    Raises:
        InputError: Not two lists of texts with tokens, both sides have the same mean, an activation is not
            finite, a text is longer than the model's learned positions (one longer than the positions a
            model was made for is run, with a warning, as in `trace`), or an unknown position.
        ComponentError: No such component, or it has no single value for each token.

    Examples:
        >>> from mlxterp import steering
        >>> happy, sad = ["The girl was happy.", "Tom laughed."], ["The girl was sad.", "Tom cried."]
        >>> v = steering.difference_of_means(model, happy, sad, at="layers.2.resid_post")
        >>> model.generate("The little girl was very", max_tokens=1, steer=steering.add_direction(v, -2.0))
        'sad'
    """
    positive, negative = sides_of(model, positive, negative)
    sides = run_sides(model, positive, negative, at, position, batch_tokens)
    share = np.zeros(sides.texts)
    np.add.at(share, sides.positive, 1.0)
    share /= len(sides.positive)
    other = np.zeros(sides.texts)
    np.add.at(other, sides.negative, 1.0)
    share -= other / len(sides.negative)  # exactly 0 for what both sides hold alike
    found = []
    for name in sides.names:
        rows = sides.rows[name].astype(np.float64)
        vector = share @ rows
        if np.linalg.norm(vector) <= _ROUNDING * root_mean_square_length(rows):
            raise InputError(
                f"The positive and the negative texts have the same mean at {name}, so there is no direction"
                " between them. Give texts that differ there, or choose a later component."
            )
        facts = {"method": "difference_of_means", "positive": len(positive), "negative": len(negative)}
        found.append(SteeringVector(name, vector, {**facts, **sides.facts}))
    return found if sides.several else found[0]


@overload
def pca_direction(
    model: Model, positive: Texts, negative: Texts, at: str | Component, *,
    form: str = "diff", position: str = "last", batch_tokens: int = 2048,
) -> SteeringVector: ...  # fmt: skip
@overload
def pca_direction(
    model: Model, positive: Texts, negative: Texts, at: list[str] | tuple[str, ...], *,
    form: str = "diff", position: str = "last", batch_tokens: int = 2048,
) -> list[SteeringVector]: ...  # fmt: skip
@names_options
def pca_direction(
    model: Model, positive: Texts, negative: Texts, at: Any, *,
    form: str = "diff", position: str = "last", batch_tokens: int = 2048,
) -> SteeringVector | list[SteeringVector]:  # fmt: skip
    """The direction along which the members of pairs differ most, of length 1.

    With d_i = h_i⁺ − h_i⁻, the rows of D (pairs, width), it is the first right singular vector v of

        form="diff":    D − mean(D), the first principal component of the differences;
        form="center":  D; the same as the first principal component of all h after each pair's own mean,
                        (h_i⁺ + h_i⁻)/2, was subtracted, which leaves ±d_i/2.

    These are repeng's `pca_diff` and `pca_center` (repeng/extract.py, `read_representations`, whose PCA is
    scikit-learn's). A principal component leaves out the mean: "diff" finds how the differences vary, not
    what they have in common, which "center" and `difference_of_means` keep. For a model's last block repeng
    takes h after the final norm; here it is the component named.

    The sign is that of the majority of pairs: in more of them the positive text projects higher, h⁺·v > h⁻·v.
    Pairs that differ by no more than rounding count for neither. Where both are as many, the mean difference
    points along v; where that is 0 too, the component of v of largest magnitude is positive.

    Args:
        model: An `InterpretableModel`.
        positive, negative: The pairs: text i of one belongs to text i of the other. Texts or token ids.
        at: Path of a component, or a list of paths, all taken from one pass.
        form: "diff" (at least two pairs) or "center".
        position: "last" or "mean", as for `difference_of_means`.
        batch_tokens: Tokens of a batch, about.

    Returns:
        One vector for a path, a list of them, in its order, for a list; under canonical names. Its metadata
        say how much of the variation lies along it ("explained_variance_ratio", in [0, 1]) and in which
        share of all pairs the positive text projects higher ("agreement").

    Raises:
        InputError: As `difference_of_means`; also unequal numbers of texts, an unknown form, or differences
            that do not vary (form="diff") or are all 0.
        ComponentError: No such component, or it has no single value for each token.
    """
    if form not in _FORMS:
        raise InputError(f"form={form!r}; there are: {', '.join(_FORMS)}.")
    positive, negative = sides_of(model, positive, negative)
    _check_pairs(positive, negative, form)
    sides = run_sides(model, positive, negative, at, position, batch_tokens)
    found = []
    for name in sides.names:
        rows = sides.rows[name].astype(np.float64)
        d = rows[sides.positive] - rows[sides.negative]
        vector, ratio, agreement = _first_component(d, form, root_mean_square_length(rows), name)
        facts = {
            "method": "pca_direction", "form": form, "pairs": len(d), "explained_variance_ratio": ratio,
            "agreement": agreement,
        }  # fmt: skip
        found.append(SteeringVector(name, vector, {**facts, **sides.facts}))
    return found if sides.several else found[0]


def _check_pairs(positive: list[str], negative: list[str], form: str) -> None:
    """Raises InputError where the texts make no pairs, or too few."""
    if len(positive) != len(negative):
        raise InputError(
            f"{len(positive)} positive and {len(negative)} negative texts make no pairs: text i of one belongs to"
            " text i of the other. difference_of_means takes unequal numbers."
        )
    if form == "diff" and len(positive) < 2:
        raise InputError(
            "One pair has one difference, which cannot vary. Give more pairs, or use form='center' or"
            " difference_of_means."
        )


def _first_component(d: np.ndarray, form: str, length: float, name: str) -> tuple[np.ndarray, float, float]:
    """The main direction of differences (pairs, width): (width,), explained ratio, share of pairs that agree."""
    limit = _ROUNDING * length
    if not np.any(np.linalg.norm(d, axis=1) > limit):
        raise InputError(
            f"In every pair both texts have the same activation at {name}, so there is no direction between them."
            " Give texts that differ there, or choose a later component."
        )
    x = d - d.mean(axis=0) if form == "diff" else d
    _, strengths, directions = np.linalg.svd(x, full_matrices=False)
    if form == "diff" and strengths[0] <= limit * np.sqrt(len(d)):
        raise InputError(
            f"All pairs differ in the same way at {name}, so form='diff', which looks for how the differences"
            " vary, finds no direction. Use form='center' or difference_of_means."
        )
    v = directions[0]
    along = d @ v
    higher, lower = int((along > limit).sum()), int((along < -limit).sum())
    if higher != lower:
        sign = 1 if higher > lower else -1
    else:
        mean = float(along.mean())
        sign = np.sign(mean) if abs(mean) > limit else np.sign(v[np.abs(v).argmax()])
    agreement = (higher if sign > 0 else lower) / len(d)
    return sign * v, float(strengths[0] ** 2 / (strengths**2).sum()), agreement
