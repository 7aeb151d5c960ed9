"""`InterpretableModel`: the front door. It holds one `LanguageModel`; every method delegates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import generation
from .anatomy import Anatomy
from .backends import load_language_model, wrap_language_model
from .backends.base import LanguageModel
from .components import GLOBAL, ROOTS
from .edits import Interventions
from .features.check import SAECheck, check
from .features.evaluation import SAEEvaluation, evaluate
from .features.fitting import open_sae, warn_of_another_place
from .features.search import top_features, top_texts
from .features.train import TrainOptions, train_on_texts
from .gradients import gradients
from .open_traces import innermost_trace
from .proxies import ComponentProxy, LayerList
from .sae import SAE
from .sites import Array, Component
from .text import check_length, cross_entropy, decode, string_tokens
from .tokens import TokenBatch, to_batch
from .trace import Trace
from .training.config import SAETrainConfig


class InterpretableModel:
    """A language model whose components can be seen and edited by path.

    Args:
        model: A model of mlx-lm, a Hugging Face model (torch), or a hub repo or folder to load.
        tokenizer: What turns text into token ids; not needed when token ids are given.
        backend: For a repo or folder, "mlx" or "torch"; by default MLX where it is installed.

    Raises:
        NotALanguageModelError: The object is not a language model.
        InputError: The folder or repo cannot be found or read.
        BackendError: The library that would run it is not installed.
    """

    def __init__(self, model: Any, tokenizer: Any = None, backend: str | None = None):
        if isinstance(model, (str, os.PathLike)):
            language_model = load_language_model(str(model), tokenizer, backend)
            object.__setattr__(self, "name", str(model))
        else:
            language_model = wrap_language_model(model, tokenizer)
        object.__setattr__(self, "language_model", language_model)
        object.__setattr__(self, "anatomy", Anatomy(language_model))

    language_model: LanguageModel
    anatomy: Anatomy
    name: str | None = None  # the repo or folder it was loaded from

    # -- what it is ---------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """Paths that start with the wrapped model's own attribute: `model.model.layers[3]`."""
        return ComponentProxy(self.anatomy, "model")

    @property
    def tokenizer(self) -> Any:
        """The tokenizer given or loaded; None without one."""
        return self.language_model.tokenizer

    @property
    def layers(self) -> LayerList:
        """The decoder blocks."""
        return LayerList(self.anatomy)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.language_model.d_model

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.language_model.layers)

    @property
    def n_heads(self) -> int | None:
        """Attention heads of a layer; None for a model without attention."""
        return self.language_model.n_heads

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.language_model.vocab_size

    def components(self) -> dict[str, str]:
        """Every component's canonical name → what it is (a module's class, or how it was found)."""
        return self.anatomy.table()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "anatomy" not in self.__dict__:
            raise AttributeError(name)
        if name in GLOBAL:
            return innermost_trace(self.anatomy).read(name)
        if name in ROOTS or any(name in path.split(".") for path in self.language_model.modules):
            return ComponentProxy(self.anatomy, name)
        raise AttributeError(
            f"InterpretableModel has no attribute {name!r}, and no module of this model is called so."
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in GLOBAL:
            innermost_trace(self.anatomy).assign(name, value)
        else:
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        lm = self.language_model
        heads = f", {lm.n_heads} heads" if lm.n_heads else ""
        return (
            f"InterpretableModel({lm.model_type} on {lm.backend.name}: {self.n_layers} layers,"
            f" d_model {lm.d_model}{heads}, vocabulary {lm.vocab_size},"
            f" {'with' if self.tokenizer is not None else 'no'} tokenizer)"
        )

    # -- text and tokens ----------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, as the tokenizer's `encode` gives them: nothing added or removed."""
        return to_batch(text, self._tokenize).ids[0].tolist() if text else self._require_tokenize(text)

    def to_tokens(self, inputs: Any) -> Array:
        """Token ids as a native array (batch, longest); unequal texts are right-padded."""
        return self.language_model.backend.put(self._batch(inputs, check=False).ids)

    def to_str_tokens(self, inputs: Any) -> Any:
        """The text of each token: a list for one text, a list of lists for several."""
        tokenizer, batch = self._require_tokenizer(), self._batch(inputs, check=False)
        rows = [row[:n].tolist() for row, n in zip(batch.ids, batch.lengths, strict=True)]
        pieces = [string_tokens(tokenizer, row) for row in rows]
        return pieces if isinstance(inputs, (list, tuple)) and not isinstance(inputs[0], int) else pieces[0]

    def decode(self, tokens: Any) -> str:
        """The text of token ids."""
        return decode(self._require_tokenizer(), tokens)

    @property
    def _tokenize(self) -> Callable[[str], list[int]] | None:
        return None if self.tokenizer is None else self.language_model.tokenize

    def _require_tokenize(self, text: str) -> list[int]:
        self._require_tokenizer()
        return self.language_model.tokenize(text)

    def _require_tokenizer(self) -> Any:
        if self.tokenizer is None:
            to_batch("text", None)  # raises, and says what to do
        return self.tokenizer

    def _refresh(self) -> None:
        """Notices modules that were replaced after wrapping (LoRA, quantizing)."""
        if self.language_model.refresh():
            object.__setattr__(self, "anatomy", Anatomy(self.language_model))

    def _batch(self, inputs: Any, check: bool = True) -> TokenBatch:
        self._refresh()
        batch = to_batch(inputs, self._tokenize, self.vocab_size)
        if check:
            check_length(self.language_model, int(batch.lengths.max()))
        return batch

    # -- running ------------------------------------------------------------------------------

    def __call__(self, inputs: Any) -> Array:
        """Logits (batch, positions, vocabulary) of the model with nothing hooked."""
        return self.language_model.forward(self._batch(inputs))

    def trace(
        self,
        inputs: Any,
        interventions: Interventions | None = None,
        capture: Sequence[str] | str | None = None,
        stop_after: str | None = None,
    ) -> Trace:
        """Runs `inputs` with every component in reach: use as `with model.trace(…) as t:`.

        Args:
            inputs: A string, a list of strings, token ids, a list of lists of them, or an array.
                Texts of unequal length are right-padded; each gives what it would give alone.
            interventions: {path: function or [functions]}, activation -> activation, run in order.
            capture: Keep just these components; without it everything can be read, and only what
                was read or saved is kept in memory.
            stop_after: Compute no further than this component; there are no logits then.

        Raises:
            ComponentError: A path that is unknown, ambiguous or never called.
            InputError: Empty input, unknown token ids, or a text longer than learned positions.
        """
        batch = self._batch(inputs)  # first: it notices replaced modules
        return Trace(self.anatomy, batch, interventions, capture, stop_after)

    def loss(self, inputs: Any) -> float:
        """Mean cross-entropy in nats per predicted token (every token but each text's first)."""
        batch = self._batch(inputs)
        return cross_entropy(self.language_model, batch)

    def unembed(self, x: Any) -> Array:
        """Logits of residual-stream vectors (…, d_model): the final norm, then the head."""
        return generation.unembed(self.language_model, x)

    def generate(
        self,
        prompt: Any,
        max_tokens: int = 100,
        interventions: Interventions | None = None,
        positions: Any = "all",
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        chat: bool = False,
        prefill_step_size: int = 2048,
    ) -> Any:
        """Continues a prompt; returns the continuation only.

        Args:
            prompt: A string or token ids; a list of them gives a list of continuations.
            interventions: As in `trace`; they act on every forward pass.
            positions: Where they act: "all", "prompt", "generated", or absolute positions as a slice
                or list (0 is the prompt's first token). A generated token is edited when it is read.
            temperature: 0 takes the likeliest token.
            seed: Makes sampling repeatable; the libraries' own random states are left alone.
            stop: Ends the text before the first of these strings.
            chat: Puts the prompt into the tokenizer's chat template, as the user's turn.

        Returns:
            str, or the list of token ids where the model has no tokenizer.
        """
        self._refresh()
        request = generation.Request(
            max_tokens, interventions, positions, temperature, top_p, seed, stop, chat, prefill_step_size
        )
        return generation.generate(self.anatomy, prompt, request)

    def stream_generate(self, prompt: Any, max_tokens: int = 100, **options: Any) -> Iterator[Any]:
        """As `generate` for one prompt, but yields the text piece by piece."""
        self._refresh()
        return generation.stream(self.anatomy, prompt, generation.Request(max_tokens, **options))

    def gradients(
        self,
        inputs: Any,
        objective: Callable[[Array], Array],
        at: Sequence[str] | str,
        interventions: Interventions | None = None,
    ) -> dict[str, Any]:
        """d objective / d activation for several components in one backward pass.

        Args:
            objective: A function of the logits (batch, positions, vocabulary) that returns one
                number, such as `mlxterp.logit_difference(" Paris", " London")`.
            at: Paths of components.

        Raises:
            GradientError: A gradient is not finite.
        """
        batch = self._batch(inputs)
        return gradients(self.anatomy, batch, objective, at, interventions)

    # -- features -----------------------------------------------------------------------------

    def load_sae(
        self,
        source: str | Path,
        sae_id: str | None = None,
        *,
        component: str | None = None,
        format: str | None = None,
        k: int | None = None,
        device: str | None = None,
        norm_scaling_factor: float | None = None,
        revision: str | None = None,
    ) -> SAE:
        """Loads an SAE of any known format and fits it to this model.

        Its hook is resolved to a component of this model, and what its own library's model does otherwise
        (centred weights, a norm without its gain) is made up for.

        Args:
            source: A file or folder; or, where there is none of that name, a release of
                `mlxterp.pretrained_saes()` or a hub repository ("owner/name").
            sae_id: Which SAE of the release; for a repository, the file or folder in it.
            component: Path to use it at, instead of the hook that its files name.
            k, norm_scaling_factor: See `SAE.load`.

        Raises:
            SAEError: It cannot be found or read, or is not as wide as the component.
            ComponentError: This model has no such component.
        """
        self._refresh()
        return open_sae(
            self.anatomy, source, sae_id, component=component, format=format, k=k, device=device,
            norm_scaling_factor=norm_scaling_factor, revision=revision, model_name=self.name,
        )  # fmt: skip

    def check_sae(
        self,
        sae: SAE | str | Path,
        texts: Sequence[str],
        component: str | None = None,
        max_tokens: int = 8192,
    ) -> SAECheck:
        """How well an SAE fits a component, with the likely cause where it does not.

        Explained variance, L0, dead share, loss recovered; and whether another place would fit far better.

        Args:
            component: Path; None takes the SAE's own.
            max_tokens: At most about this many are run.
        """
        self._refresh()
        sae = sae if isinstance(sae, SAE) else self.load_sae(sae, component=component)
        return check(self.anatomy, sae, texts, component, max_tokens)

    def evaluate_sae(
        self,
        sae: SAE | str | Path,
        texts: Sequence[str],
        component: str | None = None,
        max_tokens: int = 8192,
    ) -> SAEEvaluation:
        """How well an SAE reconstructs a component, and what the model loses with the reconstruction in its place.

        Args:
            component: Path; None takes the SAE's own.
            max_tokens: At most about this many are run.
        """
        self._refresh()
        sae = sae if isinstance(sae, SAE) else self.load_sae(sae, component=component)
        return evaluate(self.anatomy, sae, texts, component, max_tokens)

    def train_sae(
        self,
        layer: int,
        dataset: Any,
        component: str = "mlp",
        config: SAETrainConfig | None = None,
        save_path: str | os.PathLike | None = None,
        verbose: bool = True,
        **options: Any,
    ) -> SAE:
        """Trains an SAE on a component's activations over texts, in one pass by default.

        The model runs while the SAE trains: activations are mixed in a buffer of some batches, never all
        held. With `config.target` the SAE is a transcoder. Ctrl-C stops after the step under way and returns (and
        saves) the SAE as it is.

        Args:
            dataset: A list of texts; the path of a text file; a Hugging Face data set or its streaming form; a
                `HuggingFaceDataset`; or an `ActivationStore` of this model.
            component: Name below the layer; "residual" is the residual stream after it.
            save_path: The folder to save it in.
            verbose: Show a bar where the output is a terminal.
            context_length: Longer texts are cut into contexts of this length; None takes the smaller of 128
                and the model's positions.
            exclude: Tokens to leave out: "bos", "first" (of each context), "sinks" (activations more than ten
                times as long as the median); by default ("bos", "sinks").
            run_dir: The folder of checkpoints and `training_history.json`; by default save_path + ".run".
            resume: Go on from the run's last checkpoint, if there is one, as if it had not been interrupted.
            checkpoint_every: Steps; None makes about twenty checkpoints over the run.
            log: Where a row of figures goes now and then: "wandb", "tensorboard", or a function of the row.
            device: Where the SAE is trained (torch).

        Raises:
            InputError: No texts, or a setting that cannot be.
            ComponentError: No such component, or it has no single value for each token.
            SAEError: k does not fit, activations are not finite, training diverges, a run that goes on had
                other settings, or a store is of another model.
        """
        jobs = {"sae": (_path(self.anatomy.names.layer(layer), component), config or SAETrainConfig())}
        return self._train(jobs, dataset, {"sae": save_path}, verbose, options)["sae"]

    def train_saes(
        self,
        jobs: Mapping[str, str | tuple[str, SAETrainConfig]],
        dataset: Any,
        save_path: str | os.PathLike | None = None,
        verbose: bool = True,
        **options: Any,
    ) -> dict[str, SAE]:
        """Trains several SAEs (layers, components, settings) from one pass of the model over the texts.

        Args:
            jobs: For each SAE's name its component ("layers.3.mlp"), or (component, config). The configs agree
                in tokens, epochs, batch_size and seed: all SAEs see the same batches.
            dataset, verbose, options: As in `train_sae`.
            save_path: Each SAE is saved in the folder save_path / name.
        """
        asked = {
            name: (job, SAETrainConfig()) if isinstance(job, str) else (job[0], job[1])
            for name, job in jobs.items()
        }
        folder = None if save_path is None else Path(save_path)
        if folder is not None:
            options.setdefault("run_dir", folder.with_name(folder.name + ".run"))
        paths = {name: None if folder is None else folder / name for name in asked}
        return self._train(asked, dataset, paths, verbose, options)

    def _train(
        self,
        jobs: Mapping[str, tuple[str, SAETrainConfig]],
        dataset: Any,
        paths: Mapping[str, str | os.PathLike | None],
        verbose: bool,
        options: Mapping[str, Any],
    ) -> dict[str, SAE]:
        self._refresh()
        return train_on_texts(
            self.anatomy, dataset, jobs, paths, TrainOptions(verbose=verbose, **options), self.name
        )

    def get_top_features_for_text(
        self, text: str, sae: SAE | str | Path, layer: int, component: str = "mlp", top_k: int = 10
    ) -> list[tuple[int, float]]:
        """The features most active on a text: (feature id, its largest activation on any token).

        Strongest first, then the lower id; every token counts, special ones included; only active
        features come back.
        """
        sae, place = self._place(sae, layer, component)
        found = top_features(self.language_model, text, sae, place, tokenize=self._tokenize, top_k=top_k)
        warn_of_another_place(self.anatomy, sae, place.name)
        return found

    def get_top_texts_for_feature(
        self,
        feature_id: int,
        sae: SAE | str | Path,
        texts: Sequence[str],
        layer: int,
        component: str = "mlp",
        top_k: int = 10,
    ) -> list[tuple[str, float, int]]:
        """The texts on which a feature is most active: (text, activation, token position).

        A text counts once, at its strongest token; strongest first, then the earlier text; empty
        for a feature that never fires.
        """
        sae, place = self._place(sae, layer, component)
        found = top_texts(
            self.language_model, feature_id, sae, texts, place, tokenize=self._tokenize, top_k=top_k
        )
        warn_of_another_place(self.anatomy, sae, place.name)
        return found

    def _place(self, sae: SAE | str | Path, layer: int, component: str) -> tuple[SAE, Component]:
        """The SAE, loaded if need be, and the component asked for."""
        self._refresh()
        sae = sae if isinstance(sae, SAE) else self.load_sae(sae)
        return sae, self.anatomy.component(_path(self.anatomy.names.layer(layer), component))


def _path(layer: int, component: str) -> str:
    return f"layers.{layer}.{component}"
