"""What an index is built with: a model, an SAE, and the component where they meet."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..activations.fingerprint import is_same, model_fingerprint, weights_of
from ..activations.forward import collect
from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Session
from ..core.places import expanded
from ..core.sites import Component
from ..data.corpus import Corpus
from ..errors import FeatureIndexError
from ..sae import SAE
from ..sae.adapt import open_sae, place_of
from .folder import IndexMeta
from .summary import token_pieces


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """What an index is built with.

    Attributes:
        anatomy: The model's components.
        sae: The SAE.
        component: The component that the SAE reads.
        name: The repo or folder that the model was loaded from.
    """

    anatomy: Anatomy
    sae: SAE
    component: Component
    name: str | None

    @property
    def model_name(self) -> str | None:
        """The repo, or the name of the folder, without where it lies on this machine."""
        return Path(self.name).name if self.name and expanded(self.name).exists() else self.name

    @property
    def model_facts(self) -> dict[str, Any]:
        """What tells this model from others, as JSON."""
        model = self.anatomy.model
        facts = {
            "name": self.model_name,
            "type": model.model_type,
            "positions": model.max_positions,
            "probe": self.probe,
            "weights": weights_of(model),
        }
        return facts | ({"acts": list(self.acts)} if self.acts else {})

    @property
    def probe(self) -> list[float]:
        """Lengths of the component's activations on fixed tokens."""
        return model_fingerprint(self.anatomy, [self.component])[self.component.name]

    @property
    def acts(self) -> tuple[str, ...]:
        """What changes the model: attached SAEs and hooks, open `steer` blocks."""
        return tuple(self.anatomy.model.described)

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on a GPU that CUDA drives."""
        model = self.anatomy.model
        part = next(iter(collect(model, Corpus.from_token_ids([[0, 0]]), self.component)))
        device = model.backend.device(part.values)
        return "cuda" in device or (device == "gpu" and sys.platform != "darwin")

    def pieces(self, ids: list[int]) -> list[str]:
        """The text of each token id where it follows another token."""
        return token_pieces(self.anatomy.model.tokenizer, ids)

    def check(self, meta: IndexMeta, folder: Path) -> None:
        """Raises FeatureIndexError where an index is of another SAE, model or component."""
        if self.sae.fingerprint != meta.sae["fingerprint"]:
            raise FeatureIndexError(
                f"The index in {folder} was built with another SAE ({meta.sae.get('described')}) than {self.sae!r}."
                " Its feature numbers mean other things. Build an index with this SAE."
            )
        if self.component.name != meta.component:
            raise FeatureIndexError(
                f"The index in {folder} is of {meta.component}, not of {self.component.name}. Build one there."
            )
        acted = tuple(meta.model.get("acts", ()))
        if acted != self.acts:
            raise FeatureIndexError(
                f"The index in {folder} was built while {', '.join(acted) or 'nothing'} acted on the model; now"
                f" {', '.join(self.acts) or 'nothing'} does. Attach or steer as then, or build one in another folder."
            )
        now = self.probe
        if not is_same(self.anatomy.model, meta.model.get("weights"), meta.model["probe"], now, str(folder)):
            raise FeatureIndexError(
                f"The index in {folder} was built with another model ({meta.model.get('name')}), or with other weights:"
                f" the digest of all parameters is another, or on {len(now)} fixed tokens the activations of"
                f" {meta.component} have other lengths than here. Build an index with this model in another folder."
            )


def source_for(
    session: Session,
    sae: SAE | str | Path,
    component: str | None = None,
    layer: int | None = None,
    quiet: bool = False,
) -> Source:
    """A model, an SAE (opened, if need be) and the component where they meet; see `InterpretableModel.index_source`.

    Args:
        quiet: Say nothing where the component is not the SAE's own.
    """
    session.refresh()
    if not isinstance(sae, SAE):
        sae = open_sae(session.plain, sae, component=None, model_name=session.name)
    place = place_of(session.anatomy, sae, layer, component, quiet=quiet)
    return Source(session.anatomy, sae, place, session.name)
