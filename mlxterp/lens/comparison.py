"""`lens_comparison`: how much of the model's final prediction each lens already reads after each layer.

Two figures for each lens and layer, over tokens of texts that no lens was fitted to: how often its likeliest token is
the model's own (top-1 agreement), and the divergence KL(final ‖ lens) in nats. Intervals come from resampling texts;
what agreement would be by chance stands beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..backends.host.finite import not_finite
from ..core import checks
from ..core.frames import data_frame
from ..core.numeric import log_softmax
from ..core.sites import Array
from ..core.tokens import TokenBatch
from ..data.dataset import texts_of
from ..errors import InputError
from ..tracing.passes import check_length, unembed
from ..viz.lines import LinesView, Table
from ..viz.plotting import finished, new_figure
from .fitted_lens import FittedLens
from .logit_lens import Transport, stream_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lens = FittedLens
LOGIT = "logit"
_RESAMPLES = 1000
_ROWS = 64
"""Positions whose logits are held at once."""


@dataclass(frozen=True, eq=False, repr=False)
class LensComparison(LinesView):
    """What lenses read of the final prediction, layer by layer.

    Attributes:
        names: The lenses; "logit" is the logit lens.
        layers: Layer numbers.
        agreed: float64, (lenses, layers, texts): tokens of each text whose likeliest token is the model's own; NaN
            where a lens does not read the layer.
        divergence: float64, (lenses, layers, texts): sums of KL(final ‖ lens) over each text's tokens, in nats.
        chance: float64, (lenses, layers): agreement if a lens's likeliest tokens were dealt out anew among the tokens.
        tokens: int64, (texts,): tokens of each text that count.
        seed: Of the resampling.

    Examples:
        >>> from mlxterp.lens import lens_comparison
        >>> found = lens_comparison(model, texts[:20], {})
        >>> found.names, found.layers
        (('logit',), (0, 1, 2, 3))
        >>> float(found.agreement("logit")[-1])  # after the last layer it is the model's own prediction
        1.0
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    agreed: np.ndarray
    divergence: np.ndarray
    chance: np.ndarray
    tokens: np.ndarray
    seed: int

    def agreement(self, name: str) -> np.ndarray:
        """float64, (layers,): share of tokens whose likeliest token is the model's own; NaN where it is not read."""
        return self.agreed[self._number(name)].sum(axis=-1) / self.tokens.sum()

    def kl(self, name: str) -> np.ndarray:
        """float64, (layers,): mean KL(final ‖ lens) of a token, in nats; NaN where it is not read."""
        return self.divergence[self._number(name)].sum(axis=-1) / self.tokens.sum()

    def interval(
        self, name: str, what: Literal["agreement", "kl"] = "agreement", base: str | None = None
    ) -> np.ndarray:
        """float64, (layers, 2): 95 %, by resampling texts; of the difference to `base`, where one is named."""
        checks.choice(what, "what", ("agreement", "kl"))
        sums = self.agreed if what == "agreement" else self.divergence
        rows = sums[self._number(name)]
        if base is not None:
            rows = rows - sums[self._number(base)]
        draw = np.random.default_rng(self.seed)
        picked = draw.integers(0, len(self.tokens), (_RESAMPLES, len(self.tokens)))
        weights = np.stack([np.bincount(row, minlength=len(self.tokens)) for row in picked])
        with np.errstate(invalid="ignore"):  # layers that are not read
            drawn = (rows @ weights.T) / (weights @ self.tokens)
        return np.moveaxis(np.quantile(drawn, [0.025, 0.975], axis=-1), 0, -1)

    def _number(self, name: str) -> int:
        return self.names.index(checks.choice(name, "name", self.names))

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each lens and layer: lens, layer, agreement, agreement_low, agreement_high,
        chance, kl, kl_low, kl_high.

        Raises:
            BackendError: pandas is not installed.
        """
        rows: dict[str, list[Any]] = {"lens": [], "layer": []}
        for i, name in enumerate(self.names):
            rows["lens"] += [name] * len(self.layers)
            rows["layer"] += self.layers
            for what, values in (("agreement", self.agreement(name)), ("kl", self.kl(name))):
                low, high = self.interval(name, what).T  # type: ignore[arg-type]
                for key, column in ((what, values), (f"{what}_low", low), (f"{what}_high", high)):
                    rows.setdefault(key, []).extend(column.tolist())
                if what == "agreement":
                    rows.setdefault("chance", []).extend(self.chance[i].tolist())
        return data_frame(rows)

    def plot(self, path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """Two panels: agreement and divergence by layer, a line with its interval for each lens.

        Args:
            path: Where to save it (.png, .svg, .pdf, …).
            show: Open a window. (A notebook shows the figure by itself.)

        Raises:
            BackendError: matplotlib is not installed.
        """
        figure = new_figure(9.0, 3.6, show)
        panels = figure.subplots(1, 2)
        for panel, what, label in zip(
            panels,
            ("agreement", "kl"),
            ("top-1 agreement with the final layer", "KL(final ‖ lens), nats"),
            strict=True,
        ):
            for name in self.names:
                values = self.agreement(name) if what == "agreement" else self.kl(name)
                low, high = self.interval(name, what).T  # type: ignore[arg-type]
                panel.plot(self.layers, values, marker="o", markersize=3, label=name)
                panel.fill_between(self.layers, low, high, alpha=0.2)
            if what == "agreement":
                panel.plot(self.layers, self.chance.max(axis=0), linestyle=":", color="grey", label="chance")
            panel.set(xlabel="after layer", ylabel=label)
            panel.xaxis.get_major_locator().set_params(integer=True)
        panels[0].legend(fontsize=8)
        return finished(figure, path, show)

    @property
    def _lines(self) -> Sequence[str]:
        return (
            "Lenses beside each other: what is read of the final prediction after each layer",
            f"{int(self.tokens.sum())} tokens of {len(self.tokens)} texts; 95 % intervals by resampling texts, seed"
            f" {self.seed}.",
        )

    @property
    def _tables(self) -> Sequence[Table]:
        return [self._table("agreement", "top-1"), self._table("kl", "KL")]

    def _table(self, what: Literal["agreement", "kl"], label: str) -> Table:
        heads = ["layer", *(f"{label} {name}" for name in self.names)]
        columns = []
        for name in self.names:
            values = self.agreement(name) if what == "agreement" else self.kl(name)
            columns.append([_shown(v, *i) for v, i in zip(values, self.interval(name, what), strict=True)])
        if what == "agreement":
            heads.append("chance")
            columns.append([f"{c:.3f}" for c in np.nanmax(self.chance, axis=0)])
        return Table(heads, list(zip(map(str, self.layers), *columns, strict=True)))

    def __repr__(self) -> str:
        return f"LensComparison({', '.join(self.names)}; {len(self.layers)} layers, {len(self.tokens)} texts)"


def lens_comparison(
    model: Model,
    texts: Any,
    lenses: Mapping[str, Lens] | None = None,
    *,
    layers: int | Iterable[int] | None = None,
    skip: int = 1,
    context_length: int = 256,
    seed: int = 0,
) -> LensComparison:
    """How often each lens names the model's own next token, and how far its distribution is from the model's.

    Args:
        model: An `InterpretableModel`.
        texts: Texts that the lenses were not fitted to.
        lenses: {name: lens}, beside the logit lens, which is always there; None takes those that the model holds, as
            "jacobian" and "tuned", and {} none.
        layers: Layer numbers, negative ones from the end; None means all.
        skip: First positions that do not count.
        context_length: Tokens of each text that are run; what is longer is cut.
        seed: Of the resampling of texts.

    Raises:
        InputError: No text is longer than `skip`, or something that is no lens.
        ComponentError: There is no such layer, or the model has more than one residual stream.
        NotFiniteError: Logits are NaN or infinite.
    """
    session = session_of(model)
    session.refresh()
    anatomy = session.anatomy
    skip, length = checks.count(skip, "skip", 0), checks.count(context_length, "context_length", 2)
    named = _named(session, lenses)
    chosen = anatomy.chosen_layers(layers)
    encode = session.tokenize or anatomy.model.tokenize
    rows = [list(encode(text))[:length] for text in texts_of(texts, session.plain.model)]
    rows = [ids for ids in rows if len(ids) > skip]
    if not rows:
        raise InputError(f"No text has more than {skip} tokens (skip=). Give longer ones.")
    check_length(anatomy.model, max(map(len, rows)))
    found = _Sums(anatomy, named, chosen, len(rows))
    for number, ids in enumerate(rows):
        found.add(number, ids, skip)
    tokens = np.array([len(ids) - skip for ids in rows], np.int64)
    return LensComparison(
        tuple(named), chosen, found.agreed, found.divergence, found.chance(), tokens, checks.seed(seed)
    )


def _named(session: Any, lenses: Mapping[str, Lens] | None) -> dict[str, Lens | None]:
    if lenses is not None and not isinstance(lenses, Mapping):
        raise InputError(f"lenses is {{name: lens}}, got {type(lenses).__name__}.")
    found: dict[str, Lens | None] = {LOGIT: None}
    for name, lens in (session.lenses if lenses is None else lenses).items():
        if not isinstance(lens, Lens):
            raise InputError(
                f"lenses[{name!r}] is {type(lens).__name__}; expected a lens that was fitted or loaded."
            )
        if name == LOGIT:
            raise InputError(f"{LOGIT!r} is the logit lens; give this one another name.")
        found[str(name)] = lens if lens.is_on(session) else lens.on(session)
    return found


class _Sums:
    """What was counted so far."""

    def __init__(
        self, anatomy: Anatomy, lenses: Mapping[str, Lens | None], layers: Sequence[int], texts: int
    ):
        self._anatomy, self._layers, self._lenses = anatomy, layers, list(lenses.values())
        self._transports: list[Transport | None] = [
            None if lens is None else lens.transport(anatomy) for lens in self._lenses
        ]
        shape = (len(self._lenses), len(layers), texts)
        self.agreed, self.divergence = np.full(shape, np.nan), np.full(shape, np.nan)
        vocabulary = anatomy.model.vocab_size
        self._said = np.zeros((*shape[:2], vocabulary), np.int64)
        self._final = np.zeros(vocabulary, np.int64)

    def add(self, text: int, ids: Sequence[int], skip: int) -> None:
        model, last = self._anatomy.model, len(self._anatomy.model.layers) - 1
        wanted = [*self._layers, last]
        stream = stream_of(self._anatomy, TokenBatch.from_rows([ids]), wanted)
        for start in range(skip, len(ids), _ROWS):
            rows = [x[0, start : min(start + _ROWS, len(ids))] for x in stream]
            final = self._logits(rows[-1])
            own = final.argmax(axis=-1)
            self._final += np.bincount(own, minlength=model.vocab_size)
            for j, layer in enumerate(self._layers):
                for i, lens in enumerate(self._lenses):
                    if lens is not None and not lens.covers(layer):
                        continue
                    transport = self._transports[i]
                    read = rows[j] if transport is None else transport(layer, rows[j])
                    said = final if read is rows[-1] else self._logits(read)
                    self._count(i, j, text, final, said, own)

    def _count(self, i: int, j: int, text: int, final: np.ndarray, said: np.ndarray, own: np.ndarray) -> None:
        top = said.argmax(axis=-1)
        likely = np.exp(final)
        apart = float(np.where(likely > 0, likely * (final - np.maximum(said, -1e30)), 0.0).sum())
        for sums, value in ((self.agreed, float((top == own).sum())), (self.divergence, apart)):
            sums[i, j, text] = np.nan_to_num(sums[i, j, text]) + value
        self._said[i, j] += np.bincount(top, minlength=len(self._final))

    def _logits(self, x: Array) -> np.ndarray:
        """float64 log probabilities (positions, vocabulary)."""
        model = self._anatomy.model
        logits = model.backend.get(unembed(model, x)).astype(np.float64)
        if not np.isfinite(logits.max(axis=-1)).all():
            raise not_finite("The logits", "after a layer", bool(model.described))
        return log_softmax(logits)

    def chance(self) -> np.ndarray:
        """float64, (lenses, layers)."""
        total = max(int(self._final.sum()), 1)
        found = (self._said * (self._final / total)).sum(axis=-1) / total
        return np.where(np.isnan(self.agreed).all(axis=-1), np.nan, found)


def _shown(value: float, low: float, high: float) -> str:
    return "—" if np.isnan(value) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
