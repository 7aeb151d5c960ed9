"""What an `InterpretableModel` says of features: which a text activates, which texts activate one, what it promotes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from .. import lens
from ..activations.exclusions import rule_where_asked
from ..core.feature_ids import Feature, is_several
from ..errors import InputError
from ..features.search import top_features, top_texts
from ..features.view import Maxima, view_of_text
from ..hooks.session import ModelSession
from ..index import FeatureIndex, Source
from ..index.feature_index import check_is_of, texts_from_index
from ..lens import FeatureLogits, RandomDirections
from ..sae import SAE
from ..sae.adapt import place_of
from ..viz.token_view import TokenView
from .facade import Facade
from .opening import opened, sae_at


def get_top_features_for_text(
    self: Facade,
    text: Any,
    sae: SAE | str | Path,
    layer: int | None = None,
    component: str | None = None,
    top_k: int = 10,
    *,
    exclude: Iterable[str] | str = (),
) -> list[tuple[int, float]]:
    """The features most active on a text: (feature id, its largest activation on any token).

    Strongest first, then the lower id; only active features come back. Every token counts, special ones
    included, and on most models a beginning-of-text token tops the list: `exclude=("bos", "sinks")` leaves out
    what an index leaves out.

    Args:
        text: A string, or its token ids.
        layer, component: Where the SAE is used ("mlp" of layer 3; or component="layers.3.mlp"); None takes the
            SAE's own. A layer alone takes the part that the SAE was trained on in its own, or "mlp" where it does
            not say.
        exclude: Tokens that do not count: "bos", the tokenizer's beginning-of-text token; "sinks", whose activation
            is over ten times as long as the median on some prose.

    Examples:
        >>> found = model.get_top_features_for_text("Lily lost her red ball.", sae, exclude=("bos", "sinks"))
        >>> [feature for feature, activation in found[:5]]
        [1257, 1641, 1676, 1586, 741]
    """
    sae, place = sae_at(self.session, sae, layer, component)
    return top_features(
        self.session.language_model,
        text,
        sae,
        place,
        tokenize=self.session.tokenize,
        top_k=top_k,
        exclude=exclude,
    )


def get_top_texts_for_feature(
    self: Facade,
    feature_id: Feature,
    sae: SAE | str | Path,
    texts: Any,
    layer: int | None = None,
    component: str | None = None,
    top_k: int = 10,
    index: FeatureIndex | None = None,
    *,
    exclude: Iterable[str] | str | None = None,
) -> list[tuple[str, float, int]]:
    """The texts on which a feature is most active: (text, activation, token position).

    A text counts once, at its strongest token; strongest first, then the earlier text; empty
    for a feature that never fires. Asked again about the same texts, the model runs only if anything in it
    has changed since (`feature_cache`).

    Args:
        feature_id: A feature's id, or what a search returned.
        texts: The texts to look at: a list, a column, a generator, a table with one column of text, a text file,
            rows of token ids; None, with an index, takes its own.
        layer, component: As in `get_top_features_for_text`.
        index: Answers from this index (of the same SAE, component and texts) without running the model, by its
            rule of which tokens count.
        exclude: Tokens that do not count, as in `get_top_features_for_text`; without an index None counts all.

    Examples:
        >>> for text, activation, position in model.get_top_texts_for_feature(ball, sae, texts, top_k=2):
        ...     print(round(activation), repr(model.to_str_tokens(text)[position]))
        11 ' ball'
        4 ' toys'
    """
    sae, place = sae_at(self.session, sae, layer, component)
    if index is not None:
        source = Source(self.session.anatomy, sae, place, self.session.name)
        return texts_from_index(index, source, texts, feature_id, top_k, exclude)
    if texts is None:
        raise InputError("Give a list of texts, or index=… to ask an index about its own.")
    return top_texts(
        self.session.language_model, feature_id, sae, texts, place, tokenize=self.session.tokenize, top_k=top_k,
        exclude=() if exclude is None else exclude, cache=self.session.feature_cache,
    )  # fmt: skip


def visualize_feature_activations(
    self: Facade,
    text: Any,
    sae: SAE | str | Path,
    layer: int | None = None,
    component: str | None = None,
    feature_ids: Any = None,
    *,
    top_k: int = 5,
    exclude: Iterable[str] | str | None = None,
    index: FeatureIndex | None = None,
) -> TokenView:
    """A text's tokens coloured by how strongly features are active on them.

    A notebook shows it by itself, `print` shows it in the terminal, `.to_html(path)` writes a file. The text stands
    there once, each token with its strongest features, then by each feature. Full colour is a feature's own maximum:
    over the index where one is given, else in this text; the view says which.

    Args:
        text, layer, component: As in `get_top_features_for_text`.
        feature_ids: One feature or several (ids, or what a search returned), in the order shown; None takes the
            text's `top_k` strongest, and for each token its strongest of all.
        exclude: Tokens that stay without colour and do not count, as in `get_top_features_for_text`; None takes the
            index's rule, and without an index counts all.
        index: Of this SAE and component; gives the maxima and the names of features.

    Examples:
        >>> view = model.visualize_feature_activations("Lily lost her red ball.", sae, feature_ids=[ball])
        >>> view.tokens[int(view.activations[0].argmax())]
        ' ball'
        >>> view.to_html("view.html").name  # one file, for any browser
        'view.html'
    """
    sae, place = sae_at(self.session, sae, layer, component)
    model = self.session.language_model
    rule = rule_where_asked(model, place, () if exclude is None else exclude)
    own = partial(sae.concepts.label_of, marked=True)
    maxima, label_of = None, own
    if index is not None:
        check_is_of(index, sae, place)
        rule = index._meta.rule if exclude is None else rule
        maxima = Maxima(f"an index of {index.n_texts:,} texts", np.asarray(index.summary.maximum))
        label_of = lambda feature: index.label(feature) or own(feature)  # noqa: E731
    return view_of_text(
        model, text, sae, place, tokenize=self.session.tokenize, feature_ids=feature_ids, top_k=top_k, rule=rule,
        maxima=maxima, label_of=label_of,
    )  # fmt: skip


@overload
def feature_logits(
    self: Facade, sae: SAE | str | Path, feature_id: int, top_k: int = 10, *, component: str | None = None,
    layer: int | None = None,
) -> FeatureLogits: ...  # fmt: skip


@overload
def feature_logits(
    self: Facade,
    sae: SAE | str | Path,
    feature_id: Sequence[int],
    top_k: int = 10,
    *,
    component: str | None = None,
    layer: int | None = None,
) -> list[FeatureLogits]: ...


def feature_logits(
    self: Facade,
    sae: SAE | str | Path,
    feature_id: int | Sequence[int],
    top_k: int = 10,
    *,
    component: str | None = None,
    layer: int | None = None,
) -> FeatureLogits | list[FeatureLogits]:
    """The tokens that a feature promotes and suppresses: its decoder row through final norm and head.

    `promoted, suppressed = model.feature_logits(sae, 5)`. The lens is linear: the row times the norm's gain
    (LayerNorm: less its mean), then the head; no biases, no cap on the logits, and the mean over the
    vocabulary taken away. Logits are per unit of activation where the final residual stream has a root
    mean square of 1. An SAE at `attn.z` or at an MLP's hidden layer goes through that sublayer's output
    projection first; other layers in between are not counted.

    Args:
        feature_id: In [0, sae.d_hidden); several give a list, for little more than the price of one.
        top_k: Tokens on each side.
        layer, component: What the SAE reconstructs; None takes what its metadata says.

    Raises:
        UnknownFeatureError: There is no such feature.
        InputError: `top_k` is below 1, or nothing says where the SAE writes.
        SAEError: The decoder rows are not as wide as the component, or it does not reach the residual
            stream by a linear map.
        ComponentError: No such component, or the model has more than one residual stream.

    Examples:
        >>> promoted, suppressed = model.feature_logits(sae, ball, top_k=3)
        >>> [token for token, logit in promoted]
        [' rolled', ' jump', ' hard']
    """
    self.session.refresh()
    sae, several = opened(self.session, sae), is_several(feature_id)
    ids: Any = feature_id if several else [feature_id]
    component = _written(self.session, sae, layer, component)
    found = lens.feature_logits(
        self.session.plain, sae, ids, top_k, component=component, tokenize=self.session.tokenize
    )
    return found if several else found[0]


def random_direction_baseline(
    self: Facade, sae: SAE | str | Path, n: int = 100, seed: int = 0, *, component: str | None = None,
    layer: int | None = None,
) -> RandomDirections:  # fmt: skip
    """What random directions show where this SAE writes, to hold `feature_logits` against.

    `baseline.share_with_higher_maximum(feature)` is near 0 for a feature that promotes tokens as no random
    direction of its length does. Directions are isotropic (Gaussian), in the space of the decoder rows.

    Args:
        n: Number of directions.
        layer, component: As in `feature_logits`.
    """
    self.session.refresh()
    sae = opened(self.session, sae)
    component = _written(self.session, sae, layer, component)
    return lens.random_direction_baseline(self.session.plain, sae, n, seed, component=component)


def _written(session: ModelSession, sae: SAE, layer: Any, component: Any) -> str | None:
    """What an SAE is said to reconstruct; None leaves it to its metadata."""
    if layer is None and component is None:
        return None
    said = sae.metadata.get("component_out")
    own = said if isinstance(said, str) else None
    return place_of(session.plain, sae, layer, component, own=own, quiet=sae.is_transcoder).name
