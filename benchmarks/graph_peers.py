"""Attribution graphs of circuit-tracer, in an environment of its own: what they cost, and what our tests compare with.

    pip install torch==2.13.0 && pip install circuit-tracer==0.5.0
    PYTHON benchmarks/graph_peers.py cost MODEL given.npz    (benchmarks/graph.py runs this beside ours)
    PYTHON benchmarks/graph_peers.py fixture ../shared/data/models/tinystories_instruct_3m_gpt2 \\
        tests/circuits/circuit_tracer.npz

MODEL is the folder of a GPT-2. `cost` prints a line of JSON for each line of its input, which says how many features
and rows of a batch are wanted. The fixture holds transcoders, the graph that circuit-tracer makes of them, and what its
functions answer on random graphs. One thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import numpy as np
import torch

PROMPT = "Lily lost her red ball. She was very"
FEATURES = 48
ACTIVE = 0.09
"""Share of a feature's tokens on which it is active, in the fixture."""
THRESHOLDS = (0.0, 0.3, 0.8, 0.98, 1.0)
Weights = Mapping[str, np.ndarray]


# -- the model ------------------------------------------------------------------------------------


def without_transcoders(folder: str) -> Any:
    """A GPT-2 as circuit-tracer's model; `from_pretrained` takes only names that TransformerLens knows."""
    from circuit_tracer.replacement_model.replacement_model_transformerlens import (  # type: ignore[import-not-found]
        TransformerLensReplacementModel,
    )
    from transformer_lens import HookedTransformerConfig  # type: ignore[import-not-found]
    from transformer_lens.pretrained.weight_conversions import (  # type: ignore[import-not-found]
        convert_gpt2_weights,
    )
    from transformers import AutoTokenizer

    theirs = plain_model(folder)
    own: Any = theirs.config
    config = HookedTransformerConfig(
        n_layers=own.n_layer, d_model=own.n_embd, n_ctx=own.n_positions, d_head=own.n_embd // own.n_head,
        n_heads=own.n_head, d_mlp=own.n_inner or 4 * own.n_embd, d_vocab=own.vocab_size,
        act_fn=own.activation_function, normalization_type="LN", eps=own.layer_norm_epsilon, device="cpu",
        model_name="gpt2", original_architecture="GPT2LMHeadModel",
    )  # fmt: skip
    model = TransformerLensReplacementModel(config)
    model.load_and_process_state_dict(
        convert_gpt2_weights(theirs, config), fold_ln=False, center_writing_weights=False, center_unembed=False
    )  # fmt: skip
    model.tokenizer = AutoTokenizer.from_pretrained(folder)
    return model


def replacement_model(folder: str, weights: Weights) -> Any:
    """The same with JumpReLU transcoders."""
    from circuit_tracer.transcoder.activation_functions import JumpReLU  # type: ignore[import-not-found]
    from circuit_tracer.transcoder.single_layer_transcoder import (  # type: ignore[import-not-found]
        SingleLayerTranscoder,
        TranscoderSet,
    )

    model = without_transcoders(folder)
    made = {}
    for layer in range(model.cfg.n_layers):
        given = {name: torch.tensor(value) for name, value in of_layer(weights, layer).items()}
        one = SingleLayerTranscoder(
            model.cfg.d_model, len(given["b_enc"]), JumpReLU(given["threshold"]), layer, dtype=torch.float32
        )
        one.W_enc.data = given["W_enc"].T.contiguous()
        one.b_enc.data, one.W_dec.data, one.b_dec.data = given["b_enc"], given["W_dec"], given["b_dec"]
        made[layer] = one
    model._configure_replacement_model(TranscoderSet(made, "mlp.hook_in", "hook_mlp_out", scan="random"))
    return model


