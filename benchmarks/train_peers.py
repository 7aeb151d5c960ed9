"""One SAE trained by a peer's own trainer on the synthetic task: quality, speed and memory, as JSON.

    pip install torch==2.13.0 sae-lens==6.54.12 eai-sparsify==1.3.3 scipy    (saelens, sparsify)
    pip install torch==2.13.0 dictionary-learning==0.1.0 scipy && pip uninstall torchvision    (dl)
    OMP_NUM_THREADS=1 python benchmarks/train_peers.py --data x0.npy --run saelens:topk --out topk.json

The second line needs an environment of its own: dictionary-learning asks for libraries the others cannot
be imported with. `--data` holds `ToyTask(seed=…).tokens(n)`, float32 (n, 128), made with the same `--seed`.

A run is `peer:architecture:key=value…`, for instance `sparsify:topk:opt=adam:lr=2e-3`; KEYS lists the keys.
What is not given keeps the peer's default. 1024 features, k 12, batches of 1024, one pass, one thread.
Time and memory are those of the training loop alone, which reads the data in an order drawn from the seed;
the pages of the data are mapped before and count as no one's memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from common import machine
from toy import BATCH, D_HIDDEN, TASK, K, mapped, measured, task_at

KEYS = {
    "saelens": {"lr": "lr", "dead": "dead_feature_window", "dinit": "decoder_init_norm"},
    "sparsify": {
        "lr": "lr",
        "opt": "optimizer",
        "warmup": "lr_warmup_steps",
        "auxk": "auxk_alpha",
        "dead": "dead_feature_threshold",
    },
    "dl": {
        "lr": "lr",
        "warmup": "warmup_steps",
        "decay": "decay_start",
        "auxk": "auxk_alpha",
        "theta": "threshold_start_step",
        "dead": "dead_feature_threshold",
    },
}
"""Of a run, by peer: the short name of a setting and the peer's own."""
ARCHITECTURES = {
    "saelens": ("topk", "batchtopk", "matryoshka"),
    "sparsify": ("topk",),
    "dl": ("topk", "batchtopk", "matryoshka"),
}
PREFIXES = [D_HIDDEN // 16, D_HIDDEN // 4, D_HIDDEN]
"""Of a Matryoshka SAE: neither library that trains one has a default."""


@dataclass(frozen=True, slots=True)
class Run:
    """What to train."""

    peer: str
    architecture: str
    settings: dict[str, Any]
    """By the peer's own names."""

    @classmethod
    def parsed(cls, text: str) -> Run:
        peer, _, rest = text.partition(":")
        architecture, *pairs = rest.split(":")
        if architecture not in ARCHITECTURES.get(peer, ()):
            raise SystemExit(f"{text!r} is no run: say peer:architecture:key=value…, of {ARCHITECTURES}")
        settings = {}
        for key, _, value in (pair.partition("=") for pair in pairs):
            if key not in KEYS[peer]:
                raise SystemExit(f"{peer} has no key {key!r} here. It has: {', '.join(KEYS[peer])}")
            settings[KEYS[peer][key]] = _number(value)
        return cls(peer, architecture, settings)


@dataclass(frozen=True, eq=False, slots=True)
class Data:
    """Activations and the one order in which every peer sees them."""

    x: np.ndarray
    """float32, (n, d_model), mapped from a file."""
    order: np.ndarray
    """int64, (steps, batch): rows of x."""
    d_hidden: int
    k: int

    @classmethod
    def mapped(cls, path: str, seed: int, d_hidden: int, k: int, batch: int) -> Data:
        x = mapped(path)
        order = np.random.default_rng(seed).permutation(len(x))[: len(x) // batch * batch]
        return cls(x, np.sort(order.reshape(-1, batch), axis=1), d_hidden, k)

    def rows(self, ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.x[ids]))

    def batches(self) -> Iterator[torch.Tensor]:
        return (self.rows(ids) for ids in self.order)


@dataclass(frozen=True, eq=False, slots=True)
class Exported:
    """An SAE as its library uses it after training."""

    encode: Callable[[torch.Tensor], torch.Tensor]
    """(n, d_model) to features, (n, d_hidden)."""
    decode: Callable[[torch.Tensor], torch.Tensor]
    W_dec: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Trainee:
    """An SAE about to be trained by its own library."""

    settings: dict[str, Any]
    """As the library reports them."""
    train: Callable[[], Any]
    export: Callable[[], Exported]
    save: Callable[[str], Any] = lambda _folder: None
    """Writes the SAE in the library's own format."""


def saelens(run: Run, data: Data, seed: int) -> Trainee:
    """SAELens: `SAETrainer.fit`, then the SAE that `save_inference_model` leaves."""
    import sae_lens  # type: ignore[import-not-found]
    from sae_lens.config import SAETrainerConfig  # type: ignore[import-not-found]
    from sae_lens.training.sae_trainer import SAETrainer  # type: ignore[import-not-found]

    name = {"topk": "TopK", "batchtopk": "BatchTopK", "matryoshka": "MatryoshkaBatchTopK"}[run.architecture]
    own = {key: run.settings[key] for key in ("decoder_init_norm",) if key in run.settings}
    if run.architecture == "matryoshka":
        own["matryoshka_widths"] = [data.d_hidden * width // D_HIDDEN for width in PREFIXES]
    torch.manual_seed(seed)
    sae_config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
        d_in=data.x.shape[1], d_sae=data.d_hidden, k=data.k, **own
    )
    sae = getattr(sae_lens, f"{name}TrainingSAE")(sae_config)
    config = SAETrainerConfig(
        total_training_samples=data.order.size,
        train_batch_size_samples=data.order.shape[1],
        lr_end=0.0,  # wanted, though the rate stays constant
        **{key: value for key, value in run.settings.items() if key not in own},
    )
    trainer = SAETrainer(config, sae, data_provider=data.batches())

    def export() -> Exported:
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            final = sae_lens.SAE.load_from_disk(folder)
        return Exported(final.encode, final.decode, final.W_dec)

    return Trainee(sae_config.to_dict() | asdict(config), trainer.fit, export, sae.save_inference_model)


class OneSite(torch.nn.Module):
    """Enough of a language model for sparsify's trainer to make its SAE and optimiser."""

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model
        self.device = torch.device("cpu")
        self.dummy_inputs = {"input_ids": torch.zeros((1, 1), dtype=torch.long)}
        self.site = torch.nn.Identity()

    @property
    def base_model(self) -> OneSite:
        return self

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.site(torch.zeros((*input_ids.shape, self.d_model)))


def sparsify(run: Run, data: Data, seed: int) -> Trainee:
    """sparsify: the SAE and the optimiser that its `Trainer` makes, in the steps of its `fit`.

    `fit` itself wants a language model and sequences. With a look-up table for a model it gives the same SAE
    (checked at seed 0) and takes about a tenth longer, which is not held against it here.
    """
    from sparsify import SparseCoderConfig, TrainConfig, Trainer  # type: ignore[import-not-found]

    sae_config = SparseCoderConfig(num_latents=data.d_hidden, k=data.k)
    config = TrainConfig(sae_config, batch_size=1, init_seeds=[seed], hookpoints=["site"], **run.settings)
    model: Any = OneSite(data.x.shape[1])
    dataset: Any = data.order  # whose length is the number of steps
    trainer: Any = Trainer(config, dataset, model)
    settings = asdict(config) | {"lr": trainer.optimizers[0].param_groups[0]["lr"]}
    if trainer.lr_schedulers:
        settings["lr"] = trainer.lr_schedulers[0].base_lrs[0]

    def train() -> None:
        for step, batch in enumerate(data.batches()):
            sparsify_step(trainer, batch, first=step == 0)

    def export() -> Exported:
        sae = trainer.saes["site"]
        if config.optimizer == "signum":
            trainer.optimizers[0].eval()  # schedule-free: the averaged weights, as `save` leaves them

        def encode(x: torch.Tensor) -> torch.Tensor:
            values, ids, pre = sae.encode(x)
            return torch.zeros_like(pre).scatter(1, ids, values)

        return Exported(encode, lambda f: f @ sae.W_dec + sae.b_dec, sae.W_dec)

    return Trainee(settings, train, export)


def sparsify_step(trainer: Any, batch: torch.Tensor, first: bool) -> None:
    """What sparsify's `Trainer.fit` does with one batch (loss "fvu", no accumulation)."""
    sae, since, config = trainer.saes["site"], trainer.num_tokens_since_fired["site"], trainer.cfg
    if first:
        sae.b_dec.data = batch.mean(0)
    sae.set_decoder_norm_to_unit_norm()
    dead = since > config.dead_feature_threshold if config.auxk_alpha > 0 else None
    out = sae(batch, dead_mask=dead)
    (out.fvu + config.auxk_alpha * out.auxk_loss).backward()
    sae.remove_gradient_parallel_to_decoder_directions()
    for optimizer in trainer.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    for scheduler in trainer.lr_schedulers:
        scheduler.step()
    since += len(batch)
    since[out.latent_indices.flatten()] = 0


def dl(run: Run, data: Data, seed: int) -> Trainee:
    """dictionary_learning: a trainer's `update` for every batch, then its dictionary."""
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k  # type: ignore[import-not-found]

    trainers = {
        "topk": top_k.TopKTrainer,
        "batchtopk": batch_top_k.BatchTopKTrainer,
        "matryoshka": matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
    }
    settings = dl_settings(run, len(data.order))
    dead = settings.pop("dead_feature_threshold", None)
    shape = {"activation_dim": data.x.shape[1], "dict_size": data.d_hidden, "k": data.k}
    trainer = trainers[run.architecture](layer=0, lm_name="toy", seed=seed, device="cpu", **shape, **settings)
    if dead is not None:
        trainer.dead_feature_threshold = dead  # no argument of theirs

    def train() -> None:
        for step, batch in enumerate(data.batches()):
            trainer.update(step, batch)

    def export() -> Exported:
        ae = trainer.ae
        W_dec = ae.W_dec if run.architecture == "matryoshka" else ae.decoder.weight.T
        return Exported(ae.encode, ae.decode, W_dec)

    return Trainee(trainer.config | {"dead_feature_threshold": trainer.dead_feature_threshold}, train, export)


def dl_settings(run: Run, steps: int) -> dict[str, Any]:
    """The run's settings and those without which the trainers cannot do a run of this length.

    Warm-up and threshold take 1000 steps to start by default: in a shorter run a tenth and a fifth of the
    steps. The rate falls over the last fifth, as in the library's demo.
    """
    settings: dict[str, Any] = {
        "steps": steps,
        "warmup_steps": min(1000, steps // 10),
        "decay_start": steps * 4 // 5,
        "threshold_start_step": min(1000, steps // 5),
    }
    if run.architecture == "matryoshka":
        settings["group_fractions"] = [(end - start) / D_HIDDEN for start, end in pairwise([0, *PREFIXES])]
    return settings | run.settings


def scores(task: ModuleType, seed: int, sae: Exported) -> dict[str, float]:
    """`evaluate` of the task, given what works on NumPy arrays."""

    def on_numpy(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda array: function(torch.from_numpy(array)).numpy()

    with torch.no_grad():
        W_dec = sae.W_dec.detach().numpy()
        return task.evaluate(task.ToyTask(seed=seed), on_numpy(sae.encode), on_numpy(sae.decode), W_dec)


def _number(text: str) -> Any:
    """A float, an int where it is whole, or the text itself."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="activations, .npy")
    parser.add_argument("--run", required=True, help="peer:architecture:key=value…")
    parser.add_argument("--seed", type=int, default=0, help="of the task and of the trainer")
    parser.add_argument("--out", required=True, help="where to write the JSON")
    parser.add_argument("--task", type=Path, default=TASK, help="toy_task.py")
    parser.add_argument("--d-hidden", type=int, default=D_HIDDEN)
    parser.add_argument("--k", type=int, default=K)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--save", help="a folder for the SAE, instead of figures on the task (saelens)")
    args = parser.parse_args()
    run = Run.parsed(args.run)
    torch.set_num_threads(1)
    data = Data.mapped(args.data, args.seed, args.d_hidden, args.k, args.batch)
    with contextlib.redirect_stdout(sys.stderr):  # what the peers have to say
        trainee = {"saelens": saelens, "sparsify": sparsify, "dl": dl}[run.peer](run, data, args.seed)
        took = measured(trainee.train, data.order.size)
        if args.save:
            quality = {"saved": trainee.save(args.save)}
        else:
            quality = scores(task_at(args.task), args.seed, trainee.export())
    package = {"saelens": "sae-lens", "sparsify": "eai-sparsify", "dl": "dictionary-learning"}[run.peer]
    content = {
        "run": args.run,
        "peer": f"{package} {metadata.version(package)}",
        "seed": args.seed,
        "tokens": data.order.size,
        **took,
        **quality,
        "settings": trainee.settings,
        "machine": machine(),
    }
    Path(args.out).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    shown = {key: round(value, 4) for key, value in content.items() if isinstance(value, float)}
    sys.stdout.write(f"{args.run}  {json.dumps(shown)}\n")


if __name__ == "__main__":
    main()
