"""Imported before anything that computes: libraries read these when they start."""

import os

for _name in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_name}_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
