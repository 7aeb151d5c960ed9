"""What a feature does in the model: it is taken out where it is active, and turned up where nothing asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.controls import DRAWS, Controlled, bootstrap
from ..core.numeric import log_softmax
from ..core.sites import Array, Component, Run, Where, unique_sites
from ..core.tokens import TokenBatch
from ..edits.directions import add_direction
from ..edits.edits import Edit
from ..edits.features import add_feature
from ..errors import InputError, SAEError
from ..hooks.session import ModelSession
from ..index import FeatureIndex
from ..index.by_token import texts_in
from ..index.source import Source
from ..lens.writing import written_component
from ..steering.sweep import UNSTEERED
from ..steering.trials import Trials, Written
from ..viz.lines import Table
from .directions import random_rows
from .evidence import LEFT_OUT, Evidence

_PLACES, _PREFIX = 8, 128
"""Places where it is taken out, and tokens before each, at most."""
_OTHERS = 24
"""Other features that are taken out on the same token, at most."""
_GROUPS = 200
_LOGITS = 1 << 25
"""Numbers that are held at a time."""
_STRENGTHS = (1.0, 2.0)
_PROMPTS, _WORDS, _TOKENS = 3, 5, 16


# -- taken out ------------------------------------------------------------------------------------


def causal_effect(index: FeatureIndex, source: Source, feature: int, control: bool, seed: int) -> Evidence:
    """How far the next token's distribution moves when the feature is taken out of the token it is strongest on.

    Raises:
        InputError: It is active nowhere, or what the SAE reads is not one row for each token.
    """
    written = written_component(
        source.anatomy, source.sae, None if source.sae.is_transcoder else source.component.name
    )
    effects, others, rows, lost = [], [], [], 0
    places = index.examples(feature, _PLACES)
    if not places:
        raise InputError("It is active nowhere in this index.")
    for example in places:
        # The index's own tokens: a text that was given as token ids may be read otherwise.
        ids = index._reader.window(feature, example.text_id, example.position, _PREFIX - 1, 0).ids.tolist()
        found = _taken_out(source, written, ids, feature, _OTHERS if control else 0, seed)
        if found is None:
            lost += 1
            continue
        mine, theirs, before, after = found
        effects.append(mine)
        others.append(theirs)
        text = "".join(example.tokens[: example.position - example.start + 1])
        rows.append([text, f"{mine:.4f}", _likeliest(source, before), _likeliest(source, after)])
    if not effects:
        raise InputError("None of its strongest places could be run: it is not active on the tokens alone.")
    table = Table(["text up to the token", "KL, nats", "next, as it is", "next, without it"], rows)
    interval = bootstrap(np.array(effects), seed=seed) if len(effects) > 1 else None
    drawn = _groups(others, seed) if control else np.empty(0)
    beside = Controlled(
        float(np.mean(effects)), interval, drawn, "other features active on the same tokens", seed
    )
    told = [
        f"taking it out moves the next token by {beside.value:.4f} nats (mean KL over {len(effects)} places)"
    ]
    if lost:
        told.append(
            f"{lost} more places were left out: the feature is not active on the last {_PREFIX} tokens alone"
        )
    return Evidence(
        "Taken out where it is strongest", tuple(told), str(beside) if control else LEFT_OUT, beside.stands_out,
        (table,), {"kl": effects, "beside": beside},
    )  # fmt: skip


def _taken_out(
    source: Source, written: Component, ids: Sequence[int], feature: int, most: int, seed: int
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray] | None:
    """KL without the feature, KL without each of some others, and the log probabilities before and after.

    None where it is not active on these tokens by themselves.
    """
    sae, backend = source.sae, source.anatomy.model.backend
    batch = TokenBatch.from_rows([list(map(int, ids))])
    run = source.anatomy.model.run(batch, unique_sites([source.component]))
    value = source.component.read(run)
    if isinstance(value, list) or len(value.shape) != 3:
        raise InputError(f"{source.component.name} does not have one row for each token.")
    x = np.asarray(backend.get(value)[0, -1:], dtype=np.float32)
    features = sae.encode(x)
    active = np.flatnonzero(features[0])
    if feature not in active:
        return None
    others = active[active != feature]
    draw = np.random.default_rng([seed, feature, len(ids)])
    others = np.sort(draw.permutation(others)[:most])
    without = np.repeat(features, 2 + len(others), axis=0)
    for row, gone in enumerate([feature, *others.tolist()], 1):
        without[row, gone] = 0
    like = np.repeat(x, len(without), axis=0)
    deltas = sae.decode(without, like=like) if sae.needs_input else sae.decode(without)
    logs = _last(source, written, batch, (deltas - deltas[:1]).astype(np.float32))
    divergences = (np.exp(logs[0]) * (logs[0] - logs)).sum(axis=1)
    return float(divergences[1]), divergences[2:], logs[0], logs[1]


def _last(source: Source, written: Component, batch: TokenBatch, deltas: np.ndarray) -> np.ndarray:
    """float64, (rows, vocabulary): log p of the next token, with each row's change added at the last token."""
    model, found = source.anatomy.model, []
    length = int(batch.lengths[0])
    size = max(1, _LOGITS // (length * model.vocab_size))
    for start in range(0, len(deltas), size):
        part = deltas[start : start + size]
        added = np.zeros((len(part), length, part.shape[1]), dtype=np.float32)
        added[:, -1] = part

        def change(x: Array, _where: Where, _run: Run, added: np.ndarray = added) -> Array:
            if tuple(x.shape) != added.shape:
                raise SAEError(f"{written.name} has shape {tuple(x.shape)}, the SAE's rows {added.shape}.")
            return x + model.backend.put(added, x)

        rows = TokenBatch(np.tile(batch.ids, (len(part), 1)), np.tile(batch.lengths, len(part)))
        logits: Any = model.run(rows, edits=written.edits(change, None)).logits
        found.append(log_softmax(np.asarray(model.backend.get(logits[:, -1]))))
    return np.concatenate(found)


def _groups(others: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Means over the places, with another feature of each place in turn."""
    known = [one for one in others if len(one)]
    if not known:
        return np.empty(0)
    draw = np.random.default_rng([seed, 1])
    return np.array([np.mean([draw.choice(one) for one in known]) for _ in range(_GROUPS)])


def _likeliest(source: Source, logs: np.ndarray) -> str:
    best = np.argsort(-logs, kind="stable")[:3]
    pieces = [source.pieces([int(i)])[0] for i in best]
    return ", ".join(f"“{piece}” {np.exp(logs[i]):.0%}" for piece, i in zip(pieces, best, strict=True))


# -- turned up ------------------------------------------------------------------------------------


def steering_of(index: FeatureIndex, source: Source, feature: int, control: bool, seed: int) -> Evidence:
    """What is written when the feature is added, and how strongly the feature is active on that, read without it.

    Raises:
        InputError: It is active nowhere, or the model has no tokenizer.
    """
    sae, session = source.sae, ModelSession(source.anatomy.model, source.name)
    session.require_tokenizer()
    place = written_component(source.anatomy, sae, None if sae.is_transcoder else source.component.name).name
    most = float(abs(index.stats(feature).maximum))
    if most == 0:
        raise InputError("It is active nowhere in this index.")
    prompts = _prompts(index, source)
    trials = Trials(session, sae, feature, source.component.name, prompts, _TOKENS, 0.0, seed, frozenset())
    edits: dict[str, list[Edit]] = {UNSTEERED: []}
    for times in _STRENGTHS:
        edits[f"{times:g} × its maximum"] = [add_feature(sae, feature, times * most, at=place)]
    length = most * float(np.linalg.norm(sae.W_dec[feature]))
    for i, row in enumerate(random_rows(source, seed, DRAWS) if control else ()):
        unit = row / max(float(np.linalg.norm(row)), 1e-12)
        edits[f"random direction {i + 1}"] = [add_direction(unit, length, at=place)]
    written = dict(zip(edits, trials.run_all([(one, "") for one in edits.values()]), strict=True))
    return _steered(written, prompts, most, control, seed)


def _steered(
    written: Mapping[str, Written], prompts: Sequence[str], most: float, control: bool, seed: int
) -> Evidence:
    """What that shows; figures are shares of the feature's largest activation."""
    shares = {name: np.abs(one.readout) / most for name, one in written.items()}
    first, strongest = (list(written)[i] for i in (1, len(_STRENGTHS)))
    plain = float(shares[UNSTEERED].mean())
    drawn = np.array([one.mean() for name, one in shares.items() if name.startswith("random")])
    beside = Controlled(
        float(shares[first].mean()),
        bootstrap(shares[first], seed=seed),
        drawn,
        "random directions as long",
        seed,
    )
    shown = list(written)[: 2 + len(_STRENGTHS)]
    rows = [_row(prompt, name, written[name], i) for i, prompt in enumerate(prompts) for name in shown]
    told = (
        f"what is written then reaches {beside.value:.0%} of its maximum when it is read without steering"
        f" ({shares[strongest].mean():.0%} at {strongest}), {plain:.0%} unsteered"
    )
    return Evidence(
        "Added to every token at its maximum", (told,), f"{beside}; unsteered {plain:.3f}" if control else LEFT_OUT,
        beside.stands_out, (Table(["prompt", "edit", "activation", "perplexity", "text"], rows),),
        {
            "beside": beside, "unsteered": plain, "shares": {name: float(one.mean()) for name, one in shares.items()},
            "texts": {name: list(written[name].texts) for name in shown}, "prompts": list(prompts),
        },
    )  # fmt: skip


def _row(prompt: str, name: str, found: Written, i: int) -> list[str]:
    return [prompt, name, f"{found.readout[i]:.2f}", f"{np.exp(found.loss[i]):.1f}", found.texts[i]]


def _prompts(index: FeatureIndex, source: Source) -> tuple[str, ...]:
    """The first words of some texts of the index, whose rest is not shown to the model."""
    model = source.anatomy.model
    found: dict[str, None] = {}
    for text in texts_in(index, range(min(index.n_texts, 10 * _PROMPTS))):
        prompt = " ".join(text.split()[:_WORDS])
        if prompt and len(model.tokenize(prompt)) and len(found) < _PROMPTS:
            found[prompt] = None
    if not found:
        raise InputError("The index has no text to begin with.")
    return tuple(found)
