"""`python -m mlxterp`: the command line, where the command `mlxterp` isn't on the path."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
