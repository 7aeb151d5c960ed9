"""Train the small story model that ships in `mlxterp/demo/model`.

text file → normalised stories → tokenizer → packed windows → Llama-type model → exported folder

The result opens with `mlx_lm.load(folder)` and `transformers.AutoModelForCausalLM`. One CPU core is
enough: 35 to 50 minutes in float32, far less with `--bf16` where the CPU has bfloat16 products. A
killed run continues from `--checkpoints`; the same command, text and machine give the same model.
Needs torch, transformers, tokenizers and safetensors; the library itself does not use this file.

    python tools/demo_model/train_model.py --text tinystories.txt \\
        --out mlxterp/demo/model --stories mlxterp/demo/stories.txt

On Linux, keeping freed memory saves a third of the time:

    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456
"""

from __future__ import annotations

import os

# Set before the libraries start: threads make runs differ, and one is fastest on a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import hashlib
import json
import math
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

END = "<|endoftext|>"
"""Separates stories in the text files; as a token it opens a text (BOS) and closes it (EOS)."""
END_ID = 0

VOCABULARY = 4096
CONTEXT = 256
BATCH = 12
HELD_OUT_SHARE = 0.05

MUON_LR, ADAMW_LR = 0.02, 4e-3
WEIGHT_DECAY = 0.1
WARM_UP_SHARE = 0.03


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)

    stories = read_stories(args.text)
    train, held_out = split(stories, args.seed)
    print(f"{len(train)} stories to train on, {len(held_out)} held out", flush=True)

    args.checkpoints.mkdir(parents=True, exist_ok=True)
    _refuse_other_run(args.checkpoints / "run.json", args)
    tokenizer = _tokenizer(args.checkpoints / "tokenizer.json", train)
    windows = PackedWindows([e.ids for e in tokenizer.encode_batch(train)], args.seed)
    print(
        f"{windows.tokens} training tokens, {windows.batches_per_epoch} batches per epoch",
        flush=True,
    )

    model = LlamaForCausalLM(_config())
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    kept = train_model(model, windows, lambda: held_out_loss(model, tokenizer, held_out, args.bf16), args)

    loss = held_out_loss(model, tokenizer, held_out)
    print(f"kept step {kept.step} after {kept.seconds / 60:.1f} minutes: held out {loss}", flush=True)
    export(model, tokenizer, args.out)
    card = _card(model, kept, kept.step / windows.batches_per_epoch, loss, len(train), len(held_out), args)
    _write(args.out / "MODEL_CARD.md", card.encode())
    if args.stories:
        _write(args.stories, f"\n{END}\n".join(held_out).encode() + b"\n")

    for number in range(args.samples):
        print(f"\n--- sample {number + 1}\n{sample(model, tokenizer, seed=number)}", flush=True)


# --- Text ---------------------------------------------------------------------------------------

# UTF-8 that was once read as Windows-1252, longest first; then what typographers add to ASCII.
_REPLACEMENTS = (
    ("\u00e2\u20ac\u0153", '"'),  # left double quote
    ("\u00e2\u20ac\u2122", "'"),  # right single quote
    ("\u00e2\u20ac\u02dc", "'"),  # left single quote
    ("\u00e2\u20ac\u00a6", "..."),  # ellipsis
    ("\u00e2\u20ac\u201c", "\u2013"),  # en dash
    ("\u00e2\u20ac\u201d", "\u2013"),  # em dash
    ("\u00e2\u20ac\u009d", '"'),  # right double quote
    ("\u00e2\u20ac", '"'),  # right double quote whose last byte has no Windows-1252 letter
    *((quote, '"') for quote in "\u201c\u201d\u201e\u00ab\u00bb"),
    *((quote, "'") for quote in "\u2018\u2019"),
    ("\u2026", "..."),
    ("\u00a0", " "),
)


