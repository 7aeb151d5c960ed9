"""`AttachedSAE`: an SAE that acts on every forward pass of a model, as `InterpretableModel.attach_sae` leaves it.

What it does is what `sae.concepts` says at the time: scaled features are edits, tracked texts are watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..activations.marks import marks
from ..backends import backend_of
from ..core.beginnings import first_alike
from ..core.sites import Array, Where
from ..core.sparse import SparseFeatures
from ..data.corpus import Corpus
from ..data.dataset import texts_of
from ..edits.checks import check_by_token
from ..edits.compile import Replacement
from ..edits.features import amplify
from ..edits.placement import check_width, warn_of_place
from ..edits.rows import as_rows, real_rows
from ..edits.steps import source_of
from ..errors import InputError, warn
from ..features.search import encode_corpus
from ..sae import SAE
from ..sae.adapt import resolve
from .attachments import Handle
from .hooked_model import Effect, Watch
from .session import ModelSession

MODES = ("change", "replace")
_PENDING = 4096
"""Rows that are kept before they are encoded."""


class AttachedSAE(Handle):
    """A handle; as `with model.attach_sae(sae) as handle:` it detaches itself at the end of the block.

    Raises:
        InputError, ComponentError, SAEError: See `InterpretableModel.attach_sae`.
    """

    def __init__(self, model: ModelSession, sae: SAE, component: str | None, mode: str):
        if mode not in MODES:
            raise InputError(f"mode={mode!r}; there are: {', '.join(MODES)}.")
        self._session, self._attachments, self.sae, self.mode = model, model.attachments, sae, mode
        anatomy = model.plain
        written = sae.metadata.get("component_out") if sae.is_transcoder else sae.component
        name = written if component is None else component
        if name is None:
            raise InputError(
                "This SAE does not say where it was trained. Name the place: layer_signature='layers.3.mlp', or"
                " layer=3, component='mlp'."
            )
        place = resolve(anatomy, sae, name) if component is None else anatomy.component(name)
        self.component = place.name
        """Path of the component that it changes."""
        check_width(anatomy, place, sae.d_out, sae)
        check_by_token(sae)
        source = source_of(sae)
        read = place if source is None else resolve(anatomy, sae, source)
        self.reads = read.name
        """Path of the component that it encodes: another one, for a transcoder."""
        check_width(anatomy, read, sae.d_model, sae)
        warn_of_place(anatomy, sae, place.name)

    @property
    def concepts(self) -> Any:
        """`sae.concepts`."""
        return self.sae.concepts

    def detach(self) -> None:
        """Detaches it; a second time is harmless. Names, texts and scales stay in `sae.concepts`."""
        super().detach()
        self.sae.concepts.unbind(self.encode)  # so that nothing holds the model

    def effects(self) -> list[Effect]:
        """What it changes on the next pass, and what watches."""
        found: list[Effect] = [Watch(_TextWatcher(self.reads, self.sae))] if self.concepts.tracking else []
        if self.mode == "replace":
            found.append(Replacement(self.sae, self.component))
        found += [amplify(self.sae, f, scale, at=self.component) for f, scale in self.concepts.scales.items()]
        return found

    def encode(self, texts: Sequence[str]) -> SparseFeatures:
        """Each text's features: row i holds the strongest activation of every feature on any token of text i.

        The model runs as it is: nothing attached acts. Texts longer than its positions run in windows.

        Raises:
            TraceError: The handle was detached.
        """
        self._check()
        model = self._session.plain.model
        texts = texts_of(texts, model)
        corpus = Corpus.from_texts(texts, model.tokenize)
        place = self._session.plain.component(self.reads)
        parts = list(encode_corpus(model, corpus, self.sae, place))
        order = np.argsort(np.concatenate([part.tokens for part in parts]))
        alike = first_alike(corpus.prefixes(), np.concatenate([part.marks for part in parts])[order])
        features = SparseFeatures.concat([part.features for part in parts]).take(order[alike])
        owners = np.repeat(np.arange(len(texts)), corpus.lengths)
        return features.strongest_by(owners, len(texts))

    def __repr__(self) -> str:
        state = "attached" if self.attached else "detached"
        return f"<{self.sae!r} {state} at {self.component}, mode {self.mode!r}>"


class _TextWatcher:
    """Tells `sae.concepts` which texts activate which features."""

    def __init__(self, component: str, sae: SAE):
        self.component, self._sae = component, sae
        self._rows: list[Array] = []
        self._places: list[np.ndarray] = []
        """Of the pending rows: text and position, int64 (n, 2)."""
        self._found: list[tuple[SparseFeatures, np.ndarray, np.ndarray]] = []
        """Features, places and marks."""

    def see(self, x: Array, where: Where) -> None:
        rows, columns = as_rows(x, where), len(where.positions)
        batch = int(rows.shape[0]) // columns
        places = np.column_stack([np.repeat(np.arange(batch), columns), np.tile(where.positions, batch)])
        real = real_rows(where)
        if real is not None:
            rows = rows[backend_of(rows).put_beside(np.flatnonzero(real), rows)]
            places = places[real]
        self._rows.append(rows)
        self._places.append(places)
        if sum(map(len, self._places)) >= _PENDING:
            self._encode()

    def finish(self, texts: Sequence[str] | None, tokens: Sequence[Sequence[int]]) -> None:
        if texts:
            self._encode()
        found = self._found
        self._rows, self._places, self._found = [], [], []
        if texts is None:
            warn(
                "Texts are tracked by name, and this model has no tokenizer to tell token ids' text: none were kept."
            )
        elif texts and found:
            parts, places, marked = zip(*found, strict=True)
            owners, positions = np.concatenate(places).T
            order = np.lexsort((positions, owners))
            owners, positions = owners[order], positions[order]
            corpus = Corpus.from_token_ids(tokens)
            features = self._sae.concepts.settled(
                SparseFeatures.concat(parts).take(order),
                corpus.prefixes()[corpus.offsets[owners] + positions],
                np.concatenate(marked)[order],
            )
            self._sae.concepts.record(list(texts), features.strongest_by(owners, len(texts)))

    def _encode(self) -> None:
        """Encodes what is pending: at once, as single tokens of generation would each cost a whole encoding."""
        if not self._rows:
            return
        rows = self._rows[0]
        if len(self._rows) > 1:
            backend = backend_of(rows)
            rows = backend.put(np.concatenate([backend.get(part) for part in self._rows]), rows)
        self._found.append((self._sae.encode_sparse(rows), np.concatenate(self._places), marks(rows)))
        self._rows, self._places = [], []
