"""Attribution graphs: which features, errors and tokens make the features and the predictions of one prompt.

replacement.py (the prompt in the frozen pass) → attribution.py (rows of edges, the law) → graph.py (the result)
transcoders.py, targets.py and places.py read what is asked; influence.py ranks and prunes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, Session, session_of
from ..backends.host.memory import free_bytes
from ..core import checks
from ..core.frozen import ReadAt
from ..core.options import names_options
from ..core.progress import hidden
from ..core.tokens import several, to_batch
from ..data.text import pieces_of
from ..errors import InputError, warn
from ..tracing.passes import check_length
from .effects import Live
from .graph import AttributionGraph
from .influence import shares_of
from .law import Law
from .nodes import embedding_node, error_node, feature_node, output_node
from .prefixes import Prefixes
from .replacement import Replacement, replacement_of
from .targets import Output, Target, needs_final, targets_of
from .transcoders import missing_layers, transcoders_of
from .unrolled import unrolled

Conventions = Literal["exact", "circuit-tracer"]
_TOKENS = 1024
"""Tokens of one batch of rows, about."""
_GRADIENTS = 512 << 20
"""Bytes that the gradients of one batch take, at most."""
_VOCABULARY = 1 << 26
"""Logits of one batch, at most."""
_UPDATE = 4
"""Batches of features after which the rest is ranked anew, where not all are wanted."""


@names_options
def attribution_graph(
    model: Model, prompt: Any, transcoders: Any, *, targets: Any = None, max_logits: int = 10,
    logit_prob: float = 0.95, max_features: int | None = None, batch_size: int | None = None,
    conventions: Conventions = "exact", verbose: bool = True,
) -> AttributionGraph:  # fmt: skip
    """How features of transcoders, what they miss, and tokens add up to a prediction (Ameisen et al. 2025).

    The pass of this prompt is frozen: attention patterns, denominators of norms and gates are constants, so every
    edge is exact, and a feature's activation is the sum of its incoming edges and of its bias. **The law is measured
    for each graph** on all of its rows: one that breaks it raises. Works on any architecture that obeys it; the model
    itself is not changed. A graph explains contributions at these scales; it does not predict what steering does.

    A layer without a transcoder has one error node for its MLP's whole output at each position; a warning names it.

    In a model that runs its layers in loops a graph counts the layers of the pass: layer 1 of 4 is layer 1 in the first
    loop and layer 5 in the second, where the same transcoder stands again. One that names a call
    ("layers.1.mlp.input#1") stands in that loop only.

    Args:
        prompt: One text, or its token ids.
        transcoders: An `SAECollection`, {layer: transcoder}, a list, or a folder, release or repository of the hub
            ("owner/name", "owner/name@revision", "hf://owner/name/folder") of them; at most one for each layer. ReLU,
            JumpReLU, TopK and BatchTopK, with or without a skip connection. Or one `CrossLayerTranscoder`, or where it
            lies.
        targets: What is explained, at the last position: token ids, texts of one token, `mlxterp.logit_difference(…)`,
            one or several; or {name: one of these, or a direction (d_model,) of what the final norm puts out}. A
            token's logit is read less the mean of all logits, before a final soft cap. None takes the likeliest tokens.
        max_logits, logit_prob: So many of the likeliest at most, and no more than together reach this probability.
        max_features: Only the features with the most influence get rows and columns; None takes all that are active.
            What the others add to each target is in `graph.omitted`.
        batch_size: Rows that are computed together; None goes by the prompt's length and the memory that is free.
        conventions: "exact", or "circuit-tracer" as that library does it: a special token is put in front where there
            is none; no features and errors at the first position; tokens without learned positions.
        verbose: Show a bar where the output is a terminal.

    Raises:
        InputError: The prompt is no single text, an argument cannot be, something acts on the model, no feature is
            active, or the graph needs more memory than is free.
        SAEError: Transcoders that do not fit.
        ComponentError: The model lacks what a transcoder names, or runs layers more than once, but not in loops.
        CircuitError: The pass is not affine in this architecture.

    Examples:
        >>> jobs = {
        ...     str(n): (f"layers.{n}.mlp.input", mlxterp.SAETrainConfig(
        ...         d_hidden=64, k=8, tokens=1000, batch_size=500, target=f"layers.{n}.mlp_out"))
        ...     for n in range(4)
        ... }
        >>> trained = model.train_saes(jobs, texts[:20], verbose=False)  # far too few tokens: train longer
        >>> graph = model.attribution_graph("Lily lost her red", trained.values(), targets=" ball", verbose=False)
        >>> graph.outputs[0].token, graph.law < 1e-4
        (' ball', True)
    """
    session = session_of(model)
    session.refresh()
    anatomy, conventions = (
        untouched(session),
        checks.choice(conventions, "conventions", ("exact", "circuit-tracer")),
    )
    most, size = (
        checks.count_or_none(max_features, "max_features"),
        checks.count_or_none(batch_size, "batch_size"),
    )
    theirs = conventions == "circuit-tracer"
    ids = prompt_of(session, prompt, theirs)
    order = unrolled(anatomy)
    placed = transcoders_of(anatomy, order, transcoders, session.name)
    _tell_missing(missing_layers(anatomy, order, placed))
    made = replacement_of(
        anatomy,
        ids,
        order,
        placed,
        final=needs_final(targets),
        dropped=_dropped(session, theirs),
        token_vectors=theirs,
    )
    base = made.frozen.base
    found = targets_of(
        Output(base.logits[0], len(ids) - 1, anatomy.model.d_model, session.tokenizer, ids), targets, max_logits,
        logit_prob,
    )  # fmt: skip
    if not len(made.features):
        raise InputError(
            "No feature of these transcoders is active on this prompt"
            + (" (features at the first position are not counted)" if theirs else "")
            + ". Look at graph-free figures first: model.evaluate_sae(transcoder, texts)."
        )
    rows = Rows(anatomy, made, found, most, size)
    return _graph(session, rows.compute(verbose), ids, conventions)


# -- what is asked --------------------------------------------------------------------------------


def untouched(session: Session) -> Anatomy:
    """The model as it is.

    Raises:
        InputError: Something acts on it, which no graph would show.
    """
    acting = session.anatomy.model.described
    if acting:
        raise InputError(
            f"{acting[0]} acts on this model, which a pass that holds something leaves out. Detach it or leave the"
            " block first."
        )
    return session.plain


def prompt_of(session: Session, prompt: Any, theirs: bool = False) -> list[int]:
    """Token ids of one prompt.

    Args:
        theirs: Whether a special token is put in front where there is none.

    Raises:
        InputError: It is empty, several, or longer than the model's positions.
    """
    if several(prompt) is not None and len(several(prompt) or ()) > 1:
        raise InputError("A graph is of one prompt; several were given. Make one graph for each.")
    model = session.plain.model
    batch = to_batch(prompt, session.tokenize, model.vocab_size)
    ids = batch.ids[0, : int(batch.lengths[0])].tolist()
    special = {int(i) for i in getattr(session.tokenizer, "all_special_ids", None) or ()}
    if special and ids[0] not in special:
        bos = _special(session.tokenizer)
        if theirs and bos is not None:
            ids = [bos, *ids]
        elif not theirs and getattr(session.tokenizer, "bos_token_id", None) is not None:
            warn(
                "This prompt begins with no special token, and is run so: its first token then takes what such a token"
                " takes of attention. conventions='circuit-tracer' puts one in front."
            )
    check_length(model, len(ids))
    return ids


def _special(tokenizer: Any) -> int | None:
    """The token that circuit-tracer puts in front: of the beginning, else of padding, else of the end."""
    found = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "pad", "eos"))
    return next((int(token) for token in found if token is not None), None)


def _dropped(session: Session, theirs: bool) -> int:
    """Positions whose features and errors are not counted: as circuit-tracer does it, four of chats of Gemma 3."""
    if not theirs:
        return 0
    chats = session.plain.model.model_type.startswith("gemma3")
    return 4 if chats and re.search(r"-it(-|$)", str(session.name or "")) else 1


def _tell_missing(missing: Sequence[int]) -> None:
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        warn(
            f"No transcoder predicts the MLP of layer{'s' * (len(missing) > 1)} {shown}: what it puts out is one error"
            " node at each position."
        )


# -- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Computed:
    """Rows of a graph: of features, then of targets."""

    made: Replacement
    targets: Sequence[Target]
    chosen: np.ndarray
    """int64: rows of `made.features` that are in the graph, ascending."""
    matrix: np.ndarray
    """float32, (chosen + targets, chosen + errors + embeddings)."""
    values: np.ndarray
    """float32, (chosen + targets,)."""
    omitted: np.ndarray
    """float32, (chosen + targets,): what the features add that were not chosen."""
    law: float


class Rows:
    """Computes the rows of a graph, in batches.

    Args:
        most: Features that get rows; None for all.
        size: Rows of a batch; None chooses.

    Raises:
        InputError: They need more memory than is free.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        made: Replacement,
        targets: Sequence[Target],
        most: int | None,
        size: int | None,
    ):
        self._anatomy, self._made, self._targets = anatomy, made, list(targets)
        self._columns = made.columns()
        self._law = Law(made.frozen, anatomy.model.model_type)
        self._vectors, self._width = sum(len(one.positions) for one in self._columns), made.sources
        self._n = len(made.features)
        self._wanted = self._n if most is None else min(most, self._n)
        self._check_memory()
        rows = self._n if self._wanted == self._n else 0  # else they come by their influence, at any position
        self._passes = Prefixes(made.frozen, [*self._columns, *self._law.columns], rows)
        self._asked, self._size = size, size or self._best_size(made.positions)

    def _check_memory(self) -> None:
        """Two matrices are held at once where not all features are wanted."""
        rows = self._wanted + len(self._targets)
        copies = 1 if self._wanted == self._n else 2
        needed, free = rows * self._width * 4 * copies, free_bytes()
        if needed > free:
            fitting = max(1, int(free / (self._width * 8)) - len(self._targets))
            raise InputError(
                f"This graph has {rows} targets × {self._width} sources × 4 bytes = {needed / 2**30:.1f} GiB, and"
                f" {free / 2**30:.1f} GiB are free. Pass max_features={fitting} or fewer, or a shorter prompt."
            )

    def _best_size(self, positions: int) -> int:
        whole = sum(value.nbytes for value in self._made.frozen.sources.values())
        per_row = max(1, whole * positions // self._made.positions)
        return int(np.clip(min(_TOKENS // positions, _GRADIENTS // per_row), 1, 256))

    def compute(self, verbose: bool) -> Computed:
        """All rows.

        Raises:
            CircuitError: The law does not hold.
        """
        from tqdm.auto import tqdm

        n_targets = len(self._targets)
        matrix = np.zeros((self._wanted + n_targets, self._width), np.float32)
        values = np.zeros(len(matrix), np.float32)
        done = np.zeros(0, dtype=np.int64)
        with tqdm(total=len(matrix), desc="attribution", disable=hidden(verbose)) as bar:
            self._fill_targets(matrix, values)
            bar.update(n_targets)
            for batch in self._order(matrix, n_targets):
                start = n_targets + len(done)
                matrix[start : start + len(batch)] = self._batch(self._made.reads(batch))
                done = np.concatenate([done, batch])
                bar.update(len(batch))
        values[n_targets:] = self._made.activations[done]
        return self._settled(matrix, values, done)

    def _fill_targets(self, matrix: np.ndarray, values: np.ndarray) -> None:
        reads = [target.read for target in self._targets]
        base = self._made.frozen.base
        size = max(1, min(self._size, _VOCABULARY // (self._made.positions * self._anatomy.model.vocab_size)))
        for start in range(0, len(reads), size):
            part = reads[start : start + size]
            matrix[start : start + len(part)] = self._batch(part)
            values[start : start + len(part)] = [base.at(read) for read in part]
        self._law.check()

    def _batch(self, reads: Sequence[ReadAt]) -> np.ndarray:
        """Rows of edges, (reads, sources)."""
        found = self._passes.rows(reads)
        self._law.measure(reads, found[:, self._vectors :])
        return self._made.folded(found[:, : self._vectors])

    def _order(self, matrix: np.ndarray, n_targets: int) -> Iterator[np.ndarray]:
        """The features, batch by batch; where not all are wanted, those with the most influence so far."""
        if self._wanted == self._n:
            yield from self._batches(np.arange(self._n))
            return
        weights = np.array([target.weight for target in self._targets])
        visited = np.zeros(0, dtype=np.int64)
        while len(visited) < self._wanted:
            found = _partial(matrix, visited, weights, n_targets)[: self._n]
            ranked = np.argsort(-found, kind="stable")
            rest = ranked[~np.isin(ranked, visited)]
            queue = np.sort(rest[: min(_UPDATE * self._size, self._wanted - len(visited))])
            yield from self._batches(queue)
            visited = np.concatenate([visited, queue])

    def _batches(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
        for end, chosen in self._passes.groups(self._made.features[numbers, 1]):
            size = self._asked or self._best_size(end)
            yield from np.array_split(numbers[chosen], -(-len(chosen) // size))

    def _settled(self, matrix: np.ndarray, values: np.ndarray, done: np.ndarray) -> Computed:
        """Rows in the order of the graph's nodes, and only the features that have a row as columns."""
        k, order = len(self._targets), np.argsort(done)
        law, chosen = self._law.check(), done[order]
        rows = np.concatenate([k + order, np.arange(k)])
        matrix, values = matrix[rows], values[rows]
        omitted = np.zeros(len(matrix), np.float32)
        if len(chosen) < self._n:
            out = np.setdiff1d(np.arange(self._n), chosen)
            omitted = matrix[:, out].sum(axis=1, dtype=np.float64).astype(np.float32)
            matrix = matrix[:, np.concatenate([chosen, np.arange(self._n, self._width)])]
        return Computed(self._made, self._targets, chosen, matrix, values, omitted, law)


def _partial(matrix: np.ndarray, visited: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """float64, (sources,): the influence of all sources by the rows that there are: of targets, then of `visited`."""
    shares = shares_of(matrix[: k + len(visited)])
    inner, current = shares[k:], weights @ shares[:k]
    total = current.copy()
    while current.any():
        current = current[visited] @ inner
        total += current
    return total


# -- the graph ------------------------------------------------------------------------------------


def _graph(session: Session, found: Computed, ids: list[int], conventions: str) -> AttributionGraph:
    made, layers = found.made, len(found.made.order)
    tokens = pieces_of(session.tokenizer, ids)
    features = [
        feature_node(layer, position, feature, tokens[position], float(made.activations[number]))
        for number, (layer, position, feature) in zip(
            found.chosen.tolist(), made.features[found.chosen].tolist(), strict=True
        )
    ]
    errors = [error_node(layer, at, token) for layer in made.layers for at, token in enumerate(tokens)]
    embeddings = [embedding_node(i, at, tokens[at]) for at, i in enumerate(ids)]
    outputs = [
        output_node(layers, one.number, len(ids) - 1, one.name, one.weight, one.of_token)
        for one in found.targets
    ]
    summed = found.matrix.sum(axis=1, dtype=np.float64)
    return AttributionGraph(
        nodes=(*features, *errors, *embeddings, *outputs), matrix=found.matrix,
        bias=(found.values - summed - found.omitted).astype(np.float32), omitted=found.omitted, values=found.values,
        tokens=tokens, n_layers=layers, conventions=conventions, law=found.law, model=session.name,
        transcoders=tuple(one.name for one in made.transcoders.values()),
        live=Live(session.plain, ids, made, [one.read for one in found.targets]),
    )  # fmt: skip
