"""An index outside an array raises, with its shape and component: in traces and while a user's function runs.

MLX reads and writes other memory there, and may end the process: what could is run in one of its own.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, logit_difference
from mlxterp.backends.host.item_access import checked_items
from mlxterp.compat.saelens import HookedTransformer
from mlxterp.interventions import Intervention, compose, zero_out

TEXT = "Lily lost"
LENGTH = 10  # letters and BOS
PLACE = "layers.1.resid_post"
KEYS: dict[str, Any] = {
    "a list": (slice(None), [LENGTH]), "a negative list": (slice(None), [-LENGTH - 1]), "an integer": (0, 99),
    "a negative integer": (0, -99), "a NumPy integer": (0, np.int64(LENGTH)), "the width": (..., 64),
    "an array": (slice(None), np.array([0, LENGTH])), "too many": (0, 0, 0, 0), "a text": 1,
    "a mask": (slice(None), np.ones(LENGTH + 1, bool)), "a whole mask": np.ones((1, LENGTH - 1), bool),
    "nested lists": ([[0], [3]],),
}  # fmt: skip


@pytest.fixture
def model(letter_model: mlxterp.InterpretableModel) -> mlxterp.InterpretableModel:
    assert len(letter_model.tokenize(TEXT)) == LENGTH
    return letter_model


def native(model: mlxterp.InterpretableModel, key: Any) -> Any:
    """The index with arrays of the model's own library, which functions of users hold."""
    backend = model.language_model.backend
    if isinstance(key, tuple):
        return tuple(native(model, part) for part in key)
    return (
        backend.put(key) if isinstance(key, np.ndarray) else int(key) if isinstance(key, np.integer) else key
    )


def run(model: mlxterp.InterpretableModel, function: Any) -> Any:
    """Logits of a pass with a function at the place."""
    return model.trace(TEXT, {PLACE: function}, capture=[]).output


@pytest.mark.parametrize("name", KEYS)
def test_an_assignment_or_a_read_outside_a_component_raises_in_a_trace(name, model):
    with pytest.raises(InputError, match=r"layers\.1\.resid_post"), model.trace(TEXT):
        model.layers[1].resid_post[KEYS[name]].save()
    with pytest.raises(InputError, match=r"layers\.1\.resid_post"), model.trace(TEXT):
        model.layers[1].resid_post[KEYS[name]] = 0


@pytest.mark.parametrize("name", KEYS)
def test_an_index_outside_raises_while_a_users_function_runs(name, model):
    def reads(x: Any) -> Any:
        x[native(model, KEYS[name])]
        return x

    def writes(x: Any) -> Any:
        x[native(model, KEYS[name])] = 0
        return x

    for function in (reads, writes):
        with pytest.raises(InputError, match=r"the intervention at layers\.1\.resid_post"):
            run(model, function)


def test_every_kind_of_users_function_is_watched(model):
    def slips(x: Any, *_: Any, **__: Any) -> Any:
        x[:, [99]] = 0
        return x

    hooked = HookedTransformer(model)
    calls = {
        "generation": lambda: model.generate(TEXT, max_tokens=2, interventions={PLACE: slips}),
        "together": lambda: model.generate([TEXT, TEXT], max_tokens=2, interventions={PLACE: slips}),
        "composed": lambda: model.trace(TEXT, {PLACE: compose(zero_out(), slips)}, capture=[]).output,
        "of positions": lambda: model.trace(TEXT, {PLACE: Intervention(slips)}, capture=[]).output,
        "gradients": lambda: model.gradients(TEXT, lambda x: x[0, 99, 0], PLACE),
        "a metric": lambda: model.activation_patching(TEXT, TEXT, metric=lambda x: x[0, [99], 0].sum()),
        "hooks": lambda: hooked.run_with_hooks(
            TEXT, fwd_hooks=[("blocks.1.hook_resid_post", slips)], prepend_bos=False
        ),
    }  # fmt: skip
    for call in calls.values():
        with pytest.raises(InputError, match=r"Index 99 is outside axis 1"):
            call()
    for hook in (mlxterp.Controller(PLACE, slips), mlxterp.Detector(PLACE, slips)):
        with model.add_hook(hook), pytest.raises(InputError, match=r"layers\.1\.resid_post"):
            model(TEXT)


def test_what_a_function_may_do_it_still_may(model):
    def change(x: Any) -> Any:
        x[:, [0, -1]] = 0
        x[..., 3:99] = x[:, :, 3:99] * 2
        x[0, 2] = 1
        return x

    before = model.trace(TEXT, capture=[PLACE]).activations[PLACE]
    after = model.trace(TEXT, {PLACE: change}, capture=[PLACE]).activations[PLACE]
    expected = np.array(model.language_model.backend.get(before))
    expected[:, [0, -1]] = 0
    expected[..., 3:] *= 2
    expected[0, 2] = 1
    assert np.array_equal(model.language_model.backend.get(after), expected)


