"""What every wing provides: one `Backend` (array operations) and its `LanguageModel` (a model that runs).

NumPy at the border, whole operations inside. Native arrays pass between these methods as opaque
handles. `mlx/` and `torch/` implement the same protocols; `tests/` runs the same laws on both.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..core.continuations import Continuation, Piece
from ..core.frozen import FrozenPlaces
from ..core.sites import Array, Component, Run, Site, SiteEdit
from ..core.sparse import SparseFeatures
from ..core.tokens import TokenBatch
from ..errors import ComponentError
from ..variants import Activation, InputForm
from ..weights import SAEWeights
from .frozen import FrozenPass, PromptPass
from .host.state import StateDigest, WeightsDigest


@runtime_checkable
class Backend(Protocol):
    """Operations on the arrays of one library."""

    name: str
    """"mlx" or "torch"."""
    array_type: type
    """The class of native arrays."""

    def put(self, x: np.ndarray, like: Array | None = None) -> Array:
        """A native array; with `like`, of its dtype and on its device."""
        ...

    def get(self, x: Array) -> np.ndarray:
        """A NumPy array (bfloat16 comes as float32)."""
        ...

    def cast(self, x: Array, like: Array) -> Array:
        """x in the dtype and on the device of `like`."""
        ...

    def widen(self, x: Array) -> Array:
        """x in float32, or as it is where it is no floating-point array of fewer bits; gradients flow."""
        ...

    def alias(self, x: Array) -> Array:
        """The same values as another object: writing into one in place leaves the other alone."""
        ...

    def constant(self, x: Array) -> Array:
        """The same values, through which no gradient flows."""
        ...

    def compact(self, x: Array) -> Array:
        """The same values, holding no buffer larger than they need."""
        ...

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """The arrays one after the other along their first axis."""
        ...

    def start(self, arrays: Sequence[Array]) -> None:
        """Begin to compute what is still lazy, without waiting for it."""
        ...

    def evaluate(self, arrays: Sequence[Array]) -> None:
        """Compute what is still lazy."""
        ...

    def is_floating(self, x: Array) -> bool: ...

    def where(self, condition: np.ndarray, x: Array, y: Array) -> Array:
        """x where `condition` (broadcastable booleans) holds, else y."""
        ...

    def token_losses(self, logits: Array, targets: np.ndarray) -> np.ndarray:
        """float32, (n,): -log p(target) in nats, by logits (n, vocabulary) and targets (n,)."""
        ...

    def clip(self, x: Array, low: float | None, high: float | None) -> Array: ...

    def put_beside(self, x: np.ndarray, like: Array) -> Array:
        """A native array of NumPy's dtype, on the device of `like`: integers to index with, constants."""
        ...

    def view(self, x: Array) -> np.ndarray | None:
        """A NumPy array over the same memory; None where NumPy cannot reach it."""
        ...

    def device(self, x: Array) -> str:
        """Where x lies, as `put_weights` takes it."""
        ...

    def lengths(self, x: Array) -> np.ndarray:
        """float32, (n,): Euclidean length of each row of x (n, width), summed in float32."""
        ...

    def largest(self, x: Array) -> float:
        """The largest finite number of x's dtype."""
        ...

    def rounding(self, x: Array) -> float:
        """The distance from 1 to the next number of x's floating dtype."""
        ...

    def all_finite(self, x: Array) -> bool:
        """Whether no value is NaN or infinite."""
        ...

    def check_device(self, device: str | None) -> None:
        """Raises BackendError where nothing can be computed on a device; None is what the library prefers."""
        ...

    def put_weights(self, weights: SAEWeights, device: str | None = None) -> SAEWeights:
        """Native float32 weights, laid out as this wing's `encode` likes them.

        Args:
            device: Where to; None takes what the library prefers.

        Raises:
            BackendError: There is no such device.
        """
        ...

    def normalize(self, x: Array, form: InputForm) -> tuple[Array, tuple[Array, Array]]:
        """Rows (n, d_model) as the encoder takes them, float32, and (scale, shift), (n, 1) each: what
        decoded rows are multiplied by and added to."""
        ...

    def encode(self, x: Array, weights: SAEWeights, activation: Activation) -> tuple[Array, Array]:
        """Features of x (n, d_model), as ids and float32 values (n, width), strongest first.

        For activations that keep a fixed number for each token: TopK, AbsTopK, GroupMax.
        Pre-activations accumulate in float32. A value of 0 is an empty slot; among equal values the
        lowest ids are taken, in ascending order. Never holds n x d_hidden.
        """
        ...

    def encode_sparse(self, x: Array, weights: SAEWeights, activation: Activation) -> SparseFeatures:
        """Features of x (n, d_model) in NumPy. Never holds n x d_hidden."""
        ...

    def encode_dense(self, x: Array, weights: SAEWeights, activation: Activation) -> Array:
        """Features of x (n, d_model), float32 (n, d_hidden)."""
        ...

    def encode_features(
        self, x: Array, weights: SAEWeights, activation: Activation, ids: np.ndarray
    ) -> Array:
        """Some features of x (n, d_model), float32 (n, len(ids)); never holds n x d_hidden.

        Where a feature does not depend on the others (ReLU, JumpReLU, Gated), only these are computed.
        """
        ...

    def reconstruct(self, x: Array, weights: SAEWeights, activation: Activation) -> Array:
        """The reconstruction (n, d_out) of x (n, d_model). Never holds n x d_hidden."""
        ...

    def to_dense(self, ids: Array, values: Array, d_hidden: int) -> Array:
        """float32 (n, d_hidden) from what `encode` gives."""
        ...

    def decode(self, ids: Array, values: Array, weights: SAEWeights) -> Array:
        """The reconstruction (n, d_out) of features as `encode` gives them."""
        ...

    def decode_sparse(self, features: SparseFeatures, weights: SAEWeights) -> Array:
        """The reconstruction (n, d_out), native, of features in NumPy."""
        ...

    def decode_dense(self, features: Array, weights: SAEWeights) -> Array:
        """The reconstruction (n, d_out) of dense features (n, d_hidden)."""
        ...

    def backward(
        self, x: Array, ids: Array, values: Array, weights: SAEWeights, gradient: Array
    ) -> SAEWeights:
        """Gradients of all weights, from that of the reconstruction (n, d_out).

        Args:
            x: What was encoded (n, d_model), before b_dec was subtracted.
            ids, values: What `encode` gave for it, of a TopK or GroupMax SAE.

        Products of full size are not needed: only active features have gradients.
        """
        ...

    def slopes(self, features: SparseFeatures, W_dec: Array, gradient: Array) -> np.ndarray:
        """float32, (pairs,): what the loss gains for each active feature's value: its decoder row times its
        token's gradient (n, d_out) of the reconstruction."""
        ...

    def sum_by_feature(
        self, features: SparseFeatures, terms: Sequence[tuple[np.ndarray, Array]]
    ) -> list[Array]:
        """For each (numbers, table): the sum over a feature's pairs of their number (pairs,) times their
        token's row of the table (n, width), (d_hidden, width)."""
        ...

    def add_auxiliary(
        self,
        gradients: SAEWeights,
        x: Array,
        error: Array,
        weights: SAEWeights,
        dead: np.ndarray,
        k: int,
        scale: float,
    ) -> tuple[Array, SAEWeights]:
        """Lets the k strongest dead features of each token explain what the others left (Gao et al. 2024).

        Args:
            gradients: Of the loss so far; may be changed in place.
            x, error: (n, d_model) and (n, d_out); no gradient goes through the error.
            dead: Ids.
            scale: What each token's squared error is multiplied by.

        Returns:
            The sum of squares of what is left, not scaled; and all gradients.
        """
        ...

    def optimizer(self, weights: SAEWeights, device: str | None = None) -> Optimizer:
        """Adam that starts from NumPy weights with unit-norm decoder rows."""
        ...

    def group(self) -> Group:
        """The processes that this one trains with, as `mlx.launch` or `torchrun` started them."""
        ...


