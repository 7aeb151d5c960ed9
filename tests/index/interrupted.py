"""A build in a process of its own, for tests that kill it: `python -m tests.index.interrupted FOLDER …`."""

from __future__ import annotations

import argparse
import os
import random
import signal

import mlxterp
from mlxterp.index import files
from mlxterp.variants import TopK
from tests.index.small import random_sae


def texts() -> list[str]:
    """Short stories, one of two shards among them."""
    model, _, stories = mlxterp.load_demo()
    short = [story for story in stories if len(model.tokenize(story)) <= 250]
    return [*short[:12], *short[12:30]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--backend")
    parser.add_argument("--kill-at", type=int, help="the number of the write that is killed halfway")
    options = parser.parse_args()
    model = mlxterp.load_demo(options.backend).model
    left = options.kill_at
    whole = files.write_atomically

    def write(path, parts):
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                parts = dying(list(parts))
        whole(path, parts)

    def dying(parts):
        yield from parts[: random.Random(options.kill_at).randint(0, len(parts))]
        os.kill(os.getpid(), signal.SIGKILL)

    for module in ("shard", "folder", "summary"):
        vars(getattr(mlxterp.index, module))["write_atomically"] = write
    sae = random_sae(TopK(8), model.d_model, backend=options.backend)
    model.build_index(sae, texts(), options.folder, shard_tokens=700, verbose=False)


if __name__ == "__main__":
    main()
