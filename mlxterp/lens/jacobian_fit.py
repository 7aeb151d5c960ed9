"""Fits a `JacobianLens`: the mean, over texts, of one text's Jacobians, text by text until they change little."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Session
from ..core import checks
from ..core.places import path_of
from ..core.progress import hidden
from ..core.texts import TokenText
from ..core.tokens import Tokenize
from ..data.dataset import texts_of
from ..errors import InputError, warn
from .fitted_lens import model_facts
from .jacobian_lens import JacobianLens
from .pullback import Way, prompt_jacobians

_PIECE = 2000
"""Characters of a text that become one prompt, which is cut to the context's length."""
_FEW = 10


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What decides a fit beside its texts."""

    prompts: int
    context_length: int
    skip: int
    tolerance: float
    least: int
    save_every: int

    def __post_init__(self) -> None:
        for name in ("prompts", "context_length", "least", "save_every"):
            object.__setattr__(self, name, checks.count(getattr(self, name), name))
        object.__setattr__(self, "skip", checks.count(self.skip, "skip", 0))
        object.__setattr__(self, "tolerance", checks.finite(self.tolerance, "tolerance", 0.0))
        if self.context_length < self.skip + 2:
            raise InputError(
                f"context_length={self.context_length} leaves no position: the first {self.skip} (skip=) and the last"
                f" do not count. Give at least {self.skip + 2}."
            )

    def converged(self, lens: JacobianLens) -> bool:
        """Whether the rule of convergence holds."""
        return lens.n_prompts >= self.least and lens.mean_change < self.tolerance


def fit_jacobian_lens(
    session: Session, texts: Any, layers: Any, settings: FitSettings, *, target: int | None = None, rows: int = 8,
    path: str | os.PathLike | None = None, verbose: bool = True,
) -> JacobianLens:  # fmt: skip
    """See `InterpretableModel.fit_jacobian_lens`."""
    session.refresh()
    session.warn_of_acts("a lens is fitted to it")
    anatomy = session.anatomy
    way = _way(anatomy, layers, target, settings, checks.count(rows, "rows"))
    prompts, short = _prompts(anatomy, session.tokenize, texts_of(texts, session.plain.model), settings)
    file = None if path is None else path_of(path)
    empty = JacobianLens(
        {n: np.zeros((anatomy.model.d_model,) * 2, np.float32) for n in way.layers}, way.target, 0,
        metadata=_facts(session, anatomy, way, settings, short), session=session,
    )  # fmt: skip
    lens = empty if file is None or not file.exists() else _resumed(file, empty, prompts)
    lens = _grown(anatomy, lens, prompts, way, settings, file, verbose)
    if lens.n_prompts < _FEW:
        warn(
            f"This lens is the mean of {lens.n_prompts} prompts, which is too few to trust: 100 to 200 are usual. Give"
            " more texts, or longer ones."
        )
    return lens


def _grown(
    anatomy: Anatomy, lens: JacobianLens, prompts: Sequence[list[int]], way: Way, settings: FitSettings,
    file: Path | None, verbose: bool,
) -> JacobianLens:  # fmt: skip
    from tqdm.auto import tqdm

    saved = lens.n_prompts
    with tqdm(
        total=len(prompts), initial=saved, desc="Jacobian lens", unit="prompt", disable=hidden(verbose)
    ) as bar:
        try:
            while lens.n_prompts < len(prompts) and not settings.converged(lens):
                lens = _with(lens, prompt_jacobians(anatomy, prompts[lens.n_prompts], way))
                bar.set_postfix(change=f"{lens.changes[-1]:.4f}")
                bar.update()
                if file is not None and lens.n_prompts % settings.save_every == 0:
                    _of(lens, prompts).save(file)
                    saved = lens.n_prompts
        finally:  # an interrupted fit keeps whole prompts only
            if file is not None and lens.n_prompts > saved:
                _of(lens, prompts).save(file)
    return _of(lens, prompts)


def _of(lens: JacobianLens, prompts: Sequence[list[int]]) -> JacobianLens:
    """The lens, which says of which prompts it is."""
    return replace(lens, metadata={**lens.metadata, "prompts": _digest(prompts[: lens.n_prompts])})


def _with(lens: JacobianLens, found: np.ndarray) -> JacobianLens:
    """The lens with one prompt more in its means."""
    n = lens.n_prompts + 1
    jacobians, shares = {}, []
    for layer, new in zip(lens.layers, found, strict=True):
        step = (new - lens.jacobians[layer]) / np.float32(n)
        jacobians[layer] = mean = lens.jacobians[layer] + step
        shares.append(float(np.linalg.norm(step)) / max(float(np.linalg.norm(mean)), 1e-30))
    return replace(lens, jacobians=jacobians, n_prompts=n, changes=np.append(lens.changes, np.mean(shares)))


def _resumed(file: Path, empty: JacobianLens, prompts: Sequence[list[int]]) -> JacobianLens:
    """The lens that an earlier call has left in a file.

    Raises:
        InputError: The file holds another.
    """
    kept = JacobianLens.load(file)
    differs = [
        name for name in ("fit", "weights", "probe") if kept.metadata.get(name) != empty.metadata.get(name)
    ]
    if (kept.layers, kept.target) != (empty.layers, empty.target):
        differs.append("layers")
    if kept.n_prompts > len(prompts) or kept.metadata.get("prompts") != _digest(prompts[: kept.n_prompts]):
        differs.append("texts")
    if differs:
        raise InputError(
            f"{file} holds another Jacobian lens (its {', '.join(differs)} differ). Choose another path, or remove it."
        )
    return replace(kept, session=empty.session, metadata=empty.metadata)


def _way(anatomy: Anatomy, layers: Any, target: int | None, settings: FitSettings, rows: int) -> Way:
    count = len(anatomy.model.layers)
    goal = count - 1 if target is None else anatomy.names.layer(target)
    if goal == 0:
        raise InputError("A lens leads from earlier layers to a later one; there is none before layer 0.")
    if layers is None or (isinstance(layers, str) and layers == "all"):
        return Way(tuple(range(goal)), goal, settings.skip, rows)
    chosen = tuple(sorted(anatomy.chosen_layers(layers)))
    if chosen[-1] >= goal:
        raise InputError(
            f"Layer {chosen[-1]} is not before layer {goal}, to which the lens leads: its matrix is the identity."
            f" Layers 0 to {goal - 1} can be fitted."
        )
    return Way(chosen, goal, settings.skip, rows)


def _prompts(
    anatomy: Anatomy, tokenize: Tokenize | None, texts: Iterable[str], settings: FitSettings
) -> tuple[list[list[int]], int]:
    """Token ids of the prompts, and how many pieces were too short for one."""
    model, found, short = anatomy.model, [], 0
    encode = model.tokenize if tokenize is None else tokenize
    length = min(settings.context_length, model.max_positions or settings.context_length)
    for text in texts:
        for piece in _pieces(text):
            ids = list(encode(piece))[:length]
            if len(ids) < settings.skip + 2:
                short += 1
                continue
            found.append(ids)
            if len(found) == settings.prompts:
                return found, short
    if not found:
        raise InputError(
            f"None of the {short} texts has {settings.skip + 2} tokens or more: the first {settings.skip} positions"
            " (skip=) and the last do not count. Give longer texts."
        )
    return found, short


def _pieces(text: str) -> Iterator[str]:
    if isinstance(text, TokenText) or len(text) <= _PIECE:
        yield text
        return
    for start in range(0, len(text), _PIECE):
        yield text[start : start + _PIECE]


def _facts(session: Session, anatomy: Anatomy, way: Way, settings: FitSettings, short: int) -> dict[str, Any]:
    kept = {k: v for k, v in asdict(settings).items() if k in ("context_length", "skip")}
    fit = {**kept, "acting": list(anatomy.model.described)}
    return {**model_facts(session, way.target), "fit": fit, "too_short": short}


def _digest(prompts: Sequence[Sequence[int]]) -> str:
    found = hashlib.sha256()
    for ids in prompts:
        found.update(len(ids).to_bytes(8, "little") + np.array(ids, "<i4").tobytes())
    return found.hexdigest()
