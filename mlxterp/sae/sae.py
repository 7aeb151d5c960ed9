"""`SAE`: the features of a component's activations, and the way back. One class for every array library.

`SAE.load` and `train_sae` make one. It keeps no state between calls: NumPy arrays go in and come
out, or arrays of MLX or PyTorch, which are computed with where they lie.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.session import Model
from ..backends import backend_of, get_backend
from ..concepts import Concepts, store
from ..core import rooms
from ..core.feature_ids import Feature
from ..core.integers import is_integer
from ..core.options import checks_options
from ..core.public_names import PublicNames
from ..core.sites import Array
from ..core.sparse import SparseFeatures
from ..errors import InputError, SAEError, warn
from ..variants import Activation, InputForm, Temporal
from ..weights import SAEWeights
from .call import SAECall, as_activations
from .directions import RowLengths, row_norms, select_diverse, similar
from .formats import Parts, read, write
from .placement import Placement
from .pretrained.fetch import Fetched, fetch
from .validation import check_weights, fingerprint

WHOLE: list[Callable[[str | os.PathLike], Any]] = []
"""What opens a folder that holds more than one SAE, and gives None for any other: `cross_layer` adds its own."""


@checks_options
class SAE(PublicNames):
    """A sparse autoencoder or transcoder of any variant.

    Args:
        weights: Of NumPy arrays; they are copied, as float32.
        activation: How pre-activations become features: one of `mlxterp.variants`.
        metadata: What is known of it: "model" (name), "component" (path of its hook, such as
            "layers.10.mlp"), "training" (facts of the run), and anything else that JSON can hold.
        form: What happens to the input first.
        backend: "mlx" or "torch", for what comes as NumPy; by default MLX where it is installed.
        device: Of that backend; None takes what the library prefers.

    Raises:
        SAEError: Shapes do not belong together, k is not in [1, d_hidden], or a weight is not finite.
    """

    def __init__(
        self,
        weights: SAEWeights,
        activation: Activation,
        metadata: dict[str, Any] | None = None,
        *,
        form: InputForm | None = None,
        backend: str | None = None,
        device: str | None = None,
    ):
        if not isinstance(weights, SAEWeights) or not isinstance(form, (InputForm, type(None))):
            raise SAEError(
                f"Expected SAEWeights and an InputForm, got {type(weights).__name__} and {form!r}."
            )
        self._placement = Placement(weights, backend, device)
        check_weights(self.weights, activation)
        self.activation = activation
        self.form = form or InputForm()
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._fingerprint: tuple[tuple[Activation, InputForm], str] | None = None
        self._concepts: Concepts | None = None

    # -- what it is ---------------------------------------------------------------------------

    @property
    def weights(self) -> SAEWeights:
        """All arrays, NumPy and read-only."""
        return self._placement.weights

    @property
    def W_enc(self) -> np.ndarray:
        """float32, (d_model, d_hidden); read-only."""
        return self.weights.W_enc

    @property
    def b_enc(self) -> np.ndarray:
        """float32, (d_hidden,); read-only."""
        return self.weights.b_enc

    @property
    def W_dec(self) -> np.ndarray:
        """float32, (d_hidden, d_out); row f is the direction of feature f; read-only."""
        return self.weights.W_dec

    @property
    def b_dec(self) -> np.ndarray:
        """float32, (d_out,); read-only."""
        return self.weights.b_dec

    @property
    def threshold(self) -> np.ndarray | None:
        """float32, (d_hidden,): what a pre-activation must exceed, of a JumpReLU SAE; else None."""
        return self.weights.extra.get("threshold")

    @property
    def d_model(self) -> int:
        """Width of the activations it takes."""
        return int(self.W_enc.shape[0])

    @property
    def d_hidden(self) -> int:
        """Number of features."""
        return int(self.W_enc.shape[1])

    @property
    def d_out(self) -> int:
        """Width of the reconstruction; d_model but for transcoders."""
        return int(self.W_dec.shape[1])

    @property
    def k(self) -> int | None:
        """Features active on each token, at most (on average, for BatchTopK); None where nothing fixes it."""
        found = getattr(self.activation, "k", None)
        said = self.metadata.get("k")
        return found if found is not None else said if is_integer(said) else None

    @property
    def subtract_b_dec(self) -> bool:
        """Whether the encoder subtracts b_dec from its input."""
        return self.weights.subtract_b_dec

    @property
    def component(self) -> str | None:
        """Path of the component it was trained on, where the metadata says."""
        return self._as_parts.component

    @property
    def _as_parts(self) -> Parts:
        return Parts(self.weights, self.activation, self.metadata, self.form)

    @property
    def backend(self) -> str:
        """Where NumPy input is computed: "mlx" or "torch"."""
        return self._placement.backend

    @property
    def fingerprint(self) -> str:
        """sha256 of weights, activation and form: equal exactly when two SAEs give equal features."""
        parts = (self.activation, self.form)  # these two can be set
        if self._fingerprint is None or self._fingerprint[0] != parts:
            self._fingerprint = parts, fingerprint(self.weights, *parts)
        return self._fingerprint[1]

    def __repr__(self) -> str:
        place = f" of {self.component}" if self.component else ""
        k = f", k {self.k}" if self.k is not None else ""
        kind = "transcoder" if self.is_transcoder else "SAE"
        width = f"d_model {self.d_model}" + (f" → {self.d_out}" if self.d_out != self.d_model else "")
        return f"{kind}({self.activation.name}{place}: {width}, {self.d_hidden} features{k})"

    @property
    def is_transcoder(self) -> bool:
        """Whether it predicts another component than it reads."""
        return self._as_parts.is_transcoder

    @property
    def concepts(self) -> Concepts:
        """Names of its features, the texts that activate them most, and how they are manipulated; see `Concepts`."""
        if self._concepts is None:
            self._concepts = Concepts(self.d_hidden)
        return self._concepts

    # -- features and back --------------------------------------------------------------------

    def encode(self, x: Array) -> Array:
        """Feature activations (…, d_hidden), float32, of activations (…, d_model).

        NumPy in, NumPy out; an array of MLX or PyTorch gives one of the same library and device.
        An SAE of `attn.z` also takes (…, heads, d_head). A temporal SAE takes (…, positions, d_model).

        Raises:
            SAEError: The width is not d_model, or an activation is not finite.

        Examples:
            >>> x = model.trace("Lily lost her red ball.").activations["layers.1.resid_post"]
            >>> features = sae.encode(x)  # (batch, positions, features)
            >>> tuple(features.shape), int(features[0, 5].argmax()) == ball
            ((1, 7, 2048), True)
        """
        call = self.apply(x)
        return call.as_given(call.dense())

    def encode_sparse(self, x: Array) -> SparseFeatures:
        """As `encode`, with only the active features kept; a row for each token, (…) flattened.

        Tokens x d_hidden is never held.

        Examples:
            >>> x = model.trace("Lily lost her red ball.").activations["layers.1.resid_post"]
            >>> features = sae.encode_sparse(x)
            >>> ids, activations = features.row(5)  # the active features of token 5
            >>> features.n, len(ids), int(ids[activations.argmax()]) == ball
            (7, 16, True)
        """
        return self.apply(x).sparse()

    def decode(self, features: Array | SparseFeatures, like: Array | None = None) -> Array:
        """Reconstruction (…, d_out), float32, of feature activations (…, d_hidden).

        Args:
            features: Dense (NumPy in, NumPy out; native in, native out), or sparse, which gives
                NumPy (n, d_out).
            like: The activations that the features came from: needed to undo a normalisation of each
                token, and for what a skip connection or a temporal SAE adds.

        Raises:
            SAEError: The features are not this SAE's: their number is not d_hidden; or `like` is
                needed and missing.
            InputError: Sparse features hold an id that is none.

        Examples:
            >>> x = model.trace("Lily lost her red ball.").activations["layers.1.resid_post"]
            >>> tuple(sae.decode(sae.encode(x)).shape)
            (1, 7, 192)
        """
        if not isinstance(features, SparseFeatures):
            features = as_activations(features)
        like = None if like is None else as_activations(like)
        width = features.d_hidden if isinstance(features, SparseFeatures) else _width(features)
        if width != self.d_hidden:
            raise SAEError(f"Expected features of this SAE, (…, {self.d_hidden}), got {width} of them.")
        if isinstance(features, SparseFeatures):
            features.check_ids()
        if like is not None:
            return self._decode_like(features, self.apply(like), like)
        if self.needs_input:
            raise SAEError(
                "This SAE's reconstruction depends on its input (a normalisation of each token, a skip"
                " connection, or what earlier tokens predict). Pass the activations: decode(features, like=x)."
            )
        if isinstance(features, SparseFeatures):
            backend, weights = self._placement.home()
            return backend.get(backend.decode_sparse(features, weights))
        backend, weights, native = self._placement.of(features)
        shape = tuple(native.shape[:-1])
        out = backend.decode_dense(native.reshape((math.prod(shape), self.d_hidden)), weights)
        out = out.reshape((*shape, self.d_out))
        return backend.get(out) if isinstance(features, np.ndarray) else out

    def _decode_like(self, features: Array | SparseFeatures, call: SAECall, like: Array) -> Array:
        if isinstance(features, SparseFeatures):
            out = call.finish(call.backend.decode_sparse(features, call.weights))
            return call.backend.get(out)
        if type(features) is not type(like):  # of another library, or NumPy beside native
            features = features if isinstance(features, np.ndarray) else backend_of(features).get(features)
            native = call.backend.put(np.asarray(features, dtype=np.float32), like=call.weights.b_dec)
        else:
            native = self._placement.of(features)[2]
        rows = native.reshape((math.prod(native.shape[:-1]), self.d_hidden))
        return call.as_given(call.finish(call.backend.decode_dense(rows, call.weights)), heads=True)

    def reconstruct(self, x: Array) -> Array:
        """What `decode(encode(x), like=x)` gives, (…, d_out), without dense features in between."""
        call = self.apply(x)
        return call.as_given(call.finish(call.reconstruction()), heads=True)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Reconstruction (…, d_out) and features (…, d_hidden)."""
        call = self.apply(x)
        out, dense = call.both()
        return call.as_given(call.finish(out), heads=True), call.as_given(dense)

    @property
    def needs_input(self) -> bool:
        """Whether decoding needs the activations that were encoded."""
        varied = "W_skip" in self.weights.extra or isinstance(self.activation, Temporal)
        return varied or self.form.undone

    def apply(self, x: Array, check: bool = True) -> SAECall:
        """One application to activations, whose parts can be asked for one by one."""
        return SAECall(self._placement, self.activation, self.form, self.component, x, check)

    # -- directions ---------------------------------------------------------------------------

    @cached_property
    def decoder_norms(self) -> np.ndarray:
        """float64, (d_hidden,): norms of the decoder rows; read-only, computed once.

        Examples:
            >>> sae.decoder_norms.shape
            (2048,)
        """
        return row_norms(self.W_dec)

    @cached_property
    def _row_lengths(self) -> RowLengths:
        return RowLengths.of(self.decoder_norms)

    def similar(self, feature_id: Feature, top_k: int = 10) -> list[tuple[int, float]]:
        """Features whose decoder rows are most alike: (feature id, cosine), most alike first, then the lower id.

        Empty for a feature whose row is zero; such features are no one's neighbours.

        Examples:
            >>> [feature for feature, cosine in sae.similar(ball, top_k=3)]
            [691, 986, 972]
        """
        return similar(self.W_dec, self._row_lengths, feature_id, top_k)

    def select_diverse(self, n: int, max_cos: float = 0.7, among: Sequence[int] | None = None) -> list[int]:
        """Up to n features of which no two decoder rows have a cosine of `max_cos` or more.

        Features are taken in the order of `among` (None: ascending ids), each if it is far enough from all
        taken before; where that gives fewer than n, they come back with a warning.
        """
        return select_diverse(self.W_dec, n, max_cos, among)

    # -- where it is --------------------------------------------------------------------------

    def on(self, backend: str, device: str | None = None) -> SAE:
        """The same SAE, computing NumPy input with "mlx" or "torch" on that device; it has its own `concepts`."""
        get_backend(backend)
        return self._named(
            SAE(self.weights, self.activation, self.metadata, form=self.form, backend=backend, device=device)
        )

    def replace(
        self,
        weights: SAEWeights | None = None,
        activation: Activation | None = None,
        form: InputForm | None = None,
    ) -> SAE:
        """A copy with other parts; its metadata and `concepts` can be changed without changing this one's.

        Weights of another number of features leave the names behind, with a warning.
        """
        backend, device = self._placement.asked_for
        return self._named(
            SAE(
                weights or self.weights, activation or self.activation, dict(self.metadata),
                form=form or self.form, backend=backend, device=device,
            )
        )  # fmt: skip

    def _named(self, other: SAE) -> SAE:
        """Another SAE of these features, with a copy of their names, texts and scales."""
        if self._concepts is None:
            return other
        if other.d_hidden == self.d_hidden:
            other._concepts = copy.deepcopy(self._concepts)
        elif self._concepts.names or self._concepts.explanations:
            warn(
                f"The new weights have {other.d_hidden} features instead of {self.d_hidden}, so names and scales of"
                " features are not taken over. sae.concepts.load_concepts(…) names the new ones."
            )
        return other

    def save(
        self, path: str | os.PathLike, format: str = "mlxterp", dtype: str = "float32", names: bool = True
    ) -> Path:
        """Writes the folder `path` (weights, config and names), whole or not at all; returns it.

        An SAE that was saved there before is replaced.

        Args:
            format: "mlxterp"; "saelens": what SAELens 6 opens with `SAE.load_from_disk`, with equal features and
                reconstructions; or "circuit_tracer", for a transcoder (`SAECollection.save` for those of all layers).
            dtype: Of the weights in the file. "float16" (not "saelens") halves it and keeps three decimal
                digits: features change by about a thousandth, near ties another one may be among the k, and
                what is smaller than 3e-8 becomes 0. Loading gives float32 again, of the rounded numbers, so
                the fingerprint is another.
            names: Keep what is said of features (`concepts.names` and `concepts.explanations`) in `names.json` beside
                the weights, where `load` finds it. Other libraries' formats have no place for names: a warning says
                so where there are some.

        Raises:
            SAEError: Something else is there, the metadata is not JSON, the format cannot hold this variant
                or dtype, or a weight lies outside float16's range.
            WriteError: Nothing can be written there; an SAE that was there is unchanged.

        Examples:
            >>> sae.save("my_sae").name
            'my_sae'
            >>> mlxterp.SAE.load("my_sae").fingerprint == sae.fingerprint
            True
        """
        return write(path, parts_of(self, names), format, dtype)

    @staticmethod
    def load(
        path: str | os.PathLike,
        format: str | None = None,
        backend: str | None = None,
        device: str | None = None,
        k: int | None = None,
        norm_scaling_factor: float | None = None,
    ) -> SAE:
        """An SAE of any known format from its file, or from the folder that holds all its files.

        The folder of a whole cross-layer transcoder gives a `CrossLayerTranscoder`; the path of one layer's file gives
        that layer's features, with what they write to all layers in one sum.

        Args:
            format: One of `mlxterp.sae.FORMATS`; None finds out.
            backend: "mlx" or "torch"; by default MLX where it is installed.
            k: Used instead of the k in the file; needed where the file does not say.
            norm_scaling_factor: What activations are multiplied by before this SAE, where its files do not
                say (SAELens's `expected_average_only_in`, Llama Scope R1); it is folded into the weights. Where
                nothing is missing it is not used.

        Raises:
            SAEError: There is none, its format is not known, it is damaged, or it needs `k`.
            BackendError: A `.pt` file, and PyTorch is not installed.

        Examples:
            >>> from mlxterp.demo import FOLDER
            >>> print(mlxterp.SAE.load(FOLDER / "sae"))
            SAE(topk of layers.1.resid_post: d_model 192, 2048 features, k 16)
        """
        wholes = (opener(path) for opener in WHOLE) if format is None else iter(())
        whole = next((one for one in wholes if one is not None), None)
        return (
            opened(Fetched(path, format, norm_scaling_factor), backend, device, k) if whole is None else whole
        )

    @staticmethod
    def from_pretrained(
        release: str,
        sae_id: str | None = None,
        backend: str | None = None,
        device: str | None = None,
        k: int | None = None,
        revision: str | None = None,
    ) -> SAE:
        """A published SAE by the names that SAELens users know, or from any repository of the hub.

        Only the files needed are brought, into huggingface_hub's cache; offline, the cache is used.
        `mlxterp.pretrained_saes()` lists releases and ids.

        Args:
            release: Of the table ("gemma-scope-2b-pt-res-canonical"), or a repository ("owner/name").
            sae_id: Which of its SAEs ("layer_20/width_16k/canonical"); for a repository, the file or folder.
            revision: Branch, tag or commit.

        Raises:
            SAEError: No such release, id, repository or file; no access; offline and not in the cache.
        """
        return opened(fetch(release, sae_id, revision), backend, device, k)

    def is_compatible(self, model: Model, layer: int, component: str = "mlp") -> bool:
        """Whether it can read a component: as wide, and no other place is named in its metadata. `check` measures more.

        Args:
            layer, component: The place: component is a name below the layer.

        Examples:
            >>> sae.is_compatible(model, 1, "resid_post"), sae.is_compatible(model, 2, "mlp")
            (True, False)
        """
        return rooms.open("sae.is_compatible", self, model, layer, component)

    def check(self, model: Model, texts: Sequence[str], component: str | None = None, **options: Any) -> Any:
        """How well it fits a component of a model, with the likely cause where it does not; as `model.check_sae`.

        Args:
            component: Where it is measured; None takes the SAE's own place.
            options: `layer`, `max_tokens`.

        Returns:
            An `SAECheck`: `print` shows its figures, its verdict ("good" or "poor") and its findings.

        Examples:
            >>> sae.check(model, texts[:3]).verdict
            'good'
        """
        return rooms.open("sae.check", self, model, texts, component=component, **options)

    def evaluate(
        self, model: Model, texts: Sequence[str], component: str | None = None, **options: Any
    ) -> Any:
        """How good its reconstruction of a component is, and what the model loses by it; as `model.evaluate_sae`.

        Args:
            component: Where it is measured; None takes the SAE's own place.
            options: `layer`, `max_tokens`.

        Returns:
            An `SAEEvaluation`.

        Examples:
            >>> evaluation = sae.evaluate(model, texts[:3])
            >>> evaluation.l0, round(evaluation.explained_variance, 1)
            (16.0, 0.9)
        """
        return rooms.open("sae.evaluate", self, model, texts, component=component, **options)

    def probe(
        self, datasets: Any, model: Model | None = None, *, ks: Sequence[int] | None = None,
        component: str | None = None, position: int = -1, draws: int = 20, seed: int = 0, batch_tokens: int = 8192,
        verbose: bool = True,
    ) -> Any:  # fmt: skip
        """How much of labelled distinctions k of its features hold, beside probes of the whole activation and chance.

        Args:
            datasets: {name: (texts, labels)}, one such set, a table or a folder of tables; activations stand for texts.
            model: An `InterpretableModel`; None where activations are given.
            ks: Numbers of features; None takes 1, 2, 4, 8, 16 and 32, or those of them that the SAE has.
            component: Where texts are read; None takes the SAE's own place.
            position: Which token of each text is read; negative ones count from its end.
            draws: Of random features, at least 20.
            seed: Of splits and draws.
            batch_tokens: Tokens that run together, about.
            verbose: Show progress.

        Returns:
            A `geometry.SparseProbing`. See `geometry.sparse_probe`.

        Raises:
            InputError: A set that is none, texts without a model, or a k beyond the features.
            BackendError: scikit-learn is not installed.
        """
        return rooms.open(
            "sae.probe", self, datasets, model, ks=ks, component=component, position=position, draws=draws, seed=seed,
            batch_tokens=batch_tokens, verbose=verbose,
        )  # fmt: skip

    def push_to_hub(
        self, repo: str, *, evaluation: Any = None, description: str = "", license: str | None = None,
        private: bool = False, token: str | None = None,
    ) -> str:  # fmt: skip
        """Sends the SAE, as `save` writes it, with a card to a repository of the Hugging Face hub; returns its address.

        `model.load_sae(repo)` loads it.

        Args:
            repo: Its name, "owner/name"; made where it is not there.
            evaluation: What `sae.evaluate(model, texts)` gave, whose figures the card states; without it the card says
                that nothing was measured.
            description: Stands at the top of the card.
            license: Such as "mit"; None states none.
            private: Whether a repository that is made is private.
            token: Of the hub; None is the one that `hf auth login` or HF_TOKEN gave.

        Raises:
            InputError: `repo` is no name of a repository, or `evaluation` none.
            NetworkError: The hub cannot be reached, or refuses.
            BackendError: huggingface_hub is not installed.
        """
        return rooms.open(
            "sae.push_to_hub", self, repo, evaluation=evaluation, description=description, license=license,
            private=private, token=token,
        )  # fmt: skip


