"""Settings of training under the existing library's names, and the class that trained with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ...errors import InputError, warn
from ...lens import TunedLens
from ...model import InterpretableModel
from ...sae import SAE
from ...training import SAETrainConfig

_SAME = {
    "expansion_factor": "expansion_factor", "k": "k", "sae_type": "architecture", "learning_rate": "lr",
    "batch_size": "batch_size", "num_epochs": "epochs", "normalize_input": "normalize", "seed": "seed",
}  # fmt: skip
"""Their name → ours."""


@dataclass(slots=True)
class SAEConfig:
    """Settings of one SAE's training, with the existing library's names and defaults.

    Attributes:
        expansion_factor: d_hidden / d_model.
        k: Features active on each token.
        sae_type: "topk" or "batchtopk".
        learning_rate: Peak of Adam's.
        batch_size: Tokens in one step.
        num_epochs: How often each token is seen.
        normalize_input: Whether to train in normalised units.
        seed: Of initial weights and order.
        lambda_sparse: Not used here.
        tied_weights: Not used here.
        dead_neuron_threshold: Not used here.
        use_ghost_grads: Not used here.
        feature_sampling_window: Not used here.
        dead_feature_window: Not used here.
        warmup_steps: Not used here.
        lr_decay_steps: Not used here.
        lr_scheduler: Not used here.
        gradient_clip: Not used here.
        sparsity_warm_up_steps: Not used here.
        checkpoint_every: Not used here.
        validation_split: Not used here.
        text_batch_size: Not used here.
        use_wandb: Not used here.
        wandb_project: Not used here.
        wandb_entity: Not used here.
        wandb_name: Not used here.
        wandb_tags: Not used here.

    A setting that is not used here and not at its default is named by a warning when training begins.
    """

    expansion_factor: int = 32
    k: int = 100
    sae_type: str = "topk"
    learning_rate: float = 3e-4
    batch_size: int = 256
    num_epochs: int = 10
    lambda_sparse: float = 0.0
    normalize_input: bool = True
    tied_weights: bool = False
    dead_neuron_threshold: float = 1e-6
    use_ghost_grads: bool = True
    feature_sampling_window: int = 1000
    dead_feature_window: int = 1000
    warmup_steps: int = 1000
    lr_decay_steps: int | None = None
    lr_scheduler: str = "cosine"
    gradient_clip: float | None = 1.0
    sparsity_warm_up_steps: int | None = None
    checkpoint_every: int = 5000
    validation_split: float = 0.05
    seed: int = 42
    text_batch_size: int = 32
    use_wandb: bool = False
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_name: str | None = None
    wandb_tags: list[str] | None = None

    def __post_init__(self) -> None:
        self.to_train_config()  # refuses what cannot be

    def to_train_config(self) -> SAETrainConfig:
        """The same in this library's settings.

        Raises:
            SAEError: A setting cannot be used.
        """
        return SAETrainConfig(**{ours: getattr(self, theirs) for theirs, ours in _SAME.items()})

    def warn_of_unused(self) -> None:
        """Warns of settings that were changed and mean nothing here."""
        changed = [f.name for f in fields(self) if f.name not in _SAME and getattr(self, f.name) != f.default]
        if changed:
            warn(
                f"SAEConfig: {', '.join(changed)} not used here. The learning rate rises and falls, dead features are"
                " revived and checkpoints written by rules of this library: see mlxterp.SAETrainConfig."
            )


class SAETrainer:
    """Trains an SAE with settings of the existing library.

    Args:
        config: None takes their defaults.
    """

    def __init__(self, config: SAEConfig | None = None):
        if config is not None and not isinstance(config, SAEConfig):
            raise InputError(
                f"config is {type(config).__name__}; expected an SAEConfig, or None for their defaults."
            )
        self.config = config or SAEConfig()

    def train(
        self,
        model: InterpretableModel,
        layer: int,
        dataset: Any,
        component: str = "mlp",
        save_path: str | os.PathLike | None = None,
        verbose: bool = True,
    ) -> SAE:
        """Trains on a component's activations over texts; see `InterpretableModel.train_sae`."""
        self.config.warn_of_unused()
        settings = self.config.to_train_config()
        return InterpretableModel.train_sae(
            model, layer, dataset, component, config=settings, save_path=save_path, verbose=verbose
        )


def train_tuned_lens(
    model: InterpretableModel,
    dataset: Any,
    num_steps: int = 250,
    learning_rate: float = 1.0,
    momentum: float = 0.9,
    max_seq_len: int = 2048,
    gradient_clip: float = 1.0,
    save_path: str | os.PathLike | None = None,
    verbose: bool = True,
    callback: Callable[[int, float], Any] | None = None,
) -> TunedLens:
    """See `InterpretableModel.train_tuned_lens`; the learning rate is the existing library's."""
    return model.train_tuned_lens(
        dataset, num_steps, learning_rate, momentum, max_seq_len, gradient_clip, save_path, verbose, callback
    )
