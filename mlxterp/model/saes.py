"""What an `InterpretableModel` does with sparse autoencoders: load, train, measure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.integers import as_integer
from ..core.places import beside, path_of
from ..errors import InputError, SAEError
from ..evaluation.check import SAECheck, check
from ..evaluation.evaluation import SAEEvaluation, evaluate
from ..hooks.session import ModelSession
from ..sae import SAE
from ..sae.adapt import open_sae
from ..training.config import SAETrainConfig, config_of
from ..training.on_texts import TrainOptions, split_options, train_on_texts
from .facade import Facade
from .opening import sae_at

_OF_TRANSCODER = (
    "from_layer", "to_layer", "dataset", "component", "from_component", "to_component", "save_path", "config",
    "verbose",
)  # fmt: skip
"""What `train_transcoder` takes beside settings and options."""


def load_sae(
    self: Facade,
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
    """Loads an SAE of any known format and adapts it to this model.

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
    self.session.refresh()
    return open_sae(
        self.session.plain, source, sae_id, component=component, format=format, k=k, device=device,
        norm_scaling_factor=norm_scaling_factor, revision=revision, model_name=self.session.name,
    )  # fmt: skip


def check_sae(
    self: Facade,
    sae: SAE | str | Path,
    texts: Any,
    component: str | None = None,
    max_tokens: int = 8192,
    *,
    layer: int | None = None,
) -> SAECheck:
    """How well an SAE fits a component, with the likely cause where it does not.

    Explained variance, L0, dead share, loss recovered; a verdict, "good" or "poor", beside an untrained SAE of the
    same shape and the SAE's own figures (`evaluation.check.check` has the rule); and whether another place would
    fit far better. The place that the SAE's metadata names is tried and named first.

    Args:
        layer, component: Where it is measured, as in `get_top_features_for_text`; None takes the SAE's own.
        max_tokens: At most about this many are run.
    """
    sae, place = sae_at(self.session, sae, layer, component)
    self.session.warn_of_acts("an SAE is checked")
    return check(self.session.anatomy, sae, texts, place.name, max_tokens)


def evaluate_sae(
    self: Facade,
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
    sae, place = sae_at(self.session, sae, layer, component)
    self.session.warn_of_acts("an SAE is evaluated")
    return evaluate(self.session.anatomy, sae, texts, place.name, max_tokens)


def train_sae(
    self: Facade,
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
    jobs = {"sae": (_path(self.session.anatomy.names.layer(layer), component), made)}
    return _train(self.session, jobs, dataset, {"sae": save_path}, verbose, options)["sae"]


def train_transcoder(
    self: Facade,
    from_layer: int,
    to_layer: int,
    dataset: Any,
    component: str = "mlp",
    from_component: str | None = None,
    to_component: str | None = None,
    save_path: str | os.PathLike | None = None,
    config: SAETrainConfig | Mapping[str, Any] | None = None,
    verbose: bool = True,
    **options: Any,
) -> SAE:
    """Trains a transcoder: features of one component that predict another component of the same tokens.

    The same as `train_sae` with `config.target`, which it sets. An MLP's own transcoder reads what enters it:
    from_component="mlp.input", to_component="mlp" of the same layer.

    Args:
        from_layer, to_layer: Layers that are read and predicted.
        dataset, save_path, config, verbose, options: As in `train_sae`.
        component: Name below both layers, where the next two are not given.
        from_component, to_component: Names below the one and the other.

    Raises:
        InputError, ComponentError, SAEError: As `train_sae` says; SAEError where the config names another target.

    Examples:
        >>> settings = {"d_hidden": 256, "k": 8, "epochs": 1}
        >>> trained = model.train_transcoder(1, 2, texts, "resid_post", config=settings, verbose=False)
        >>> trained.is_transcoder
        True
    """
    settings, options = split_options(options, "train_transcoder", _OF_TRANSCODER)
    made, names = config_of(config, settings), self.session.anatomy.names
    target = _path(names.layer(to_layer), component if to_component is None else to_component)
    if made.target not in (None, target):
        raise SAEError(
            f"config.target is {made.target!r}, and to_layer and to_component say {target!r}. Name one."
        )
    source = _path(names.layer(from_layer), component if from_component is None else from_component)
    jobs = {"sae": (source, replace(made, target=target))}
    return _train(self.session, jobs, dataset, {"sae": save_path}, verbose, options)["sae"]


def train_saes(
    self: Facade,
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
    folder = None if save_path is None else path_of(save_path)
    if folder is not None:
        options.setdefault("run_dir", beside(folder, ".run"))
    paths = {name: None if folder is None else folder / name for name in asked}
    return _train(self.session, asked, dataset, paths, verbose, options)


def _train(
    session: ModelSession,
    jobs: Mapping[str, tuple[str, SAETrainConfig]],
    dataset: Any,
    paths: Mapping[str, str | os.PathLike | None],
    verbose: bool,
    options: Mapping[str, Any],
) -> dict[str, SAE]:
    session.refresh()
    session.warn_of_acts("an SAE is trained")
    return train_on_texts(
        session.anatomy, dataset, jobs, paths, TrainOptions(verbose=verbose, **options), session.name
    )


def _path(layer: int, component: str) -> str:
    return f"layers.{layer}.{component}"
