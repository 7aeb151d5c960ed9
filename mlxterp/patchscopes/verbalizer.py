"""Verbalizers: models that were trained to say in words what a vector means, with the settings they were trained with.

A checkpoint has `nla_meta.yaml` beside its weights: the prompt, the character whose embedding is replaced, its token
and its neighbours, and how long the vector must be. What does not fit is refused: with another token or length the
model writes fluent nonsense.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from string import Formatter
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..backends.host.conversion import to_numpy, to_vector
from ..core import checks
from ..core.options import names_options
from ..core.places import path_of
from ..errors import InputError, SAEError
from ..hooks.session import ModelSession
from ..sae.formats.settings import read_config
from ..tracing.generation import Request, chat_ids
from .replacement import Row, stream_of, written

FILE = "nla_meta.yaml"
_SLOT = "injection_char"
_OPEN, _CLOSE = "<explanation>", "</explanation>"
_TEMPLATES = ("verbalizer", "actor", "av")


@dataclass(frozen=True, slots=True)
class Verbalized:
    """What a verbalizer said of a vector.

    Attributes:
        text: The explanation; all that was written, where it opened none.
        closed: Whether the explanation came to its end within the tokens that were allowed.
        mse: Squared distance of the vector to the one that `reconstruct` made of the text, both of length 1; None
            without it.
        cosine: Of the same two.
    """

    text: str
    closed: bool
    mse: float | None = None
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """How a verbalizer is to be asked; made by `load_verbalizer`.

    Attributes:
        d_model: Width of the vectors that it takes.
        length: How long a vector is made before it is put there.
        character: What stands where the vector goes.
        token: Its token id.
        neighbours: Token ids before and after it.
        template: The user's turn, with `{injection_char}`.
        layer: The layer of the asked model whose output vectors must come from; None where the file does not say.
    """

    d_model: int
    length: float
    character: str
    token: int
    neighbours: tuple[int, int]
    template: str
    layer: int | None

    def prompt(self, model: Model) -> tuple[list[int], int]:
        """Token ids of the prompt, and the position of the vector.

        Raises:
            InputError: The model is of another width, its tokenizer reads the character otherwise, or the prompt lacks
                the neighbours that it was trained with.
        """
        lm = session_of(model, ModelSession).plain.model
        if lm.d_model != self.d_model:
            raise InputError(
                f"This verbalizer is {self.d_model} wide, the model {lm.d_model}. Open the model it belongs to."
            )
        if lm.learned_positions:
            raise InputError(
                f"This {lm.model_type} model adds learned positions to its embeddings, so a vector cannot take the"
                " place of an embedding alone."
            )
        opening, ids = list(lm.tokenize("")), list(lm.tokenize(self.character))
        ids = ids[len(opening) :] if ids[: len(opening)] == opening else ids
        if ids != [self.token]:
            raise InputError(
                f"The character {self.character!r} is token {self.token} for this verbalizer, and {ids} for this"
                " model's tokenizer: it is that of another model."
            )
        tokens = chat_ids(lm, [{"role": "user", "content": _filled(self.template, self.character)}])
        places = [i for i, token in enumerate(tokens) if token == self.token]
        if len(places) != 1:
            raise InputError(
                f"The prompt holds the character {self.character!r} {len(places)} times; once is expected."
            )
        [place] = places
        beside = (
            tokens[place - 1] if place else None,
            tokens[place + 1] if place + 1 < len(tokens) else None,
        )
        if beside != self.neighbours:
            raise InputError(
                f"The character stands between tokens {beside[0]} and {beside[1]}; the verbalizer was trained between"
                f" {self.neighbours[0]} and {self.neighbours[1]}. Its chat template or tokenizer is another one."
            )
        return tokens, place

    @names_options
    def ask(
        self, model: Model, vectors: Any, *, max_tokens: int = 200, temperature: float = 0.0, seed: int = 0,
        reconstruct: Callable[[str], Any] | None = None, verbose: bool = True,
    ) -> list[Verbalized]:  # fmt: skip
        """What the model says of each vector.

        Args:
            model: The verbalizer's own, in an `InterpretableModel` with its tokenizer.
            vectors: (d_model,) or (n, d_model): residual streams of the model that it was trained on.
            reconstruct: A function of a text that gives a vector (d_model,), the checkpoint's reconstructor for one;
                how near it comes stands beside each text.

        Raises:
            InputError: A vector is zero or of another width, or the verbalizer does not fit the model.
            NotFiniteError: The logits are no numbers.
        """
        settings = Request(max_tokens, temperature=temperature, seed=checks.seed(seed))
        session = session_of(model, ModelSession)
        rows = self._rows(vectors)
        ids, place = self.prompt(model)
        unit = [row / np.linalg.norm(row.astype(np.float64)) for row in rows]
        asked = [Row(ids, (place,), (one * self.length).astype(np.float32)[None]) for one in unit]
        component = stream_of(session.anatomy, 0)
        found = written(session, component.name, asked, settings, verbose=verbose)
        failure = next((one.failure for one in found if one.failure is not None), None)
        if failure is not None:
            raise failure
        told = [_explanation(one.text) for one in found]
        return [
            _with_likeness(one, row, reconstruct, self.d_model) for one, row in zip(told, unit, strict=True)
        ]

    def _rows(self, given: Any) -> list[np.ndarray]:
        array = to_numpy(given, "vectors")
        several = array.reshape(-1, array.shape[-1]) if array.ndim == 2 else [array]
        rows = [to_vector(row, f"Vector {i}", self.d_model) for i, row in enumerate(several)]
        zero = [i for i, row in enumerate(rows) if not row.any()]
        if zero or not rows:
            raise InputError(
                f"Vector {zero[0]} is zero: it has no direction." if zero else "vectors is empty."
            )
        return rows


@names_options
def load_verbalizer(path: str | os.PathLike) -> Verbalizer:
    """The settings of a verbalizer's checkpoint.

    Args:
        path: Its folder, or its `nla_meta.yaml`.

    Raises:
        InputError: There is no such file, it is damaged, is of a reconstructor, or lacks what must be known.
        BackendError: PyYAML is not installed.

    Examples:
        >>> from pathlib import Path
        >>> from mlxterp import patchscopes
        >>> _ = Path("nla_meta.yaml").write_text(
        ...     "kind: nla_model\\nd_model: 192\\nrole: av\\nextraction: {injection_scale: 30.0}\\n"
        ...     "tokens: {injection_char: X, injection_token_id: 56, injection_left_neighbor_id: 1,"
        ...     " injection_right_neighbor_id: 2}\\n"
        ...     "prompt_templates: {av: 'Say what <concept>{injection_char}</concept> means.'}\\n"
        ... )
        >>> patchscopes.load_verbalizer(".").length
        30.0
    """
    file = path_of(path)
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"There is no file {file}. A verbalizer's folder holds {FILE}.")
    try:
        found = read_config(file)
        return _checked(found)
    except SAEError as error:
        raise InputError(f"{file} cannot be read: {error.__cause__ or error}") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _checked(found: Any) -> Verbalizer:
    kind, role = found.get("kind", "nla_model"), found.get("role", "av")
    if kind != "nla_model":
        raise InputError(f"it is of kind {kind!r}; a verbalizer's is 'nla_model'.")
    if role != "av":
        raise InputError(
            f"it is of role {role!r}; the one that is asked is 'av'. A reconstructor reads texts."
        )
    tokens, extraction, prompts = (
        _part(found, name) for name in ("tokens", "extraction", "prompt_templates")
    )
    template = next((prompts[name] for name in _TEMPLATES if isinstance(prompts.get(name), str)), None)
    if template is None:
        raise InputError(f"prompt_templates has none of {', '.join(_TEMPLATES)}.")
    character = tokens.get(_SLOT)
    if not isinstance(character, str) or not character:
        raise InputError(f"tokens.{_SLOT} is {character!r}; expected a character.")
    _filled(template, character)
    layer = found.get("extraction_layer_index")
    return Verbalizer(
        d_model=checks.count(found.get("d_model"), "d_model"),
        length=checks.finite(
            extraction.get("injection_scale"), "extraction.injection_scale", most=checks.LARGEST, above=0.0
        ),
        character=character,
        token=checks.count(tokens.get("injection_token_id"), "tokens.injection_token_id", 0),
        neighbours=(
            checks.count(tokens.get("injection_left_neighbor_id"), "tokens.injection_left_neighbor_id", 0),
            checks.count(tokens.get("injection_right_neighbor_id"), "tokens.injection_right_neighbor_id", 0),
        ),
        template=template,
        layer=None if layer is None else checks.count(layer, "extraction_layer_index", 0),
    )


def _part(found: Any, name: str) -> Any:
    part = found.get(name)
    if not isinstance(part, dict):
        raise InputError(f"it has no {name}.")
    return part


def _filled(template: str, character: str) -> str:
    """The template with the character in its slot; doubled braces are braces.

    Raises:
        InputError: It has other slots, or not exactly one.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"the template cannot be read: {error}.") from error
    slots = [(name, form, turn) for _, name, form, turn in parts if name is not None]
    if slots != [(_SLOT, "", None)]:
        raise InputError(
            f"the template must hold {{{_SLOT}}} once, and no other slot; it holds {slots[:3]!r}."
        )
    return "".join(text + (character if name is not None else "") for text, name, _, _ in parts)


def _explanation(text: str) -> Verbalized:
    _, opened, rest = text.partition(_OPEN)
    told, closed, _ = rest.partition(_CLOSE)
    return Verbalized(told.strip() if opened else text.strip(), bool(opened and closed))


def _with_likeness(
    said: Verbalized, unit: np.ndarray, reconstruct: Callable[[str], Any] | None, d_model: int
) -> Verbalized:
    if reconstruct is None:
        return said
    made = to_vector(reconstruct(said.text), "What reconstruct made of a text", d_model).astype(np.float64)
    length = float(np.linalg.norm(made))
    cosine = float(made @ unit / length) if length else 0.0
    return Verbalized(said.text, said.closed, 2.0 - 2.0 * cosine, cosine)
