"""The SAE that a verb was given, loaded if need be, and the component where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.sites import Component
from ..errors import ComponentError
from ..hooks.session import ModelSession
from ..sae import SAE
from ..sae.adapt import open_sae, place_of


def opened(session: ModelSession, sae: SAE | str | Path) -> SAE:
    """The SAE, loaded if it is a path or a published name."""
    session.refresh()
    return sae if isinstance(sae, SAE) else open_sae(session.plain, sae, model_name=session.name)


def sae_at(session: ModelSession, sae: SAE | str | Path, layer: Any, component: Any) -> tuple[SAE, Component]:
    """The SAE, loaded if need be, and the component asked for; warns where that is another than its own."""
    sae = _open_at(session, sae, layer, component)
    return sae, place_of(session.anatomy, sae, layer, component)


def _open_at(session: ModelSession, sae: Any, layer: Any, component: Any) -> SAE:
    """The SAE; a file whose hook this model does not have is opened for the component that the call names."""
    try:
        return opened(session, sae)
    except ComponentError:
        if layer is None and component is None:
            raise
        part = component or "mlp"
        name = part if layer is None else f"layers.{session.anatomy.names.layer(layer)}.{part}"
        return open_sae(session.plain, sae, component=name, model_name=session.name)
