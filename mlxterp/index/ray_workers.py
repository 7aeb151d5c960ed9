"""Shards computed by Ray actors, on this machine or a cluster, and written here: the same files as without.

Ray decides where actors run and what happens when one is lost; each loads the model once. Plans go out and
features come back, so nothing needs a shared file system.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..activations.exclusions import Rule
from ..activations.fingerprint import is_same, model_fingerprint
from ..anatomy.anatomy import Anatomy
from ..backends import load_language_model
from ..errors import BackendError, FeatureIndexError, InputError
from ..sae import SAE
from .encode import EncodedShard, encode_shard
from .plan import ShardPlan

if TYPE_CHECKING:
    from .source import Source

_AHEAD = 2
"""Plans that each worker is given before its first answer is waited for."""


class Worker:
    """What an actor holds: the model, the SAE, and the rule."""

    def __init__(
        self,
        model: str,
        backend: str,
        component: str,
        sae: tuple[Any, ...],
        rule: Rule,
        facts: dict[str, Any],
    ):
        language_model = load_language_model(model, backend=backend)
        weights, activation, form = sae
        self._model, self._rule = language_model, rule
        anatomy = Anatomy(language_model)
        self._component = anatomy.component(component)
        now = model_fingerprint(anatomy, [self._component])[component]
        if not is_same(language_model, facts.get("weights"), facts["probe"], now, "The plan"):
            raise FeatureIndexError(
                f"Workers load {model} themselves, and what they got computes something else than the model here. Was"
                " it changed after loading (quantized, an adapter)? Save it and load it from its folder, or build"
                " without workers."
            )
        self._sae = SAE(weights, activation, form=form, backend=backend)

    def encode(self, plan: ShardPlan) -> EncodedShard:
        """Runs the model over a shard."""
        return encode_shard(self._model, plan, self._sae, self._component, self._rule)


def encoded_by_ray(
    source: Source, rule: Rule, workers: int
) -> Callable[[Iterable[ShardPlan]], Iterator[tuple[ShardPlan, EncodedShard]]]:
    """A function that has workers compute the shards of plans, and gives them back in order.

    Raises:
        BackendError: Ray is not installed.
        InputError: The model was given as an object, so workers cannot load it.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise BackendError('workers=… needs Ray: pip install "mlxterp[ray]".') from error
    if source.name is None:
        raise InputError(
            "Workers load the model themselves, and this one was given as an object. Make it from its repo or folder:"
            " InterpretableModel('repo/or/folder')."
        )

    def encode(plans: Iterable[ShardPlan]) -> Iterator[tuple[ShardPlan, EncodedShard]]:
        started = not ray.is_initialized()
        if started:
            ray.init(log_to_driver=False, include_dashboard=False)
        sae = ray.put(
            (source.sae.weights, source.sae.activation, source.sae.form)
        )  # held here: a restart needs it
        actors = _actors(ray, source, sae, rule, workers)
        try:
            yield from _in_order(ray, actors, plans)
        except RayError as error:
            raise FeatureIndexError(
                f"A worker failed: {str(error).strip().splitlines()[-1]} What is written stays; the same call goes on."
            ) from error
        finally:
            for actor in actors:
                ray.kill(actor)
            if started:
                ray.shutdown()

    return encode


def _actors(ray: Any, source: Source, sae: Any, rule: Rule, workers: int) -> list[Any]:
    backend = source.anatomy.model.backend.name
    options = {"num_cpus": 1, "num_gpus": int(source.on_gpu), "max_restarts": 3, "max_task_retries": 3}
    facts = source.model_facts
    make = ray.remote(**options)(Worker)
    return [
        make.remote(source.name, backend, source.component.name, sae, rule, facts) for _ in range(workers)
    ]


def _in_order(
    ray: Any, actors: list[Any], plans: Iterable[ShardPlan]
) -> Iterator[tuple[ShardPlan, EncodedShard]]:
    """Plans go to the workers in turn; a few are always under way."""
    waiting: deque[tuple[ShardPlan, Any]] = deque()
    for number, plan in enumerate(plans):
        waiting.append((plan, actors[number % len(actors)].encode.remote(plan)))
        if len(waiting) >= _AHEAD * len(actors):
            done, answer = waiting.popleft()
            yield done, ray.get(answer)
    while waiting:
        done, answer = waiting.popleft()
        yield done, ray.get(answer)