def plain_model(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def of_layer(weights: Weights, layer: int) -> dict[str, np.ndarray]:
    """float32: the transcoder of a layer."""
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    return {name: weights[f"{name}_{layer}"].astype(np.float32) for name in names}


def graph_of(model: Any, ids: list[int], **options: Any) -> Any:
    from circuit_tracer import attribute  # type: ignore[import-not-found]

    return attribute(torch.tensor(ids), model, max_n_logits=10, desired_logit_prob=0.95, **options)


# -- what it costs --------------------------------------------------------------------------------


def cost(folder: str, given: Path) -> None:
    """Answers each line of the input, {"features": …, "batch": …}, with seconds, rows and memory."""
    from common import peak_memory

    arrays = dict(np.load(given))
    model, ids = replacement_model(folder, arrays), arrays["ids"].tolist()
    graph_of(model, ids, batch_size=64, max_feature_nodes=64)  # everything is imported and in place
    sys.stdout.write(json.dumps({"version": metadata.version("circuit-tracer")}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        options = {"batch_size": asked["batch"], "max_feature_nodes": asked["features"]}
        found: dict[str, Any] = {}
        if asked.get("memory"):
            found["mib"] = peak_memory(lambda chosen=options: graph_of(model, ids, **chosen))
        else:
            clock, processor = time.perf_counter(), time.process_time()
            graph = graph_of(model, ids, **options)
            found = {"seconds": time.process_time() - processor, "clock": time.perf_counter() - clock}
            found["rows"] = len(graph.selected_features) + len(graph.logit_targets)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


# -- what tests compare with ----------------------------------------------------------------------


def fixture(folder: str, path: Path) -> None:
    """Writes transcoders, their graph, and random graphs with what is kept of them."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.eos_token_id, *tokenizer(PROMPT)["input_ids"]]
    weights = random_transcoders(plain_model(folder), ids)
    graph = graph_of(replacement_model(folder, weights), ids, batch_size=64)
    square, logits = graph.adjacency_matrix.numpy(), len(graph.logit_targets)
    found = {
        **weights, "ids": np.array(ids), "active": graph.active_features.numpy().astype(np.int32),
        "activations": graph.activation_values.detach().numpy(),
        "logit_ids": graph.logit_token_ids.numpy(), "probabilities": graph.logit_probabilities.detach().numpy(),
        "matrix": rectangle(square, len(graph.selected_features), logits), **answers(graph, [(0.8, 0.98)], "real"),
    }  # fmt: skip
    torch.set_default_dtype(
        torch.float64
    )  # in float32 rounding decides which of small scores a threshold of 1 keeps
    for name, one in random_graphs():
        pairs = [(node, edge) for node in THRESHOLDS for edge in THRESHOLDS]
        n, k = len(one.selected_features), len(one.logit_targets)
        found |= answers(one, pairs, name)
        found[f"{name}_matrix"] = rectangle(one.adjacency_matrix.numpy(), n, k).astype(np.float32)
        found[f"{name}_weights"] = one.logit_probabilities.numpy()
        found[f"{name}_shape"] = np.array(
            [n, one.cfg.n_layers * len(one.input_tokens), len(one.input_tokens), k]
        )
    np.savez_compressed(path, **found)
    sys.stdout.write(f"{path}: {path.stat().st_size} bytes, {square.shape[0]} nodes, {logits} logits\n")


def random_transcoders(model: Any, ids: list[int]) -> dict[str, np.ndarray]:
    """JumpReLU, each feature active on about 9 % of the tokens; exact in half precision where they are large."""
    read: list[np.ndarray] = []
    hooks = [
        block.mlp.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0].detach().numpy()))
        for block in model.transformer.h
    ]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    draw, found = np.random.default_rng(0), {}
    for layer, x in enumerate(read):
        width = x.shape[1]
        encoder = (draw.normal(size=(width, FEATURES)) / np.sqrt(width)).astype(np.float16)
        z = x @ encoder.astype(np.float32)
        threshold = 0.1 * z.std() * np.abs(draw.normal(size=FEATURES))
        found |= {
            f"W_enc_{layer}": encoder, f"b_enc_{layer}": -np.quantile(z, 1 - ACTIVE, axis=0).astype(np.float32),
            f"W_dec_{layer}": (draw.normal(size=(FEATURES, width)) / 4).astype(np.float16),
            f"b_dec_{layer}": (draw.normal(size=width) / 20).astype(np.float32),
            f"threshold_{layer}": threshold.astype(np.float32),
        }  # fmt: skip
    return found


def rectangle(square: np.ndarray, features: int, logits: int) -> np.ndarray:
    """The rows of features and logits, the columns of all but logits."""
    return np.concatenate([square[:features], square[-logits:]])[:, :-logits]


def answers(graph: Any, pairs: list[tuple[float, float]], name: str) -> dict[str, np.ndarray]:
    """What circuit-tracer's functions say of a graph, at each pair of thresholds."""
    from circuit_tracer.graph import compute_graph_scores, prune_graph  # type: ignore[import-not-found]

    n, k = len(graph.selected_features), len(graph.logit_targets)
    found = [prune_graph(graph, *pair) for pair in pairs]
    edges = [rectangle(one.edge_mask.numpy(), n, k) for one in found]
    return {
        f"{name}_nodes": np.packbits(np.stack([one.node_mask.numpy() for one in found]), axis=1),
        f"{name}_edges": np.packbits(np.stack(edges).reshape(len(pairs), -1), axis=1),
        f"{name}_cumulative": found[0].cumulative_scores.detach().numpy(),
        f"{name}_scores": np.array(compute_graph_scores(graph)),
        f"{name}_thresholds": np.array(pairs),
    }


def random_graphs() -> Iterator[tuple[str, Any]]:
    """Sparse, without circles: of all sizes, with many ties, without features, of one token, with nodes of no edge."""
    sizes = [(20, 2, 3, 3), (60, 3, 4, 2), (1, 1, 1, 1), (0, 2, 2, 2), (12, 2, 1, 1)]
    for number, size in enumerate(sizes):
        for tied in (True, False):
            draw = np.random.default_rng(number)
            yield f"random{number}_{'tied' if tied else 'free'}", random_graph(draw, *size, tied)


def random_graph(
    draw: np.random.Generator, features: int, layers: int, tokens: int, logits: int, tied: bool
) -> Any:
    """What circuit-tracer's functions read of a graph; ties are exact: all shares are powers of two."""
    sources = features + (layers + 1) * tokens
    square = np.zeros((sources + logits, sources + logits), np.float32)
    for row in [*range(features), *range(sources, sources + logits)]:
        possible = np.concatenate([np.arange(min(row, features)), np.arange(features, sources)])
        if row < features and draw.random() < 0.15:
            continue
        most = int(np.log2(min(8, len(possible))))
        chosen = draw.choice(possible, 2 ** int(draw.integers(0, most + 1)), replace=False)
        weights = draw.choice([-2.0, 2.0], len(chosen)) if tied else draw.normal(size=len(chosen))
        square[row, chosen] = weights
    probabilities = 0.5 ** np.arange(1, logits + 1) if tied else draw.dirichlet(np.ones(logits + 1))[:logits]
    return SimpleNamespace(
        adjacency_matrix=torch.tensor(square.astype(np.float64)), input_tokens=torch.zeros(tokens),
        logit_targets=[None] * logits,
        selected_features=torch.arange(features), cfg=SimpleNamespace(n_layers=layers),
        logit_probabilities=torch.tensor(probabilities),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cost", "fixture"))
    parser.add_argument("model", help="a folder")
    parser.add_argument("file", type=Path, help="what is given, or the fixture to write")
    args = parser.parse_args()
    (cost if args.what == "cost" else fixture)(args.model, args.file)


if __name__ == "__main__":
    main()