def parts_of(sae: SAE, names: bool = True) -> Parts:
    """What a file of it holds, with or without what is said of its features."""
    said = store.entries(sae.concepts.names, sae.concepts.explanations) if names else None
    return Parts(sae.weights, sae.activation, sae.metadata, sae.form, said)


def opened(
    found: Fetched, backend: str | None, device: str | None, k: int | None, mapped: bool = False
) -> SAE:
    """The SAE in files that lie on this machine: see `SAE.load`.

    Args:
        mapped: Look at weights where they lie in the file, where the format allows it: memory is used for what is
            touched. The file must not be changed meanwhile.
    """
    if backend is not None:
        get_backend(backend)
    parts = read(found.path, found.format, k, found.norm_scaling_factor, mapped)
    try:
        sae = SAE(
            parts.weights, parts.activation, parts.metadata, form=parts.form, backend=backend, device=device
        )
        if parts.names:
            sae.concepts.load_concepts(parts.names)
    except (SAEError, InputError) as error:
        raise SAEError(f"{found.path}: {error}") from error
    if found.normalize is not None:
        sae.form = replace(sae.form, normalize=found.normalize)
    sae.metadata = {**(found.facts or {}), **sae.metadata}
    return sae


TopKSAE = BatchTopKSAE = SAE
"""The existing library's names for SAEs that keep k features of each token, and k x n of n tokens."""


def _width(features: Array) -> int:
    shape = getattr(features, "shape", ())
    if not shape:
        raise InputError(f"Expected SparseFeatures or an array (…, d_hidden), got {type(features).__name__}.")
    return int(shape[-1])
