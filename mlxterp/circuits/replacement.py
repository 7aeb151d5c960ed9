"""`Replacement`: one prompt in the local replacement model: features in place of MLPs, with what they miss beside them.

Everything that multiplies is held as it is in the prompt (`core.frozen`), so every feature's input and every logit is
the sum of what features, errors and embeddings add, and of the biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.frozen import FrozenPass
from ..backends.host.memory import free_bytes
from ..core.frozen import EMBED, Key, ReadAt, SourceVectors
from ..core.tokens import TokenBatch
from ..errors import ComponentError, InputError, NotFiniteError
from .transcoders import Placed, frozen_places
from .unrolled import Unrolled


@dataclass(frozen=True, eq=False, slots=True)
class Replacement:
    """A prompt's sources.

    Attributes:
        frozen: The pass.
        order: The layers of the pass, by whose numbers everything here goes.
        transcoders: Layer → transcoder; of a cross-layer one, its layer's part.
        layers: Layers whose outputs are replaced, ascending: those with a transcoder and every other one with an MLP.
        features: int64, (n, 3): layer, position and id of each active feature, sorted.
        activations: float32, (n,): theirs.
        errors: Layer → float32 (positions, d_out): its MLP's output less what its transcoder gives.
        embeddings: float32, (positions, d_model): the vectors of the embedding nodes.
        dropped: Position below which features and errors are not counted.
    """

    frozen: FrozenPass
    order: Unrolled
    transcoders: Mapping[int, Placed]
    layers: tuple[int, ...]
    features: np.ndarray
    activations: np.ndarray
    errors: Mapping[int, np.ndarray]
    embeddings: np.ndarray
    dropped: int

    @property
    def positions(self) -> int:
        """Tokens of the prompt."""
        return len(self.embeddings)

    def of_layer(self, layer: int) -> slice:
        """The features of a layer."""
        start, end = np.searchsorted(self.features[:, 0], [layer, layer + 1])
        return slice(int(start), int(end))

    def columns(self) -> list[SourceVectors]:
        """What features, errors and embeddings are, in the order of the graph's sources.

        A feature that writes to several layers has a vector in each of them; `folded` sums them.

        Raises:
            InputError: They need more memory than is free.
        """
        self._check_memory()
        every = np.arange(self.positions)
        found = []
        for layer, transcoder in self.transcoders.items():
            part = self.of_layer(layer)
            for target in transcoder.writes:
                vectors = transcoder.written(self.features[part, 2], self.activations[part], target)
                found.append(
                    SourceVectors(self.order.keys[target], self.features[part, 1], vectors.astype(np.float32))
                )
        found += [SourceVectors(self.order.keys[layer], every, self.errors[layer]) for layer in self.layers]
        return [*found, SourceVectors(EMBED, every, self.embeddings)]

    def _check_memory(self) -> None:
        """The vectors of features are held here and where the pass computes."""
        n = sum(
            (part.stop - part.start) * len(one.writes)
            for layer, one in self.transcoders.items()
            for part in [self.of_layer(layer)]
        )
        needed, free = 8 * n * self.embeddings.shape[1], free_bytes()
        if needed > free:
            raise InputError(
                f"What the {len(self.features)} active features of this prompt write takes {needed / 2**30:.1f} GiB;"
                f" {free / 2**30:.1f} GiB are free. Pass a shorter prompt, or transcoders with fewer active features."
            )

    @property
    def sources(self) -> int:
        """Features, errors and embeddings."""
        return len(self.features) + (len(self.layers) + 1) * self.positions

    def folded(self, products: np.ndarray) -> np.ndarray:
        """(rows, sources): products with `columns`, (rows, vectors), summed over the layers that one writes to."""
        parts, start = [], 0
        for layer, transcoder in self.transcoders.items():
            part, times = self.of_layer(layer), len(transcoder.writes)
            n = part.stop - part.start
            block = products[:, start : start + n * times]
            parts.append(block.reshape(len(products), times, n).sum(axis=1) if times > 1 else block)
            start += n * times
        return np.concatenate([*parts, products[:, start:]], axis=1)

    def reads(self, numbers: np.ndarray) -> list[ReadAt]:
        """What the given features (rows of `features`) read."""
        chosen = self.features[numbers]
        directions: dict[int, np.ndarray] = {}
        for layer in np.unique(chosen[:, 0]).tolist():
            rows = np.flatnonzero(chosen[:, 0] == layer)
            found = self.transcoders[layer].directions(chosen[rows, 2])
            directions |= dict(zip(rows.tolist(), found, strict=True))
        return [
            ReadAt(self.order.keys[layer], position, directions[row])
            for row, (layer, position) in enumerate(chosen[:, :2].tolist())
        ]


def replacement_of(
    anatomy: Anatomy, ids: list[int], order: Unrolled, transcoders: Mapping[int, Placed], *, final: bool, dropped: int,
    token_vectors: bool,
) -> Replacement:  # fmt: skip
    """Runs the prompt once.

    Args:
        final: Whether the final norm's output is read.
        dropped: Features and errors at positions below this are not counted.
        token_vectors: Whether embedding nodes are the tokens' vectors alone, without learned positions.

    Raises:
        ComponentError: The model calls its layers in another order than `order` says.
        NotFiniteError: Activations are NaN or infinite.
    """
    frozen = anatomy.model.frozen_pass(ids, frozen_places(anatomy, order, transcoders, final=final))
    order.check(frozen.sources)
    _check(frozen.sources)
    errors = {order.number(key): value.copy() for key, value in frozen.sources.items() if key != EMBED}
    features, activations = [], []
    for layer, one in transcoders.items():
        read = frozen.base.inputs[order.keys[layer]][0]
        found = one.encode(read)
        rows = found.row_ids
        kept = rows >= dropped
        for target in one.writes:
            errors[target] -= np.asarray(one.rebuilt(found, read, target), dtype=np.float32)
        features.append(np.stack([np.full(kept.sum(), layer), rows[kept], found.indices[kept]], axis=1))
        activations.append(found.values[kept])
    for error in errors.values():
        error[:dropped] = 0
    ranked, values = _sorted(np.concatenate(features).astype(np.int64), np.concatenate(activations))
    embeddings = frozen.sources[EMBED]
    if token_vectors:
        embeddings = _token_vectors(anatomy, ids, embeddings.shape[1])
    return Replacement(
        frozen, order, transcoders, tuple(sorted(errors)), ranked, values, errors, embeddings, dropped
    )


def _check(sources: Mapping[Key, np.ndarray]) -> None:
    for (layer, _), value in sources.items():
        if not np.isfinite(value).all():
            raise NotFiniteError(
                f"The MLP of layer {layer} puts out NaN or infinite values for this prompt, so nothing can be"
                " attributed. Run the model in float32 or bfloat16."
            )


def _sorted(features: np.ndarray, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By layer, position and id."""
    order = np.lexsort((features[:, 2], features[:, 1], features[:, 0]))
    return features[order], activations[order].astype(np.float32)


def _token_vectors(anatomy: Anatomy, ids: list[int], width: int) -> np.ndarray:
    """float32, (positions, width): the tokens' own vectors.

    Raises:
        ComponentError: What enters the first block is not as wide.
    """
    place = anatomy.component("embed")
    run = anatomy.model.run(TokenBatch.from_rows([ids]), place.sites, stop_after=place.sites)
    value = place.read(run)
    assert not isinstance(value, list)
    found = anatomy.model.backend.get(value)[0].astype(np.float32)
    if found.shape[1:] != (width,):
        raise ComponentError(
            f"What enters the first block of this {anatomy.model.model_type} model has {width} numbers for each token,"
            f" in several streams, and its tokens' vectors {found.shape[-1]}: take conventions='exact'."
        )
    return found
