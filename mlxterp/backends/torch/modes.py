"""The state that a pass needs and puts back: evaluation mode, no gradients, nothing compiled.

Where such a state belongs to the model or to the whole process, it is counted, so passes of several
threads can overlap and the last one to leave restores it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from ...core.quiet import quiet
from ..host.modes import EvaluationMode
from .tree import ModuleTree

_lock = threading.RLock()
_eager: list[AbstractContextManager] = []
_eager_users = 0


def _set_training(module: nn.Module, training: bool) -> None:
    module.training = training


_EVALUATION: EvaluationMode[nn.Module] = EvaluationMode(
    lambda modules: [module for module in modules if vars(module).get("training")], _set_training
)


@contextmanager
def settled(tree: ModuleTree, *, gradients: bool = False, inference: bool = False) -> Iterator[None]:
    """Runs the model without dropout and, unless asked for, without gradients.

    Args:
        inference: Whether torch keeps nothing that gradients of a later pass would need: see `runs_in_inference`.
    """
    # `set_grad_enabled` acts when it is made, so it is made inside inference mode, which sets it too.
    with (
        quiet,
        _EVALUATION.of(tree.every),
        torch.inference_mode(inference),
        torch.set_grad_enabled(gradients),
    ):
        yield


@contextmanager
def outside_inference() -> Iterator[None]:
    """Within this block new tensors are ordinary ones, without gradients, whatever mode the pass runs in."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def runs_in_inference(model: nn.Module, tree: ModuleTree) -> bool:
    """Whether passes of generation may run in torch's inference mode, which takes less time for each operation.

    What a module makes in it and keeps (a table that grows, say) gives no gradients ever after. So only models of
    transformers do, which keep nothing of that kind; compiled ones would be compiled again.
    """
    own = type(model).__module__.startswith("transformers.models.")
    return own and not any(_is_compiled(module) for module in tree.modules)


@contextmanager
def uncompiled(tree: ModuleTree) -> Iterator[None]:
    """Runs compiled modules as plain Python, so that what is inside them is seen.

    torch's switch for this is process-wide, so it is used only for models that hold such a module.
    """
    global _eager_users
    if not any(_is_compiled(module) for module in tree.modules):
        yield
        return
    with _lock:
        if _eager_users == 0:
            _eager.append(torch.compiler.set_stance("force_eager"))
            _eager[-1].__enter__()
        _eager_users += 1
    try:
        yield
    finally:
        with _lock:
            _eager_users -= 1
            if _eager_users == 0:
                _eager.pop().__exit__(None, None, None)


def _is_compiled(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return (
        module._compiled_call_impl is not None
        or "_orig_mod" in module._modules
        or hasattr(forward, "_torchdynamo_orig_callable")
    )
