"""The run: SAEs that train side by side on the same rows, with checkpoints, history and progress."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.base import Backend
from ..core import checks
from ..core.integers import is_integer
from ..core.progress import hidden
from ..errors import InputError, SAEError, warn
from ..sae import SAE
from .config import SAETrainConfig
from .finish import CALIBRATION_TOKENS
from .folder import RunFolder
from .history import Log, open_logs
from .plan import run_length
from .rows import MixingBuffer, Rows
from .trainer import SAMPLE, Job, Seen, Trainer

_CHECKPOINTS = 20
"""About so many over a run."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is kept and shown."""

    device: str | None = None
    progress: bool = True
    run_dir: Path | None = None
    resume: bool = False
    checkpoint_every: int | None = None
    """Steps; None makes about twenty over the run."""
    log: Log | Sequence[Log] | None = None


def run(jobs: Mapping[str, Job], rows: Rows, backend: Backend, options: RunOptions) -> dict[str, SAE]:
    """Trains every job's SAE, all on the same batches.

    Raises:
        SAEError: The loss stops being finite or grows without end; a run that goes on was another one;
            a checkpoint cannot be written.
    """
    return _Run(jobs, rows, backend, options).result()


class _Run:
    def __init__(self, jobs: Mapping[str, Job], rows: Rows, backend: Backend, options: RunOptions):
        self.jobs, self.rows, self.backend, self.options = jobs, rows, backend, options
        self.config = _shared([job.config for job in jobs.values()])
        self.batch_size, self.epochs = run_length(self.config, rows.total)
        for job in jobs.values():
            job.config.width(rows.widths[rows.names.index(job.source)])  # refused before a model runs
        self.leads = backend.group().rank == 0
        self.folder = RunFolder(options.run_dir) if options.run_dir is not None else None
        self.identity = {
            "backend": backend.name,
            "configs": {name: self._settled(job) for name, job in jobs.items()},
            "components": {name: [job.source, job.target] for name, job in jobs.items()},
            "data": _as_json(rows.identity()),
        }
        self.buffer = MixingBuffer(rows, self.epochs, self.config.seed)
        self.step = 0
        self.interrupted = False

    def _settled(self, job: Job) -> dict[str, Any]:
        """A job's settings, as JSON, with what the rule chose where the config leaves it open."""
        return _as_json(asdict(job.config) | {"batch_size": self.batch_size, "epochs": self.epochs})

    def result(self) -> dict[str, SAE]:
        done = self._finished_before()
        if done is not None:
            return done
        self._prepare()
        self._go_on()
        with _stopping() as stop:
            self._train(stop)
        saes = self._finish()
        if self.interrupted:
            self._checkpoint()
            warn(
                f"Interrupted at step {self.step} of {self.steps}: this SAE has seen {self.seen} tokens."
                + (" resume=True goes on." if self.folder else " Give save_path to be able to go on.")
            )
        elif self.folder and self.leads:
            self.folder.clear_checkpoint()
        return saes

    # -- what was there before ----------------------------------------------------------------

    def _finished_before(self) -> dict[str, SAE] | None:
        """The SAEs of a run that had come to its end, where one goes on."""
        if not self.options.resume or self.folder is None:
            return None
        history = self.folder.history()
        if history is None or not history.get("finished"):
            return None
        self._check_identity(history.get("identity"))
        paths = {name: job.save_path for name, job in self.jobs.items()}
        if any(path is None or not path.exists() for path in paths.values()):
            return None
        try:
            return {
                name: SAE.load(path, backend=self.backend.name, device=self.options.device)
                for name, path in paths.items() if path is not None
            }  # fmt: skip
        except SAEError as error:
            raise SAEError(
                f"The run in {self.folder.path} is finished, and what it saved is damaged: {error} Remove the damaged"
                " SAE, and the same call trains it again."
            ) from error

    def _go_on(self) -> None:
        folder = self.folder
        found = folder.checkpoint() if folder and self.options.resume else None
        if folder is None or found is None:
            return
        arrays, said = found
        self._check_identity(said.get("identity"))
        try:
            self._take_up(arrays, said)
        except KeyError as error:
            raise folder.damaged(f"it lacks {error}") from error
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
            raise folder.damaged(error) from error

    def _take_up(self, arrays: Mapping[str, np.ndarray], said: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint of this very run.

        Raises:
            KeyError, TypeError, ValueError, …: It is damaged.
        """
        step, seen = said["step"], said["seen"]
        if not is_integer(step) or not 0 <= step < self.steps:
            raise ValueError(f"it says step {step!r}, of a run of {self.steps} steps")
        if not is_integer(seen) or not step <= seen <= self.plan.tokens:
            raise ValueError(f"it says that {seen!r} tokens were seen, of {self.plan.tokens}")
        known = ["buffer.cursor", *(f"buffer.carry.{i}" for i in range(len(self.rows.widths)))]
        for name, trainer in self.trainers.items():
            for key, array in trainer.state.state().items():
                known.append(f"jobs.{name}.{key}")
                if arrays[known[-1]].shape != array.shape:
                    raise ValueError(
                        f"{known[-1]} has shape {arrays[known[-1]].shape}, expected {array.shape}"
                    )
        if unknown := sorted(arrays.keys() - set(known)):
            raise ValueError(f"it holds {unknown[0]}, which this run does not have")
        self.step, self.seen = step, seen
        self.buffer.load(_below(arrays, "buffer"))
        for name, trainer in self.trainers.items():
            trainer.state.load(_below(arrays, f"jobs.{name}"))
            trainer.history.load(said["histories"][name])

    def _check_identity(self, before: Any) -> None:
        now = _as_json(self.identity)
        if isinstance(before, dict) and "weights" not in (before.get("data") or {}):
            now["data"].pop("weights", None)  # made before a digest of the model's weights was kept
        if before == now:
            return
        differences = list(_differences(before, now, ""))
        raise SAEError(
            f"The run in {self.folder.path if self.folder else '?'} was another one: {'; '.join(differences[:5])}."
            " Give the same settings and data to go on, or another folder to start anew (or remove this one)."
        )

    # -- before the first step ----------------------------------------------------------------

    def _prepare(self) -> None:
        sample = dict(zip(self.rows.names, self.buffer.peek(max(SAMPLE, self.batch_size)), strict=True))
        if not len(next(iter(sample.values()))):
            raise SAEError("There are no activations to train on. Give more texts, or exclude fewer tokens.")
        for name, rows in sample.items():
            checks.finite_rows(rows, name)
        folder = None if self.folder is None else self.folder.path
        self.trainers = {
            name: Trainer(
                name, job, self.rows.total, sample, self.backend, self.options.device,
                open_logs(self.options.log, folder, name) if self.leads else [],
            ) for name, job in self.jobs.items()
        }  # fmt: skip
        self.plan = next(iter(self.trainers.values())).plan
        self.steps = self.plan.steps
        self.seen = 0

    # -- steps --------------------------------------------------------------------------------

    def _train(self, stop: threading.Event) -> None:
        from tqdm.auto import tqdm

        shown = self.options.progress and self.leads
        bar = tqdm(
            total=self.plan.tokens, initial=self.seen, unit="tok", unit_scale=True, desc="Training SAE",
            disable=hidden(shown),
        )  # fmt: skip
        every = self.options.checkpoint_every or max(1, self.steps // _CHECKPOINTS)
        try:
            while self.step < self.steps:
                taken = self._one_step()
                if not taken:
                    break
                bar.update(taken)
                bar.set_postfix(self._shown(), refresh=False)
                if stop.is_set():
                    self.interrupted = self.step < self.steps
                    break
                if self.step % every == 0 and self.step < self.steps:
                    self._checkpoint()
        finally:
            bar.close()

    def _one_step(self) -> int:
        """Tokens of the next batch; 0 where the rows have come to an end."""
        batch = dict(zip(self.rows.names, self.buffer.take(self.plan.size(self.step)), strict=True))
        count = len(next(iter(batch.values())))
        if not count:
            return 0
        group = self.backend.group()
        share = {name: rows[group.rank :: group.size] for name, rows in batch.items()}
        self.seen += count
        for trainer in self.trainers.values():
            trainer.train(share, self.step, self.seen)
        self.step += 1
        return count

    def _shown(self) -> dict[str, str]:
        reports = [trainer.last for trainer in self.trainers.values() if trainer.last is not None]
        loss, l0 = (
            float(np.mean(numbers)) for numbers in zip(*((r.loss, r.l0) for r in reports), strict=True)
        )
        dead = np.mean([t.last.dead / t.plan.d_hidden for t in self.trainers.values() if t.last])
        return {"loss": f"{loss:.3f}", "EV": f"{1 - loss:.3f}", "L0": f"{l0:.1f}", "dead": f"{dead:.1%}"}

    def _checkpoint(self) -> None:
        if self.folder is None or not self.leads:
            return
        arrays = {f"buffer.{name}": array for name, array in self.buffer.state().items()}
        for name, trainer in self.trainers.items():
            arrays |= {f"jobs.{name}.{key}": array for key, array in trainer.state.state().items()}
        histories = {name: trainer.history.state() for name, trainer in self.trainers.items()}
        self.folder.write_checkpoint(
            arrays, {"identity": self.identity, "step": self.step, "seen": self.seen, "histories": histories}
        )
        self._write_history(finished=False)

    def _write_history(self, finished: bool, summaries: Mapping[str, str] | None = None) -> None:
        if self.folder is None or not self.leads:
            return
        self.folder.write_history(
            {
                "finished": finished,
                "step": self.step,
                "steps": self.steps,
                "tokens": self.seen,
                "identity": self.identity,
                "settings": {
                    name: trainer.plan.settings(trainer.job.config) for name, trainer in self.trainers.items()
                },
                **({"summaries": dict(summaries)} if summaries else {}),
                "rows": {name: trainer.history.rows for name, trainer in self.trainers.items()},
            }
        )

    # -- after the last one -------------------------------------------------------------------

    def _finish(self) -> dict[str, SAE]:
        saes = {}
        metadata = self.rows.facts()
        seen = Seen(self.step, self.seen, self.interrupted)
        for name, trainer in self.trainers.items():
            source = self.rows.names.index(trainer.job.source)
            sae = trainer.finish(partial(self._calibration_rows, source), metadata, seen)
            saes[name] = sae
            if trainer.job.save_path is not None and self.leads:
                sae.save(trainer.job.save_path)
        summaries = {name: sae.metadata["training"]["summary"] for name, sae in saes.items()}
        self._write_history(not self.interrupted, summaries)
        self._show(summaries.values())
        return saes

    def _show(self, lines: Iterable[str]) -> None:
        """The run's last lines, where its bar was shown."""
        silent = hidden(self.options.progress and self.leads)
        if silent is None:
            silent = not sys.stderr.isatty()
        for line in () if silent else lines:
            sys.stderr.write(line + "\n")

    def _calibration_rows(self, source: int) -> Iterator[np.ndarray]:
        """Rows to calibrate on: from the start of the data, or, when there is no time, those at hand."""
        if self.interrupted or self.rows.total <= len(self.buffer.held()[source]):
            yield self.buffer.held()[source]
            return
        given = 0
        for index in range(self.rows.blocks(0)):
            for piece in self.rows.block(0, index):
                yield piece[source]
                given += len(piece[source])
                if given >= CALIBRATION_TOKENS:
                    return


def _shared(configs: Sequence[SAETrainConfig]) -> SAETrainConfig:
    """What all SAEs of a run have in common: they see the same batches."""
    if not configs:
        raise InputError("There is no SAE to train: an empty dictionary was given.")
    for name in ("tokens", "epochs", "batch_size", "seed"):
        values = {getattr(config, name) for config in configs}
        if len(values) > 1:
            raise InputError(
                f"SAEs that train together see the same batches, but their configs differ in {name}: {values}."
            )
    return configs[0]


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that the first ctrl-C sets, so that a step is never cut in two; the second one interrupts."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(_number: int, _frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _as_json(value: Any) -> Any:
    """As it comes back from a JSON file."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _differences(before: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield f"{path} was {before!r} and is {now!r}"


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = prefix + "."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