def normalise(text: str) -> str:
    """ASCII quotes, dashes and dots, mojibake repaired, no stray spaces, one blank line at most."""
    for found, wanted in _REPLACEMENTS:
        text = text.replace(found, wanted)
    text = re.sub(r"\s*[\u2013\u2014]\s*", " - ", text)
    text = re.sub(r"[ \t\r]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def read_stories(path: Path) -> list[str]:
    """The file's stories, normalised, in its order; empty ones are left out."""
    stories = [normalise(story) for story in path.read_text(encoding="utf-8").split(END)]
    return [story for story in stories if story]


def split(stories: list[str], seed: int) -> tuple[list[str], list[str]]:
    """(training, held-out) stories: a random 5 % is held out, decided by the seed alone."""
    count = round(HELD_OUT_SHARE * len(stories))
    chosen = set(np.random.default_rng(seed).permutation(len(stories))[:count].tolist())
    train = [story for i, story in enumerate(stories) if i not in chosen]
    return train, [stories[i] for i in sorted(chosen)]


# --- Tokenizer ----------------------------------------------------------------------------------

# A contraction's ending, a word, one digit, punctuation (`!"` is one piece), line breaks, spaces.
_PIECES = r"'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\n+|\s+(?!\S)|\s+"


def train_tokenizer(stories: list[str]) -> Tokenizer:
    """A byte-level BPE that puts `<|endoftext|>` before every text it encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        stories,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, END_ID)]
    )
    return tokenizer


def _tokenizer(path: Path, stories: list[str]) -> Tokenizer:
    if not path.exists():
        _write(path, train_tokenizer(stories).to_str(pretty=False).encode())
    return Tokenizer.from_file(str(path))


# --- Training -----------------------------------------------------------------------------------


class PackedWindows:
    """Batches of `(BATCH, CONTEXT + 1)` ids cut from all stories laid end to end.

    Each epoch has its own story order, cut and window order, all from (seed, epoch): a batch
    depends on its number alone, so a resumed run sees what the unbroken one would have seen.
    """

    def __init__(self, stories: list[list[int]], seed: int):
        self._stories = [np.asarray(ids, dtype=np.int64) for ids in stories]
        self._seed = seed
        self._epoch, self._windows = -1, np.empty(0)
        self.tokens = sum(len(ids) for ids in self._stories)
        # One window less than fit, so that the cut can be moved.
        self.batches_per_epoch = ((self.tokens - 1) // CONTEXT - 1) // BATCH

    def batch(self, number: int) -> torch.Tensor:
        epoch, place = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._windows = epoch, self._cut(epoch)
        return torch.from_numpy(self._windows[place * BATCH : (place + 1) * BATCH])

    def _cut(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng([self._seed, epoch])
        stream = np.concatenate([self._stories[i] for i in random.permutation(len(self._stories))])
        stream = stream[random.integers(CONTEXT) :]
        starts = random.permutation((len(stream) - 1) // CONTEXT) * CONTEXT
        return stream[starts[:, None] + np.arange(CONTEXT + 1)]


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest orthogonal matrix (Jordan et al., 2024).

    `torch.optim.Muon` does the same in bfloat16, for which many CPUs have no fast product; this one
    stays in float32 and handles all matrices of a shape at once.
    """

    def __init__(self, matrices, lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for (rows, columns), matrices in by_shape.items():
                updates = _orthogonalise(
                    torch.stack([self._nesterov(p, group["momentum"]) for p in matrices])
                )
                for p, update in zip(matrices, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)
        return loss

    def _nesterov(self, p: torch.Tensor, momentum: float) -> torch.Tensor:
        assert p.grad is not None
        average = self.state[p].setdefault("momentum", torch.zeros_like(p))
        average.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(average, momentum)


def _orthogonalise(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """UVᵀ for each UΣVᵀ in `(n, rows, columns)`, roughly: singular values near 0.7 to 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


@dataclass(frozen=True)
class HeldOutLoss:
    """How well held-out stories are predicted, in nats."""

    per_token: float
    per_character: float

    def __str__(self) -> str:
        return f"{self.per_token:.4f} nats/token, {self.per_character:.4f} nats/character"


@dataclass(frozen=True)
class Kept:
    """Where in the run the kept weights were."""

    step: int
    seconds: float
    """Time spent until then, all resumed parts together."""


def train_model(model, windows: PackedWindows, evaluate: Callable[[], HeldOutLoss], args) -> Kept:
    """Train for `args.steps`; leave in `model` the weights with the lowest held-out loss."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    embeddings = [p for name, p in model.named_parameters() if "embed" in name]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizers = [
        Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(
            [
                {"params": embeddings, "weight_decay": WEIGHT_DECAY},
                {"params": norms, "weight_decay": 0.0},
            ],
            lr=ADAMW_LR,
            betas=(0.9, 0.95),
        ),
    ]
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    last, best = args.checkpoints / "last.pt", args.checkpoints / "best.pt"
    first, best_loss, seconds = 0, math.inf, 0.0
    if last.exists():
        state = torch.load(last, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        first, best_loss, seconds = state["step"], state["best_loss"], state["seconds"]
        print(f"resumed after step {first}", flush=True)

    model.train()
    began, recent = time.time() - seconds, []
    for step in range(first, args.steps):
        share = learning_rate_share(step, args.steps)
        for optimizer, lrs in zip(optimizers, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * share

        ids = windows.batch(step)
        loss = _token_losses(model, ids, args.bf16).mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        recent.append(loss.item())

        done = step + 1
        if done % 20 == 0 or done == args.steps:
            seconds = time.time() - began
            left = seconds / done * (args.steps - done)
            print(
                f"step {done}/{args.steps}  train {np.mean(recent[-20:]):.3f} nats/token  "
                f"{seconds / 60:.1f} min, {left / 60:.1f} min left",
                flush=True,
            )
        if done % args.evaluate_every == 0 or done == args.steps:
            measured = evaluate()
            print(f"step {done}/{args.steps}  held out {measured}", flush=True)
            if measured.per_token < best_loss:
                best_loss = measured.per_token
                _save(
                    best,
                    {"model": model.state_dict(), "step": done, "seconds": time.time() - began},
                )
        if done % 50 == 0 or done == args.steps:
            _save(
                last,
                {
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": done,
                    "best_loss": best_loss,
                    "seconds": time.time() - began,
                },
            )

    kept = torch.load(best, weights_only=True)
    model.load_state_dict(kept["model"])
    model.eval()
    return Kept(kept["step"], kept["seconds"])


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear warm-up, then a cosine that ends at 0."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@torch.no_grad()
def held_out_loss(model, tokenizer: Tokenizer, stories: list[str], bf16: bool = False) -> HeldOutLoss:
    """Loss over whole stories, each alone behind its BOS; its closing EOS counts as a token.

    Every token is predicted once. In a story longer than the context the window moves by half a
    context at a time, so that later tokens still see at least that much before them.
    """
    pieces = []  # (ids, how many predictions at the start another piece has counted already)
    for encoding in tokenizer.encode_batch(stories):
        ids = [*encoding.ids, END_ID]
        pieces.append((ids[: CONTEXT + 1], 0))
        for start in range(CONTEXT // 2, len(ids) - 1 - CONTEXT // 2, CONTEXT // 2):
            pieces.append((ids[start : start + CONTEXT + 1], CONTEXT // 2))
    pieces.sort(key=lambda piece: len(piece[0]))  # alike lengths together: little padding

    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for begin in range(0, len(pieces), BATCH):
        group = pieces[begin : begin + BATCH]
        width = max(len(ids) for ids, _ in group)
        padded = torch.tensor([ids + [END_ID] * (width - len(ids)) for ids, _ in group])
        losses = _token_losses(model, padded, bf16).view(len(group), width - 1)
        for row, (ids, counted) in zip(losses, group, strict=True):
            total += row[counted : len(ids) - 1].double().sum().item()
            count += len(ids) - 1 - counted
    model.train(was_training)
    return HeldOutLoss(total / count, total / sum(len(story) for story in stories))


def _token_losses(model, ids: torch.Tensor, bf16: bool) -> torch.Tensor:
    """Nats for each token after the first of every row, flat."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(ids[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def sample(model, tokenizer: Tokenizer, prompt: str = "", seed: int = 0) -> str:
    """One story at temperature 0.7 and top-p 0.95, up to the end token or the full context."""
    torch.manual_seed(seed)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    # top_k=0: transformers would otherwise keep only the 50 likeliest.
    written = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=0.7,
        top_p=0.95,
        top_k=0,
        max_length=CONTEXT,
        pad_token_id=END_ID,
    )
    return tokenizer.decode(written[0].tolist(), skip_special_tokens=True)


# --- Export -------------------------------------------------------------------------------------


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
    )


def export(model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder that mlx-lm and transformers open. Each file is replaced in one move."""
    config = model.config
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        # mlx-lm and transformers 4 read the first, transformers 5 the second.
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": END_ID,
        "eos_token_id": END_ID,
        "torch_dtype": "float32",
    }
    tokenizer_settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
    }
    generation = {
        "bos_token_id": END_ID,
        "eos_token_id": END_ID,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    # The output matrix is the embedding (tied), so it is not stored twice.
    weights = {
        name: weight.detach().float().contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"
    }
    for name, content in {
        "config.json": settings,
        "tokenizer_config.json": tokenizer_settings,
        "generation_config.json": generation,
    }.items():
        _write(folder / name, (json.dumps(content, indent=2) + "\n").encode())
    _write(folder / "tokenizer.json", tokenizer.to_str(pretty=False).encode())
    _write(folder / "model.safetensors", safetensors_bytes(weights, {"format": "pt"}))


_CARD = """\
# The demo model of mlxterp

A small Llama-type language model that writes short children's stories. It ships inside the package
so that every example, test and tutorial runs at once, offline and on any computer. It is a model to
look into, not one to use: it knows nothing but such stories.

| | |
|---|---|
| architecture | Llama: {layers} layers, d {width}, {heads} heads, inner {inner}, RoPE, tied |
| parameters | {parameters:,} (float32) |
| tokenizer | byte-level BPE, {vocabulary} tokens; `<|endoftext|>` (id 0) opens and closes a text |
| context | {context} tokens |
| held-out loss | {per_token:.4f} nats per token, {per_character:.4f} nats per character |
| training | {step} steps of {batch} x {context} tokens ({epochs:.1f} epochs), Muon and AdamW |
| time | {minutes:.0f} minutes on one CPU core |

Sample from it (temperature 0.7, top-p 0.95): greedy text soon repeats itself. Stories are
grammatical and have a beginning and an end; names and plots drift.

## Data

{stories:,} stories of TinyStories by Ronen Eldan and Yuanzhi Li (`roneneldan/TinyStories` on
Hugging Face), quotes and dashes normalised to ASCII. {train:,} were trained on; the other
{held_out} (5 %, drawn with seed {seed}) were held out and lie in `../stories.txt`, separated by a
line `<|endoftext|>`. The loss above is measured on those: every token of each story once, the
closing `<|endoftext|>` included, at most {context} tokens of context; per character it is the same
sum over the number of characters.

## Licence

The text, `../stories.txt` included, is under CDLA-Sharing-1.0, as TinyStories is. The weights are
under the MIT licence, with the project.

## Made by

```
{command}
```

The text file is stories separated by `<|endoftext|>`. Its SHA-256:
`{digest}`.
On another processor the last digits of the loss will differ.
"""


def _card(model, kept: Kept, epochs: float, loss: HeldOutLoss, train: int, held_out: int, args) -> str:
    config = model.config
    return _CARD.format(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        inner=config.intermediate_size,
        parameters=sum(p.numel() for p in model.parameters()),
        vocabulary=config.vocab_size,
        context=CONTEXT,
        batch=BATCH,
        per_token=loss.per_token,
        per_character=loss.per_character,
        step=kept.step,
        epochs=epochs,
        minutes=kept.seconds / 60,
        stories=train + held_out,
        train=train,
        held_out=held_out,
        seed=args.seed,
        command=_command(args),
        digest=_digest(args.text),
    )


def _command(args) -> str:
    """The command that repeats this run, from the project's root, without machine folders."""
    words = ["python", "tools/demo_model/train_model.py", "--text", args.text.name]
    words += ["--out", "mlxterp/demo/model", "--stories", "mlxterp/demo/stories.txt"]
    words += ["--steps", str(args.steps), "--seed", str(args.seed)]
    return shlex.join(words + ["--bf16"] * args.bf16)


# --- Files --------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.chmod(0o644)
    partial.replace(path)


def _save(path: Path, state: dict) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_other_run(path: Path, args) -> None:
    """Checkpoints belong to one text, seed and schedule; another run must not continue them."""
    run = {"text": _digest(args.text), "steps": args.steps, "seed": args.seed, "bf16": args.bf16}
    if not path.exists():
        _write(path, json.dumps(run).encode())
    elif (kept := json.loads(path.read_text())) != run:
        raise SystemExit(
            f"{path.parent} holds the checkpoints of another run ({kept}); this one is {run}. "
            "Name another folder with --checkpoints, or remove that one."
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--text", type=Path, required=True, help=f"stories separated by {END}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the exported model")
    parser.add_argument("--stories", type=Path, help="also write the held-out stories to this file")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("demo_model_checkpoints"),
        help="resumed if present",
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate-every", type=int, default=200, metavar="STEPS")
    parser.add_argument("--samples", type=int, default=2, help="stories to print at the end")
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="bfloat16 products: twice as fast where the CPU has them",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
