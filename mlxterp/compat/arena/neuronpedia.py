"""Descriptions and dashboards of published SAEs, by the names that the section gives them."""

from __future__ import annotations

import os
import sys
from typing import Any

from ...core import checks
from ...errors import BackendError, InputError, SAEError
from ...neuronpedia import display_dashboard as dashboard
from ...neuronpedia.labels import exported
from ...neuronpedia.server import BASE_URL
from ...sae.pretrained import pretrained_saes

SPLITTING = "gpt2-small-res-jb-feature-splitting"
"""The family of widths that the section takes."""


def load_and_process_autointerp_dfs(
    width: int,
    release: str = SPLITTING,
    *,
    base_url: str = BASE_URL,
    cache: str | os.PathLike | bool | None = None,
    timeout: float = 30,
) -> Any:
    """Neuronpedia's explanations of one width of a family, a row for each latent, in their order.

    It is the export that `neuronpedia.labels` reads: of several explanations of a latent the first counts, latents
    without one have the description "". Like the section's function it prints what is missing.

    Args:
        width: Of the SAE whose id ends in it ("blocks.8.hook_resid_pre_768").
        release: As SAELens names it.
        base_url, cache, timeout: As in `neuronpedia.labels`.

    Returns:
        A DataFrame with the columns index (int), description, and the others of the export (None where there is none).

    Raises:
        InputError: The release has no such width, or Neuronpedia not this SAE.
        NetworkError: The server cannot be reached, breaks off, or sends something else.
        BackendError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise BackendError('The table needs pandas: pip install "mlxterp[pandas]".') from error
    width = checks.count(width, "width")
    model, _, source = _published(release, width).partition("/")
    found = exported(model, source, width, base_url, cache, timeout)
    columns = dict.fromkeys(["index", "description", *(key for row in found.rows.values() for key in row)])
    blank = {"description": ""}
    rows = [{**blank, **found.rows.get(latent, {}), "index": latent} for latent in range(width)]
    frame = pandas.DataFrame(rows, columns=list(columns))
    sys.stdout.write(f"Loaded autointerp df for width={width}\n")
    if found.missing:
        sys.stdout.write(f" Warning: {found.missing}/{width} latents missing descriptions\n")
    return frame


def display_dashboard(
    sae_release: str = "gpt2-small-res-jb",
    sae_id: str = "blocks.7.hook_resid_pre",
    latent_idx: int = 0,
    width: int = 800,
    height: int = 600,
    *,
    index: Any = None,
    embed: bool = False,
) -> None:
    """Shows `mlxterp.display_dashboard` at once: in a notebook as a picture, elsewhere as text."""
    found = dashboard(sae_release, sae_id, latent_idx, index=index, embed=embed, width=width, height=height)
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        sys.stdout.write(f"{found}\n")
        return
    from IPython.display import display

    display(found)


def _published(release: str, width: int) -> str:
    """The name on Neuronpedia of a family's SAE of that width."""
    entries = pretrained_saes(release=release) if isinstance(release, str) else []
    if not entries:
        raise SAEError(
            f"No release {release!r} is known. mlxterp.pretrained_saes('words of its name') searches them."
        )
    names = {entry.sae_id.rpartition("_")[2]: entry.neuronpedia_id for entry in entries}
    found = names.get(str(width))
    if found is None:
        known = [name for name, id_ in names.items() if id_ is not None and name.isdigit()]
        raise InputError(
            f"{release} has no SAE of width {width} on Neuronpedia. It has: {', '.join(known) or 'none'}."
        )
    return found
