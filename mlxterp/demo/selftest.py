"""`mlxterp selftest`: whether this machine computes what it should, wing by wing, and how fast it is.

Everything is tried on the embedded model and SAE: on the device that each wing takes by itself (Metal, CUDA, CPU),
against the same on the CPU, and against NumPy where a few lines of it say the same. Nothing is downloaded, and nothing
is left behind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from ..core.files import atomic_write
from ..core.options import checks_options, names_options
from ..core.places import expanded
from ..core.progress import hidden
from ..errors import BackendError, InputError
from ..viz.lines import LinesView, Table
from .selftest_subject import WINGS, Subject, Wing, backend_of_wing, device_of, kernels_of, on_cpu, put

ALLOWED = 2e-3
"""Largest difference of float32 results between devices, as a share of the largest value; GPUs add in other orders, and
may multiply in shorter formats."""
_ROWS, _WIDE, _K = 64, 4096, 32


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was tried.

    Attributes:
        wing: "mlx" or "torch".
        device: Where it ran.
        name: What was compared, with what.
        difference: Largest difference as a share of the largest value; for texts the share of tokens that differ.
        allowed: Of it.
        error: What was raised; "" where nothing was.
    """

    wing: str
    device: str
    name: str
    difference: float
    allowed: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran and differs no more than it may."""
        return not self.error and self.difference <= self.allowed


@checks_options
@dataclass(frozen=True, eq=False, slots=True, repr=False)
class SelfTest(LinesView):
    """What `selftest` found.

    Attributes:
        checks: One after the other.
        ratios: {what: how many times as fast as what it is named against}.
        machine: System, processor, versions.
        seconds: It took, by the clock.
    """

    checks: tuple[Checked, ...]
    ratios: dict[str, float]
    machine: dict[str, Any]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(one.passed for one in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything, with a verdict for each check."""
        checks = [
            asdict(one) | {"difference": None if one.error else one.difference, "passed": one.passed}
            for one in self.checks
        ]
        return {
            "passed": self.passed, "machine": self.machine, "checks": checks, "ratios": self.ratios,
            "seconds": round(self.seconds, 1),
        }  # fmt: skip

    def save(self, path: str | os.PathLike) -> None:
        """Writes the figures as JSON, whole or not at all."""
        with atomic_write(expanded(path)) as made:
            made.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return f"<SelfTest: {'passed' if self.passed else 'failed'}, {len(self.checks)} checks>"

    def _title(self) -> str:
        return "Self-test of mlxterp"

    @property
    def _lines(self) -> list[str]:
        failed = [one for one in self.checks if not one.passed]
        verdict = "all passed" if not failed else f"{len(failed)} failed"
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items() if value)
        return [
            f"Self-test: {len(self.checks)} checks, {verdict}",
            about,
            *(f"FAILED: {one.wing} on {one.device}, {one.name}: {_said(one)}" for one in failed),
        ]

    @property
    def _tables(self) -> list[Table]:
        rows = [
            (
                one.wing,
                one.device,
                one.name,
                _said(one),
                f"{one.allowed:.0e}",
                "passed" if one.passed else "FAILED",
            )
            for one in self.checks
        ]
        heads = ("wing", "device", "compared", "differs by", "allowed", "")
        ratios = [(name, f"{value:.2f} ×") for name, value in self.ratios.items()]
        return [Table(heads, rows), Table(("speed", "ratio"), ratios)]


def _said(one: Checked) -> str:
    return one.error or f"{one.difference:.1e}"


@names_options
def selftest(backend: str | None = None, *, verbose: bool = True) -> SelfTest:
    """Compares kernels, activations, SAE features, edits and generation with the CPU and with NumPy.

    Args:
        backend: "mlx" or "torch"; None tries every wing that is installed.
        verbose: Show progress.

    Raises:
        BackendError: The wing asked for is not installed, or none is.

    Examples:
        >>> from mlxterp.demo.selftest import selftest
        >>> selftest("mlx", verbose=False).passed  # doctest: +SKIP
        True
    """
    from tqdm.auto import tqdm

    started = time.perf_counter()
    wings = _installed(backend)
    steps: list[tuple[Wing, Callable[[Wing], tuple[list[Checked], dict[str, float]]]]] = [
        (wing, step) for wing in wings for step in (_kernels, _model)
    ]
    checks: list[Checked] = []
    ratios: dict[str, float] = {}
    for wing, step in tqdm(steps, desc="self-test", unit="part", disable=hidden(verbose)):
        found, fast = step(wing)
        checks += found
        ratios |= fast
    return SelfTest(tuple(checks), ratios, _machine(wings), time.perf_counter() - started)


