"""What `geometry.py` measures on: models, stories and SAEs, the trained ones kept in a folder and trained once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np

from mlxterp import geometry

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = SHARED / "models" / "tinystories_instruct_3m_gpt2"
LAYER, COMPONENT, WIDTHS = 3, "layers.3.resid_post", (128, 512, 2048)
OTHER_LAYERS = (6,)
"""Also trained, at width 2048, for what depends on the layer."""
SEEDS = (0, 1, 2)
HELD_OUT, TRAIN_TOKENS, READ_TOKENS = 500, 400_000, 100_000
SETTINGS = mlxterp.SAETrainConfig(k=16, batch_size=1024, epochs=1, tokens=TRAIN_TOKENS)


@dataclass(frozen=True, eq=False)
class Read:
    """Activations of tokens, text by text.

    Attributes:
        rows: float32, (n, width).
        tokens: int64, (n,): ids.
        texts: int64, (n,): a number for each text, the same for its tokens, which are in order.
    """

    rows: np.ndarray
    tokens: np.ndarray
    texts: np.ndarray


@dataclass
class Given:
    """Everything that several parts need; made when it is first asked for.

    Attributes:
        work: Folder that keeps the SAEs.
        seeds: Of training, and of what is measured.
        smollm2: Folder of SmolLM2-135M-Instruct.
    """

    work: Path
    seeds: Sequence[int] = SEEDS
    smollm2: Path | None = None
    _families: dict[int, mlxterp.SAECollection] = field(default_factory=dict)
    _layers: dict[int, dict[int, mlxterp.SAE]] = field(default_factory=dict)

    @cached_property
    def model(self) -> mlxterp.InterpretableModel:
        """tinystories_instruct_3m_gpt2: 8 layers, d_model 128, 14,019 tokens."""
        return mlxterp.InterpretableModel(str(MODEL))

    @cached_property
    def demo(self) -> tuple[mlxterp.InterpretableModel, mlxterp.SAE, list[str]]:
        """The embedded model, its SAE and its stories."""
        return mlxterp.load_demo()

    @cached_property
    def _stories(self) -> list[str]:
        text = (SHARED / "text" / "tinystories.txt").read_text(encoding="utf-8")
        stories = [s.strip() for s in text.split("<|endoftext|>") if s.strip()]
        return [stories[i] for i in np.random.default_rng(0).permutation(len(stories))]

    @property
    def train(self) -> list[str]:
        """Stories to train on, in an order of their own."""
        return self._stories[:-HELD_OUT]

    @property
    def held_out(self) -> list[str]:
        """Stories that no SAE has seen."""
        return self._stories[-HELD_OUT:]

    @cached_property
    def read(self) -> Read:
        """layers.3.resid_post on the stories held out."""
        return read(self.model, self.held_out, COMPONENT, self.work / "held", READ_TOKENS)

    @property
    def activations(self) -> np.ndarray:
        """float32, (READ_TOKENS, 128)."""
        return self.read.rows

    def family(self, seed: int) -> mlxterp.SAECollection:
        """SAEs of layers.3.resid_post by width, trained on the same tokens."""
        if seed not in self._families:
            folder = self.work / f"family{seed}"
            if not folder.exists():
                config = replace(SETTINGS, seed=seed)
                self.model.train_family(
                    LAYER, self.train, widths=WIDTHS, config=config, save_path=folder, verbose=False
                )
            self._families[seed] = geometry.load_family(folder)
        return self._families[seed]

    def by_layer(self, seed: int) -> dict[int, mlxterp.SAE]:
        """SAEs of 2048 features of several layers' resid_post."""
        if seed not in self._layers:
            folder = self.work / f"layers{seed}"
            if not folder.exists():
                config = replace(SETTINGS, d_hidden=WIDTHS[-1], seed=seed)
                wanted = {str(n): (f"layers.{n}.resid_post", config) for n in OTHER_LAYERS}
                self.model.train_saes(wanted, self.train, save_path=folder, verbose=False)
            found = {n: mlxterp.SAE.load(folder / str(n)) for n in OTHER_LAYERS}
            self._layers[seed] = {**found, LAYER: self.family(seed)[WIDTHS[-1]]}
        return dict(sorted(self._layers[seed].items()))


def read(
    model: mlxterp.InterpretableModel, texts: list[str], component: str, folder: Path, tokens: int
) -> Read:
    """What a component puts out for texts, kept in `folder`; text by text."""
    if folder.exists():
        store = mlxterp.ActivationStore.open(folder)
    else:
        store = mlxterp.collect_activations(model, texts, [component], folder, progress=False)
    found: list[tuple[np.ndarray, ...]] = []
    for i in range(len(store.counts)):
        facts = store.tokens(i)
        order = np.lexsort((facts["positions"], facts["contexts"]))
        rows = store.read(i, component)[order].astype(np.float32)
        found.append((rows, facts["tokens"][order], facts["contexts"][order] + (i << 32)))
    return Read(*(np.concatenate(part)[:tokens] for part in zip(*found, strict=True)))


def trained(work: Path, seeds: Sequence[int] = SEEDS) -> None:
    """Trains all that is not there yet."""
    given = Given(work, seeds)
    for seed in seeds:
        given.family(seed)
    for seed in seeds:
        given.by_layer(seed)
