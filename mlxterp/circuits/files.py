"""Attribution graphs as files: the JSON of circuit-tracer and Neuronpedia, both ways.

What those files have no place for (biases, values, the law) stands under `metadata.mlxterp`, which their readers pass
over. Files of others are checked key by key before anything is made of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files import atomic_write, strict_json
from ..core.integers import is_integer, is_number
from ..core.places import expanded
from ..core.version import version
from ..errors import CircuitError, InputError
from .nodes import Node, embedding_node, error_node, feature_node, output_node
from .protocols import Graph

LARGEST = 100 << 20
"""Bytes of a file; Neuronpedia takes no more either."""
_LINK = 40
"""Bytes of a link, at least."""
_TYPES = {
    "feature": "cross layer transcoder", "error": "mlp reconstruction error", "embedding": "embedding",
    "output": "logit",
}  # fmt: skip
_KINDS = {name: kind for kind, name in _TYPES.items()}
_NODE_KEYS = ("node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp")
_CLERP = re.compile(r'Output "(.*)" \(p=', re.DOTALL)


# -- writing --------------------------------------------------------------------------------------


def write(graph: Graph, path: str | os.PathLike, slug: str | None = None) -> Path:
    """Writes the file, whole or not at all; returns its path.

    Raises:
        InputError: `path` is no path, or the file would be larger than readers take.
        WriteError: It cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"Expected the path of a file to save in, got {path!r}.")
    target = expanded(path)
    links = int(np.count_nonzero(graph.matrix))
    if links * _LINK > LARGEST:
        raise InputError(
            f"This graph has {links} edges, which make a file of more than {LARGEST >> 20} MiB. Save a pruned one:"
            " graph.prune().save(path)."
        )
    text = json.dumps(
        as_json(graph, slug or target.stem), ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    if len(text.encode("utf-8")) > LARGEST:
        raise InputError(
            f"The file would be larger than {LARGEST >> 20} MiB. Save a pruned graph: graph.prune().save(path)."
        )
    with atomic_write(target) as draft:
        draft.write_text(text, encoding="utf-8")
    return target


def as_json(graph: Graph, slug: str) -> dict[str, Any]:
    """What the file says."""
    shares, n = graph.cumulative_influence(), len(graph.sources)
    rows, columns = np.nonzero(graph.matrix)
    sources, targets = [node.id for node in graph.sources], [node.id for node in graph.targets]
    return {
        "metadata": _metadata(graph, slug),
        "qParams": {
            "pinnedIds": list(graph.pins), "linkType": "both", "clickedId": "", "sg_pos": "",
            "supernodes": [[name, *ids] for name, ids in (graph.supernodes or {}).items()],
        },
        "nodes": [
            _node(node, None if i >= n else _short(shares[i]), i == n, (graph.labels or {}).get(node.id, ""))
            for i, node in enumerate(graph.nodes)
        ],
        "links": [
            {"source": sources[column], "target": targets[row], "weight": _short(weight)}
            for row, column, weight in zip(
                rows.tolist(), columns.tolist(), graph.matrix[rows, columns].tolist(), strict=True
            )
        ],
    }  # fmt: skip


def _metadata(graph: Graph, slug: str) -> dict[str, Any]:
    return {
        "slug": slug, "scan": graph.model or "", "transcoder_list": list(graph.transcoders),
        "prompt_tokens": list(graph.tokens), "prompt": "".join(graph.tokens), "node_threshold": 1.0,
        "schema_version": 1, "info": {"generator": {"name": "mlxterp", "version": version()}},
        **_scores(graph),
        "mlxterp": {
            "n_layers": graph.n_layers, "conventions": graph.conventions, "law": graph.law,
            "pruned": graph.whole is not None,
            "directions": [node.id for node in graph.nodes if node.kind == "output" and node.token_id is None],
            **{name: [_short(x) for x in getattr(graph, name).tolist()] for name in ("bias", "omitted", "values")},
        },
    }  # fmt: skip


def _scores(graph: Graph) -> dict[str, float]:
    """Those that are numbers."""
    found = {"replacement_score": graph.replacement_score, "completeness_score": graph.completeness_score}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _node(node: Node, influence: float | None, is_target: bool, label: str) -> dict[str, Any]:
    layer = {"embedding": "E", "output": str(node.layer + 1)}.get(node.kind, str(node.layer))
    number = int(node.id.split("_")[1]) if node.kind == "output" else node.feature_id
    feature = {
        "feature": None if node.feature_id is None else _cantor(node.layer, node.feature_id), "error": -1,
        "embedding": node.position, "output": number,
    }[node.kind]  # fmt: skip
    js = {
        "feature": f"{node.layer}_{node.feature_id}-0", "error": f"{node.layer}_{node.position}-0",
        "embedding": f"E_{node.token_id}-{node.position}", "output": f"L_{number}-{node.position}",
    }[node.kind]  # fmt: skip
    clerp = label
    if node.kind == "output":  # its readers take the probability from here
        clerp = f'Output "{node.token}" (p={1.0 if node.probability is None else node.probability:.3f})'
    return {
        "node_id": node.id, "feature": feature, "layer": layer, "ctx_idx": node.position,
        "feature_type": _TYPES[node.kind], "token_prob": node.probability or 0.0, "is_target_logit": is_target,
        "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": js, "clerp": clerp, "influence": influence,
        "activation": None if node.activation is None else _short(node.activation),
    }  # fmt: skip


def _cantor(layer: int, feature: int) -> int:
    """One number for a layer and a feature."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def _short(value: float) -> float | None:
    """The number with as many digits as float32 needs; None for NaN."""
    return float(f"{value:.9g}") if np.isfinite(value) else None


# -- reading --------------------------------------------------------------------------------------


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The fields of an `AttributionGraph` in a file of circuit-tracer, Neuronpedia or ours.

    Raises:
        InputError: `path` is no path.
        CircuitError: There is no such file, or it is no attribution graph that can be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"Expected the path of a graph's file, got {path!r}.")
    place = expanded(path)
    try:
        size = place.stat().st_size
        if size > LARGEST:
            raise CircuitError(
                f"it has {size >> 20} MiB; at most {LARGEST >> 20} are read. Prune the graph first"
            )
        return _Reader(strict_json(place.read_bytes())).fields()
    except OSError as error:
        raise CircuitError(f"{place} cannot be read: {error}") from error
    except ValueError as error:
        raise CircuitError(f"{place} is no attribution graph that can be read: {error}.") from error


class _Reader:
    """A file's JSON, part by part. What is wrong raises CircuitError without the path."""

    def __init__(self, data: Any):
        self.data = _mapping(data, "the file")
        for key in ("metadata", "qParams", "nodes", "links"):
            _need(key in self.data, f"it has no {key!r}")
        self.metadata = _mapping(self.data["metadata"], "metadata")
        self.own = _mapping(self.metadata.get("mlxterp", {}), "metadata.mlxterp")
        tokens = _texts(self.metadata.get("prompt_tokens"), "metadata.prompt_tokens")
        _need(bool(tokens), "metadata.prompt_tokens is empty")
        self.tokens = tokens
        for key in ("slug", "scan", "prompt"):
            _need(isinstance(self.metadata.get(key), str), f"metadata.{key} is no text")

    def fields(self) -> dict[str, Any]:
        """See `read`."""
        order, named, shares = self._nodes()
        kinds = [node.kind for node in order]
        n = kinds.index("output") if "output" in kinds else len(order)
        matrix = self._links([*_of(order, "feature"), *order[n:]], order[:n], named)
        count = len(matrix)
        outputs = order[n:]
        said = self.metadata
        scores = [_number_or_none(said.get(f"{name}_score")) for name in ("replacement", "completeness")]
        pruned = self.own.get("pruned", True) is True
        activations = [float("nan") if x.activation is None else x.activation for x in _of(order, "feature")]
        unknown = np.array([*activations, *([np.nan] * len(outputs))], dtype=np.float32)
        return {
            "nodes": tuple(order), "matrix": matrix, "tokens": tuple(self.tokens), "n_layers": outputs[0].layer,
            "bias": self._numbers("bias", count), "omitted": self._numbers("omitted", count),
            "values": self._numbers("values", count, unknown),
            "conventions": str(self.own.get("conventions", "circuit-tracer")),
            "law": _number_or_none(self.own.get("law")),
            "model": said["scan"] or None,
            "transcoders": tuple(_texts(said.get("transcoder_list") or [], "metadata.transcoder_list")),
            "supernodes": self._supernodes(named), "labels": self._labels(named), "pins": self._pins(named),
            "influence_shares": shares if pruned else None,
            "whole": (scores[0], scores[1]) if pruned and None not in scores else None,
        }  # fmt: skip

    def _numbers(self, name: str, count: int, unknown: np.ndarray | None = None) -> np.ndarray:
        """What the file says of each target; NaN where it says nothing."""
        said = self.own.get(name)
        if said is None:
            return np.full(count, np.nan, np.float32) if unknown is None else unknown
        _need(
            isinstance(said, list) and len(said) == count, f"metadata.mlxterp.{name} has not {count} numbers"
        )
        values = [float("nan") if x is None else x for x in said]
        _need(all(map(is_number, values)), f"metadata.mlxterp.{name} holds something else than numbers")
        return np.array(values, dtype=np.float32)

    def _nodes(self) -> tuple[list[Node], dict[str, Node], np.ndarray]:
        """The nodes in the order of our graphs, by their ids in the file, and their cumulative influence."""
        given = self.data["nodes"]
        _need(isinstance(given, list) and bool(given), "nodes is no list of nodes")
        named: dict[str, Node] = {}
        shares: dict[str, float] = {}
        for i, one in enumerate(given):
            entry = _mapping(one, f"nodes[{i}]")
            missing = [key for key in _NODE_KEYS if key not in entry]
            _need(not missing, f"nodes[{i}] has no {missing[0] if missing else ''!r}")
            name = entry["node_id"]
            _need(
                isinstance(name, str) and name not in named,
                f"nodes[{i}] has the id {name!r}, which comes twice",
            )
            node = self._node(entry, f"nodes[{i}]")
            named[name] = node
            share = entry.get("influence")
            shares[node.id] = float(share) if is_number(share) else 1.0
        ids = [node.id for node in named.values()]
        _need(len(set(ids)) == len(ids), "two nodes are the same place")
        order = sorted(named.values(), key=_place)
        _need(any(node.kind == "output" for node in order), "it has no logit node")
        return order, named, np.array([shares[node.id] for node in order])

    def _node(self, entry: Mapping[str, Any], where: str) -> Node:
        kind = _KINDS.get(entry["feature_type"]) if isinstance(entry["feature_type"], str) else None
        _need(
            kind is not None,
            f"{where} is of the type {entry['feature_type']!r}, which has no place in a graph here",
        )
        position = entry["ctx_idx"]
        _need(
            is_integer(position) and 0 <= position < len(self.tokens),
            f"{where} is at position {position!r} of {len(self.tokens)}",
        )
        parts = str(entry["node_id"]).split("_")
        if kind == "embedding":
            _need(len(parts) == 3 and parts[1].isdigit(), f"{where} has the id {entry['node_id']!r}")
            return embedding_node(int(parts[1]), position, self.tokens[position])
        layer = self._layer(entry["layer"], where)
        if kind == "output":
            return self._output(entry, layer - 1, position, parts, where)
        if kind == "error":
            return error_node(layer, position, self.tokens[position])
        _need(len(parts) == 3 and parts[1].isdigit(), f"{where} has the id {entry['node_id']!r}")
        activation = entry.get("activation")
        _need(activation is None or is_number(activation), f"{where} has the activation {activation!r}")
        found = float("nan") if activation is None else float(np.float32(activation))
        return feature_node(layer, position, int(parts[1]), self.tokens[position], found)

    @staticmethod
    def _layer(given: Any, where: str) -> int:
        text = str(given)
        _need(
            isinstance(given, (str, int)) and text.isdigit() and len(text) < 6,
            f"{where} has the layer {given!r}",
        )
        return int(text)

    def _output(
        self, entry: Mapping[str, Any], n_layers: int, position: int, parts: Sequence[str], where: str
    ) -> Node:
        _need(len(parts) == 3 and parts[1].isdigit(), f"{where} has the id {entry['node_id']!r}")
        _need(n_layers >= 0, f"{where} has the layer {entry['layer']!r}")
        found = _CLERP.match(str(entry["clerp"]))
        text = found[1] if found else str(entry["clerp"])
        share = entry.get("token_prob", 1.0)
        _need(is_number(share) and 0 <= share <= 1, f"{where} has the probability {share!r}")
        of_token = entry["node_id"] not in _texts(
            self.own.get("directions", []), "metadata.mlxterp.directions"
        )
        return output_node(n_layers, int(parts[1]), position, text, float(share), of_token)

    def _links(
        self, targets: Sequence[Node], sources: Sequence[Node], named: Mapping[str, Node]
    ) -> np.ndarray:
        """float32, (targets, sources)."""
        given = self.data["links"]
        _need(isinstance(given, list), "links is no list")
        _need(len(targets) * len(sources) * 4 <= 4 << 30, "it has too many nodes for a matrix")
        rows = {node.id: i for i, node in enumerate(targets)}
        columns = {node.id: i for i, node in enumerate(sources)}
        matrix, seen = np.zeros((len(targets), len(sources)), np.float32), set()
        for i, one in enumerate(given):
            link = _mapping(one, f"links[{i}]")
            ends = [link.get("source"), link.get("target")]
            for end in ends:
                _need(
                    isinstance(end, str) and end in named,
                    f"links[{i}] names the node {end!r}, which is not there",
                )
            source, target = (named[str(end)].id for end in ends)
            weight = link.get("weight")
            _need(is_number(weight) and abs(weight) < 1e38, f"links[{i}] has the weight {weight!r}")
            _need(source in columns and target in rows, f"links[{i}] leads from {source!r} into {target!r}")
            _need((source, target) not in seen, f"links[{i}] comes twice")
            seen.add((source, target))
            matrix[rows[target], columns[source]] = weight
        return matrix

    def _labels(self, named: Mapping[str, Node]) -> dict[str, str] | None:
        """What others call features and errors: there the file has a place for it."""
        found = {}
        for entry in self.data["nodes"]:
            node, text = named[entry["node_id"]], entry["clerp"]
            if node.kind in ("feature", "error") and isinstance(text, str) and text.strip():
                found[node.id] = text.strip()
        return found or None

    def _pins(self, named: Mapping[str, Node]) -> tuple[str, ...]:
        given = _mapping(self.data["qParams"], "qParams").get("pinnedIds") or []
        return tuple(
            dict.fromkeys(named[one].id for one in _texts(given, "qParams.pinnedIds") if one in named)
        )

    def _supernodes(self, named: Mapping[str, Node]) -> dict[str, tuple[str, ...]] | None:
        given = _mapping(self.data["qParams"], "qParams").get("supernodes") or []
        _need(isinstance(given, list), "qParams.supernodes is no list")
        found = {}
        for one in given:
            texts = _texts(one, "qParams.supernodes")
            ids = tuple(named[name].id for name in texts[1:] if name in named)
            if texts and ids:
                found[texts[0]] = ids
        return found or None


def _place(node: Node) -> tuple[int, int, int, int]:
    order = ("feature", "error", "embedding", "output").index(node.kind)
    return order, 0 if order == 3 else node.layer, node.position if order < 3 else 0, node.feature_id or 0


def _of(nodes: Sequence[Node], kind: str) -> list[Node]:
    return [node for node in nodes if node.kind == kind]


def _number_or_none(given: Any) -> float | None:
    return float(given) if is_number(given) else None


def _mapping(given: Any, where: str) -> Mapping[str, Any]:
    _need(isinstance(given, Mapping), f"{where} is no object")
    return given


def _texts(given: Any, where: str) -> list[str]:
    _need(isinstance(given, list) and all(isinstance(x, str) for x in given), f"{where} is no list of texts")
    return given


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CircuitError(otherwise)
