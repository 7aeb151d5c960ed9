"""Part "batches" of index.py: how fast model and encoder are by the tokens of a batch, and what tokenizing takes.

An index's build is tokenizing, then model and encoder in batches of at most 2,048 tokens. This says what another size
would gain, and what would be gained if texts were tokenized while the model runs. Which batch a token runs in decides
its last bits, so the size is a constant: one that is measured on each machine anew would make an index that goes on
after an interruption differ from one that was built at once.
"""

from __future__ import annotations

import time
from typing import Any

import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import interleaved

from mlxterp.activations.forward import collect
from mlxterp.data.corpus import Corpus
from mlxterp.features.search import encode_activations

SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
USED = 2048


def rows_of(
    model: mlxterp.InterpretableModel, sae: mlxterp.SAE, texts: list[str], rounds: int
) -> dict[str, Any]:
    """Rows of processor time on the first quarter of the texts."""
    texts = texts[: max(20, len(texts) // 4)]
    component = model.session.anatomy.component(str(sae.component))
    run = model.language_model
    start = time.process_time()
    corpus = Corpus.from_token_ids([np.asarray(run.tokenize(text), np.int32) for text in texts])
    tokenizing = time.process_time() - start

    def encoded(size: int) -> None:
        for part in collect(run, corpus, component, size, quiet=True):
            encode_activations(sae, part, component)

    jobs = {str(size): lambda size=size: encoded(size) for size in SIZES}
    times = interleaved(jobs, rounds, warm_up=1, clock=time.process_time)
    medians = {size: float(np.median(taken)) for size, taken in times.items()}
    rows = {
        f"tokens/s of model and encoder, batches of {size} tokens": round(len(corpus.tokens) / taken)
        for size, taken in medians.items()
    }
    return {**rows, "tokenizing / model and encoder": tokenizing / medians[str(USED)]}
