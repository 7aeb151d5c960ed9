"""When bars are shown: in terminals and in notebooks; not in logs and CI."""

from __future__ import annotations

import sys


def hidden(shown: bool = True) -> bool | None:
    """What tqdm takes as `disable`: True never shows a bar, None only in a terminal, False always.

    A notebook's output is no terminal, so tqdm by itself would stay silent there.

    Args:
        shown: Whether bars were asked for.
    """
    if not shown:
        return True
    return False if in_notebook() else None


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
