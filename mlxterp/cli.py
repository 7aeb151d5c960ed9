"""`mlxterp`: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from .errors import MlxterpError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (2 where mlxterp says what is wrong)."""
    parser = argparse.ArgumentParser(
        prog="mlxterp", description="Interpretability of language models on your own machine."
    )
    parser.add_argument("--version", action="version", version=f"mlxterp {version('mlxterp')}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="the main job on a small model that comes with the package")
    demo.add_argument("--text", help="the text whose features are shown")
    demo.add_argument("--backend", choices=("mlx", "torch"), help="default: mlx where it is installed")
    options = parser.parse_args(arguments)
    try:
        from .demo.tour import run_tour

        run_tour(sys.stdout, text=options.text, backend=options.backend)
    except MlxterpError as error:
        print(f"mlxterp: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
