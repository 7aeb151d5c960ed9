"""`CrossLayerTranscoder`: features that are read in one layer and write to its MLP's output and to every later one's.

What an MLP puts out is then predicted by the features of its own layer and of all before it (Ameisen et al. 2025).
It computes in NumPy and keeps no state between calls; decoders of many gigabytes stay in their files, and only the rows
of features that are active are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.session import Model
from ..backends.host.conversion import to_numpy
from ..core import checks, rooms
from ..core.files import atomic_folder
from ..core.options import checks_options
from ..core.places import expanded
from ..core.public_names import PublicNames
from ..core.sparse import SparseFeatures
from ..errors import InputError, SAEError
from ..variants import JumpReLU, ReLU
from ..weights import SAEWeights
from .cross_layer_weights import CrossLayerWeights
from .formats import is_cross_layer, read_cross_layer
from .formats.circuit_tracer import CONFIG, summed_note
from .formats.cross_layer import CrossLayerParts, layers_of, write_layers
from .pretrained.sets import fetch_set, hub_place
from .sae import SAE, WHOLE

Features = Mapping[int, Any]
"""Source layer → its features, `SparseFeatures` or dense (…, d_hidden)."""
_TOKENS = 256
"""Tokens that are encoded at a time."""


@checks_options
class CrossLayerTranscoder(PublicNames):
    """A transcoder of all layers of a model, whose features write to several layers.

    Args:
        layers: Of each layer of the model, from 0 on; layer l of n writes to n - l layers.
        reads: The part of a layer that its features read: "resid_mid", "mlp.input".
        writes: The part of a layer that they write to.
        metadata: What is known of it: "model" (name), "name", and anything else that JSON can hold.

    Raises:
        SAEError: Layers do not belong together.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> def layer(writes):  # a random one; its features read the stream before the MLP
        ...     return mlxterp.sae.CrossLayerWeights(
        ...         rng.normal(size=(192, 32)) / 14, np.zeros(32), rng.normal(size=(32, writes, 192)), np.zeros(192))
        >>> clt = mlxterp.CrossLayerTranscoder([layer(4 - n) for n in range(4)])
        >>> print(clt)
        CrossLayerTranscoder(relu of resid_mid: 4 layers, d_model 192, 32 features in each)
    """

    def __init__(
        self, layers: Sequence[CrossLayerWeights], reads: str = "resid_mid", writes: str = "mlp_out",
        metadata: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        self.layers = tuple(layers)
        """The weights of each layer."""
        self.reads, self.writes = reads, writes
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._check()

    def _check(self) -> None:
        n = len(self.layers)
        if not n or not all(isinstance(one, CrossLayerWeights) for one in self.layers):
            raise SAEError("Expected CrossLayerWeights of each layer of a model, at least of one.")
        first = self.layers[0]
        for number, one in enumerate(self.layers):
            if (one.d_model, one.d_out) != (first.d_model, first.d_out):
                raise SAEError(
                    f"Layer {number} takes {one.d_model} and gives {one.d_out} numbers, layer 0 {first.d_model} and"
                    f" {first.d_out}."
                )
            if one.reach != n - number:
                raise SAEError(
                    f"The features of layer {number} write to {one.reach} layers; of {n} layers there are"
                    f" {n - number} from it on. Files of several transcoders may be mixed, or the last layers' missing."
                )

    # -- what it is ---------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return len(self.layers)

    @property
    def d_model(self) -> int:
        """Width of what each layer reads."""
        return self.layers[0].d_model

    @property
    def d_out(self) -> int:
        """Width of what it writes."""
        return self.layers[0].d_out

    @property
    def d_hidden(self) -> tuple[int, ...]:
        """Features of each layer."""
        return tuple(one.d_hidden for one in self.layers)

    def component(self, layer: int) -> str:
        """Path of what a layer's features read."""
        return f"layers.{self._number(layer)}.{self.reads}"

    def component_out(self, layer: int) -> str:
        """Path of what is predicted in a layer."""
        return f"layers.{self._number(layer)}.{self.writes}"

    def __repr__(self) -> str:
        sizes = sorted(set(self.d_hidden))
        each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        kind = "jumprelu" if any(one.threshold is not None for one in self.layers) else "relu"
        return (
            f"CrossLayerTranscoder({kind} of {self.reads}: {self.n_layers} layers, d_model {self.d_model},"
            f" {each} features in each)"
        )

    def sae(self, layer: int) -> SAE:
        """One layer's features as an SAE, for indexes, search and cards; its decoder is the sum of all that it writes.

        All of the layer's decoder is read. Its features are exact; as a reconstruction it is of no use.
        """
        number = self._number(layer)
        one = self.layers[number]
        weights = SAEWeights(
            np.concatenate([rows for _, rows in one.W_enc.blocks()]).T, one.b_enc, one.summed(), one.b_dec,
            subtract_b_dec=False, extra={} if one.threshold is None else {"threshold": one.threshold},
        )  # fmt: skip
        found = {"component": self.component(number), "component_out": self.component_out(number)}
        kind = ReLU() if one.threshold is None else JumpReLU()
        return SAE(weights, kind, {**self.metadata, **found, **summed_note(one.reach)})

    def _number(self, layer: int) -> int:
        return checks.integer(layer, "layer", 0, self.n_layers - 1)

    # -- features and back --------------------------------------------------------------------

    def encode_sparse(self, x: Any, layer: int) -> SparseFeatures:
        """Active features of a layer, of what it reads, (…, d_model); a row for each token, (…) flattened.

        Raises:
            SAEError: The width is not d_model, or an activation is not finite.
        """
        rows, one = _rows(x, self.d_model, "activations"), self.layers[self._number(layer)]
        parts = [_encoded(one, rows[i : i + _TOKENS]) for i in range(0, max(len(rows), 1), _TOKENS)]
        return SparseFeatures.concat(parts)

    def encode(self, x: Any, layer: int) -> np.ndarray:
        """As `encode_sparse`, dense: float32, (…, d_hidden)."""
        shape = np.shape(x)[:-1]
        return self.encode_sparse(x, layer).to_dense().reshape(*shape, -1)

    def decode(self, features: Features, layer: int, like: Any = None) -> np.ndarray:
        """What a layer's MLP puts out by the features of that layer and of those before it: float32, (…, d_out).

        Args:
            features: {source layer: features}, sparse or dense, of the same tokens; a layer that is left out adds
                nothing. Those of later layers do not count.
            like: What this layer reads, (…, d_model): needed where it has a skip connection.

        Raises:
            InputError: There are no features, or they are of different tokens.
            SAEError: They are not of this transcoder, or `like` is missing.
        """
        number = self._number(layer)
        given = {self._number(source): value for source, value in _mapping(features).items()}
        shape, found = (), {}
        for source, value in given.items():
            found[source] = _sparse(value, self.layers[source].d_hidden, source)
            shape = (found[source].n,) if isinstance(value, SparseFeatures) else np.shape(value)[:-1]
        if len({one.n for one in found.values()}) != 1:
            raise InputError(
                "features= holds those of different numbers of tokens:"
                f" {', '.join(f'layer {source}: {one.n}' for source, one in found.items())}."
            )
        out = np.tile(self.layers[number].b_dec, (next(iter(found.values())).n, 1))
        for source, one in found.items():
            if source <= number:
                out += added(self.layers[source], one, number - source)
        return (out + self._skipped(number, like, len(out))).reshape(*shape, self.d_out)

    def _skipped(self, layer: int, like: Any, n: int) -> np.ndarray | float:
        skip = self.layers[layer].W_skip
        if skip is None:
            return 0.0
        if like is None:
            raise SAEError(
                f"Layer {layer} has a skip connection, so its reconstruction depends on what it reads. Pass that:"
                " decode(features, layer, like=x)."
            )
        rows = _rows(like, self.d_model, "like")
        if len(rows) != n:
            raise InputError(f"like= holds {len(rows)} tokens, features= {n}.")
        return rows @ skip

    def reconstruct(self, inputs: Mapping[int, Any]) -> dict[int, np.ndarray]:
        """Layer → what its MLP puts out, (…, d_out), of {layer: what it reads} for layers 0, 1, …."""
        given = {self._number(layer): x for layer, x in _mapping(inputs).items()}
        features = {layer: self.encode_sparse(x, layer) for layer, x in given.items()}
        return {
            layer: self.decode(features, layer, like=x).reshape(*np.shape(x)[:-1], self.d_out)
            for layer, x in given.items()
        }

    # -- files --------------------------------------------------------------------------------

    @staticmethod
    def load(path: str | os.PathLike, revision: str | None = None) -> CrossLayerTranscoder:
        """All layers in a folder, or in a repository of the hub, of circuit-tracer's files or Gemma Scope 2's.

        Encoders and decoders are read when they are needed, row by row: the files must not be changed meanwhile.

        Args:
            path: The folder of `W_enc_0.safetensors`, `W_dec_0.safetensors`, …, or of `params_layer_0.safetensors`, …;
                or a repository that holds them ("owner/name", "hf://owner/name/folder"), whose files are kept in
                huggingface_hub's cache.
            revision: Branch, tag or commit of the repository; None is the newest.

        Raises:
            SAEError: It holds no such files, a layer is missing, or they are damaged; or the hub does not give them.
            InputError: `revision` is given with a folder of this machine.
        """
        if (place := hub_place(path, revision)) is not None:
            found = fetch_set(place)
            if not isinstance(found, Path):
                raise SAEError(
                    f"{place} holds transcoders of single layers: SAECollection.from_release({path!r})."
                )
            path = found
        elif revision is not None:
            raise InputError(
                f"revision={revision!r} is of a repository of the hub, and {path!r} is none. Leave one of them out."
            )
        parts = read_cross_layer(path)
        return CrossLayerTranscoder(parts.layers, parts.reads, parts.writes, parts.metadata)

    def save(self, path: str | os.PathLike, dtype: str = "float32") -> Path:
        """Writes a folder in circuit-tracer's layout, whole or not at all; returns it.

        A transcoder that was saved there before is replaced.

        Args:
            dtype: Of the numbers in the files: "float32" or "float16".

        Raises:
            SAEError: Something else is there, or a number lies outside float16's range.
            WriteError: Nothing can be written there; what was there is unchanged.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"Expected the path of a folder to save in, got {path!r}.")
        kind = checks.choice(dtype, "dtype", ("float32", "float16"))
        target = expanded(path).resolve()
        _check_target(target)
        with atomic_folder(target, ".clt.", SAEError) as draft:
            parts = CrossLayerParts(self.layers, self.reads, self.writes, self.metadata)
            write_layers(draft, parts, kind)
        return target

    # -- measured -----------------------------------------------------------------------------

    def evaluate(self, model: Model, texts: Any, max_tokens: int = 8192) -> Any:
        """How well it predicts each layer's MLP, and what the model loses by it, layer by layer.

        Args:
            max_tokens: At most about so many are run.

        Returns:
            A `CrossLayerEvaluation`: `layers[3]` is the `SAEEvaluation` of layer 3.
        """
        return rooms.open("clt.evaluate", self, model, texts, max_tokens)


def added(one: CrossLayerWeights, features: SparseFeatures, at: int) -> np.ndarray:
    """float32, (n, d_out): what a layer's features write to the layer so many after it."""
    used = np.unique(features.indices)
    out = np.zeros((features.n, one.d_out), dtype=np.float32)
    size = max(1, (64 << 20) // (4 * one.d_out))
    for start in range(0, len(used), size):
        ids = used[start : start + size]
        out += features.columns(ids) @ one.W_dec.take(ids, at)
    return out


def _encoded(one: CrossLayerWeights, x: np.ndarray) -> SparseFeatures:
    rows, columns, values = [], [], []
    for ids, encoder in one.W_enc.blocks():
        before = x @ encoder.T + one.b_enc[ids]
        if not np.isfinite(before).all():
            raise SAEError(
                "A pre-activation is beyond float32. Are these the activations of this transcoder's model?"
            )
        row, column = np.nonzero(before > (0.0 if one.threshold is None else one.threshold[ids]))
        rows.append(row)
        columns.append(ids[column])
        values.append(before[row, column])
    row, column, value = (np.concatenate(part) for part in (rows, columns, values))
    order = np.lexsort((column, row))
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(x)))]).astype(np.int64)
    return SparseFeatures(
        starts, column[order].astype(np.int32), value[order].astype(np.float32), one.d_hidden
    )


