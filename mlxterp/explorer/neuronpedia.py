"""`to_neuronpedia`: an index as a folder that Neuronpedia's importer reads; `neuronpedia.check` reads it the same way.

The layout and the columns are those of its public exports (`neuronpedia.folder`). What an index does not know (neurons
that correlate, losses, attention's shares) stays empty, never guessed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..concepts.explanations import PERSON, Explanation
from ..core import checks
from ..core.feature_ids import Feature, is_several
from ..core.files import atomic_folder
from ..core.options import names_options
from ..core.places import path_of
from ..core.progress import hidden
from ..core.ranking import Firings
from ..data.corpus import scatter
from ..errors import InputError
from ..index import FeatureExample, FeatureIndex
from ..index.source import Source
from ..index.windows import Windows
from ..lens.feature_logits import FeatureLogits, direction_logits, feature_logits
from ..neuronpedia.folder import ACTIVATIONS, DIGITS, EXPLANATIONS, FEATURES

_BATCH = 256
_BARS, _LOGITS, _NEAR, _ALIGNED = 50, 10, 10, 3
_STEERED = 10.0
"""The strength that Neuronpedia's steer page begins with, where a feature's largest activation is less."""
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


@names_options
def to_neuronpedia(
    index: FeatureIndex, folder: str | os.PathLike, model_id: str, source_set: str, *,
    features: Iterable[Feature] | None = None, layer: int | None = None, creator_id: str = "mlxterp",
    creator_name: str = "", description: str = "", urls: Sequence[str] = (), n: int = 20, bins: int = 5,
    per_bin: int = 5, before: int = 32, after: int = 31, vectors: bool = False, created: datetime | None = None,
    verbose: bool = True,
) -> Path:  # fmt: skip
    """Writes a folder that Neuronpedia imports; see `FeatureIndex.to_neuronpedia`."""
    source = index._with_source()
    if features is not None and not is_several(features):
        raise InputError(
            f"features is {features!r}; give a list of feature ids, or None for all that are active."
        )
    chosen = [index.check_feature(f) for f in (index.live.tolist() if features is None else features)]
    place = _layer(index.component) if layer is None else checks.count(layer, "layer", 0)
    wanted = Wanted(
        _name(model_id, "model_id"), _name(source_set, "source_set"), place, creator_id, creator_name, description,
        checks.strings(urls, "urls"), checks.count(n, "n"), checks.count(bins, "bins"),
        checks.count(per_bin, "per_bin", 0), checks.count(before, "before", 0), checks.count(after, "after", 0),
        checks.flag(vectors, "vectors"), (datetime.now(UTC) if created is None else created).isoformat(),
    )  # fmt: skip
    root = path_of(folder)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} is there already; choose a new folder.")
    with atomic_folder(root) as draft:
        _write(draft / wanted.model_id / wanted.source_id, _Rows(index, source, wanted), chosen, verbose)
    return root


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a folder is to be."""

    model_id: str
    source_set: str
    layer: int
    creator_id: str
    creator_name: str
    description: str
    urls: tuple[str, ...]
    n: int
    bins: int
    per_bin: int
    before: int
    after: int
    vectors: bool
    created: str

    @property
    def source_id(self) -> str:
        """As Neuronpedia names an SAE: its layer, and the set it is of."""
        return f"{self.layer}-{self.source_set}"


def _name(given: Any, what: str) -> str:
    form = r"[a-z0-9][a-z0-9_-]*" if what == "source_set" else r"[a-z0-9][a-z0-9._-]*"
    if isinstance(given, str) and re.fullmatch(form, given) and ".." not in given:
        return given
    raise InputError(f"{what}={given!r}; Neuronpedia's names have a-z, 0-9, - and _ only, such as 'res-jb'.")


def _layer(component: str) -> int:
    found = re.match(r"layers\.(\d+)\.", component)
    if found is None:
        raise InputError(f"{component} names no layer: give layer=.")
    return int(found[1])


