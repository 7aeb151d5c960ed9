"""What the libraries below say of themselves does not reach the screen, and the user's settings stay."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import warnings

import pytest

import mlxterp.core.quiet as quiet_module
from mlxterp.core.quiet import quiet, quiet_loading

LIBRARIES = ["transformers", "huggingface_hub", "datasets", "mlx_lm", "tokenizers"]


def settings() -> tuple:
    loggers = [logging.getLogger(), *map(logging.getLogger, LIBRARIES)]
    handlers = [
        (handler, handler.level, tuple(handler.filters)) for log in loggers for handler in log.handlers
    ]
    levels = [(log.name, log.level, log.disabled, log.propagate, tuple(log.filters)) for log in loggers]
    return handlers, levels, list(warnings.filters), tuple(logging.lastResort.filters)  # type: ignore[union-attr]


@pytest.fixture
def heard():
    """What handlers of the libraries' loggers and of the root let through."""
    records: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    kept = Kept()
    loggers = [logging.getLogger(), *map(logging.getLogger, LIBRARIES)]
    for logger in loggers:
        logger.addHandler(kept)
    yield records
    for logger in loggers:
        logger.removeHandler(kept)


@pytest.mark.parametrize("library", LIBRARIES)
def test_their_warnings_are_dropped_and_their_errors_are_not(library, heard):
    log = logging.getLogger(f"{library}.some.module")
    with quiet:
        log.warning("a warning")
        log.error("an error")
    assert set(heard) == {"an error"}
    log.warning("another")
    assert "another" in heard


def test_what_others_log_passes(heard):
    with quiet:
        logging.getLogger("mine").warning("mine")
    assert heard == ["mine"]


def test_a_library_that_was_told_to_say_more_says_it(heard):
    log = logging.getLogger("transformers")
    before = log.level
    log.setLevel(logging.INFO)
    try:
        with quiet:
            log.warning("as asked")
    finally:
        log.setLevel(before)
    assert "as asked" in heard


def warned(code: str, module: str) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with quiet:
            exec(compile(f"import warnings\n{code}", module, "exec"), {"__name__": module})
    return [str(warning.message) for warning in found]


def test_deprecations_of_what_lies_below_are_dropped_and_others_are_not():
    for kind in ("DeprecationWarning", "FutureWarning", "PendingDeprecationWarning"):
        code = f"warnings.warn('going', {kind})"
        assert warned(code, "torch.nn.modules.module") == warned(code, "transformers.x") == []
        assert warned(code, "mine") == warned(code, "torchaudio_like") == ["going"]
    assert warned("warnings.warn('no GPU', UserWarning)", "torch.cuda") == ["no GPU"]
    assert warned("import mlxterp.errors; mlxterp.errors.warn('ours')", "mine") == ["ours"]


def test_settings_are_as_before_also_after_errors_and_within_each_other():
    before = settings()

    def fail() -> None:
        with quiet, quiet_loading(), quiet:
            assert settings() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert settings() == before


def test_bars_of_the_hub_are_for_what_takes_long(capsys, monkeypatch):
    bars = pytest.importorskip("huggingface_hub.utils.tqdm")
    before = bars.tqdm.__init__

    def fetch(seconds: float) -> str:
        with bars.tqdm(total=2, desc="Fetching 2 files", mininterval=0, name="huggingface_hub.x") as bar:
            for _ in range(2):
                time.sleep(seconds)
                bar.update(1)
        return capsys.readouterr().err

    assert "Fetching" in fetch(0)
    with quiet_loading(), quiet_loading():
        assert fetch(0) == ""
        monkeypatch.setattr(quiet_module, "_PATIENCE", 0.02)
        assert "Fetching" in fetch(0.03)
    assert bars.tqdm.__init__ is before


def test_a_warning_given_once_is_not_given_again():
    found = subprocess.run(
        [sys.executable, "-c", """
import warnings
from mlxterp.core.quiet import quiet
def say(): warnings.warn("once")
for _ in range(3):
    say()
    with quiet: pass
"""], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stderr.count("UserWarning: once") == 1


def test_opening_running_and_generating_write_nothing(backend, shared):
    """In a process of its own, where nothing is caught: long texts, bars, what will go."""
    code = f"""
import sys, logging
import mlxterp
model = mlxterp.InterpretableModel({str(shared / "data/models/TinyStories-656K")!r}, backend={backend!r})
model.tokenizer.model_max_length = 4
model.to_str_tokens("One day a girl named Lily went to the park. " * 3)
model.tokenize("One day a girl named Lily went to the park. " * 3)
model.generate("One day", max_tokens=3)
model.loss("One day a girl")
print(model.decode([1, 2, 3]) is not None)
logging.getLogger("transformers.x").warning("heard after")
"""
    found = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout == "True\n"
    said = [line for line in found.stderr.splitlines() if "heard after" not in line]
    assert [line for line in said if "Warning" in line or "it/s" in line or "longer than" in line] == []
    assert backend == "mlx" or "heard after" in found.stderr
