"""The door upwards: verbs on lower values open the room that does them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mlxterp import SAE, InputError
from mlxterp.core import rooms
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights


def small() -> SAE:
    w = np.eye(4, 6, dtype=np.float32)
    return SAE(SAEWeights(w, np.zeros(6, np.float32), w.T.copy(), np.zeros(4, np.float32)), TopK(2))


def test_a_verb_that_no_room_does_is_named_beside_those_that_there_are():
    with pytest.raises(InputError, match=r"No room does 'sae.fly'.*sae.check"):
        rooms.open("sae.fly", small())


@pytest.mark.parametrize("verb", ["check", "evaluate"])
@pytest.mark.parametrize("model", [None, "gpt2", object()])
def test_what_is_no_model_is_refused_before_anything_runs(verb, model):
    with pytest.raises(InputError, match=f"Expected an InterpretableModel, got {type(model).__name__}"):
        getattr(small(), verb)(model, ["a"])


def test_a_library_that_is_missing_is_named_with_its_extra():
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from mlxterp import BackendError\n"
        "from mlxterp.core.rooms import Room, function_of\n"
        "try:\n"
        "    function_of('sae.weigh', Room('backends.torch.files:read_torch_file', 'torch'))\n"
        "except BackendError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip() == 'sae.weigh needs torch, which is not installed: pip install "mlxterp[torch]"'
    )


def test_a_module_of_ours_that_is_not_there_is_no_missing_library():
    with pytest.raises(ModuleNotFoundError, match=r"mlxterp\.nowhere"):
        rooms.function_of("sae.check", rooms.Room("nowhere:check", "torch"))


def test_loading_an_sae_loads_no_room():
    code = (
        "import mlxterp, sys; mlxterp.SAE; print([m for m in sys.modules if m.startswith('mlxterp.model')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
