"""`InterpretableModel`: the front door. It holds a `ModelSession`; its verbs stand in the files beside this one."""

from __future__ import annotations

import os
from typing import Any, cast

from .. import attention, circuits, geometry, patchscopes
from .. import patching as patching_room
from ..activations.save import ModelActivations
from ..anatomy.anatomy import Anatomy
from ..anatomy.names import GLOBAL, ROOTS
from ..backends import load_language_model, wrap_language_model
from ..backends.base import LanguageModel
from ..core.options import checks_options
from ..core.sites import Array
from ..core.tokens import held, several, to_batch
from ..data.text import decode, pieces_of
from ..errors import BackendError, InputError
from ..features.cache import FeatureCache
from ..hooks.session import ModelSession
from ..tracing.context import innermost_trace
from ..tracing.proxies import ComponentProxy, LayerList
from . import features, index, lenses, names, patching, running, saes, steering
from .facade import Facade

_COMPAT = "; mlxterp.compat.saelens has HookedSAETransformer with it"
_ELSEWHERE = {
    "run_with_cache": f" Here: with model.trace(text) as t: …, then t.activations[name]{_COMPAT}.",
    "run_with_hooks": f" Here: model.trace(text, interventions={{name: function}}){_COMPAT}.",
    "run_with_saes": f" Here: with model.attach_sae(sae, mode='replace'): model(text){_COMPAT}.",
    "run_with_cache_with_saes": f" Here: model.attach_sae(sae), then model.trace(text){_COMPAT}.",
    "cfg": " Here: model.d_model, model.n_layers, model.n_heads, model.vocab_size.",
    "to_string": " Here: model.decode(tokens).",
    "to_single_token": " Here: model.tokenize(text), a list of ids.",
    "W_U": " Here: model.unembed(x); mlxterp.compat.saelens has the matrix.",
}
"""What users of TransformerLens and SAELens look for, and where it is."""


