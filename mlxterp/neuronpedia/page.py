"""What Neuronpedia's page of one feature says, as values: explanations, density, logits, texts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..concepts import Explanation
from ..core import checks
from ..core.feature_ids import Feature, named_feature
from ..core.integers import is_number
from ..viz.escaping import one_line
from ..viz.lines import LinesView, Table
from .server import BASE_URL, Server, checked_name, unicode

_SHOWN = 5
_AROUND = 8


@dataclass(frozen=True, slots=True)
class NeuronpediaExample:
    """A text on which a feature is active.

    Attributes:
        tokens: The text's tokens.
        values: The feature's activation on each.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]

    def __str__(self) -> str:
        peak = self.values.index(max(self.values)) if self.values else 0
        first = max(0, peak - _AROUND)
        near = [
            f"«{token}»" if first + i == peak else token
            for i, token in enumerate(self.tokens[first : peak + _AROUND + 1])
        ]
        return "".join(near)


@dataclass(frozen=True, eq=False, slots=True)
class NeuronpediaFeature(LinesView):
    """What Neuronpedia says of one feature. `print` and notebooks show it, without a network.

    Attributes:
        model_id: As Neuronpedia calls the model.
        source_id: As it calls the SAE.
        feature_id: The feature.
        explanations: What is said of it; the source of each is the explainer.
        density: Share of tokens on which it is active; None where it does not say.
        max_activation: The largest activation that was seen; None where it does not say.
        promoted: (token, logit) of the tokens that it promotes, largest first.
        suppressed: (token, logit) of those that it suppresses.
        examples: Texts on which it is active, strongest first.
        url: Address of its page.
    """

    model_id: str
    source_id: str
    feature_id: int
    explanations: tuple[Explanation, ...]
    density: float | None
    max_activation: float | None
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    examples: tuple[NeuronpediaExample, ...]
    url: str

    @property
    def _lines(self) -> Sequence[str]:
        lines = [f"{self.model_id}/{self.source_id}, feature {self.feature_id}"]
        told = [f"{one_line(one.text)} ({one_line(one.source)})" for one in self.explanations]
        lines += told or ["No explanation."]
        facts = [f"density {self.density:.3%}"] if self.density is not None else []
        facts += [f"largest activation {self.max_activation:.3g}"] if self.max_activation is not None else []
        return [*lines, *([", ".join(facts)] if facts else []), self.url]

    @property
    def _tables(self) -> Sequence[Table]:
        n = max(len(self.promoted), len(self.suppressed))
        pairs = [(*_pair(self.promoted, i), *_pair(self.suppressed, i)) for i in range(min(n, 2 * _SHOWN))]
        texts = [(f"{max(e.values, default=0):.2f}", str(e)) for e in self.examples[:_SHOWN]]
        return [
            Table(("promotes", "logit", "suppresses", "logit"), pairs), Table(("activation", "text"), texts),
        ]  # fmt: skip

    def __repr__(self) -> str:
        return f"NeuronpediaFeature({self.model_id}/{self.source_id}, {self.feature_id})"


def feature(
    model_id: str,
    source_id: str,
    feature_id: Feature,
    *,
    base_url: str = BASE_URL,
    cache: str | os.PathLike | bool | None = None,
    timeout: float = 30,
) -> NeuronpediaFeature:
    """What Neuronpedia says of one feature. What was brought once is answered from the cache, without a network.

    Args:
        feature_id: The feature's number, or what a search returned.
        model_id, source_id, base_url, cache, timeout: As in `labels`.

    Raises:
        NetworkError: The server cannot be reached, breaks off, or sends something else.
        InputError: It has no such model, source or feature; or a name or number that cannot be.
    """
    model = checked_name(model_id, "model_id", "gpt2-small")
    source = checked_name(source_id, "source_id", "8-res_fs768-jb")
    named = named_feature(feature_id)
    number = checks.count(feature_id if named is None else named, "feature_id", 0)
    server = Server.of(base_url, cache, timeout)
    path = f"/api/feature/{model}/{source}/{number}"
    url = f"{server.base_url}/{model}/{source}/{number}"
    return server.asked(
        path, (model, source, str(number)), lambda found: _read(found, model, source, number, url)
    )


def _read(found: Any, model: str, source: str, number: int, url: str) -> NeuronpediaFeature:
    if not isinstance(found, dict):
        raise TypeError(f"it sent a {type(found).__name__}, expected an object")
    told = [
        Explanation(number, unicode(row["description"]), unicode(_name(row)))
        for row in _objects(found, "explanations")
        if isinstance(row.get("description"), str) and row["description"].strip()
    ]
    texts = [
        NeuronpediaExample(tuple(_strings(row, "tokens")), tuple(_numbers(row, "values")))
        for row in _objects(found, "activations")
    ]
    if any(len(text.tokens) != len(text.values) for text in texts):
        raise ValueError("an example has more tokens than activations, or fewer")
    texts.sort(key=lambda text: -max(text.values, default=0.0))
    return NeuronpediaFeature(
        model, source, number, tuple(told), _number(found, "frac_nonzero"), _number(found, "maxActApprox"),
        _logits(found, "pos"), _logits(found, "neg"), tuple(texts), url,
    )  # fmt: skip


def _objects(found: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = found.get(key) or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError(f"{key!r} is no list of objects")
    return rows


def _strings(row: dict[str, Any], key: str) -> list[str]:
    values = row.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{key!r} is no list of strings")
    return values


def _numbers(row: dict[str, Any], key: str) -> list[float]:
    values = row.get(key) or []
    if not isinstance(values, list) or not all(is_number(value) for value in values):
        raise TypeError(f"{key!r} is no list of numbers")
    return [_finite(value, key) for value in values]


def _number(found: dict[str, Any], key: str) -> float | None:
    value = found.get(key)
    if value is not None and not is_number(value):
        raise TypeError(f"{key!r} is no number")
    return None if value is None else _finite(value, key)


def _finite(value: float, key: str) -> float:
    if not math.isfinite(value):  # 1e999
        raise ValueError(f"{key!r} is not finite")
    return float(value)


def _logits(found: dict[str, Any], side: str) -> tuple[tuple[str, float], ...]:
    tokens, values = _strings(found, f"{side}_str"), _numbers(found, f"{side}_values")
    if len(tokens) != len(values):
        raise ValueError(f"'{side}_str' has {len(tokens)} entries and '{side}_values' {len(values)}")
    return tuple(zip(tokens, values, strict=True))


def _name(row: dict[str, Any]) -> str:
    name = row.get("explanationModelName") or row.get("typeName")
    return name if isinstance(name, str) and name.strip() else "Neuronpedia"


def _pair(side: Sequence[tuple[str, float]], i: int) -> tuple[str, str]:
    return (side[i][0], f"{side[i][1]:+.2f}") if i < len(side) else ("", "")
