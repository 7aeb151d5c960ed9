"""What taking an absorber, a main feature or a random one out of the model does; `Absorption.mediation` asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..anatomy.session import Model, session_of
from ..core.controls import bootstrap
from ..edits.features import ablate
from ..errors import InputError
from ..hooks.session import ModelSession
from ..steering.trials import next_tokens
from ..viz.escaping import escaped
from ..viz.page import Links
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .text_table import table_html, table_lines

if TYPE_CHECKING:
    from .absorption import Absorption

_HEADS = ("ablated", "tokens", "probe falls by (95 %)", "KL of the next token (95 %)")


@dataclass(frozen=True, eq=False, slots=True)
class Ablated:
    """One kind of feature, taken out on some tokens; arrays are (tokens,).

    Attributes:
        what: "absorber", "main" or "random".
        rows: int64: the examples.
        features: int64: what was taken out on each.
        fall: float64: what the activation loses along the probe's direction.
        kl: float64: KL(model ‖ with the ablation) of the token that comes next, nats.
    """

    what: str
    rows: np.ndarray
    features: np.ndarray
    fall: np.ndarray
    kl: np.ndarray


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Mediation(View):
    """What ablating an absorber does beside a main feature and a random one.

    Attributes:
        absorber: On absorbed tokens, the absorber.
        random: On the same tokens, another feature that is active there, at random: the control.
        main: On tokens that a main feature speaks for, the most active one.
        seed: Of the choice and of the intervals.
    """

    absorber: Ablated
    random: Ablated
    main: Ablated
    seed: int

    @property
    def table(self) -> list[dict[str, object]]:
        """A row for each kind, as dicts: means with their 95 % intervals over tokens."""
        return [
            {
                "ablated": one.what, "tokens": len(one.rows),
                **{name: _mean(getattr(one, name)) for name in ("fall", "kl")},
                **{f"{name}_interval": bootstrap(getattr(one, name), seed=self.seed) for name in ("fall", "kl")},
            }
            for one in (self.absorber, self.random, self.main)
        ]  # fmt: skip

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal.

        Args:
            color: None sets the first line in bold where the output is a terminal and NO_COLOR is not set.
        """
        return "\n".join([bold(self._title(), wants_color(color)), *table_lines(_HEADS, self._rows)])

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; it has no heading."""
        anchor = f' id="{element_id}"' if element_id else ""
        return f"<div{anchor}><p>{escaped(self._title())}</p>{table_html(_HEADS, self._rows)}</div>"

    def __repr__(self) -> str:
        return f"<Mediation on {len(self.absorber.rows)} absorbed tokens>"

    def _title(self) -> str:
        return f"Ablations on {len(self.absorber.rows)} absorbed tokens (seed {self.seed})"

    @property
    def _rows(self) -> list[list[str]]:
        found = []
        for one in (self.absorber, self.random, self.main):
            cells = [one.what, str(len(one.rows))]
            for values in (one.fall, one.kl):
                low, high = bootstrap(values, seed=self.seed)
                cells.append(f"{_mean(values):.4f} [{low:.4f}, {high:.4f}]" if len(values) else "")
            found.append(cells)
        return found


def mediation(model: Model, absorption: Absorption, n: int, seed: int) -> Mediation:
    """See `Absorption.mediation`."""
    found, examples = absorption.found, absorption.examples
    if not examples.texts:
        raise InputError(
            "mediation runs the model on the tokens' texts: measure on texts, not on activations."
        )
    if not found.full.any():
        raise InputError("No token is absorbed, so there is nothing to take out.")
    session = session_of(model, ModelSession)
    session.require_tokenizer()
    draw = np.random.default_rng([seed, 16])
    spoken = np.flatnonzero(~found.missed)
    at, told = (np.sort(draw.permutation(some)[:n]) for some in (np.flatnonzero(found.full), spoken))
    rows, mains = absorption.rows[at], np.array(absorption.mains)
    active = [absorption.sae.encode_sparse(examples.activations[r : r + 1]).row(0)[0] for r in rows]
    others = [np.setdiff1d(ids, [*mains, best]) for ids, best in zip(active, found.best[at], strict=True)]
    kept = [i for i, ids in enumerate(others) if len(ids)]
    random = np.array([draw.choice(others[i]) for i in kept], dtype=np.int64)
    values = absorption.sae.encode_sparse(examples.activations[absorption.rows[told]]).columns(mains)
    loudest = mains[np.abs(values).argmax(axis=1)] if len(told) else np.zeros(0, np.int64)
    return Mediation(
        _ablated(session, absorption, "absorber", rows, found.best[at]),
        _ablated(session, absorption, "random", rows[kept], random),
        _ablated(session, absorption, "main", absorption.rows[told], loudest),
        seed,
    )


def _ablated(
    session: ModelSession, absorption: Absorption, what: str, rows: np.ndarray, features: np.ndarray
) -> Ablated:
    """Runs each token's text with and without the feature."""
    sae, probe, examples = absorption.sae, absorption.probe, absorption.examples
    fall, kl = np.empty(len(rows)), np.empty(len(rows))
    for i, (row, feature) in enumerate(zip(rows.tolist(), features.tolist(), strict=True)):
        text, place = examples.texts[row], int(examples.positions[row])
        value = sae.encode_sparse(examples.activations[row : row + 1]).columns(np.array([feature]))[0, 0]
        fall[i] = float(value) * float(sae.W_dec[feature].astype(np.float64) @ probe.direction)
        edit = ablate(sae, feature, at=probe.component, positions=[place])
        clean, changed = (next_tokens(session, edits, [text])[0][place] for edits in ([], [edit]))
        kl[i] = float((np.exp(clean) * (clean - changed)).sum())
    return Ablated(what, rows, features, fall, kl)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
