"""`sweep`: every prompt under every edit, in one go: what is written, and what the unsteered model makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, overload

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..core import checks
from ..core.options import names_options
from ..core.tokens import TokenBatch
from ..edits.checks import SteeringPositions
from ..edits.edits import Edit
from ..errors import InputError, warn
from ..hooks.session import ModelSession
from ..tracing.continued import Continued, Interrupted, continued, ids_of_prompts
from ..tracing.generation import Request
from ..viz.escaping import escaped, one_line
from ..viz.page import Links
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .trials import check_texts, in_blocks, token_losses

UNSTEERED = "unsteered"
_SAMPLE = 60


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Sweep(View, Sequence[dict[str, Any]]):
    """What `sweep` found: a sequence of rows, each a dict; `pandas.DataFrame(found)` makes a table of them.

    Attributes:
        table: The rows, prompt by prompt, and in each the edits in order: "prompt", "edit" (its name), "text" (None
            where it failed), "tokens" (how many were written), "perplexity" (of the unsteered model, on what was
            written after the prompt; NaN where nothing was) and "failure" (None, or why there is no text).
        seed: What the first prompt was sampled with; the next ones with the numbers after it.
    """

    table: list[dict[str, Any]]
    seed: int

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.table[index]

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.table)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Rows without a text."""
        return [row for row in self.table if row["failure"] is not None]

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: a row for each prompt and edit.

        Args:
            color: None sets the head in bold where the output is a terminal and NO_COLOR is not set.
        """
        width = max(len(row["edit"]) for row in self.table)
        lines = [bold(self._head, wants_color(color))]
        lines += [
            f"{one_line(row['prompt'])[:30]:30} | {row['edit']:{width}} | {_shown(row):>10} | {_text(row)[:_SAMPLE]}"
            for row in self.table
        ]
        return "\n".join(lines)

    @property
    def _head(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"{len(self.table)} texts{failed}; perplexity is the unsteered model's; seeds from {self.seed}"

    def __repr__(self) -> str:
        return f"<Sweep: {self._head}>"

    def _title(self) -> str:
        return "Sweep of edits"

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; it has no heading."""
        rows = "".join(
            f"<tr><td>{escaped(row['prompt'])}</td><td>{escaped(row['edit'])}</td><td>{_shown(row)}</td>"
            f"<td>{escaped(_text(row))}</td></tr>"
            for row in self.table
        )
        anchor = f' id="{element_id}"' if element_id else ""
        head = "<tr><th>prompt</th><th>edit</th><th>perplexity</th><th>text</th></tr>"
        return f"<p{anchor}>{escaped(self._head)}</p><table>{head}{rows}</table>"


