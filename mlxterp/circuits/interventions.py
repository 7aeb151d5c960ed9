"""Features of transcoders set to values on a prompt: `model.feature_intervention`.

Each is a plain edit of `mlxterp.steering` (`clamp` of the transcoder's feature, at every MLP output that it writes to),
so it works in `model.steer` and `generate` too, beside others. How much of the model answers is what `freeze` says;
with everything held, it does what the edges of the attribution graph say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..backends.frozen import PromptPass
from ..core import checks
from ..core.frozen import Hold, Key, Reading
from ..core.options import names_options
from ..core.sites import unique_sites
from ..core.sparse import SparseFeatures
from ..core.tokens import TokenBatch
from ..data.text import pieces_of
from ..edits.compile import site_edits
from ..edits.edits import Edit
from ..hooks.session import ModelSession
from ..tracing import generation
from .asked import Asked, asked_of, edits_of
from .attribution import prompt_of, untouched
from .changes import Change, source_changes
from .effects import Live
from .intervention import FeatureIntervention, Outcome
from .replacement import replacement_of
from .transcoders import Placed, transcoders_of
from .unrolled import Unrolled, unrolled

Freeze = Literal["all", "attention+norms", "attention"]
_HOLDS: dict[str | None, Hold] = {
    "all": "all", "attention+norms": "attention+norms", "attention": "attention", None: "nothing",
}  # fmt: skip
_SAME = 1e-5
"""A value that is so near to the feature's activation, relatively, is that activation: passes round differently."""


@names_options
def feature_intervention(
    model: Model, prompt: Any, interventions: Any, transcoders: Any, freeze: Freeze | None = "all", *,
    max_tokens: int | None = None,
) -> FeatureIntervention:  # fmt: skip
    """Sets features of transcoders to values on a prompt; what the model then predicts, and which features are active.

    With a the feature's activation, (value - a) times its decoder row is added to the MLP output that it writes to; a
    feature of a `CrossLayerTranscoder` writes to several. What a transcoder misses stays as it is.

    | freeze | held as in the prompt | a is |
    |---|---|---|
    | "all" | attention patterns, norms' denominators and MLP outputs (skip connections act) | that of the prompt |
    | "attention+norms" | attention patterns and norms' denominators | what the transcoder finds in this pass |
    | "attention" | attention patterns | the same |
    | None | nothing | the same |

    With "all", effects are those of the attribution graph's edges, and those of two interventions add. A value that is
    the feature's activation changes nothing: the logits are bit-identical.

    Args:
        prompt: One text, or its token ids.
        interventions: {(layer, position, feature): value}, or a list of (layer, position, feature, value). Layers are
            those of a graph's nodes, and a node stands for its place: {node: value}. A position is an integer (negative
            ones count from the prompt's end), several, a slice, or "all", "prompt", "prompt[1:]", "generated". What is
            open-ended ("all", "generated", slice(3, None)) acts on each new token too.
        transcoders: As in `attribution_graph`.
        max_tokens: Write so many tokens at most. What is held is held on the prompt; each new token is computed live on
            what the prompt left in the cache, and changed where a position is open-ended.

    Raises:
        InputError: No such layer, position or feature, a value that is not finite, one feature set to two values; or
            something acts on the model, which only freeze=None takes into account.
        UnknownFeatureError: A feature that the transcoder does not have.
        SAEError: Transcoders that do not fit.
        ComponentError: The model lacks what a transcoder names; or it is to write on from a held prompt, and keeps no
            cache or computes something else with one.

    Examples:
        >>> skips = mlxterp.SAETrainConfig(d_hidden=64, k=8, tokens=1000, batch_size=500, target="layers.1.mlp_out")
        >>> transcoder = model.train_sae(1, texts[:20], "mlp.input", skips, verbose=False)
        >>> found = model.feature_intervention("Lily lost her red", {(1, -1, 3): 9.0}, {1: transcoder})
        >>> found.logits.shape, found.likeliest(1)[0].token
        ((4096,), ' ball')
        >>> written = model.generate("Lily lost her red", max_tokens=1, steer=found.edits)
    """
    session = session_of(model, ModelSession)
    session.refresh()
    hold = _HOLDS[checks.choice(freeze, "freeze", tuple(_HOLDS))]
    most = checks.count_or_none(max_tokens, "max_tokens")
    anatomy = session.plain if hold == "nothing" else untouched(session)
    ids = prompt_of(session, prompt)
    order = unrolled(anatomy)
    placed = transcoders_of(anatomy, order, transcoders, session.name)
    asked = asked_of(interventions, order, placed, len(ids), most or 0)
    edits = session.edits(edits_of(placed, asked))
    prompt_pass: PromptPass | None = None
    if hold == "nothing":
        before, after = _live(session, prompt, ids, order, placed, asked, edits)
    else:
        before, after, prompt_pass = _held(anatomy, ids, order, placed, asked, edits, hold)
    writing = _writing(asked, edits, before, hold)
    return FeatureIntervention(
        logits=after.logits, logits_before=before.logits, activations=after.activations,
        activations_before=before.activations, freeze=freeze, edits=tuple(edits), asked=tuple(asked),
        tokens=pieces_of(session.tokenizer, ids), ids=tuple(ids), tokenizer=session.tokenizer,
        written=None if most is None else _written(session, prompt, ids, writing, most, prompt_pass),
    )  # fmt: skip


