"""The logit lens: what the residual stream after each layer would predict, were it the last one.

`logit_lens` sends the stream after each layer through the model's final norm and head and keeps the likeliest
tokens of every position, in a `LogitLens`. After the last layer these are the model's own predictions.
`InterpretableModel.logit_lens` makes one. (`lens` asks the same of an SAE's directions.)

The method is nostalgebraist's, "interpreting GPT: the logit lens" (2020).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.base import LanguageModel
from ..backends.host.finite import not_finite
from ..core import checks
from ..core.by_layer import layer_key
from ..core.integers import as_integer
from ..core.numeric import largest, log_softmax
from ..core.sites import Array, unique_sites
from ..core.tokens import TokenBatch
from ..data.text import TokenTexts, pieces_of
from ..errors import ComponentError, InputError
from ..tracing.passes import unembed
from ..viz.escaping import own_token, token_line
from ..viz.grid import Cell, Grid
from ..viz.page import Links
from ..viz.palette import steps_of
from ..viz.plotting import finished, heatmap
from ..viz.spans import bold, wants_color
from ..viz.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELLS = 1 << 23
"""Logits held at once."""


Transport = Callable[[int, Array], Array]
"""(layer, stream after it, (positions, d_model)) → what is read instead."""


class LensToken(NamedTuple):
    """A token that a layer would predict.

    Attributes:
        text: As it stands after the text's own token; "#17" where the model has no tokenizer.
        token_id: Its id.
        logit: What the layer gives it.
        probability: Its softmax over the whole vocabulary.
    """

    text: str
    token_id: int
    logit: float
    probability: float


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class LogitLens(View, Mapping[int, list[list[tuple[int, float, str]]]]):
    """The likeliest next tokens after each layer, at each position of one text.

    A notebook shows it by itself; `print` shows it in the terminal. `lens.top(layer, position)` is the way in;
    as a mapping it gives what the existing mlxterp does: layer → position → [(token id, logit, text)].

    Attributes:
        layers: Numbers of the layers, in the order given.
        positions: Absolute positions in the text.
        tokens: The text's own token at each of `positions`.
        ids: int64, (layers, positions, top_k): token ids, likeliest first; among equals the lower id.
        logits: float32, (layers, positions, top_k).
        probabilities: float32, (layers, positions, top_k): softmax over the whole vocabulary.
        texts: Text of each of `ids`.
        n_tokens: Tokens of the text.
        n_layers: Layers of the model.
        kind: Which lens it is, for its heading: "Logit lens", "Jacobian lens", "Tuned lens".
    """

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    ids: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    texts: tuple[tuple[tuple[str, ...], ...], ...]
    n_tokens: int
    n_layers: int
    kind: str = "Logit lens"

    def top(self, layer: int, position: int = -1) -> list[LensToken]:
        """The likeliest tokens after a layer, likeliest first.

        Args:
            layer: One of `layers`; negative ones count from the model's last layer.
            position: One of `positions`; negative ones count from the text's end.

        Raises:
            InputError: The lens was not made for this layer or position.
        """
        layer, position = checks.integer(layer, "layer"), checks.integer(position, "position")
        place = position + self.n_tokens if position < 0 else position
        number = layer + self.n_layers if layer < 0 else layer
        if number not in self.layers or place not in self.positions:
            raise InputError(
                f"This lens has no layer {layer} at position {position}. It has layers {list(self.layers)} and"
                f" positions {list(self.positions)}; ask for others when it is made."
            )
        i, j = self.layers.index(number), self.positions.index(place)
        rows = zip(self.texts[i][j], self.ids[i, j], self.logits[i, j], self.probabilities[i, j], strict=True)
        return [LensToken(text, int(t), float(x), float(p)) for text, t, x, p in rows]

    # -- as a mapping ---------------------------------------------------------------------------

    def __getitem__(self, layer: int) -> list[list[tuple[int, float, str]]]:
        number = layer_key(layer, self.layers, self.n_layers)
        return [[(t.token_id, t.logit, t.text) for t in self.top(number, p)] for p in self.positions]

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    # -- to look at -----------------------------------------------------------------------------

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; its heading is of this `level`."""
        anchor = f' id="{element_id}"' if element_id else ""
        return (
            f'<section class="mxt-panel"{anchor} aria-label="{self.kind}">'
            f'<h{level} class="mxt-title">{self.kind}</h{level}>{self._grid().html()}'
            '<div class="mxt-foot">The likeliest next token after each layer; the stronger the colour, the more'
            " probable. Point at a token for the others.</div></section>"
        )

    def _title(self) -> str:
        return self.kind

    def plot(self, path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """A heatmap of layers and positions: the likeliest token, coloured by its probability.

        Args:
            path: Where to save it (.png, .svg, .pdf, …).
            show: Open a window. (A notebook shows the figure by itself.)

        Raises:
            BackendError: matplotlib is not installed.
        """
        figure = heatmap(
            self.probabilities[..., 0], [str(n) for n in self.layers],
            [f"{p} {own_token(t.strip(' ') or t)}" for p, t in zip(self.positions, self.tokens, strict=True)],
            limits=(0.0, 1.0), label="probability", title=self.kind,
            texts=[[token_line(cell[0].strip(" ") or cell[0]) for cell in row] for row in self.texts], show=show,
        )  # fmt: skip
        figure.axes[0].set(xlabel="token", ylabel="after layer")
        return finished(figure, path, show)

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: a row for each layer, the last on top.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        title = f"{self.kind}: the likeliest next token after each layer ({self.n_tokens} tokens)"
        return "\n".join([bold(title, wants_color(color)), *self._grid().lines()])

    def __repr__(self) -> str:
        of = "" if self.kind == "Logit lens" else f", {self.kind}"
        shape = f"{len(self.layers)} layers, {len(self.positions)} positions, top {self.ids.shape[-1]}"
        return f"LogitLens({shape}{of})"

    def _grid(self) -> Grid:
        steps = np.abs(steps_of(self.probabilities[..., 0], 1.0))
        rows = []
        for i, layer in enumerate(self.layers):
            cells = []
            for j, position in enumerate(self.positions):
                tops = self.top(layer, position)
                tip = "  ".join(f"{token_line(t.text.strip() or t.text)!r} {t.probability:.1%}" for t in tops)
                cells.append(Cell(tops[0].text, int(steps[i, j]), f"layer {layer}: {tip}"))
            rows.append((str(layer), cells))
        columns = [(str(p), t or own_token(t)) for p, t in zip(self.positions, self.tokens, strict=True)]
        return Grid("layer", columns, rows)


def logit_lens(
    anatomy: Anatomy,
    batch: TokenBatch,
    layers: int | Iterable[int] | None = None,
    top_k: int = 5,
    position: int | None = None,
    *,
    kind: str = "Logit lens",
    transport: Transport | None = None,
) -> LogitLens:
    """See `InterpretableModel.logit_lens`; the batch is one text.

    Args:
        transport: What becomes of a layer's stream (positions, d_model) before it goes through norm and head.
    """
    model = anatomy.model
    top_k = checks.count(top_k, "top_k")
    if len(batch.lengths) != 1:
        raise InputError(f"logit_lens takes one text, got {len(batch.lengths)}. Ask for each of them.")
    chosen = anatomy.chosen_layers(layers)
    positions = _positions(position, int(batch.lengths[0]))
    stream = stream_of(anatomy, batch, chosen)
    rows = [x[0, positions[0] : positions[-1] + 1] for x in stream]
    if transport is not None:
        rows = [transport(layer, x) for layer, x in zip(chosen, rows, strict=True)]
    found = [_likeliest(model, x, top_k) for x in rows]
    ids, logits, probabilities = (np.stack(part) for part in zip(*found, strict=True))
    row = batch.ids[0].tolist()
    own = pieces_of(model.tokenizer, row)
    texts = TokenTexts(model.tokenizer)
    return LogitLens(
        chosen, positions, tuple(own[p] for p in positions), ids, logits, probabilities,
        tuple(
            tuple(tuple(texts.after(row[p : p + 1], int(t)) for t in ids[i, j]) for j, p in enumerate(positions))
            for i in range(len(chosen))
        ),
        len(row), len(model.layers), kind,
    )  # fmt: skip


def _positions(position: int | None, length: int) -> tuple[int, ...]:
    if position is None:
        return tuple(range(length))
    at = as_integer(position)
    if at is None or not -length <= at < length:
        raise InputError(
            f"position={position!r}: this text has positions 0 to {length - 1}, or -{length} to -1 from its end."
        )
    return (at % length,)


def stream_of(anatomy: Anatomy, batch: TokenBatch, layers: Sequence[int]) -> list[Array]:
    """The residual stream after each layer, (1, positions, d_model), from one pass."""
    model = anatomy.model
    components = [anatomy.component(f"layers.{n}.resid_post") for n in layers]
    sites = unique_sites(components)
    run = model.run(batch, sites, stop_after=sites)
    values = [component.read(run) for component in components]
    for component, value in zip(components, values, strict=True):
        shape = tuple(getattr(value, "shape", ()))
        if shape != (1, batch.ids.shape[1], model.d_model):
            raise ComponentError(
                f"{component.name} of this {model.model_type} model has shape {shape}, not (1, positions,"
                f" {model.d_model}): it is not one residual stream, so it cannot go through the head."
            )
    return values


def _likeliest(model: LanguageModel, x: Array, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, logits and probabilities (positions, top_k) of vectors (positions, d_model)."""
    k, rows = min(top_k, model.vocab_size), max(1, _CELLS // model.vocab_size)
    parts = []
    for start in range(0, x.shape[0], rows):
        logits = model.backend.get(unembed(model, x[start : start + rows])).astype(np.float32)
        if not np.isfinite(logits.max(axis=-1)).all():
            raise not_finite("The logits", "after a layer", bool(model.described))
        ids = np.stack([largest(row, k) for row in logits])
        probabilities = np.exp(np.take_along_axis(log_softmax(logits), ids, axis=1))
        parts.append((ids, np.take_along_axis(logits, ids, axis=1), probabilities.astype(np.float32)))
    ids, logits, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ids, logits, probabilities