def _installed(backend: str | None) -> list[Wing]:
    if backend is not None and backend not in WINGS:
        raise InputError(f"backend is {backend!r}; there are: {', '.join(WINGS)}.")
    found: list[Wing] = [
        wing for wing in WINGS if backend in (None, wing) and importlib.util.find_spec(wing) is not None
    ]
    if not found:
        raise BackendError(
            f"{backend or 'Neither mlx nor torch'} is not installed here, so there is nothing to test: pip install"
            ' "mlxterp[cpu]" or "mlxterp[torch]".'
        )
    return found


# -- kernels ----------------------------------------------------------------------------------


def _kernels(wing: Wing) -> tuple[list[Checked], dict[str, float]]:
    """Select and decode against NumPy; on a GPU the kernels answer, elsewhere their plain twins."""
    kernels, backend = kernels_of(wing), backend_of_wing(wing)
    device = device_of(wing)
    how = "kernel" if device != "cpu" and kernels.available() else "plain operations"
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 500, (_ROWS, _WIDE)).astype(np.float32)  # many equal ones
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_K]
    best = np.take_along_axis(scores, order, axis=1)
    table = rng.standard_normal((_WIDE, 96)).astype(np.float32)

    def select() -> float:
        ids, values = (backend.get(x) for x in kernels.select(put(wing, scores), _K))
        return float((ids != order).mean() + (values != best).mean())

    def decode() -> float:
        arrays = (put(wing, x) for x in (order.astype(np.int64), best, table))
        return _apart(backend.get(kernels.decode(*arrays)), np.einsum("nk,nkd->nd", best, table[order]))

    return [
        _tried(wing, device, f"select ({how}) with NumPy's sort", 0.0, select),
        _tried(wing, device, f"decode ({how}) with NumPy's product", ALLOWED, decode),
    ], {}


# -- the model --------------------------------------------------------------------------------


def _model(wing: Wing) -> tuple[list[Checked], dict[str, float]]:
    """What the embedded model and SAE give on the wing's own device, with the CPU and with NumPy."""
    device = device_of(wing)
    try:
        own = Subject(wing, None)
        with on_cpu(wing):
            cpu = Subject(wing, "cpu") if device != "cpu" else own
            truth = {name: part() for name, part in cpu.parts.items()}
            texts = {steered: own.texts(steered) for steered in (False, True)} if device == "cpu" else {}
    except Exception as error:
        return [_failed(wing, device, "the embedded model on this machine", error)], {}

    checks = [
        _tried(
            wing,
            device,
            f"{name} with the CPU's",
            ALLOWED,
            lambda name=name: _apart(own.parts[name](), truth[name]),
        )
        for name in own.parts
        if device != "cpu"
    ]
    checks.append(
        _tried(wing, device, "SAE features with NumPy's", ALLOWED, lambda: _apart(*own.features_twice()))
    )
    for steered in (False, True):
        name = f"{'steered' if steered else 'greedy'} texts, token by token, with a pass over the whole text"
        checks.append(
            _tried(wing, device, name, ALLOWED, lambda steered=steered: _shortfall(own, cpu, steered, texts))
        )
    name = "texts generated together with those generated alone"
    checks.append(_tried(wing, device, name, ALLOWED, lambda: own.shortfall(own.together(), False)))
    return checks, own.speeds(cpu, wing, device)


def _shortfall(own: Subject, cpu: Subject, steered: bool, made: dict[bool, list[list[int]]]) -> float:
    texts = made.get(steered) or own.texts(steered)
    with on_cpu(own.wing):
        return cpu.shortfall(texts, steered)


# -- helpers ----------------------------------------------------------------------------------


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of the largest expected value."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise ValueError(
            f"shape {found.shape} with {int((~np.isfinite(found)).sum())} values that are not finite"
        )
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1))


def _tried(wing: Wing, device: str, name: str, allowed: float, difference: Callable[[], float]) -> Checked:
    """The check; whatever is raised makes it fail, and the others go on."""
    try:
        return Checked(wing, device, name, difference(), allowed)
    except Exception as error:
        return _failed(wing, device, name, error)


def _failed(wing: Wing, device: str, name: str, error: Exception) -> Checked:
    return Checked(wing, device, name, float("nan"), 0.0, f"{type(error).__name__}: {error}")


def _machine(wings: list[Wing]) -> dict[str, Any]:
    versions = {}
    for package in ("mlxterp", "mlx", "mlx-lm", "torch", "transformers", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = ""
    devices = {f"{wing} device": device_of(wing) for wing in wings}
    system = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
    return {**system, "python": platform.python_version(), **devices, **versions}
