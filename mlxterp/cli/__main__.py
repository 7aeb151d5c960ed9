"""`python -m mlxterp.cli`."""

from . import main

raise SystemExit(main())
