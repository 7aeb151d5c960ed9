"""A feature's card: what an index, the decoder and other people's names say of it, side by side."""

from __future__ import annotations

import math
from itertools import islice

from ..core import checks
from ..lens.feature_logits import feature_logits
from ..viz import FeatureCard
from .answers import Answers
from .examples import FeatureExample

_SIMILAR = 5
_LOGITS, _LOGIT_BINS = 10, 40
_TOKENS = 3
"""Of a neighbour."""
_LEVELS = ((7, "Upper tenths"), (4, "Middle"), (1, "Lower tenths"))
_PER_LEVEL = 3


def card(index: Answers, feature_id: int, n: int | None) -> FeatureCard:
    """The card of one feature; what needs the model is left out where the index was opened without it."""
    strongest = list(index._examples_of(feature_id, index.n_examples if n is None else checks.count(n, "n")))
    groups, shown = [("Strongest", strongest)], {_place(example) for example in strongest}
    for quantile, title in _LEVELS:
        found = index._examples_of(feature_id, _PER_LEVEL + len(shown), quantile, at_once=_PER_LEVEL + 1)
        others = list(islice((example for example in found if _place(example) not in shown), _PER_LEVEL))
        shown |= {_place(example) for example in others}
        groups.append((f"{title} (ranks {quantile}0 to {quantile}9 % of its texts)", others))
    facts = {
        "index": f"{index.n_texts:,} texts, {index.n_tokens:,} tokens counted",
        "left out": ", ".join(f"{n:,} {reason}" for reason, n in index.excluded.items()) or "nothing",
        "SAE": index.fingerprint[:16],
    }
    logits, similar, name = None, [], None
    if index.source is not None:
        source = index.source
        name = repr(source.sae)
        component = (
            None if source.sae.is_transcoder else source.component.name
        )  # its metadata say where it writes
        [logits] = feature_logits(
            source.anatomy, source.sae, [feature_id], _LOGITS, component=component, bins=_LOGIT_BINS
        )
        similar = [(f, cosine, index.label(f)) for f, cosine in index.similar(feature_id, _SIMILAR)]
        facts["model"] = str(source.model_name or source.anatomy.model.model_type)
    coactive = index.coactivation(feature_id, top_k=_SIMILAR)
    near = sorted({f for f, *_ in (*similar, *coactive)})
    return FeatureCard(
        feature_id=feature_id, label=index.label(feature_id), stats=index.stats(feature_id),
        examples=[(title, examples) for title, examples in groups if examples], logits=logits, similar=similar,
        coactive=coactive, neighbours={f: (index.label(f), _telling(index, f)) for f in near},
        sae_name=name or str(index.sae_name), component=index.component, facts=facts,
    )  # fmt: skip


def _place(example: FeatureExample) -> tuple[object, ...]:
    """Equal for examples that look alike."""
    return example.tokens, example.position - example.start


def _telling(index: Answers, feature: int) -> tuple[str, ...]:
    """The tokens of a feature that stand out: by how much oftener it fires on them than they occur, and how often."""
    table, derived = index._derived.table, index._derived.tokens
    pairs = zip(
        table["top_tokens"][feature].tolist(), table["top_token_counts"][feature].tolist(), strict=True
    )
    counted = {token: count for token, count in pairs if token >= 0 and count}
    if not counted:
        return ()
    occurs = dict(zip(counted, derived.occurrences_of(list(counted)).tolist(), strict=True))
    fires = int(table["count"][feature])

    def worth(token: int) -> float:
        lift = counted[token] / fires / (occurs[token] / index.n_tokens)
        return counted[token] * math.log1p(lift)

    ranked = sorted(counted, key=lambda token: (-worth(token), token))
    return tuple(index._piece(token) for token in ranked[:_TOKENS])
