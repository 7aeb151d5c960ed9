"""`JacobianLens`: what a layer's stream makes the model say later, on average over texts.

The logit lens reads the stream after a layer as if no layer followed. This lens first carries it to the last layer by
the mean Jacobian of what follows, `lens(h) = unembed(J h)`. `InterpretableModel.fit_jacobian_lens` makes one.

The estimator and the published files are those of Anthropic's and Neuronpedia's Jacobian lens (2026).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, Session
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.frames import data_frame
from ..core.integers import is_integer, is_number
from ..core.places import path_of
from ..core.sites import Array
from ..errors import InputError, SAEError
from ..sae.pretrained import download, list_files
from ..tracing.objectives import token_given, token_id
from ..viz.lines import Table
from .fitted_lens import FittedLens, checked_facts
from .jacobian_files import read_lens, write_lens
from .logit_lens import LogitLens, Transport, logit_lens
from .pullback import unembedding_row

REPOSITORY = "neuronpedia/jacobian-lens"
"""Of published lenses, on the Hugging Face hub."""
LAST = 10
"""The rule of convergence looks at so many prompts."""
_ENDING = "_jacobian_lens.pt"


@dataclass(frozen=True, eq=False, repr=False)
class JacobianLens(FittedLens):
    """Mean Jacobians of the residual stream at one layer with respect to the stream after each earlier one.

    `lens("a text")` reads a text with it; `print` and notebooks show how far each matrix is from the identity.
    `mlxterp.steering.lens_steer`, `lens_ablate` and `lens_swap` steer along its directions.

    Attributes:
        jacobians: Layer → float32 (d_model, d_model): `J[i, j]` is how much dimension i of the stream at `target`
            answers to dimension j of the stream after the layer.
        target: The layer to which they lead, the last one as a rule. From there on the stream is read as it is.
        n_prompts: Texts that the means are of.
        changes: float64, (n_prompts,): how much each text changed the means, as a share; empty where it is not known.
        metadata: What else is known: the model, the settings, how many texts were too short.
        session: The model that it reads texts with; None until `on(model)`.

    Examples:
        >>> lens = model.fit_jacobian_lens(texts, layers=[1], prompts=10, context_length=20, verbose=False)
        >>> lens.save("lens.safetensors").name
        'lens.safetensors'
        >>> lens("Tom was sad because he lost his", position=-1)
        LogitLens(2 layers, 1 positions, top 5, Jacobian lens)
    """

    kind: ClassVar[str] = "Jacobian lens"

    jacobians: Mapping[int, np.ndarray]
    target: int
    n_prompts: int
    changes: np.ndarray = field(default_factory=lambda: np.zeros(0))
    metadata: dict[str, Any] = field(default_factory=dict)
    session: Session | None = None

    def __post_init__(self) -> None:
        known = {
            "jacobians": _matrices(self.jacobians), "target": checks.count(self.target, "target", 0),
            "n_prompts": checks.count(self.n_prompts, "n_prompts", 0),
            "changes": to_numpy(self.changes, "changes").astype(np.float64, copy=False),
            "metadata": checked_facts(self.metadata),
        }  # fmt: skip
        for name, value in known.items():
            object.__setattr__(self, name, value)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a matrix, ascending."""
        return tuple(sorted(self.jacobians))

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return len(next(iter(self.jacobians.values())))

    @property
    def identity_distance(self) -> dict[int, float]:
        """Layer → ‖J − I‖ / √d_model (Frobenius): 0 is the logit lens, 1 as far from it as a matrix of zeros."""
        one = np.eye(self.d_model)
        return {
            n: float(np.linalg.norm(self.jacobians[n] - one) / np.sqrt(self.d_model)) for n in self.layers
        }

    @property
    def mean_change(self) -> float:
        """Mean of the last ten of `changes`; NaN where fewer are known."""
        return float(np.mean(self.changes[-LAST:])) if len(self.changes) >= LAST else float("nan")

    # -- reading a text -------------------------------------------------------------------------

    def __call__(
        self,
        text: Any,
        layers: int | Iterable[int] | None = None,
        top_k: int = 5,
        position: int | None = None,
        *,
        use_jacobian: bool = True,
    ) -> LogitLens:
        """What the stream after each layer makes the model say, at each position of a text.

        Args:
            text: One text, or its token ids.
            layers: Layer numbers, negative ones from the end; None means all of the lens, and those from `target` on.
            top_k: Tokens kept at each place.
            position: Only this one; negative ones count from the text's end.
            use_jacobian: False reads the stream as it is, which is `model.logit_lens`.

        Raises:
            InputError: The lens has no such layer, or no model (`lens.on(model)`); and as `model.logit_lens`.
        """
        if checks.flag(use_jacobian, "use_jacobian"):
            return self.read(text, layers, top_k, position)
        return logit_lens(*self._opened(text), layers, top_k, position)

    def directions(
        self, token: int | str, layers: int | Iterable[int] | None = None, *, use_jacobian: bool = True
    ) -> dict[int, np.ndarray]:
        """Layer → float32 (d_model,) of length 1: the direction of the stream there that speaks for a token.

        It is Jᵀw, where w is the token's row of the unembedding, without the final norm's gain.

        Args:
            token: A token id, or text that is one token.
            layers: As in a call; None means all of the lens.
            use_jacobian: False gives w at every layer.

        Raises:
            InputError: No such token or layer, or the lens has no model.
        """
        session = self._of_model()
        session.refresh()
        anatomy = session.plain
        number = token_id(token_given(token, "token"), session.tokenizer)
        if not 0 <= number < anatomy.model.vocab_size:
            raise InputError(f"Token id {number} is outside the vocabulary [0, {anatomy.model.vocab_size}).")
        chosen = self.layers if layers is None else self._readable(anatomy, layers)
        row = unembedding_row(anatomy, number).astype(np.float64)
        found = {}
        for layer in chosen:
            moved = self.jacobians[layer].T @ row if use_jacobian and layer in self.jacobians else row
            if not moved.any():
                raise InputError(f"Nothing in the stream after layer {layer} leads to token {token!r}.")
            found[layer] = (moved / np.linalg.norm(moved)).astype(np.float32)
        return found

    def direction(self, token: int | str, layer: int, *, use_jacobian: bool = True) -> np.ndarray:
        """float32, (d_model,): one of `directions`."""
        return next(iter(self.directions(token, layer, use_jacobian=use_jacobian).values()))

    def covers(self, layer: int) -> bool:
        """Whether the stream after a layer can be read with it."""
        return layer in self.jacobians or layer >= self.target

    def transport(self, anatomy: Anatomy) -> Transport:
        """What becomes of a layer's stream before it goes through norm and head."""
        backend = anatomy.model.backend

        def transport(layer: int, x: Array) -> Array:
            if layer not in self.jacobians:
                return x
            rows = backend.widen(x)
            return rows @ backend.put(np.ascontiguousarray(self.jacobians[layer].T), like=rows)

        return transport

    def _held(self) -> tuple[Session | None, Mapping[str, Any]]:
        return self.session, self.metadata

    def _bound(self, session: Session) -> JacobianLens:
        return replace(self, session=session)

    def _shape_fits(self, n_layers: int) -> bool:
        return self.metadata.get("n_layers", n_layers) == n_layers and self.target < n_layers

    # -- files ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> Path:
        """Writes a safetensors file, whole or not at all; returns its path.

        Raises:
            InputError: The path does not end in .safetensors.
            WriteError: It cannot be written.
        """
        facts = {
            **self.metadata, "target": self.target, "n_prompts": self.n_prompts,
            "changes": [float(change) for change in self.changes],
        }  # fmt: skip
        return write_lens(path_of(path), self.jacobians, facts)

    @staticmethod
    def load(source: str | os.PathLike, model: Model | None = None) -> JacobianLens:
        """A lens from a file, ours or a published `.pt`; or a published one by name.

        Nothing in a file is executed.

        Args:
            source: The path; or a name in the hub's repository of lenses, a model's ("gemma-2-2b") or a file's.
            model: What it will read texts with; it can be given later: `lens.on(model)`.

        Raises:
            InputError: There is no such file, it is damaged or no lens, or the hub cannot be reached.
        """
        path = path_of(source)
        if not path.is_file() and isinstance(source, str) and _is_name(source):
            path = _brought(source)
        lens = _lens_of(*read_lens(path), path)
        return lens if model is None else lens.on(model)

    # -- to look at -----------------------------------------------------------------------------

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each layer: layer, identity_distance.

        Raises:
            BackendError: pandas is not installed.
        """
        distances = self.identity_distance
        return data_frame({"layer": list(distances), "identity_distance": list(distances.values())})

    @property
    def _lines(self) -> Sequence[str]:
        told = [
            f"Jacobian lens of {len(self.layers)} layers, to layer {self.target}, from {self.n_prompts} prompts"
        ]
        if len(self.changes) >= LAST:
            told.append(
                f"The last {LAST} prompts changed the means by {self.mean_change:.2%} each, on average."
            )
        if short := self.metadata.get("too_short"):
            told.append(f"{short} pieces of text were too short and left out.")
        return told

    @property
    def _tables(self) -> Sequence[Table]:
        rows = [(str(n), f"{distance:.3f}") for n, distance in self.identity_distance.items()]
        return [Table(("layer", "‖J − I‖ / √d"), rows)]

    def __repr__(self) -> str:
        return f"JacobianLens({len(self.layers)} layers to layer {self.target}, {self.n_prompts} prompts)"


def _matrices(given: Any) -> dict[int, np.ndarray]:
    """Layer → float32 (d_model, d_model); those that are float32 stay where they are.

    Raises:
        InputError: There are none, or they are no finite matrices of one size.
    """
    if not isinstance(given, Mapping) or not given:
        got = "empty" if isinstance(given, Mapping) else type(given).__name__
        raise InputError(f"jacobians is {got}; expected {{layer: matrix}}, at least one.")
    found = {
        checks.count(layer, "a layer of jacobians", 0): _matrix(J, f"jacobians[{layer}]")
        for layer, J in given.items()
    }
    shapes = sorted({J.shape for J in found.values()})
    if len(shapes) > 1 or len(shapes[0]) != 2 or shapes[0][0] != shapes[0][1]:
        raise InputError(f"jacobians have shapes {shapes}; expected one size, (d_model, d_model).")
    return found


def _matrix(given: Any, name: str) -> np.ndarray:
    if isinstance(given, np.ndarray) and given.dtype == np.float32:
        found = given  # matrices of a large model take as much as the model: they are not copied
    else:
        with np.errstate(over="ignore"):  # refused below
            found = to_numpy(given, name).astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise InputError(f"{name} holds NaN, infinite numbers, or some beyond float32.")
    return found


def _lens_of(jacobians: dict[int, np.ndarray], facts: dict[str, Any], path: Path) -> JacobianLens:
    facts = dict(facts)
    target = facts.pop("target", max(jacobians) + 1)  # published files leave it out: the one after the last
    n_prompts, changes = facts.pop("n_prompts", None), facts.pop("changes", [])
    fits = is_integer(target) and target > max(jacobians) and is_integer(n_prompts) and n_prompts >= 0
    if (
        not fits
        or not isinstance(changes, list)
        or not all(is_number(x) and abs(x) <= checks.FLOAT32 for x in changes)
    ):
        raise InputError(f"{path} cannot be read as a Jacobian lens: it does not say how it was made.")
    return JacobianLens(jacobians, int(target), int(n_prompts), np.array(changes, np.float64), facts)


def _is_name(source: str) -> bool:
    if source.startswith((".", "~", "/")):
        return False
    return source.endswith(_ENDING) or Path(source).suffix not in (".safetensors", ".pt", ".pth")


def _brought(name: str) -> Path:
    """The file of a published lens, from the hub or its cache."""
    try:
        file = name if name.endswith(_ENDING) else _named(name)
        return download(REPOSITORY, [file]) / file
    except SAEError as error:
        raise InputError(f"There is no file {name!r} here, and as a published lens: {error}") from error


def _named(name: str) -> str:
    held = [file for file in list_files(REPOSITORY) if file.endswith(_ENDING)]
    fitting = [file for file in held if name == file.partition("/")[0] or file.startswith(f"{name}/")]
    if len(fitting) == 1:
        return fitting[0]
    known = sorted({file.partition("/")[0] for file in held})
    said = f"several: {', '.join(fitting)}" if fitting else f"none of that name, but of: {', '.join(known)}"
    raise InputError(f"{name!r}: the repository {REPOSITORY} has {said}. Name one.")