class Optimizer(Protocol):
    """The weights of an SAE in training, and how they move."""

    @property
    def weights(self) -> SAEWeights:
        """As they are now, native; good until the next update."""
        ...

    def update(self, gradients: SAEWeights, lr: float) -> None:
        """One step of Adam; decoder rows have unit norm afterwards, thresholds are at least 0.

        Args:
            gradients: Native, of every weight; they may be changed.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next steps depend on, as copies."""
        ...

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` gave."""
        ...


class Group(Protocol):
    """Processes that train together; each sees its share of every batch."""

    rank: int
    size: int

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        """The sums over all processes of native arrays; every process gives arrays of the same shapes."""
        ...


class LanguageModel(Protocol):
    """A model that runs with its components seen and edited."""

    backend: Backend
    model_type: str
    """"llama", "gpt2", …; the class name where a model does not say."""
    tokenizer: Any
    modules: dict[str, str]
    """Native path → class name, parents before children."""
    layers: tuple[str, ...]
    """Native paths of the decoder blocks, in order."""
    d_model: int
    vocab_size: int
    n_heads: int | None
    max_positions: int | None
    """Longest text the model was made for; None where it does not say."""
    learned_positions: bool
    """True where a longer text cannot be run at all."""

    @property
    def described(self) -> tuple[str, ...]:
        """What changes every pass, in words that tell one change from another; () where nothing acts."""
        ...

    def tokenize(self, text: str) -> list[int]: ...

    def refresh(self) -> bool:
        """Looks whether modules were replaced since, and reads them again if so; whether they were."""
        ...

    def state_digest(self) -> StateDigest | None:
        """A digest of everything that a pass computes with: the bytes of all arrays, settings and hooks of all modules.

        Equal within one process where nothing was changed; None where something cannot be read.
        """
        ...

    def weights_digest(self) -> WeightsDigest | None:
        """What tells weights from others, wherever a checkpoint is loaded; None where some cannot be read."""
        ...

    def forward(self, batch: TokenBatch) -> Array:
        """Logits (batch, positions, vocabulary), with nothing hooked."""
        ...

    def head_component(self, layer: int, port: str, name: str) -> Component:
        """The per-head value `port` (of `ATTENTION_PORTS`) of a decoder block's attention."""
        ...

    def run(
        self,
        batch: TokenBatch,
        capture: Sequence[Site] = (),
        edits: Sequence[SiteEdit] = (),
        *,
        everything: bool = False,
        stop_after: Sequence[Site] = (),
        reuse: Run | None = None,
    ) -> Run:
        """One forward pass.

        Args:
            capture: Sites to record.
            everything: Record every module's output as well, and what an edited pass needs to
                start from this one.
            stop_after: The pass may end once each of these sites has been reached; `logits` is None.
            reuse: A run of the same batch with `everything`, whose edits are the first ones of
                `edits`. Calls that the further edits cannot reach are not run again: they give the
                very arrays that they gave before.

        Raises:
            NeverCalledError: A captured or edited site was not reached.
        """
        ...

    def not_reached(self, site: Site, calls: Mapping[str, int]) -> ComponentError:
        """Why a whole pass, which called each module so often, did not reach a site; to be raised."""
        ...

    def stream(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        edits: Sequence[SiteEdit] = (),
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        prefill_step_size: int = 2048,
        whole_prompt: bool = False,
        prompt_pass: PromptPass | None = None,
    ) -> Generator[tuple[int | None, str], None, None]:
        """Sampled tokens and, with a tokenizer, the text that each adds.

        Args:
            whole_prompt: Whether the prompt is read in one pass, its last token too, however long it is.
            prompt_pass: Reads the prompt in the model's place, in one pass; `edits` then act on what follows.

        Ends before an end-of-text token. The last pair may be (None, text still held back). Between the parts of a long
        prompt comes (None, ""): whoever reads may close the stream there, and the rest is not read. The edits'
        `Run.where` says which absolute positions each pass covers.
        """
        ...

    def stream_rows(
        self, rows: Sequence[Continuation], *, prefill_step_size: int = 2048, batch_tokens: int | None = None
    ) -> Generator[Piece, None, None]:
        """Several texts continued together, each as `stream` continues it alone.

        Args:
            batch_tokens: At most so many tokens, prompts and continuations, are held at a time (at least one text);
                None goes by the memory that is free.

        Yields the pieces of all texts as they come, the last one of each with `ended`. A text whose logits are no
        numbers ends with a `failure`, and the others go on.
        """
        ...

    def last_logits(self, texts: Sequence[Sequence[int]], tokens: Sequence[int]) -> np.ndarray:
        """float32, (texts, tokens): logits of some tokens after each text; what all begin with is read once."""
        ...

    def gradients(
        self,
        batch: TokenBatch,
        objective: Callable[[Array], Array],
        edits: Callable[[Mapping[str, Sequence[Array]]], Sequence[SiteEdit]],
        deltas: Mapping[str, Sequence[Array]],
    ) -> tuple[Array, dict[str, list[Array]]]:
        """The objective of the logits, and its gradient with respect to each array of `deltas`."""
        ...

    def pullbacks(
        self,
        batch: TokenBatch,
        capture: Sequence[Site],
        value: Callable[[Run], Array],
        edits: Callable[[Sequence[Array]], Sequence[SiteEdit]],
        deltas: Sequence[Array],
        cotangents: Iterable[np.ndarray],
    ) -> Iterator[list[Array]]:
        """Products of cotangents with the Jacobian of a value of a pass over one text, several at a time.

        Args:
            batch: One text.
            capture: Sites that `value` reads.
            value: The run → an array (1, …).
            edits: The arrays of `deltas` → the edits through which the value depends on them.
            deltas: Arrays (1, …).
            cotangents: float32 (n, …), n of the value's shape; the same n each time.

        Yields:
            For each, the gradients of sum(cotangent × value) with respect to each array of `deltas`, (n, …); lazy in
            MLX. Where the library keeps the graph of a pass (torch), all share one.
        """
        ...

    def divergence(self, x: Array, target: Array) -> tuple[np.ndarray, Array]:
        """How far what `decode_stream` says of vectors is from given logits.

        Args:
            x: Native float32 (rows, d_model).
            target: Native logits (rows, vocabulary).

        Returns:
            float32 (rows,): KL(target ‖ softmax of the logits of x) in nats; and the gradient of their sum with respect
            to x, (rows, d_model).
        """
        ...

    def frozen_pass(self, ids: Sequence[int], places: FrozenPlaces) -> FrozenPass:
        """One prompt's pass with everything that multiplies held constant; it is recorded here.

        Raises:
            NeverCalledError, ComponentError: A place was not reached.
        """
        ...

    def decode_stream(self, x: Array) -> Array:
        """Logits of residual-stream vectors (rows, d_model) as they leave the last block."""
        ...
