"""Does this SAE belong here? Its figures on a component, and the likely cause where they are bad.

`check` computes the usual measures (formulas as in SAEBench's core, with the standard explained variance),
then tries the neighbours: other layers and components, other normalisations of the input, the same
without each text's first token. Where one of them fits far better, the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..anatomy import Anatomy
from ..backends.base import Backend
from ..corpus import check_texts
from ..edits import declared_edits
from ..errors import InputError, SAEError
from ..sae import SAE
from ..sites import Array, Component, Run
from ..sparse import SparseFeatures
from ..tokens import TokenBatch
from ..variants import Temporal
from .collect import rows_of
from .diagnosis import likely_cause
from .fitting import read, resolve

_CONTEXT = 128


@dataclass(frozen=True, slots=True)
class SAECheck:
    """How well an SAE fits a component of a model."""

    component: str
    tokens: int
    explained_variance: float
    """1 - sum |x - r|² / sum |x - mean x|², over all tokens but each context's first."""
    fvu: float
    """1 - explained_variance."""
    l0: float
    """Active features of a token, on average."""
    dead_share: float
    """Share of features active on none of these tokens (few tokens leave many features silent)."""
    loss: float
    """Cross-entropy of the model, nats for each token."""
    loss_with_sae: float
    """The same with the reconstruction in the component's place."""
    loss_recovered_zero: float
    """(loss with zeros - loss with SAE) / (loss with zeros - loss); 1 is perfect."""
    loss_recovered_mean: float
    """The same against the mean activation, which is the harder comparison."""
    expected: dict[str, float] = field(default_factory=dict)
    """Published or trained figures that the metadata has: l0, explained_variance."""
    findings: tuple[str, ...] = ()
    """What is wrong, and the likely cause; empty where all is well."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"SAE at {self.component}, {self.tokens} tokens",
            f"  explained variance {self.explained_variance:8.3f}   (FVU {self.fvu:.3f})",
            f"  L0                 {self.l0:8.1f}   dead on these tokens {self.dead_share:.1%}",
            f"  loss               {self.loss:8.3f}   with SAE {self.loss_with_sae:.3f}",
            f"  loss recovered     {self.loss_recovered_zero:8.3f}   against the mean {self.loss_recovered_mean:.3f}",
        ]
        if self.expected:
            lines.append("  expected           " + ", ".join(f"{k} {v:g}" for k, v in self.expected.items()))
        return "\n".join([*lines, *(f"  ! {finding}" for finding in self.findings)])


def check(
    anatomy: Anatomy, sae: SAE, texts: Sequence[str], component: str | None = None, max_tokens: int = 8192
) -> SAECheck:
    """Figures of an SAE at a component, and the likely cause where they are bad.

    Texts are cut into contexts of 128 tokens (or the SAE's own context size, or the model's); contexts of
    one token are left out. Each context's first token counts in no figure: it has nothing before it, and
    often a norm far from all others'.

    Args:
        component: Path; None takes the SAE's own.
        max_tokens: Contexts are taken in order until there are this many tokens.

    Raises:
        InputError: No texts, no text of two tokens, or the SAE names no component.
        SAEError: The component is not as wide as the SAE's input.
    """
    name = component or sae.component
    if name is None:
        raise InputError(
            "This SAE does not say where it was trained. Name the component: check(model, texts, component=…)."
        )
    if not isinstance(name, str):
        raise InputError(f"A component is named by a path such as 'layers.3.mlp', got {name!r}.")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 2:
        raise InputError(f"max_tokens is {max_tokens!r}; it must be an integer of at least 2.")
    place = resolve(anatomy, sae, name)
    out_name = sae.metadata.get("component_out")
    target = place if not isinstance(out_name, str) else resolve(anatomy, sae, out_name)
    for at, width in ((place, sae.d_model), (target, sae.d_out)):
        if (found := read(anatomy, [at])[0].shape[-1]) != width:
            raise SAEError(
                f"{at.name} puts out {found} numbers for each token, this SAE is made for {width} there. Choose the"
                " component it was trained on, or name its output in metadata['component_out']."
            )
    contexts = _contexts(anatomy, sae, texts, max_tokens)
    figures = _figures(anatomy, sae, place, target, contexts)
    expected = {
        key: float(sae.metadata[key])
        for key in ("l0", "explained_variance")
        if _is_number(sae.metadata.get(key))
    }
    if "l0" not in expected and sae.k is not None:
        expected["l0"] = float(sae.k)
    findings = _findings(anatomy, sae, place, target, contexts, figures, expected)
    return SAECheck(place.name, expected=expected, findings=tuple(findings), **figures)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _contexts(anatomy: Anatomy, sae: SAE, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    check_texts(texts)
    model = anatomy.model
    if model.tokenizer is None:
        raise InputError(
            "This model has no tokenizer, so it cannot read texts. Pass tokenizer=… to InterpretableModel."
        )
    said = sae.metadata.get("context_size")
    size = min(
        said if isinstance(said, int) and said > 1 else _CONTEXT, model.max_positions or _CONTEXT, 1024
    )
    found: list[list[int]] = []
    left = max_tokens
    for text in texts:
        ids = model.tokenize(text)
        for i in range(0, len(ids), size):
            context = ids[i : i + size][:left]
            if len(context) > 1:
                found.append(context)
                left -= len(context)
        if left < 2:
            break
    if not found:
        raise InputError(
            "No text has two tokens or more, and the first of each text is left out. Give longer texts."
        )
    return found


def _batches(contexts: list[list[int]], tokens: int = 2048) -> Iterator[list[list[int]]]:
    group: list[list[int]] = []
    for row in sorted(contexts, key=len):
        if group and (len(group) + 1) * len(row) > tokens:
            yield group
            group = []
        group.append(row)
    yield group


# -- figures ------------------------------------------------------------------------------------


class _Sums:
    """What the figures are made of, added up batch by batch in float64."""

    def __init__(self, d_out: int, d_hidden: int):
        self.n = 0
        self.error = self.square = 0.0
        self.total = np.zeros(d_out)
        self.active = np.zeros(d_hidden, dtype=np.int64)
        self.losses: dict[str, float] = dict.fromkeys(("clean", "sae", "zero", "mean"), 0.0)
        self.predicted = 0


def _figures(
    anatomy: Anatomy, sae: SAE, place: Component, target: Component, contexts: list[list[int]]
) -> dict[str, Any]:
    sums = _Sums(sae.d_out, sae.d_hidden)
    for rows in _batches(contexts):
        _add_reconstruction(anatomy, sae, place, target, TokenBatch.from_rows(rows), sums)
    mean = sums.total / sums.n
    for rows in _batches(contexts):
        _add_ablations(anatomy, target, TokenBatch.from_rows(rows), mean, sums)
    variance = sums.square - sums.n * float(mean @ mean)
    if variance <= 1e-9 * sums.square:
        raise InputError(
            f"{target.name} does not vary over {sums.n} tokens, so there is nothing to explain. Give more texts."
        )
    fvu = sums.error / variance
    losses = {key: total / sums.predicted for key, total in sums.losses.items()}
    return {
        "tokens": sums.n,
        "explained_variance": 1 - fvu,
        "fvu": fvu,
        "l0": float(sums.active.sum()) / sums.n,
        "dead_share": float((sums.active == 0).mean()),
        "loss": losses["clean"],
        "loss_with_sae": losses["sae"],
        "loss_recovered_zero": _recovered(losses, "zero"),
        "loss_recovered_mean": _recovered(losses, "mean"),
    }


def _recovered(losses: dict[str, float], ablation: str) -> float:
    gap = losses[ablation] - losses["clean"]
    return (losses[ablation] - losses["sae"]) / gap if gap else float("nan")


def _add_reconstruction(
    anatomy: Anatomy, sae: SAE, place: Component, target: Component, batch: TokenBatch, sums: _Sums
) -> None:
    model, backend = anatomy.model, anatomy.model.backend
    run = model.run(batch, [*place.sites, *target.sites])
    x, y = (_rows(anatomy, at, run, batch.ids.shape) for at in (place, target))
    mask = np.arange(batch.ids.shape[1]) < np.asarray(batch.lengths)[:, None]
    replacement = np.zeros((*mask.shape, sae.d_out), dtype=np.float32)
    features, replacement[mask] = _applied(sae, x, mask, batch.lengths)
    later = mask.copy()
    later[:, 0] = False  # all but each context's first token
    kept = features.take(np.flatnonzero(later[mask]))
    sums.active += np.bincount(kept.indices, minlength=sae.d_hidden)
    wanted = y[later].astype(np.float64)
    sums.error += float(((wanted - replacement[later]) ** 2).sum())
    sums.square += float((wanted**2).sum())
    sums.total += wanted.sum(axis=0)
    sums.n += len(wanted)
    edits = declared_edits(anatomy, {target.name: _putting(backend, replacement, mask)})
    sums.losses["clean"] += _loss(backend, run.logits, batch)
    sums.losses["sae"] += _loss(backend, model.run(batch, edits=edits).logits, batch)
    sums.predicted += int((batch.lengths - 1).sum())


def _applied(
    sae: SAE, x: np.ndarray, mask: np.ndarray, lengths: np.ndarray
) -> tuple[SparseFeatures, np.ndarray]:
    """Features and reconstruction of the tokens that `mask` holds; a temporal SAE takes each text by itself."""
    if isinstance(sae.activation, Temporal):
        rows = [x[row, :n] for row, n in enumerate(lengths)]
        features = SparseFeatures.concat([sae.encode_sparse(row) for row in rows])
        return features, np.concatenate([sae.reconstruct(row) for row in rows])
    features = sae.encode_sparse(x[mask])
    return features, sae.decode(features, like=x[mask])


def _add_ablations(
    anatomy: Anatomy, target: Component, batch: TokenBatch, mean: np.ndarray, sums: _Sums
) -> None:
    model, backend = anatomy.model, anatomy.model.backend
    for key, value in (("zero", np.zeros_like(mean)), ("mean", mean)):
        whole = np.broadcast_to(value.astype(np.float32), (*batch.ids.shape, len(mean)))
        mask = np.ones(batch.ids.shape, dtype=bool)
        edits = declared_edits(anatomy, {target.name: _putting(backend, whole, mask)})
        sums.losses[key] += _loss(backend, model.run(batch, edits=edits).logits, batch)


def _rows(anatomy: Anatomy, place: Component, run: Run, shape: tuple[int, ...]) -> np.ndarray:
    """float32, (batch, positions, width)."""
    rows = anatomy.model.backend.get(rows_of(place, run, shape)).astype(np.float32)
    return rows.reshape(*shape, -1)


def _putting(backend: Backend, new: np.ndarray, mask: np.ndarray) -> Callable[[Array], Array]:
    """An intervention that writes `new` (batch, positions, width) where `mask` holds and not at first tokens."""
    written = mask.copy()
    written[:, 0] = False

    def put(x: Array) -> Array:
        value, where = new, written[..., None]
        if x.ndim == 4:
            batch, heads, positions, d_head = x.shape
            value = value.reshape(batch, positions, heads, d_head).swapaxes(1, 2)
            where = written[:, None, :, None]
        return backend.where(where, backend.put(np.ascontiguousarray(value), like=x), x)

    return put


def _loss(backend: Backend, logits: Array, batch: TokenBatch) -> float:
    return sum(
        float(backend.token_losses(logits[row, : n - 1], batch.ids[row, 1:n]).sum(dtype=np.float64))
        for row, n in enumerate(batch.lengths)
    )


# -- the likely cause ---------------------------------------------------------------------------


def _findings(
    anatomy: Anatomy, sae: SAE, place: Component, target: Component, contexts: list[list[int]],
    figures: dict[str, Any], expected: dict[str, float],
) -> list[str]:  # fmt: skip
    found = []
    fvu, l0 = figures["fvu"], figures["l0"]
    if target is place and sae.d_out == sae.d_model:
        cause = likely_cause(anatomy, sae, place, contexts)
        if cause:
            found.append(cause)
    if fvu > 1 and not found:
        found.append(
            f"FVU is {fvu:.2f}: a constant would reconstruct {place.name} better. No layer, component or normalisation"
            " that was tried fits; is it another model's SAE, or another checkpoint of this model?"
        )
    if "l0" in expected and not 0.5 <= l0 / max(expected["l0"], 1e-9) <= 2:
        found.append(f"L0 is {l0:.1f}, {expected['l0']:g} were expected.")
    if (
        "explained_variance" in expected
        and figures["explained_variance"] < expected["explained_variance"] - 0.15
    ):
        said = expected["explained_variance"]
        found.append(f"Explained variance is {figures['explained_variance']:.2f}, {said:.2f} was published.")
    return found