# -- the passes -----------------------------------------------------------------------------------


def _held(
    anatomy: Anatomy, ids: list[int], order: Unrolled, placed: Mapping[int, Placed], asked: Sequence[Asked],
    edits: Sequence[Edit], hold: Hold,
) -> tuple[Outcome, Outcome, PromptPass | None]:  # fmt: skip
    """Without and with the interventions, in passes that hold something; and the latter to write on from.

    None of that where nothing changes: then it is the plain pass.
    """
    made = replacement_of(anatomy, ids, order, placed, final=False, dropped=0, token_vectors=False)
    frozen = Live(anatomy, ids, made, []).frozen(hold)
    before = _of_reading(order, placed, frozen.base)
    changing = _changing(asked, before)
    if not changing:
        return before, before, None
    sources: dict[Key, np.ndarray] = {}
    kept: list[Edit] = []
    if hold == "all":
        changes = [change for number in changing for change in _changes(asked[number], before)]
        sources = source_changes(order, placed, changes, (1, len(ids)))
    else:
        kept = [edit for number in changing for edit in _edits_of(asked, edits, number)]
    found = frozen.read(sources, edits=site_edits(anatomy, kept))
    after = _of_reading(order, placed, found)
    return before, after, frozen.prompt_pass(sources, site_edits(anatomy, kept))


def _live(
    session: ModelSession, prompt: Any, ids: list[int], order: Unrolled, placed: Mapping[int, Placed],
    asked: Sequence[Asked], edits: Sequence[Edit],
) -> tuple[Outcome, Outcome]:  # fmt: skip
    """Without and with the interventions, beside whatever else acts on the model."""
    before = _run(session.anatomy, ids, order, placed)
    kept = [edit for number in _changing(asked, before) for edit in _edits_of(asked, edits, number)]
    return before, (_run(session.running(prompt, kept), ids, order, placed) if kept else before)


def _run(anatomy: Anatomy, ids: list[int], order: Unrolled, placed: Mapping[int, Placed]) -> Outcome:
    sites = unique_sites(one.reads for one in placed.values())
    run, backend = anatomy.model.run(TokenBatch.from_rows([ids]), sites), anatomy.model.backend
    read = {
        layer: backend.get(replace(one.reads, call=order.keys[layer][1]).read(run))[0].astype(np.float32)
        for layer, one in placed.items()
    }
    assert run.logits is not None
    return _outcome(placed, read, backend.get(run.logits)[0, -1].astype(np.float32))


def _of_reading(order: Unrolled, placed: Mapping[int, Placed], found: Reading) -> Outcome:
    return _outcome(placed, {n: found.inputs[order.keys[n]][0] for n in placed}, found.logits[0])


def _outcome(placed: Mapping[int, Placed], read: Mapping[int, np.ndarray], logits: np.ndarray) -> Outcome:
    found: dict[int, SparseFeatures] = {layer: one.encode(read[layer]) for layer, one in placed.items()}
    return Outcome(logits, found)


# -- what changes ---------------------------------------------------------------------------------


def _changing(asked: Sequence[Asked], before: Outcome) -> list[int]:
    """Numbers of the interventions that change something.

    One that sets a feature to its activation does, where another one changes an earlier layer.
    """
    layers = [one.layer for one in asked if any(change.by for change in _changes(one, before))]
    return [
        number
        for number, one in enumerate(asked)
        if one.layer > min(layers, default=one.layer) or any(change.by for change in _changes(one, before))
    ]


def _changes(one: Asked, before: Outcome) -> list[Change]:
    """What it adds to its feature at each position of the prompt, by the activations that are there."""
    column = before.activations[one.layer].columns(np.array([one.feature]))[:, 0]
    found = []
    for position in one.on_prompt.tolist():
        by = one.value - float(column[position])
        near = abs(by) <= _SAME * abs(float(column[position]))
        found.append(Change(0, one.layer, position, one.feature, 0.0 if near else by))
    return found


def _edits_of(asked: Sequence[Asked], edits: Sequence[Edit], number: int) -> Sequence[Edit]:
    """The edits of one intervention, of those of all in order."""
    start = sum(one.edits for one in asked[:number])
    return edits[start : start + asked[number].edits]


def _writing(asked: Sequence[Asked], edits: Sequence[Edit], before: Outcome, hold: Hold) -> list[Edit]:
    """What acts while the model writes: on new tokens alone, where the prompt is held or nothing changes there."""
    changing = _changing(asked, before) if hold == "nothing" else []
    found = []
    for number, one in enumerate(asked):
        mine = _edits_of(asked, edits, number)
        if number in changing:
            found += mine
        elif one.on_new is not None:
            found += [replace(edit, positions=one.on_new) for edit in mine]
    return found


def _written(
    session: ModelSession, prompt: Any, ids: list[int], edits: Sequence[Edit], most: int,
    prompt_pass: PromptPass | None,
) -> Any:  # fmt: skip
    """The continuation: text, or token ids where there is no tokenizer."""
    running, request = session.running(prompt, edits), generation.Request(most)
    tokens = generation.stream(running, ids, request, [edit.positions for edit in edits], prompt_pass)
    pieces = list(tokens)
    return pieces if session.tokenizer is None else "".join(pieces)
