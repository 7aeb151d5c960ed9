"""What an `InterpretableModel` does with sparse autoencoders: load, train, measure, search. Every method delegates."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from ..core.feature_ids import Feature, is_several
from ..core.integers import as_integer
from ..core.sites import Component
from ..errors import ComponentError, InputError
from ..evaluation.check import SAECheck, check
from ..evaluation.evaluation import SAEEvaluation, evaluate
from ..features.search import top_features, top_texts
from ..features.view import view_of_text
from ..hooks.session import ModelCore
from ..index import FeatureIndex, Source
from ..lens.feature_logits import FeatureLogits, RandomDirections, feature_logits, random_direction_baseline
from ..sae import SAE
from ..sae.adapt import open_sae, place_of
from ..training.config import SAETrainConfig, config_of
from ..training.on_texts import TrainOptions, split_options, train_on_texts
from ..viz.token_view import TokenView
from .index import texts_from_index


class SAEMethods(ModelCore):
    """Methods of `InterpretableModel`."""

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

        Finds the component of this model that its hook means, and corrects for what its own library's model does
        otherwise (centred weights, a norm without its gain).

        Args:
            source: A file or folder; or, where there is none of that name, a release of
                `mlxterp.pretrained_saes()` or a hub repository ("owner/name").
            sae_id: Which SAE of the release; for a repository, the file or folder in it.
            component: Path to use it at, instead of the hook that its files name.
            k, norm_scaling_factor: See `SAE.load`.

        Raises:
            SAEError: It cannot be found or read, or is not as wide as the component.
            ComponentError: This model has no such component.

        Examples:
            >>> from mlxterp.demo import FOLDER
            >>> sae = model.load_sae(FOLDER / "sae")  # or ("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
            >>> sae.component, sae.d_hidden
            ('layers.1.resid_post', 2048)
        """
        self._refresh()
        return open_sae(
            self._plain, source, sae_id, component=component, format=format, k=k, device=device,
            norm_scaling_factor=norm_scaling_factor, revision=revision, model_name=self.name,
        )  # fmt: skip

    def check_sae(
        self,
        sae: SAE | str | Path,
        texts: Any,
        component: str | None = None,
        max_tokens: int = 8192,
        *,
        layer: int | None = None,
    ) -> SAECheck:
        """How well an SAE fits a component, with the likely cause where it does not.

        Explained variance, L0, dead share, loss recovered; a verdict, "good" or "poor", beside an untrained SAE of the
        same shape and the SAE's own figures (`features.check.check` has the rule); and whether another place would
        fit far better. The place that the SAE's metadata names is tried and named first.

        Args:
            layer, component: Where it is measured, as in `get_top_features_for_text`; None takes the SAE's own.
            max_tokens: At most about this many are run.
        """
        sae, place = self._place(sae, layer, component)
        self.warn_of_acts("an SAE is checked")
        return check(self.anatomy, sae, texts, place.name, max_tokens)

    def evaluate_sae(
        self,
        sae: SAE | str | Path,
        texts: Any,
        component: str | None = None,
        max_tokens: int = 8192,
        *,
        layer: int | None = None,
    ) -> SAEEvaluation:
        """How well an SAE reconstructs a component, and what the model loses with the reconstruction in its place.

        Args:
            layer, component: Where it is measured, as in `get_top_features_for_text`; None takes the SAE's own.
            max_tokens: At most about this many are run.
        """
        sae, place = self._place(sae, layer, component)
        self.warn_of_acts("an SAE is evaluated")
        return evaluate(self.anatomy, sae, texts, place.name, max_tokens)

    def train_sae(
        self,
        layer: int,
        dataset: Any,
        component: str = "mlp",
        config: SAETrainConfig | Mapping[str, Any] | None = None,
        save_path: str | os.PathLike | None = None,
        verbose: bool = True,
        **options: Any,
    ) -> SAE:
        """Trains an SAE on a component's activations over texts.

        Epochs, batch size and learning rate follow the amount of text where the config leaves them open: little text
        is seen several times. The last line of a run, `sae.metadata["training"]["summary"]`, says how good the SAE is
        and what would help. The model runs while the SAE trains: activations are mixed in a buffer of some batches,
        never all held. With `config.target` the SAE is a transcoder. Ctrl-C stops after the step under way and returns
        (and saves) the SAE as it is.

        Args:
            dataset: A list, column, array or generator of texts, or of rows of token ids; a table with one column of
                text; the path of a text file; a Hugging Face data set or its streaming form; a `HuggingFaceDataset`; or
                an `ActivationStore` of this model.
            config: Settings, as `SAETrainConfig` or a dictionary.
            component: Name below the layer; "residual" is the residual stream after it.
            save_path: The folder to save it in.
            verbose: Show a bar where the output is a terminal.
            context_length: Longer texts are cut into contexts of this length; None takes the smaller of 128
                and the model's positions.
            exclude: Tokens to leave out: "bos", "first" (of each context), "sinks" (activations more than ten
                times as long as the median on some prose); by default ("bos", "sinks").
            run_dir: The folder of checkpoints and `training_history.json`; by default save_path + ".run".
            resume: Go on from the run's last checkpoint, if there is one, as if it had not been interrupted.
            checkpoint_every: Steps; None makes about twenty checkpoints over the run.
            log: Where a row of figures goes now and then: "wandb", "tensorboard", or a function of the row.
            device: Where the SAE is trained (torch).
            options: These, and settings of the config beside it: `train_sae(3, texts, d_hidden=128)`. They win over
                the config's.

        Raises:
            InputError: No texts, or a setting that cannot be.
            ComponentError: No such component, or it has no single value for each token.
            SAEError: k does not fit, activations are not finite, training diverges, a run that goes on had
                other settings, or a store is of another model.

        Examples:
            >>> config = mlxterp.SAETrainConfig(d_hidden=256, k=8, epochs=1)
            >>> trained = model.train_sae(2, texts, "resid_post", config, verbose=False)
            >>> print(trained)
            SAE(topk of layers.2.resid_post: d_model 192, 256 features, k 8)
        """
        settings, options = split_options(
            options, "train_sae", ("layer", "dataset", "component", "config", "save_path", "verbose")
        )
        if as_integer(layer) is None and as_integer(dataset) is not None:
            raise InputError(f"train_sae takes the layer before the texts: train_sae({dataset!r}, texts, …).")
        made = config_of(config, settings)
        jobs = {"sae": (_path(self.anatomy.names.layer(layer), component), made)}
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
        settings, options = split_options(options, "train_saes", ("jobs", "dataset", "save_path", "verbose"))
        asked = {
            name: (job, config_of(None, settings))
            if isinstance(job, str)
            else (job[0], config_of(job[1], settings))
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
        self.warn_of_acts("an SAE is trained")
        return train_on_texts(
            self.anatomy, dataset, jobs, paths, TrainOptions(verbose=verbose, **options), self.name
        )

    def get_top_features_for_text(
        self,
        text: Any,
        sae: SAE | str | Path,
        layer: int | None = None,
        component: str | None = None,
        top_k: int = 10,
        *,
        exclude: Iterable[str] | str = (),
    ) -> list[tuple[int, float]]:
        """The features most active on a text: (feature id, its largest activation on any token).

        Strongest first, then the lower id; only active features come back. Every token counts, special ones
        included, and on most models a beginning-of-text token tops the list: `exclude=("bos", "sinks")` leaves out
        what an index leaves out.

        Args:
            text: A string, or its token ids.
            layer, component: Where the SAE is used ("mlp" of layer 3; or component="layers.3.mlp"); None takes the
                SAE's own. A layer alone takes the part that the SAE was trained on in its own, or "mlp" where it does
                not say.
            exclude: Tokens that do not count: "bos", the tokenizer's beginning-of-text token; "sinks", whose activation
                is over ten times as long as the median on some prose.

        Examples:
            >>> found = model.get_top_features_for_text("Lily lost her red ball.", sae, exclude=("bos", "sinks"))
            >>> [feature for feature, activation in found[:5]]
            [1257, 1641, 1676, 1586, 741]
        """
        sae, place = self._place(sae, layer, component)
        return top_features(
            self.language_model, text, sae, place, tokenize=self._tokenize, top_k=top_k, exclude=exclude
        )

    def get_top_texts_for_feature(
        self,
        feature_id: Feature,
        sae: SAE | str | Path,
        texts: Any,
        layer: int | None = None,
        component: str | None = None,
        top_k: int = 10,
        index: FeatureIndex | None = None,
        *,
        exclude: Iterable[str] | str | None = None,
    ) -> list[tuple[str, float, int]]:
        """The texts on which a feature is most active: (text, activation, token position).

        A text counts once, at its strongest token; strongest first, then the earlier text; empty
        for a feature that never fires. Asked again about the same texts, the model runs only if anything in it
        has changed since (`feature_cache`).

        Args:
            feature_id: A feature's id, or what a search returned.
            texts: The texts to look at: a list, a column, a generator, a table with one column of text, a text file,
                rows of token ids; None, with an index, takes its own.
            layer, component: As in `get_top_features_for_text`.
            index: Answers from this index (of the same SAE, component and texts) without running the model, by its
                rule of which tokens count.
            exclude: Tokens that do not count, as in `get_top_features_for_text`; without an index None counts all.

        Examples:
            >>> for text, activation, position in model.get_top_texts_for_feature(ball, sae, texts, top_k=2):
            ...     print(round(activation), repr(model.to_str_tokens(text)[position]))
            11 ' ball'
            4 ' toys'
        """
        sae, place = self._place(sae, layer, component)
        if index is not None:
            source = Source(self.anatomy, sae, place, self.name)
            return texts_from_index(index, source, texts, feature_id, top_k, exclude)
        if texts is None:
            raise InputError("Give a list of texts, or index=… to ask an index about its own.")
        return top_texts(
            self.language_model, feature_id, sae, texts, place,
            tokenize=self._tokenize, top_k=top_k, exclude=() if exclude is None else exclude, cache=self.feature_cache,
        )  # fmt: skip

    def visualize_feature_activations(
        self,
        text: Any,
        sae: SAE | str | Path,
        layer: int | None = None,
        component: str | None = None,
        feature_ids: Any = None,
        *,
        top_k: int = 5,
        exclude: Iterable[str] | str = (),
    ) -> TokenView:
        """A text's tokens coloured by how strongly features are active on them.

        A notebook shows it by itself, `print` shows it in the terminal, `.to_html(path)` writes a file.

        Args:
            text, layer, component: As in `get_top_features_for_text`.
            feature_ids: One feature or several (ids, or what a search returned), in the order shown; None takes the
                text's `top_k` strongest.
            exclude: Tokens that stay without colour and do not count, as in `get_top_features_for_text`.

        Examples:
            >>> view = model.visualize_feature_activations("Lily lost her red ball.", sae, feature_ids=[ball])
            >>> view.tokens[int(view.activations[0].argmax())]
            ' ball'
            >>> view.to_html("view.html").name  # one file, for any browser
            'view.html'
        """
        sae, place = self._place(sae, layer, component)
        return view_of_text(
            self.language_model, text, sae, place,
            tokenize=self._tokenize, feature_ids=feature_ids, top_k=top_k, exclude=exclude,
        )  # fmt: skip

    @overload
    def feature_logits(
        self, sae: SAE | str | Path, feature_id: int, top_k: int = 10, *, component: str | None = None,
        layer: int | None = None,
    ) -> FeatureLogits: ...  # fmt: skip

    @overload
    def feature_logits(
        self,
        sae: SAE | str | Path,
        feature_id: Sequence[int],
        top_k: int = 10,
        *,
        component: str | None = None,
        layer: int | None = None,
    ) -> list[FeatureLogits]: ...

    def feature_logits(
        self,
        sae: SAE | str | Path,
        feature_id: int | Sequence[int],
        top_k: int = 10,
        *,
        component: str | None = None,
        layer: int | None = None,
    ) -> FeatureLogits | list[FeatureLogits]:
        """The tokens that a feature promotes and suppresses: its decoder row through final norm and head.

        `promoted, suppressed = model.feature_logits(sae, 5)`. The lens is linear: the row times the norm's gain
        (LayerNorm: less its mean), then the head; no biases, no cap on the logits, and the mean over the
        vocabulary taken away. Logits are per unit of activation where the final residual stream has a root
        mean square of 1. An SAE at `attn.z` or at an MLP's hidden layer goes through that sublayer's output
        projection first; other layers in between are not counted.

        Args:
            feature_id: In [0, sae.d_hidden); several give a list, for little more than the price of one.
            top_k: Tokens on each side.
            layer, component: What the SAE reconstructs; None takes what its metadata says.

        Raises:
            UnknownFeatureError: There is no such feature.
            InputError: `top_k` is below 1, or nothing says where the SAE writes.
            SAEError: The decoder rows are not as wide as the component, or it does not reach the residual
                stream by a linear map.
            ComponentError: No such component, or the model has more than one residual stream.

        Examples:
            >>> promoted, suppressed = model.feature_logits(sae, ball, top_k=3)
            >>> [token for token, logit in promoted]
            [' rolled', ' jump', ' hard']
        """
        sae, several = self._open(sae), is_several(feature_id)
        ids: Any = feature_id if several else [feature_id]
        component = self._written(sae, layer, component)
        found = feature_logits(self._plain, sae, ids, top_k, component=component, tokenize=self._tokenize)
        return found if several else found[0]

    def random_direction_baseline(
        self, sae: SAE | str | Path, n: int = 100, seed: int = 0, *, component: str | None = None,
        layer: int | None = None,
    ) -> RandomDirections:  # fmt: skip
        """What random directions show where this SAE writes, to hold `feature_logits` against.

        `baseline.share_with_higher_maximum(feature)` is near 0 for a feature that promotes tokens as no random
        direction of its length does. Directions are isotropic (Gaussian), in the space of the decoder rows.

        Args:
            n: Number of directions.
            layer, component: As in `feature_logits`.
        """
        sae = self._open(sae)
        component = self._written(sae, layer, component)
        return random_direction_baseline(self._plain, sae, n, seed, component=component)

    def _written(self, sae: SAE, layer: Any, component: Any) -> str | None:
        """What an SAE is said to reconstruct; None leaves it to its metadata."""
        if layer is None and component is None:
            return None
        said = sae.metadata.get("component_out")
        own = said if isinstance(said, str) else None
        return place_of(self._plain, sae, layer, component, own=own, quiet=sae.is_transcoder).name

    def _open(self, sae: SAE | str | Path) -> SAE:
        self._refresh()
        return sae if isinstance(sae, SAE) else self.load_sae(sae)

    def _place(self, sae: SAE | str | Path, layer: Any, component: Any) -> tuple[SAE, Component]:
        """The SAE, loaded if need be, and the component asked for; warns where that is another than its own."""
        sae = self._open_at(sae, layer, component)
        return sae, place_of(self.anatomy, sae, layer, component)

    def _open_at(self, sae: SAE | str | Path, layer: Any, component: Any) -> SAE:
        """The SAE; of a file whose hook this model does not have, as it is used where the call says."""
        try:
            return self._open(sae)
        except ComponentError:
            if layer is None and component is None:
                raise
            name = (
                component
                if layer is None
                else f"layers.{self.anatomy.names.layer(layer)}.{component or 'mlp'}"
            )
            return self.load_sae(sae, component=name)  # type: ignore[arg-type]


def _path(layer: int, component: str) -> str:
    return f"layers.{layer}.{component}"