def _rows(x: Any, width: int, what: str) -> np.ndarray:
    array = np.asarray(to_numpy(x, what, SAEError), dtype=np.float32)
    if not array.ndim or array.shape[-1] != width:
        raise SAEError(
            f"This transcoder takes {what} of width {width} (…, {width}), got shape {array.shape}."
        )
    rows = array.reshape(-1, width)
    checks.finite_rows(rows, what)
    return rows


def _sparse(value: Any, d_hidden: int, layer: int) -> SparseFeatures:
    if not isinstance(value, SparseFeatures):
        array = to_numpy(value, f"features of layer {layer}", SAEError)
        value = SparseFeatures.from_dense(array.reshape(-1, array.shape[-1]) if array.ndim else array)
    if value.d_hidden != d_hidden:
        raise SAEError(f"Layer {layer} has {d_hidden} features, got {value.d_hidden} of them.")
    value.check_ids()
    return value


def _mapping(given: Any) -> Mapping[int, Any]:
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"Expected {{layer: …}} of at least one layer, got {type(given).__name__}.")
    return given


def _check_target(target: Path) -> None:
    """Refuses to write over anything but a transcoder of this layout."""
    if not target.exists():
        return
    if target.is_dir():
        names = {entry.name for entry in target.iterdir() if not entry.name.startswith(".")}
        layers = layers_of(frozenset(names), 1)
        own = {f"W_{part}_{n}.safetensors" for part in ("enc", "dec") for n in layers} | {CONFIG}
        if not names or (layers and names <= own):
            return
    raise SAEError(f"{target} holds something else, which would be overwritten. Choose another path.")


def _whole(path: str | os.PathLike) -> CrossLayerTranscoder | None:
    """All of a cross-layer transcoder, where a folder holds one."""
    return CrossLayerTranscoder.load(path) if is_cross_layer(path) else None


WHOLE.append(_whole)
