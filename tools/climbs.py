"""Counts how often the way of a call, from the front door down to the arrays, goes back up to a higher floor.

    python tools/climbs.py                                            # this checkout
    git worktree add ../before 039e023
    PYTHONPATH=../before python tools/climbs.py --commit 039e023      # a checkout from before files moved

Five calls run on the demo model, in the MLX wing, with Python's profiler on: a first time on another model, so that
modules are imported, and a second time counted. A step is a pair of files (caller, callee) of the package of which the
first called a function of the second; what stands between them outside the package (MLX, dataclasses, contextlib) is
left out, and a pair counts once however often it is walked. Returning is no step. Floors are those of
`tests/house/test_house.py` in this checkout; an older file stands on the floor of the place it has moved to, which git
knows, and of its first folder where git knows of none.

A step that rises is one of two things:

- a climb: the lower file names what it calls (a function, a class, a method, a property), so it knows who stands above;
- a callback: the lower file calls a value that was handed down to it (a closure, a bound method by another name, an
  iterator that it walks, something with `__call__` or another method of the language itself).
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import mlxterp
from mlxterp import SAE, InterpretableModel, load_demo
from mlxterp.demo import FOLDER
from mlxterp.steering import amplify

HERE = Path(__file__).resolve().parent.parent
PACKAGE = Path(mlxterp.__file__).parent
PASSES_ON = "core/options.py"
"""Wraps public methods to check the names of options; who calls one is who calls the wrapper."""
FEATURE = 42

Call = Callable[[InterpretableModel, SAE, list[str]], None]


class Step(NamedTuple):
    """One way from file to file of the package, and what was called the first time."""

    caller: str
    callee: str
    named: bool
    """The caller's code names what it calls."""


def main() -> None:
    """Counts and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", help="the commit that the measured package is checked out from")
    floors = Floors(parser.parse_args().commit)
    for name, call in CALLS.items():
        call(*_opened())
        steps = walked(call)
        rising = sorted((not step.named, step) for step in steps if floors.rises(step))
        climbs = sum(step.named for _, step in rising)
        print(f"{name}: {climbs} climbs, {len(rising) - climbs} callbacks, {len(steps)} steps")
        for _, step in rising:
            kind = "climb   " if step.named else "callback"
            print(f"    {kind} {step.caller} → {step.callee} ({steps[step]})")


# -- the calls ---------------------------------------------------------------------------------


def _opened() -> tuple[InterpretableModel, SAE, list[str]]:
    """A model on which nothing has run, its SAE and some texts."""
    model, sae, texts = load_demo("mlx")
    return model, sae, texts[:6]


def _texts(model: InterpretableModel, sae: SAE, texts: list[str]) -> None:
    model.get_top_texts_for_feature(FEATURE, sae, texts, 1, "resid_post")


def _generate(model: InterpretableModel, sae: SAE, texts: list[str]) -> None:
    model.generate(texts[0][:40], max_tokens=4, steer=amplify(sae, FEATURE, 2.0))


def _attach(model: InterpretableModel, sae: SAE, texts: list[str]) -> None:
    with model.attach_sae(sae):
        model(texts[0])


def _train(model: InterpretableModel, _sae: SAE, texts: list[str]) -> None:
    model.train_sae(1, texts, "mlp", d_hidden=64, k=4, tokens=1024, batch_size=256, verbose=False)


def _load(model: InterpretableModel, _sae: SAE, _texts: list[str]) -> None:
    model.load_sae(FOLDER / "sae")


CALLS: dict[str, Call] = {
    "get_top_texts_for_feature": _texts,
    "generate(steer=…)": _generate,
    "attach_sae": _attach,
    "train_sae": _train,
    "load_sae": _load,
}


# -- the way they go ---------------------------------------------------------------------------


def walked(call: Call) -> dict[Step, str]:
    """Every step of a call → the function that was called when it was first taken."""
    opened = _opened()
    steps: dict[Step, str] = {}

    def watch(frame: FrameType, event: str, _: Any) -> None:
        callee = _file(frame)
        caller = _caller(frame) if event == "call" and callee else None
        if caller is not None and _file(caller) != callee:
            named = _name(frame) in caller.f_code.co_names
            steps.setdefault(Step(_file(caller), callee, named), frame.f_code.co_qualname)

    sys.setprofile(watch)
    try:
        call(*opened)
    finally:
        sys.setprofile(None)
    return steps


def _caller(frame: FrameType) -> FrameType | None:
    """The nearest frame of the package below; None where the call came from outside, or a module is run."""
    found = frame.f_back
    while found is not None and not _file(found):
        found = found.f_back
    return None if found is None or frame.f_code.co_name == "<module>" else found


def _file(frame: FrameType) -> str:
    """The file that a frame runs, from the package on; "" for one outside it and for what only passes a call on."""
    path = frame.f_code.co_filename
    name = path.removeprefix(f"{PACKAGE}/")
    return "" if name in (path, PASSES_ON) else name


def _name(frame: FrameType) -> str:
    """What a caller writes to call it: its own name, or its class's where it makes an object."""
    *classes, own = frame.f_code.co_qualname.split(".")
    return classes[-1] if own in ("__init__", "__new__", "__post_init__") else own


# -- floors ------------------------------------------------------------------------------------


class Floors:
    """On which floor a file of the measured package stands."""

    def __init__(self, commit: str | None):
        self._floor = _order()
        self._now = _moves(commit) if commit else {}

    def rises(self, step: Step) -> bool:
        return self._of(step.callee) > self._of(step.caller)

    def _of(self, name: str) -> int:
        first = Path(self._now.get(name, name)).with_suffix("").parts[0]
        return self._floor.get(first, len(self._floor))  # the package's own __init__ stands above all


def _order() -> dict[str, int]:
    """Package or module → its floor, as the test of the house has it."""
    tree = ast.parse((HERE / "tests" / "house" / "test_house.py").read_text(encoding="utf-8"))
    order = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER"
    )
    return {name: floor for floor, names in enumerate(ast.literal_eval(order)) for name in names.split()}


def _moves(commit: str) -> dict[str, str]:
    """Every file that has moved since a commit → where it is now, followed from commit to commit."""
    log = [
        "git",
        "log",
        "--reverse",
        "--format=",
        "--name-status",
        "--diff-filter=R",
        "-M50%",
        f"{commit}..HEAD",
    ]
    lines = subprocess.run(
        [*log, "--", "mlxterp"], cwd=HERE, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    now: dict[str, str] = {}
    for old, new in (_moved(line) for line in lines if line):
        now |= {first: new for first, then in now.items() if then == old} | {old: new}
    return now


def _moved(line: str) -> tuple[str, str]:
    _, old, new = line.split("\t")
    return old.removeprefix("mlxterp/"), new.removeprefix("mlxterp/")


if __name__ == "__main__":
    main()