def _write(folder: Path, rows: _Rows, chosen: Sequence[int], verbose: bool) -> None:
    for name in ("features", "activations", "explanations"):
        (folder / name).mkdir(parents=True)
    for name, row in rows.about().items():
        (folder / name).write_text(_line(row), encoding="utf-8")
    starts = tqdm(range(0, len(chosen), _BATCH), "Neuronpedia", unit="batch", disable=hidden(verbose))
    for number, start in enumerate(starts):
        part = chosen[start : start + _BATCH]
        kinds: dict[str, Iterator[Mapping[str, Any]]] = {
            "features": rows.features(part), "activations": rows.activations(part),
            "explanations": rows.explanations(part),
        }  # fmt: skip
        for kind, several in kinds.items():
            data = "".join(map(_line, several)).encode("utf-8")
            if data:
                (folder / kind / f"batch-{number}.jsonl.gz").write_bytes(gzip.compress(data, 6, mtime=0))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Numbers of five decimals; texts without what a database refuses (the character 0, halves of characters)."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (float, np.floating)):
        return round(float(value), DIGITS) if math.isfinite(value) else 0.0
    return value


class _Rows:
    """The rows of a folder."""

    def __init__(self, index: FeatureIndex, source: Source, wanted: Wanted):
        self._index, self._source, self._wanted = index, source, wanted
        self._windows = Windows(index, wanted.before, wanted.after)
        self._own = {
            "modelId": wanted.model_id, "layer": wanted.source_id, "creatorId": wanted.creator_id,
            "createdAt": wanted.created,
        }  # fmt: skip

    def about(self) -> dict[str, dict[str, Any]]:
        """The files of one line."""
        wanted, index, sae = self._wanted, self._index, self._source.sae
        own = {"creatorId": wanted.creator_id, "visibility": "UNLISTED"}
        said = wanted.description or index.sae_name
        return {
            "model.jsonl": {
                "id": wanted.model_id, "displayName": wanted.model_id, "displayNameShort": wanted.model_id,
                "layers": len(self._source.anatomy.model.layers), "owner": wanted.creator_name, **own,
            },
            "release.jsonl": {
                "name": wanted.source_set, "description": said, "urls": list(wanted.urls),
                "creatorName": wanted.creator_name, "visibility": "UNLISTED", "createdAt": wanted.created,
            },
            "sourceset.jsonl": {
                "modelId": wanted.model_id, "name": wanted.source_set, "description": said,
                "releaseName": wanted.source_set, "creatorName": wanted.creator_name, "type": index.component, **own,
            },
            "source.jsonl": {
                "id": wanted.source_id, "modelId": wanted.model_id, "setName": wanted.source_set,
                "dataset": f"{index.n_texts} texts, {index.n_tokens} tokens counted", "num_prompts": index.n_texts,
                "num_tokens_in_prompt": None, "hfRepoId": None, "hfFolderId": None, "notes": sae.fingerprint, **own,
            },
        }  # fmt: skip

    # -- features -----------------------------------------------------------------------------

    def features(self, chosen: Sequence[int]) -> Iterator[dict[str, Any]]:
        """A row for each."""
        source = self._source
        component = None if source.sae.is_transcoder else source.component.name
        found = feature_logits(source.anatomy, source.sae, chosen, _LOGITS, component=component)
        parts = direction_logits(source.anatomy, source.sae, source.sae.W_dec[list(chosen)], component)
        for one, row in zip(found, (row for part, _ in parts for row in part), strict=True):
            yield self._feature(one, row)

    def _feature(self, spoken: FeatureLogits, logits: np.ndarray) -> dict[str, Any]:
        feature, index = spoken.feature_id, self._index
        stats, row = index.stats(feature), np.asarray(self._source.sae.W_dec[feature], dtype=np.float64)
        similar = index.similar(feature, _NEAR)
        aligned = np.argsort(-np.abs(row), kind="stable")[:_ALIGNED]
        bars = _bars(np.abs(index._reader.firings(feature).values), lowest=0.0), _bars(logits)
        said = {
            **self._own, "index": str(feature), "sourceSetName": self._wanted.source_set,
            "maxActApprox": abs(stats.maximum), "hasVector": self._wanted.vectors,
            "vector": row.tolist() if self._wanted.vectors else [], "vectorLabel": None, "hookName": index.component,
            "vectorDefaultSteerStrength": max(_STEERED, abs(stats.maximum)),
            "topkCosSimIndices": [f for f, _ in similar], "topkCosSimValues": [value for _, value in similar],
            "neuron_alignment_indices": aligned.tolist(), "neuron_alignment_values": row[aligned].tolist(),
            "neuron_alignment_l1": (np.abs(row[aligned]) / max(float(np.abs(row).sum()), 1e-12)).tolist(),
            "neg_str": [token for token, _ in spoken.suppressed], "neg_values": [v for _, v in spoken.suppressed],
            "pos_str": [token for token, _ in spoken.promoted], "pos_values": [v for _, v in spoken.promoted],
            "frac_nonzero": stats.density,
            "freq_hist_data_bar_heights": bars[0][0], "freq_hist_data_bar_values": bars[0][1],
            "logits_hist_data_bar_heights": bars[1][0], "logits_hist_data_bar_values": bars[1][1],
        }  # fmt: skip
        return {name: said.get(name, []) for name in FEATURES}

    # -- activations --------------------------------------------------------------------------

    def activations(self, chosen: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Rows for each: its strongest windows, then some of each bin of values."""
        for feature in chosen:
            ranked = self._windows.peaks(feature)
            maximum = float(np.abs(ranked.values).max(initial=0.0))
            for number, example in enumerate(self._index.examples(feature, self._wanted.n)):
                at = self._windows.at(feature, example.text_id, example.position)
                yield self._activation(at, f"top {number}", (-1.0, maximum, -1.0))
            yield from self._binned(feature, ranked, maximum)

    def _binned(self, feature: int, ranked: Firings, maximum: float) -> Iterator[dict[str, Any]]:
        edges = np.linspace(0.0, maximum, self._wanted.bins + 1)
        sizes = np.abs(ranked.values)
        order = np.argsort(scatter(ranked.prefixes), kind="stable")
        for low, high in pairwise(edges.tolist()):
            inside = (sizes > low) & (sizes <= high)
            share = float(inside.mean()) if len(sizes) else 0.0
            for row in order[inside[order]][: self._wanted.per_bin].tolist():
                at = self._windows.at(feature, int(ranked.text_ids[row]), int(ranked.positions[row]))
                yield self._activation(at, f"{low:.5g} {row}", (float(low), float(high), share))

    def _activation(
        self, example: FeatureExample, what: str, bin_: tuple[float, float, float]
    ) -> dict[str, Any]:
        values = [round(abs(float(value)), DIGITS) for value in example.activations]
        largest = max(values)
        place = f"{example.text_id}, position {example.position}"
        said = {
            **self._own, "id": self._id(example.feature_id, what), "index": str(example.feature_id),
            "tokens": list(example.tokens), "values": values, "maxValue": largest,
            "maxValueTokenIndex": values.index(largest), "minValue": min(values), "binMin": bin_[0], "binMax": bin_[1],
            "binContains": bin_[2], "qualifyingTokenIndex": example.position - example.start,
            "dataIndex": f"text {place}", "dataSource": self._wanted.description, "logitContributions": None,
            "dfaTargetIndex": None, "dfaMaxValue": None,
        }  # fmt: skip
        return {name: said.get(name, []) for name in ACTIVATIONS}

    # -- explanations -------------------------------------------------------------------------

    def explanations(self, chosen: Sequence[int]) -> Iterator[dict[str, Any]]:
        """A row for each name and explanation."""
        for feature in chosen:
            name = self._index.labels.get(feature)
            told = [] if name is None else [Explanation(feature, name["name"], name.get("source", PERSON))]
            told += [
                one
                for one in self._source.sae.concepts.said_of(feature)
                if one.text not in [t.text for t in told]
            ]
            for one in told:
                said = {
                    **self._own, "id": self._id(feature, f"says {one.source} {one.text}"), "index": str(feature),
                    "description": one.text, "authorId": self._wanted.creator_id,
                    "typeName": "human" if one.source == PERSON else "mlxterp",
                    "explanationModelName": None if one.source == PERSON else one.source,
                    "notes": "; ".join(f"{measure} {score}" for measure, score in one.scores.items()),
                }  # fmt: skip
                yield {key: said[key] for key in EXPLANATIONS}

    def _id(self, feature: int, what: str) -> str:
        """25 letters and digits, the same for the same row."""
        named = f"{self._wanted.model_id} {self._wanted.source_id} {feature} {what}"
        number = int.from_bytes(hashlib.sha256(named.encode("utf-8", "replace")).digest(), "big")
        letters = []
        for _ in range(24):
            number, letter = divmod(number, len(_LETTERS))
            letters.append(_LETTERS[letter])
        return "c" + "".join(letters)


def _bars(values: np.ndarray, lowest: float | None = None) -> tuple[list[int], list[float]]:
    """Heights and middles of the bars of a histogram; none without values."""
    if not len(values):
        return [], []
    low = float(values.min()) if lowest is None else lowest
    counts, edges = np.histogram(values, _BARS, range=(low, max(float(values.max()), low + 1e-3)))
    return counts.tolist(), ((edges[:-1] + edges[1:]) / 2).tolist()
