"""`InterpretableModel` with the existing library's signatures where they differ from this one's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...backends.host.conversion import to_numpy
from ...core import checks
from ...errors import InputError
from ...model import InterpretableModel as OurModel
from ...tracing.trace import Trace
from .changes import change_of
from .training import SAEConfig

_DRAWN = ("max_display_tokens", "figsize", "cmap", "font_family")
"""Options of their pictures, which change nothing here: ours take the room they need."""


class InterpretableModel(OurModel):
    """See `mlxterp.InterpretableModel`. `logit_lens`, `tuned_lens`, `activation_patching`, `get_token_predictions` and
    `train_sae` have the existing library's arguments and results here."""

    def trace(
        self,
        input_data: Any,
        interventions: Mapping[str, Any] | None = None,
        capture: Any = None,
        stop_after: Any = None,
    ) -> Trace:
        """See `mlxterp.InterpretableModel.trace`; `zero_out` may stand there without a call."""
        changes = (
            None if interventions is None else {name: _changed(one) for name, one in interventions.items()}
        )
        return super().trace(input_data, changes, capture, stop_after)

    def logit_lens(  # type: ignore[override]
        self,
        text: Any,
        top_k: int = 1,
        layers: Any = None,
        position: int | None = None,
        plot: bool = False,
        *,
        final_norm: Any = None,
        skip_norm: bool = False,
        **drawn: Any,
    ) -> dict[int, list[list[tuple[int, float, str]]]]:
        """What each layer would predict: {layer: [[(token id, logit, text), … top_k], … positions]}.

        Args:
            final_norm: Only None: the model's own is found by itself.
            skip_norm: Whether states go through the head as they are.
            drawn: Options of their pictures, which change nothing here.

        Raises:
            InputError: Another norm, or an option that neither library has.
        """
        _check_drawn(drawn, "logit_lens", final_norm)
        lens = super().logit_lens(text, layers, top_k, position, plot)
        if not checks.flag(skip_norm, "skip_norm"):
            return dict(lens)
        found = {}
        states = self.trace(text, capture=[f"layers.{n}.resid_post" for n in lens.layers]).activations
        for layer in lens.layers:
            rows = to_numpy(states[f"layers.{layer}.resid_post"])[0, list(lens.positions)]
            pairs = self.get_token_predictions(rows, top_k, return_scores=True)
            found[layer] = [[(i, score, self.token_to_str(i)) for i, score in own] for own in pairs]
        return found

    def tuned_lens(  # type: ignore[override]
        self,
        text: Any,
        tuned_lens: Any = None,
        top_k: int = 1,
        layers: Any = None,
        position: int | None = None,
        plot: bool = False,
        *,
        final_norm: Any = None,
        skip_norm: bool = False,
        **drawn: Any,
    ) -> dict[int, list[list[tuple[int, float, str]]]]:
        """What each layer would predict by a `TunedLens`: {layer: [[(token id, logit, text), … top_k], … positions]}.

        Args:
            final_norm: Only None: the model's own is found by itself.
            skip_norm: Only False: the lens was trained with the norm behind it.
            drawn: Options of their pictures, which change nothing here.

        Raises:
            InputError: Another norm or none, or an option that neither library has.
        """
        _check_drawn(drawn, "tuned_lens", final_norm)
        if checks.flag(skip_norm, "skip_norm"):
            raise InputError("skip_norm=True: a tuned lens is trained with the final norm behind it.")
        return dict(super().tuned_lens(text, tuned_lens, top_k, layers, position, plot))

    def activation_patching(  # type: ignore[override]
        self,
        clean_text: Any,
        corrupted_text: Any,
        component: str = "mlp",
        layers: Any = None,
        metric: Any = "l2",
        plot: bool = False,
        **options: Any,
    ) -> dict[int, Any]:
        """{layer: per cent of the way back to the clean run}, an array of them by position or head."""
        ours = {name: value for name, value in options.items() if name not in _DRAWN}
        return dict(
            super().activation_patching(
                clean_text, corrupted_text, component, layers, metric, plot=plot, **ours
            )
        )

    def get_token_predictions(
        self,
        hidden_state: Any,
        top_k: int = 10,
        return_scores: bool = False,
        embedding_layer: Any = None,
        lm_head: Any = None,
        *,
        norm: bool = False,
    ) -> Any:
        """See `mlxterp.InterpretableModel.get_token_predictions`; without the final norm, as the existing library."""
        return super().get_token_predictions(
            hidden_state, top_k, return_scores, embedding_layer, lm_head, norm=norm
        )

    def train_sae(  # type: ignore[override]
        self,
        layer: int,
        dataset: Any,
        component: str = "mlp",
        save_path: str | os.PathLike | None = None,
        config: Any = None,
        verbose: bool = True,
        **options: Any,
    ) -> Any:
        """See `mlxterp.InterpretableModel.train_sae`; an `SAEConfig` is taken, too."""
        if isinstance(config, SAEConfig):
            config.warn_of_unused()
            config = config.to_train_config()
        return super().train_sae(layer, dataset, component, config, save_path, verbose, **options)


def _check_drawn(drawn: Mapping[str, Any], call: str, final_norm: Any) -> None:
    unknown = [name for name in drawn if name not in _DRAWN]
    if unknown:
        raise InputError(f"{call} takes no {unknown[0]}=.")
    if final_norm is not None:
        raise InputError("final_norm= is found in the model by itself here.")


def _changed(given: Any) -> Any:
    return [change_of(one) for one in given] if isinstance(given, (list, tuple)) else change_of(given)
