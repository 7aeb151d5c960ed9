"""Lenses of an `InterpretableModel` that are fitted to it first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import InputError
from ..lens import JacobianLens, LogitLens, TunedLens
from ..lens.jacobian_fit import FitSettings
from ..lens.jacobian_fit import fit_jacobian_lens as fit
from ..lens.tuned_training import TunedSettings
from ..lens.tuned_training import train_tuned_lens as train
from .facade import Facade


def fit_jacobian_lens(
    self: Facade,
    texts: Any,
    layers: Any = "all",
    prompts: int = 200,
    *,
    target: int | None = None,
    context_length: int = 128,
    skip: int = 16,
    tolerance: float = 2e-3,
    least: int = 100,
    rows: int = 8,
    path: str | os.PathLike | None = None,
    save_every: int = 10,
    verbose: bool = True,
) -> JacobianLens:
    """Fits a lens that reads a layer's stream by what it makes the model say later, on average over texts.

    Of each prompt it takes the mean over positions p of Σ_p' ∂h_target[p'] / ∂h_layer[p], by d_model / `rows` backward
    passes, which serve all layers; the lens is the mean over prompts, summed in float32. The model holds the lens
    then: `model.jacobian_lens(text)`.

    Args:
        texts: As `build_index` takes them. Each gives a prompt (a long one several: one for each 2,000 characters),
            in their order; mix texts that are sorted.
        layers: Layers to read; "all" are those before `target`.
        prompts: At most so many.
        target: The layer that is led to; None is the last.
        context_length: Tokens of a prompt; what is longer is cut.
        skip: First positions that do not count, nor does the last; shorter pieces of text are left out and counted.
        tolerance: The fit ends where the last ten prompts changed the means by a smaller share than this, on average;
            0 uses all prompts.
        least: But not before so many prompts.
        rows: Output dimensions of a backward pass: memory against speed.
        path: A .safetensors file that keeps what is done every `save_every` prompts. The same call goes on with it,
            also with more texts or prompts.
        verbose: Show a bar where the output is a terminal.

    Raises:
        InputError: All texts are too short, a setting that cannot be, or `path` holds another lens.
        ComponentError: There is no such layer, or the model has more than one residual stream.
        GradientError: A gradient is not finite.

    Examples:
        >>> lens = model.fit_jacobian_lens(texts, prompts=10, context_length=20, verbose=False)
        >>> lens.layers, lens.n_prompts
        ((0, 1, 2), 10)
    """
    settings = FitSettings(prompts, context_length, skip, tolerance, least, save_every)
    lens = fit(self.session, texts, layers, settings, target=target, rows=rows, path=path, verbose=verbose)
    self.session.jacobian_lens = lens
    return lens


def load_jacobian_lens(self: Facade, source: str | os.PathLike | JacobianLens) -> JacobianLens:
    """Opens a lens and holds it: `model.jacobian_lens(text)` reads with it then.

    Args:
        source: A file, ours or a published `.pt`; the name of a published one ("gemma-2-2b"), from the hub; or a lens.

    Raises:
        InputError: It cannot be read or brought, or is of another model.

    Examples:
        >>> lens = model.fit_jacobian_lens(texts, layers=2, prompts=10, context_length=20, verbose=False)
        >>> path = lens.save("lens.safetensors")
        >>> model.load_jacobian_lens(path)
        JacobianLens(1 layers to layer 3, 10 prompts)
    """
    given = source if isinstance(source, JacobianLens) else JacobianLens.load(source)
    lens = self.session.jacobian_lens = given.on(self.session)
    return lens


def jacobian_lens(
    self: Facade,
    text: Any,
    layers: int | Iterable[int] | None = None,
    top_k: int = 5,
    position: int | None = None,
    plot: bool = False,
    *,
    use_jacobian: bool = True,
) -> LogitLens:
    """What each layer's stream makes the model say, by the lens that was last fitted or loaded.

    It is that of `lens(text)`, in the form of `model.logit_lens`.

    Args:
        text: One text, or its token ids.
        layers: Layer numbers, negative ones from the end; None means all of the lens, and those from its target on.
        top_k: Tokens kept at each place.
        position: Only this one; negative ones count from the text's end.
        plot: Show a picture in a window at once.
        use_jacobian: False is `model.logit_lens`.

    Raises:
        InputError: No lens was fitted or loaded, or it has no such layer.

    Examples:
        >>> _ = model.fit_jacobian_lens(texts, layers=[1, 2], prompts=10, context_length=20, verbose=False)
        >>> model.jacobian_lens("Tom was sad because he lost his", position=-1)
        LogitLens(3 layers, 1 positions, top 5, Jacobian lens)
    """
    lens = self.session.jacobian_lens
    if lens is None:
        raise InputError(
            "This model holds no Jacobian lens. Fit one, model.fit_jacobian_lens(texts), or open one,"
            " model.load_jacobian_lens(path)."
        )
    found = lens(text, layers, top_k, position, use_jacobian=use_jacobian)
    if plot:
        found.plot(show=True)
    return found


def train_tuned_lens(
    self: Facade,
    dataset: Any,
    num_steps: int = 250,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    max_seq_len: int = 2048,
    gradient_clip: float = 1.0,
    save_path: str | os.PathLike | None = None,
    verbose: bool = True,
    callback: Callable[[int, float], Any] | None = None,
    *,
    held_out: Any = None,
    batch_tokens: int = 256,
    checkpoint: str | os.PathLike | None = None,
    seed: int = 0,
) -> TunedLens:
    """Trains an affine map for each layer, so that norm and head then say what the model will (Belrose et al. 2023).

    A step minimises KL(final ‖ lens) on a batch, for all layers in one pass, by gradient descent with Nesterov's
    momentum; the learning rate falls linearly to 0. `print(lens)` shows the KL on held-out texts beside the logit
    lens's, layer by layer.

    Args:
        dataset: Texts, as `build_index` takes them.
        num_steps: Batches; texts are read again as often as it takes.
        learning_rate: Of the first step. (The existing mlxterp starts with 1.0, which overshoots in small models.)
        max_seq_len: Tokens of a context; longer texts are cut into several.
        gradient_clip: A layer's gradient is at most so long.
        save_path: Saves the lens there at the end, as `TunedLens.save` does.
        verbose: Show a bar where the output is a terminal.
        callback: Called with the number of the step that was done and its loss, a mean over layers.
        held_out: Texts to measure on; None keeps back the last tenth, at most 50.
        batch_tokens: Tokens of a step, about.
        checkpoint: A .safetensors file that keeps what is done every 10 steps; the same call goes on with it.
        seed: Of the order of the texts.

    Raises:
        InputError: No text of two tokens, a setting that cannot be, or `checkpoint` is of another training.
        GradientError: The loss is not finite.
        ComponentError: The model has more than one residual stream.

    Examples:
        >>> lens = model.train_tuned_lens(texts, num_steps=10, verbose=False)
        >>> before, after = lens.gain[0]  # KL on held-out texts after layer 0: of the logit lens, and of this one
        >>> after < before
        True
    """
    settings = TunedSettings(
        num_steps, learning_rate, momentum, max_seq_len, gradient_clip, batch_tokens, seed
    )  # fmt: skip
    lens = train(
        self.session,
        dataset,
        settings,
        held_out=held_out,
        checkpoint=checkpoint,
        verbose=verbose,
        callback=callback,
    )
    if save_path is not None:
        lens.save(save_path)
    self.session.tuned_lens = lens
    return lens


def load_tuned_lens(self: Facade, path: str | os.PathLike | TunedLens) -> TunedLens:
    """Opens a tuned lens and holds it: `model.tuned_lens(text)` reads with it then.

    Args:
        path: Files of `TunedLens.save` or of the existing mlxterp, a folder of the tuned-lens project, or a lens.

    Raises:
        InputError: It cannot be read, or is of another model.
    """
    given = path if isinstance(path, TunedLens) else TunedLens.load(path)
    lens = self.session.tuned_lens = given.on(self.session)
    return lens


def tuned_lens(
    self: Facade,
    text: Any,
    tuned_lens: TunedLens | None = None,
    top_k: int = 5,
    layers: int | Iterable[int] | None = None,
    position: int | None = None,
    plot: bool = False,
) -> LogitLens:
    """What each layer's stream says of the next token, by a tuned lens, in the form of `model.logit_lens`.

    Args:
        text: One text, or its token ids.
        tuned_lens: None takes the one that was last trained or loaded.
        top_k: Tokens kept at each place.
        layers: Layer numbers, negative ones from the end; None means all.
        position: Only this one; negative ones count from the text's end.
        plot: Show a picture in a window at once.

    Raises:
        InputError: There is no lens, or it is of another model.
    """
    lens = self.session.tuned_lens if tuned_lens is None else tuned_lens
    if not isinstance(lens, TunedLens):
        raise InputError(
            "This model holds no tuned lens. Train one, model.train_tuned_lens(texts), or open one,"
            " model.load_tuned_lens(path)."
            if lens is None
            else f"tuned_lens is {type(lens).__name__}; expected a TunedLens."
        )
    lens = lens if lens.is_on(self.session) else lens.on(self.session)
    found = lens(text, layers, top_k, position)
    if plot:
        found.plot(show=True)
    return found