@checks_options
class InterpretableModel(Facade):
    """A language model whose components can be seen and edited by path.

        model.layers[3].mlp.output       within a trace: read it, assign to it
        model.trace  loss  gradients     run it, see it, differentiate it
        model.generate  steer  add_hook  let it write, changed
        model.load_sae  train_sae        its sparse autoencoders, and what they say:
        model.get_top_features_for_text  get_top_texts_for_feature  build_index  build_indexes  feature_logits
        model.logit_lens  jacobian_lens  tuned_lens  attention_patterns  patchscope
        model.activation_patching  attribution_patching  causal_trace
        model.attribution_graph  feature_intervention

    Args:
        model: A model of mlx-lm, a Hugging Face model (torch), or a hub repo or folder to load.
        tokenizer: What turns text into token ids; not needed when token ids are given.
        backend: For a repo or folder, "mlx" or "torch"; by default MLX where it is installed.

    Raises:
        NotALanguageModelError: The object is not a language model.
        InputError: The folder or repo cannot be found or read.
        BackendError: The library that would run it is not installed.

    Examples:
        >>> from mlxterp.demo import FOLDER
        >>> model = mlxterp.InterpretableModel(FOLDER / "model")  # or "hub/repo", or (mlx_model, tokenizer)
        >>> model.n_layers, model.d_model
        (4, 192)
    """

    def __init__(self, model: Any, tokenizer: Any = None, backend: str | None = None):
        if isinstance(model, (str, os.PathLike)):
            self._hold(ModelSession(load_language_model(model, tokenizer, backend), str(model)))
        else:
            self._hold(ModelSession(wrap_language_model(model, tokenizer)))

    def _hold(self, session: ModelSession) -> None:
        object.__setattr__(self, "session", session)

    # -- what it is ---------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """Paths that start with the wrapped model's own attribute: `model.model.layers[3]`."""
        return ComponentProxy(self.session.plain, "model")

    @property
    def layers(self) -> LayerList:
        """The decoder blocks."""
        return LayerList(self.session.plain)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.session.plain.model.d_model

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.session.plain.model.layers)

    @property
    def n_heads(self) -> int | None:
        """Attention heads of a layer; None for a model without attention."""
        return self.session.plain.model.n_heads

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.session.plain.model.vocab_size

    @property
    def name(self) -> str | None:
        """The repo or folder it was loaded from; None for a model that was given."""
        return self.session.name

    @property
    def tokenizer(self) -> Any:
        """The tokenizer given or loaded; None without one."""
        return self.session.tokenizer

    @property
    def language_model(self) -> LanguageModel:
        """The model that runs, with what is attached to it and the open `steer` blocks."""
        return self.session.language_model

    @property
    def anatomy(self) -> Anatomy:
        """Its components, run with what is attached and the open `steer` blocks.

        Detectors and text tracking see only calls that are given texts.
        """
        return self.session.anatomy

    @property
    def activations(self) -> ModelActivations:
        """`model.activations.save(texts, layers=[…], store=…)` keeps activations on disk."""
        return ModelActivations(self)

    def components(self) -> dict[str, str]:
        """Every component's canonical name → what it is (a module's class, or how it was found).

        Examples:
            >>> [name for name in model.components() if name.startswith("layers.3.resid")]
            ['layers.3.resid_pre', 'layers.3.resid_mid', 'layers.3.resid_post']
        """
        return self.session.plain.table()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "session" not in self.__dict__:
            raise AttributeError(name)
        if name in GLOBAL or self._is_output(name):
            return innermost_trace(self.session.plain).read("logits" if name == "output" else name)
        if name in ROOTS or any(name in path.split(".") for path in self.session.plain.model.modules):
            return ComponentProxy(self.session.plain, name)
        raise AttributeError(
            f"InterpretableModel has no attribute {name!r}, and no module of this model is called so."
            f"{_ELSEWHERE.get(name, '')}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in GLOBAL or self._is_output(name):
            innermost_trace(self.session.plain).assign("logits" if name == "output" else name, value)
        else:
            object.__setattr__(self, name, value)

    def _is_output(self, name: str) -> bool:
        """Whether this is the existing library's name of the logits, and no module's."""
        return name == "output" and not any(
            "output" in m.split(".") for m in self.session.plain.model.modules
        )

    def __copy__(self) -> InterpretableModel:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """`copy.deepcopy` and `pickle` take the wrapped model as it is now, all its weights, and the tokenizer.

        Raises:
            InputError: Something is attached, which belongs to this one.
        """
        if self.attached:
            raise InputError(
                f"{len(self.attached)} attached SAEs or hooks act on this model; they are not copied with"
                " it. Detach them first, and attach to the copy. For other processes it is cheaper to open the model"
                " there: InterpretableModel(name_or_folder)."
            )
        wrapped: Any = self.session.plain.model
        return _rebuilt, (type(self), wrapped.model, self.tokenizer, self.name)

    def __repr__(self) -> str:
        lm = self.session.plain.model
        heads = f", {lm.n_heads} heads" if lm.n_heads else ""
        return (
            f"InterpretableModel({lm.model_type} on {lm.backend.name}: {self.n_layers} layers,"
            f" d_model {lm.d_model}{heads}, vocabulary {lm.vocab_size},"
            f" {'with' if self.tokenizer is not None else 'no'} tokenizer)"
        )

    # -- text and tokens ----------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, as the tokenizer's `encode` gives them: nothing added or removed.

        Examples:
            >>> model.tokenize("Lily lost her red ball.")
            [0, 609, 1344, 317, 809, 557, 14]
        """
        tokenize = self.session.require_tokenizer() and self.session.tokenize
        return to_batch(text, tokenize).ids[0].tolist() if text else self.session.plain.model.tokenize(text)

    def to_tokens(self, inputs: Any) -> Array:
        """Token ids as a native array (batch, longest); unequal texts are right-padded."""
        return self.session.plain.model.backend.put(self.session.batch(inputs, check=False).ids)

    def to_str_tokens(self, inputs: Any) -> Any:
        """The text of each token: a list for one text, a list of lists for several. Joined, they are the text.

        A character that is spread over several tokens stands with the first of them; the others are "".

        Examples:
            >>> model.to_str_tokens("Lily lost her red ball.")
            ['<|endoftext|>', 'Lily', ' lost', ' her', ' red', ' ball', '.']
        """
        tokenizer, texts = self.session.require_tokenizer(), several(inputs)
        batch = self.session.batch(inputs if texts is None else texts, check=False)
        rows = [row[:n].tolist() for row, n in zip(batch.ids, batch.lengths, strict=True)]
        pieces = [list(pieces_of(tokenizer, row)) for row in rows]
        return pieces[0] if texts is None else pieces

    def decode(self, tokens: Any) -> str:
        """The text of token ids.

        Raises:
            InputError: Something else, or an id outside the model's vocabulary.

        Examples:
            >>> model.decode([609, 1344])
            'Lily lost'
        """
        return decode(self.session.require_tokenizer(), tokens, self.vocab_size)

    encode = names.encode
    encode_batch = names.encode_batch
    token_to_str = names.token_to_str
    named_modules = names.named_modules
    parameters = names.parameters
    trainable_parameters = names.trainable_parameters

    # -- running ------------------------------------------------------------------------------

    def __call__(self, inputs: Any) -> Array:
        """Logits (batch, positions, vocabulary), with what is attached and the open `steer` blocks; no trace acts.

        Examples:
            >>> logits = model("Lily lost her red")  # (batch, positions, vocabulary)
            >>> model.decode(int(logits[0, -1].argmax()))
            ' ball'
        """
        inputs = held(inputs)
        batch = self.session.batch(inputs)
        return self.session.running(inputs).model.forward(batch)

    trace = running.trace
    loss = running.loss
    unembed = running.unembed
    gradients = running.gradients
    generate = running.generate
    stream_generate = running.stream_generate

    # -- sparse autoencoders and their features -----------------------------------------------

    load_sae = saes.load_sae
    check_sae = saes.check_sae
    evaluate_sae = saes.evaluate_sae
    train_sae = saes.train_sae
    train_saes = saes.train_saes
    train_transcoder = saes.train_transcoder
    train_transcoders = circuits.train_transcoders
    get_top_features_for_text = features.get_top_features_for_text
    get_top_texts_for_feature = features.get_top_texts_for_feature
    visualize_feature_activations = features.visualize_feature_activations
    feature_logits = features.feature_logits
    random_direction_baseline = features.random_direction_baseline
    logit_classes = geometry.logit_classes
    enrichment = geometry.enrichment
    train_family = geometry.train_family
    build_index = index.build_index
    build_indexes = index.build_indexes
    index_source = index.index_source

    @property
    def feature_cache(self) -> FeatureCache:
        """Features of the texts last searched: `feature_cache.clear()` forgets them, `enabled = False` keeps none."""
        return self.session.feature_cache

    # -- what acts on it ----------------------------------------------------------------------

    steer = steering.steer
    attach_sae = steering.attach_sae
    add_hook = steering.add_hook
    without_controllers = steering.without_controllers
    detach_all = steering.detach_all

    @property
    def attached(self) -> tuple[Any, ...]:
        """Handles of the SAEs and hooks that are attached, in the order in which they act."""
        return self.session.attachments.attached

    def warn_of_acts(self, what: str) -> None:
        """Warns where an attached SAE or hook, or an open `steer` block, changes the model.

        Args:
            what: What happens meanwhile ("its features are indexed").
        """
        self.session.warn_of_acts(what)

    # -- what it shows of its predictions -----------------------------------------------------

    logit_lens = patching.logit_lens
    get_token_predictions = patching.get_token_predictions
    fit_jacobian_lens = lenses.fit_jacobian_lens
    load_jacobian_lens = lenses.load_jacobian_lens
    jacobian_lens = lenses.jacobian_lens
    train_tuned_lens = lenses.train_tuned_lens
    load_tuned_lens = lenses.load_tuned_lens
    tuned_lens = lenses.tuned_lens
    activation_patching = patching.activation_patching
    attribution_patching = patching.attribution_patching
    patchscope = patchscopes.patchscope
    causal_trace = patching_room.causal_trace
    attention_patterns = attention.attention_patterns
    attribution_graph = circuits.attribution_graph
    feature_intervention = circuits.feature_intervention


class _Unusable:
    """In place of a model that was unpickled where it cannot run: whatever is asked of it raises."""

    def __init__(self, reason: str):
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise BackendError(self._reason)

    def __call__(self, *_args: Any, **_options: Any) -> Any:
        raise BackendError(self._reason)


def _rebuilt(
    cls: type[InterpretableModel], model: Any, tokenizer: Any, name: str | None
) -> InterpretableModel:
    """What `pickle` makes of an `InterpretableModel`."""
    try:
        made = cls(model, tokenizer)
    except (
        BackendError
    ) as error:  # raised here, it would end a pool's worker, and who waits for it would wait for ever
        return cast(Any, _Unusable(str(error)))
    made.session.name = name
    return made
