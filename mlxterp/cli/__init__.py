"""`mlxterp`: the command line. Commands do what the methods of their names do in Python.

What can be asked is in `arguments`, the model and texts that it names in `opening`, what is done in
`commands`, how it is shown in `viz.terminal`. Nothing that runs a model is imported before it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..errors import MlxterpError
from .arguments import parser

WRONG, INTERRUPTED, NO_READER = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (2 where mlxterp says what is wrong, 130 after ctrl-C)."""
    _open_streams()
    options = parser().parse_args(arguments)
    from ..viz.terminal import complain, notes

    try:
        with notes():
            from .commands import run

            status = run(options)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        return NO_READER
    except KeyboardInterrupt:
        complain(f"interrupted. {options.after_interruption}")
        return INTERRUPTED
    except MlxterpError as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return WRONG


def _open_streams() -> None:
    """Opens what the shell closed (`<&-`, `>&-`), so that no other file takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (stays open)
