"""`ask`: vectors put in the place of a placeholder, and what the model goes on to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..backends.host.conversion import to_numpy, to_vector
from ..core import checks
from ..core.options import names_options
from ..errors import InputError, warn
from ..hooks.session import ModelSession
from ..tracing.continued import Continued
from ..tracing.generation import Request
from .prompts import prompts_of
from .replacement import Mode, Row, stream_of, written


@names_options
def ask(
    model: Model, vectors: Any, prompt: Any = None, *, placeholder: str | int | None = None, layer: int = 0,
    mode: Mode = "replace", max_tokens: int = 100, stop: str | Sequence[str] | None = None,
    temperature: float = 0.0, seed: int = 0, chat: bool | None = None, prefill_step_size: int = 2048,
    batch_tokens: int | None = None, verbose: bool = True,
) -> Any:  # fmt: skip
    """What a model writes when vectors stand in the place of a placeholder of its prompt.

    The residual stream before `layer` is replaced at the placeholder while the prompt is read; before layer 0 that is
    the embedding, with its position where the model adds one. Generated tokens are never replaced. Several vectors are
    asked about together, and each text is the one that its vector gives alone.

    Args:
        vectors: (d_model,) for one text; (n, d_model) for n, each at every placeholder; or (n, placeholders, d_model).
            They are put there as they are, length included.
        prompt: As in `patchscope`, one.
        placeholder: The text of one token, or a token id; None takes the tokenizer's unknown token, or X.
        layer: The layer that the vectors enter; negative ones count from the last.
        mode: "add" adds the vector's direction instead, as long as the token's own activation (activation oracles).
        stop, temperature, seed, prefill_step_size, batch_tokens, verbose: As in `InterpretableModel.generate`.
        chat: Whether a text is a user's turn; None: only the package's own questions are, where there is a template.

    Returns:
        A text for one vector, else a list of them; token ids where the model has no tokenizer. One that could not go
        on has None, with a warning.

    Raises:
        InputError: There is no placeholder, it is not one token, or a vector does not fit.
        ComponentError: There is no such layer, or it is not one residual stream.

    Examples:
        >>> from mlxterp import patchscopes
        >>> with model.trace("The big dog") as t:
        ...     dog = model.layers[0].resid_pre.save()
        >>> patchscopes.ask(model, dog[0, -1], "One day, Lily saw a X. The", max_tokens=1)
        'dog'
    """
    settings = Request(
        max_tokens,
        temperature=temperature,
        stop=stop,
        seed=checks.seed(seed),
        prefill_step_size=prefill_step_size,
    )
    most = checks.count_or_none(batch_tokens, "batch_tokens")
    session = session_of(model, ModelSession)
    session.refresh()
    mode = checks.choice(mode, "mode", ("replace", "add"))
    stacked, single = _stacked(vectors, session.plain.model.d_model)
    if mode == "add" and not np.abs(stacked).sum(-1).all():
        raise InputError("A vector of zeros has no direction to add. Use mode='replace', or leave it out.")
    one = [prompt] if isinstance(prompt, (str, list, tuple)) else prompt
    [asked], _ = prompts_of(session.plain.model, one, placeholder, chat)
    if stacked.shape[1] not in (1, len(asked.positions)):
        raise InputError(
            f"vectors has {stacked.shape[1]} for each text, and the prompt has {len(asked.positions)} placeholders."
        )
    component = stream_of(session.anatomy, layer)
    rows = [Row(asked.ids, asked.positions, some) for some in stacked]
    found = written(session, component.name, rows, settings, mode=mode, batch_tokens=most, verbose=verbose)
    texts = _texts(session, found)
    return texts[0] if single else texts


def _stacked(given: Any, d_model: int) -> tuple[np.ndarray, bool]:
    """float32, (texts, placeholders or 1, d_model), and whether one text is asked for."""
    array = to_numpy(given, "vectors")
    if array.ndim < 2:
        return to_vector(array, "vectors", d_model)[None, None], True
    if array.ndim > 3 or not array.size or array.shape[-1] != d_model:
        raise InputError(
            f"vectors has shape {array.shape}; expected ({d_model},), (texts, {d_model}) or (texts, placeholders,"
            f" {d_model})."
        )
    rows = [to_vector(row, f"Vector {i}", d_model) for i, row in enumerate(array.reshape(-1, d_model))]
    whole = np.stack(rows).reshape(array.shape)
    return whole if array.ndim == 3 else whole[:, None], False


def _texts(session: ModelSession, found: Sequence[Continued]) -> list[Any]:
    failed = [(i, one.failure) for i, one in enumerate(found) if one.failure is not None]
    if failed and len(failed) == len(found):
        raise failed[0][1]
    if failed:
        which = ", ".join(str(i) for i, _ in failed)
        warn(f"Texts {which} of {len(found)} failed, and are None. Text {failed[0][0]}: {failed[0][1]}")
    whole = session.tokenizer is not None
    return [(one.text if whole else one.tokens) if one.failure is None else None for one in found]