def test_masks_of_one_axis_are_read_and_written_alike_in_a_trace(model):
    mask = np.arange(LENGTH) % 3 == 0
    with model.trace(TEXT) as t:
        rows = model.layers[1].resid_post[0, mask].save()
        model.layers[1].resid_post[:, mask] = 0
        model.layers[1].resid_post[:, mask.tolist()].save("again")
    assert tuple(rows.shape) == (4, model.d_model)
    found = model.language_model.backend.get(t.activations[PLACE])[0]
    assert not found[mask].any() and found[~mask].all()


def test_items_of_items_are_checked_too(model):
    with pytest.raises(InputError, match="a part of layers"), model.trace(TEXT):
        model.layers[1].resid_post[0][3][[400]]


def test_classes_of_arrays_are_as_before_afterwards_and_other_threads_see_nothing(model):
    kind = model.language_model.backend.array_type
    own = {name: vars(kind).get(name) for name in ("__getitem__", "__setitem__", "at")}
    array, seen = model.language_model.backend.put(np.arange(6.0).reshape(2, 3)), []

    def elsewhere() -> None:
        other = model.language_model.backend.put(np.arange(6.0).reshape(2, 3))
        seen.append(float(other[1, 2]))
        seen.append(model.language_model.backend.get(other[[0, 1]]).tolist())

    def fails(_: Any) -> Any:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(model, fails)
    assert seen == [5.0, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
    with model.trace(TEXT), checked_items(model.language_model.backend, "x"):
        pass
    with checked_items(model.language_model.backend, "outer"):
        with model.trace(TEXT):
            pass
        with pytest.raises(InputError, match="of outer"):
            array[0, 7]
    assert {name: vars(kind).get(name) for name in own} == own


def test_positions_that_are_never_reached_raise_in_generation(model):
    for options in ({"positions": [40]}, {"interventions": {PLACE: zero_out(positions=40)}}):
        given = {"interventions": {PLACE: zero_out()}, **options}
        with pytest.raises(
            InputError, match=r"Position 40 is never reached\. The prompt and max_tokens=3 make 13"
        ):
            model.generate(TEXT, max_tokens=3, **given)
        with pytest.raises(InputError, match="Position 40 is never reached"):
            model.generate([TEXT, TEXT], max_tokens=3, **given)
    model.generate([TEXT, TEXT * 2], max_tokens=3, positions=[15], interventions={PLACE: zero_out()})
    model.generate(TEXT, max_tokens=3, positions=slice(0, 99), interventions={PLACE: zero_out()})
    with pytest.raises(InputError, match="Positions are integers"):
        run(model, zero_out(positions=[True, False]))


def test_an_objective_of_ids_looks_no_further_than_its_logits(model):
    logits = model(TEXT)
    with pytest.raises(InputError, match="Position 12 is outside these logits"):
        logit_difference(3, 4, position=12)(logits)


def test_hooked_generation_reads_the_prompt_in_one_pass(model):
    hooked, shapes = HookedTransformer(model), []

    def look(x: Any, hook: Any) -> None:
        assert hook.layer() == 1
        shapes.append(tuple(x.shape)[1])
        if x.shape[1] > 1:
            x[:, [LENGTH - 1]] = 0  # the last token too

    plain = hooked.generate(TEXT, max_new_tokens=3, do_sample=False, prepend_bos=False)
    with hooked.hooks(fwd_hooks=[("blocks.1.hook_resid_post", look)]):
        changed = hooked.generate(TEXT, max_new_tokens=3, do_sample=False, prepend_bos=False)
    assert shapes[0] == len(hooked.to_tokens(TEXT, prepend_bos=False)[0]) and set(shapes[1:]) == {1}
    assert hooked.generate(TEXT, max_new_tokens=3, do_sample=False, prepend_bos=False) == plain
    assert isinstance(changed, str)


CRASHING = """
import mlxterp
from mlxterp.compat.saelens import HookedTransformer

model, _, _ = mlxterp.load_demo("mlx")
hooked, prompt = HookedTransformer(model), "One day, Lily saw a X"
length, told = len(model.tokenize(prompt)), 0


def scope(activations, hook):
    if activations.shape[1] > 1:
        activations[:, [length - 1 + told]] = 0


def beyond(x):
    return x.at[:, [length + told]].add(1.0)


with hooked.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", scope)]):
    hooked.generate(prompt, max_new_tokens=2)
for told in (1, 10, 5000):
    for act in (
        lambda: hooked.run_with_hooks(prompt, fwd_hooks=[("blocks.1.hook_resid_pre", scope)]),
        lambda: model.generate(prompt, max_tokens=2, interventions={"layers.1.mlp": beyond}),
    ):
        try:
            act()
        except mlxterp.InputError as error:
            assert "is outside axis 1" in str(error), error
        else:
            raise SystemExit("not refused")
    try:
        with model.trace(prompt):
            model.layers[1].resid_post[:, [length + told]] = 0
    except mlxterp.InputError as error:
        assert "layers.1.resid_post" in str(error), error
    else:
        raise SystemExit("not refused")
print("alive", model.generate(prompt, max_tokens=2))
"""


def test_D23_a_slip_beyond_the_prompt_does_not_end_the_process():
    if "mlx" not in mlxterp.available_backends():
        pytest.skip("mlx is not installed")
    done = subprocess.run(
        [sys.executable, "-c", CRASHING], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith("alive"), done.stderr