@names_options
def sweep(
    model: Model, prompts: Sequence[str], edits: Any, *, max_tokens: int = 40, temperature: float = 0.0,
    seed: int = 0, positions: SteeringPositions = None, batch_tokens: int | None = None, verbose: bool = True,
) -> Sweep:  # fmt: skip
    """Continues every prompt under every edit, all together, and measures what was written.

    Args:
        model: An `InterpretableModel` with a tokenizer.
        edits: A list, or a dict of names. Each entry is an edit, a list of edits that act together, or None for the
            unsteered model: the control that the others are read against.
        temperature, seed: Of sampling; prompt i is sampled with seed + i, the same for every edit.
        positions: Where edits act that name no positions of their own; see `InterpretableModel.generate`.
        batch_tokens, verbose: See `InterpretableModel.generate`.

    Raises:
        InputError: There are no prompts or no edits, or the model has no tokenizer.

    Examples:
        >>> from mlxterp import steering
        >>> edits = {"none": None, "ball": steering.add_feature(sae, ball, 2.0, units="max", index=index)}
        >>> found = steering.sweep(model, ["She saw a", "Tom had a"], edits, max_tokens=1)
        >>> [(row["edit"], row["text"]) for row in found]
        [('none', 'big'), ('ball', 'ball'), ('none', 'big'), ('ball', 'ball')]
    """
    session = session_of(model, ModelSession)
    session.require_tokenizer()
    session.warn_of_acts("edits are tried")
    texts = check_texts(prompts, "prompts")
    named = _named(edits)
    made = {
        name: [] if edit is None else session.edits(edit, positions=positions) for name, edit in named.items()
    }
    request = Request(max_tokens, temperature=temperature, seed=checks.seed(seed))
    pairs = [(i, name) for i in range(len(texts)) for name in named]
    anatomy = session.running_rows([texts[i] for i, _ in pairs], [made[name] for _, name in pairs])
    requests = [replace(request, seed=(int(request.seed or 0) + i) % 2**64) for i, _ in pairs]
    ids = ids_of_prompts(anatomy, [texts[i] for i, _ in pairs], requests)
    most = checks.count_or_none(batch_tokens, "batch_tokens")
    try:
        found = continued(anatomy, ids, requests, batch_tokens=most, verbose=verbose)
    except Interrupted as interrupted:
        found = interrupted.found
        warn(f"Interrupted: {interrupted}; their rows have no text.")
    losses = mean_losses(session.plain, ids, found)
    table = [
        {
            "prompt": texts[i], "edit": name, "text": one.text if one.ended else None,
            "tokens": len(one.tokens) if one.ended else 0, "perplexity": float(np.exp(loss)), "failure": _failure(one),
        }
        for (i, name), one, loss in zip(pairs, found, losses, strict=True)
    ]  # fmt: skip
    failed = [row for row, one in zip(table, found, strict=True) if one.failure is not None]
    if failed:
        first = failed[0]
        warn(
            f"{len(failed)} of {len(table)} texts failed, and are None in the table: {first['prompt']!r} under"
            f" {first['edit']}: {first['failure']}"
        )
    return Sweep(table, int(request.seed or 0))


def mean_losses(anatomy: Anatomy, prompts: Sequence[list[int]], written: Sequence[Continued]) -> np.ndarray:
    """float64, (texts,): mean -log p of the tokens written, nats; NaN where none were, or the text failed."""
    model, found = anatomy.model, np.full(len(prompts), np.nan)
    counted = [i for i, one in enumerate(written) if one.tokens and one.ended]
    rows = [[*prompts[i], *written[i].tokens] for i in counted]
    for some in in_blocks([len(row) for row in rows], model.vocab_size):
        batch = TokenBatch.from_rows([rows[k] for k in some])
        losses = token_losses(model, model.forward(batch), batch)
        for mine, k in zip(losses, some, strict=True):
            begin, end = len(prompts[counted[k]]), len(rows[k])
            found[counted[k]] = mine[begin - 1 : end - 1].mean(dtype=np.float64)
    return found


def _named(edits: Any) -> dict[str, Any]:
    """The edits by name, in order.

    Raises:
        InputError: There are none, or it is no list or dict of them.
    """
    if isinstance(edits, Mapping):
        pairs = [(str(name), edit) for name, edit in edits.items()]
    elif isinstance(edits, (list, tuple)):
        pairs = [(_name(edit), edit) for edit in edits]
    else:
        raise InputError(
            f"edits= is a list or a dict of edits, got {type(edits).__name__}. One edit: [edit]."
        )
    if not pairs:
        raise InputError("edits= is empty. Give at least one edit; None is the unsteered model.")
    named: dict[str, Any] = {}
    for name, edit in pairs:
        unused = (f"{name} ({n})" for n in count(2) if f"{name} ({n})" not in named)
        named[next(unused) if name in named else name] = edit
    return named


def _name(edit: Any) -> str:
    if edit is None:
        return UNSTEERED
    several = edit if isinstance(edit, (list, tuple)) else [edit]
    return ", ".join(repr(one).strip("<>") if isinstance(one, Edit) else repr(one) for one in several)


def _failure(one: Continued) -> str | None:
    if one.failure is not None:
        return str(one.failure)
    return None if one.ended else "It was interrupted."


def _shown(row: dict[str, Any]) -> str:
    return "" if np.isnan(row["perplexity"]) else f"{row['perplexity']:.1f}"


def _text(row: dict[str, Any]) -> str:
    return f"(failed: {row['failure']})" if row["text"] is None else one_line(row["text"])
