"""What taking an absorber, a main feature or a random one out of the model does; `Absorption.mediation` asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..anatomy.session import Model, session_of
from ..core.controls import bootstrap
from ..edits.features import ablate
from ..errors import InputError
from ..hooks.session import ModelSession
from ..sae import SAE
from ..steering.trials import next_tokens
from ..viz.lines import LinesView, Table
from .concept_examples import ConceptExamples
from .contributions import Contributions
from .probes import Probe

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
class Mediation(LinesView):
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

    def __repr__(self) -> str:
        return f"<Mediation on {len(self.absorber.rows)} absorbed tokens>"

    def _title(self) -> str:
        return f"Ablations on {len(self.absorber.rows)} absorbed tokens (seed {self.seed})"

    @property
    def _lines(self) -> list[str]:
        return [self._title()]

    @property
    def _tables(self) -> list[Table]:
        found = []
        for one in (self.absorber, self.random, self.main):
            cells = [one.what, str(len(one.rows))]
            for values in (one.fall, one.kl):
                low, high = bootstrap(values, seed=self.seed)
                cells.append(f"{_mean(values):.4f} [{low:.4f}, {high:.4f}]" if len(values) else "")
            found.append(cells)
        return [Table(_HEADS, found)]


@dataclass(frozen=True, eq=False, slots=True)
class Measured:
    """What absorption was measured with and on, as `Absorption` holds it."""

    sae: SAE
    probe: Probe
    examples: ConceptExamples
    mains: tuple[int, ...]
    rows: np.ndarray
    found: Contributions

    def features_of(self, row: int) -> np.ndarray:
        """Features active on an example."""
        return self.sae.encode_sparse(self.examples.activations[row : row + 1]).row(0)[0]

    def activations_of(self, rows: np.ndarray, features: np.ndarray) -> np.ndarray:
        """float32, (rows, features)."""
        return self.sae.encode_sparse(self.examples.activations[rows]).columns(features)


def mediation(model: Model, measured: Measured, n: int, seed: int) -> Mediation:
    """See `Absorption.mediation`."""
    found, rows = measured.found, measured.rows
    if not measured.examples.texts:
        raise InputError(
            "mediation runs the model on the tokens' texts: measure on texts, not on activations."
        )
    if not found.full.any():
        raise InputError("No token is absorbed, so there is nothing to take out.")
    session = session_of(model, ModelSession)
    session.require_tokenizer()
    draw = np.random.default_rng([seed, 16])
    at, told = (
        np.sort(draw.permutation(np.flatnonzero(some))[:n]) for some in (found.full, ~found.missed)
    )  # fmt: skip
    mains = np.array(measured.mains)
    others = [np.setdiff1d(measured.features_of(int(rows[i])), [*mains, found.best[i]]) for i in at]
    kept = [i for i, ids in enumerate(others) if len(ids)]
    random = np.array([draw.choice(others[i]) for i in kept], dtype=np.int64)
    loudest = np.zeros(0, np.int64)
    if len(told):
        loudest = mains[np.abs(measured.activations_of(rows[told], mains)).argmax(axis=1)]
    return Mediation(
        _ablated(session, measured, "absorber", rows[at], found.best[at]),
        _ablated(session, measured, "random", rows[at[kept]], random),
        _ablated(session, measured, "main", rows[told], loudest),
        seed,
    )


def _ablated(
    session: ModelSession, measured: Measured, what: str, rows: np.ndarray, features: np.ndarray
) -> Ablated:
    """Runs each token's text with and without the feature."""
    sae, probe, examples = measured.sae, measured.probe, measured.examples
    fall, kl = np.empty(len(rows)), np.empty(len(rows))
    for i, (row, feature) in enumerate(zip(rows.tolist(), features.tolist(), strict=True)):
        text, place = examples.texts[row], int(examples.positions[row])
        value = float(measured.activations_of(np.array([row]), np.array([feature]))[0, 0])
        fall[i] = value * float(sae.W_dec[feature].astype(np.float64) @ probe.direction)
        edit = ablate(sae, feature, at=probe.component, positions=[place])
        clean, changed = (next_tokens(session, edits, [text])[0][place] for edits in ([], [edit]))
        kl[i] = float((np.exp(clean) * (clean - changed)).sum())
    return Ablated(what, rows, features, fall, kl)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
