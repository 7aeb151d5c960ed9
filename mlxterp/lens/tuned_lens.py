"""`TunedLens`: an affine map for each layer, trained so that norm and head then say what the model will say.

`InterpretableModel.train_tuned_lens` makes one. The method is that of Belrose et al., "Eliciting Latent Predictions
from Transformers with the Tuned Lens" (2023).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, Session
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.frames import data_frame
from ..core.places import path_of
from ..core.sites import Array
from ..errors import InputError
from ..viz.lines import Table
from .fitted_lens import FittedLens, checked_facts
from .logit_lens import LogitLens, Transport
from .tuned_files import read_tuned, write_tuned


class TunedLens(FittedLens):
    """A map h → W h + b for the stream after each layer; at first the identity, which is the logit lens.

    `lens("a text")` reads a text with it; `print` shows what it gained on held-out texts.

    Args:
        num_layers: Layers of the model.
        hidden_dim: Width of its residual stream.
        weights: float32 (num_layers, hidden_dim, hidden_dim); None is the identity.
        biases: float32 (num_layers, hidden_dim); None is 0.
        metadata: What else is known: the model, the settings, the figures on held-out texts.
        session: The model that it reads texts with; None until `on(model)`.

    Raises:
        InputError: Arrays of other shapes, or not finite.

    Examples:
        >>> from mlxterp.lens import TunedLens
        >>> lens = TunedLens(model.n_layers, model.d_model).on(model)
        >>> lens("Tom was sad", top_k=1).ids.tolist() == model.logit_lens("Tom was sad", top_k=1).ids.tolist()
        True
    """

    kind: ClassVar[str] = "Tuned lens"

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        *,
        weights: Any = None,
        biases: Any = None,
        metadata: Mapping[str, Any] | None = None,
        session: Session | None = None,
    ):
        self.num_layers = checks.count(num_layers, "num_layers")
        self.hidden_dim = checks.count(hidden_dim, "hidden_dim")
        one = np.broadcast_to(
            np.eye(self.hidden_dim, dtype=np.float32), (self.num_layers, *(self.hidden_dim,) * 2)
        )
        self.weights = _array(weights, one, "weights")
        """float32, (num_layers, hidden_dim, hidden_dim): W of each layer."""
        self.biases = _array(biases, np.zeros((self.num_layers, self.hidden_dim), np.float32), "biases")
        """float32, (num_layers, hidden_dim): b of each layer."""
        self.metadata: dict[str, Any] = checked_facts(metadata)
        """What else is known of it."""
        self.session = session
        """The model that it reads texts with."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer of the model."""
        return tuple(range(self.num_layers))

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.hidden_dim

    @property
    def gain(self) -> dict[int, tuple[float, float]]:
        """Layer → mean KL to the final distribution on held-out texts in nats: of the logit lens, and of this one."""
        rows = self.metadata.get("held_out_kl") or {}
        try:
            return {int(layer): (float(before), float(after)) for layer, (before, after) in rows.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"metadata['held_out_kl'] is {rows!r:.60}; expected {{layer: (of the logit lens, of this one)}}."
            ) from error

    def __call__(
        self,
        text: Any,
        layers: int | Iterable[int] | None = None,
        top_k: int = 5,
        position: int | None = None,
    ) -> LogitLens:
        """What the stream after each layer says of the next token, at each position of a text.

        Args:
            text: One text, or its token ids.
            layers: Layer numbers, negative ones from the end; None means all.
            top_k: Tokens kept at each place.
            position: Only this one; negative ones count from the text's end.

        Raises:
            InputError: The lens has no model (`lens.on(model)`); and as `model.logit_lens`.
        """
        return self.read(text, layers, top_k, position)

    def covers(self, layer: int) -> bool:
        """Whether the stream after a layer can be read with it."""
        return 0 <= layer < self.num_layers

    def transport(self, anatomy: Anatomy) -> Transport:
        """What becomes of a layer's stream before it goes through norm and head."""
        backend, one = anatomy.model.backend, np.eye(self.hidden_dim, dtype=np.float32)

        def transport(layer: int, x: Array) -> Array:
            weight, bias = self.weights[layer], self.biases[layer]
            if not bias.any() and np.array_equal(weight, one):
                return x
            rows = backend.widen(x)
            return rows @ backend.put(np.ascontiguousarray(weight.T), like=rows) + backend.put(
                bias, like=rows
            )

        return transport

    def _held(self) -> tuple[Session | None, Mapping[str, Any]]:
        return self.session, self.metadata

    def _bound(self, session: Session) -> TunedLens:
        return TunedLens(
            self.num_layers, self.hidden_dim, weights=self.weights, biases=self.biases, metadata=self.metadata,
            session=session,
        )  # fmt: skip

    def _shape_fits(self, n_layers: int) -> bool:
        return n_layers == self.num_layers

    # -- files ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> Any:
        """Writes `path.npz` and `path.json`, as the existing mlxterp does; returns the path of the JSON file.

        The JSON file also has the sha256 of the other and what is known of the lens.

        Raises:
            WriteError: They cannot be written.
        """
        return write_tuned(path_of(path), self.weights, self.biases, self.metadata)

    @staticmethod
    def load(path: str | os.PathLike, model: Model | None = None) -> TunedLens:
        """A lens from files of `save` or of the existing mlxterp, or from a folder of the tuned-lens project.

        A folder holds `config.json` and `params.pt`. Its maps are h → h + W h + b, one before each layer: that before
        layer n + 1 is here the one after layer n, the first (of the embedding) is left out. Nothing is executed.

        Args:
            path: With or without ".npz" or ".json"; or a folder.
            model: What it will read texts with; it can be given later: `lens.on(model)`.

        Raises:
            InputError: There are no such files, or they are damaged or something else.
        """
        weights, biases, facts = read_tuned(path_of(path))
        lens = TunedLens(len(weights), weights.shape[1], weights=weights, biases=biases, metadata=facts)
        return lens if model is None else lens.on(model)

    # -- to look at -----------------------------------------------------------------------------

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each layer that was measured: layer, logit_lens_kl, kl.

        Raises:
            BackendError: pandas is not installed.
        """
        gain = self.gain
        before, after = ([pair[i] for pair in gain.values()] for i in (0, 1))
        return data_frame({"layer": list(gain), "logit_lens_kl": before, "kl": after})

    @property
    def _lines(self) -> Sequence[str]:
        told = [f"Tuned lens of {self.num_layers} layers, width {self.hidden_dim}"]
        if steps := self.metadata.get("steps"):
            told.append(f"{steps} steps on {self.metadata.get('tokens', 0)} tokens.")
        if not self.gain:
            told.append("It was not measured on held-out texts.")
        return told

    @property
    def _tables(self) -> Sequence[Table]:
        rows = [(str(n), f"{before:.3f}", f"{after:.3f}") for n, (before, after) in self.gain.items()]
        return [Table(("layer", "held-out KL, logit lens", "tuned lens"), rows)]

    def __repr__(self) -> str:
        return f"TunedLens({self.num_layers} layers, width {self.hidden_dim})"


def _array(given: Any, like: np.ndarray, name: str) -> np.ndarray:
    if given is None:
        return like
    found = to_numpy(given, name).astype(np.float32, copy=False)
    if found.shape != like.shape or not np.isfinite(found).all():
        raise InputError(f"{name} has shape {found.shape}; expected finite numbers of shape {like.shape}.")
    return found
