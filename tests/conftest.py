"""Fixtures shared by all tests. mlxterp is imported first, so that MLX gets an optimised BLAS."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Generator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the threads of torch and of MLX's BLAS wait for each other

import mlxterp
from tests import fast
from tests.letters import TOKENIZER, llama_of_mlx
from tests.small import checkpoint

if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    # How fast a machine draws examples is no property of the code.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rounding", type=int, metavar="SEED",
        help="round every matrix product otherwise in its last bits, as another processor may",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--rounding")
    if seed is not None:
        from tests import rounding

        rounding.disturb(seed)


os.environ.setdefault("MLXTERP_SPEED_NOTE", "none")  # no test measures which library is faster, but its own
TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parent.parent / "shared"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast` no other file is read: that alone would take a fifth of the time."""
    skipped = config.option.markexpr == "fast" and collection_path.match("test_*.py")
    return True if skipped and _below_tests(collection_path) not in fast.FILES else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests are marked by where they lie, before a -m chooses among them."""
    for item in items:
        file = _below_tests(item.path)
        if file.startswith("whole/"):
            item.add_marker("whole")
        name = getattr(item, "originalname", item.name)
        if fast.is_fast(file, name) and item.get_closest_marker("slow") is None:
            item.add_marker("fast")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument: a packed file holds the second of its making, and workers compare names."""
    return argname if isinstance(val, bytes) else None


def _below_tests(path: Path) -> str:
    return path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """A test that needs a backend which is not installed is skipped, with the reason."""
    try:
        return (yield)
    except mlxterp.BackendError as error:
        if len(mlxterp.available_backends()) == 2:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared data, where it lies beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the project's shared folder beside the checkout")
    return SHARED


@pytest.fixture(params=["mlx", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each installed backend in turn."""
    if request.param not in mlxterp.available_backends():
        pytest.skip(f"{request.param} is not installed")
    if request.param == "torch" and importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    return request.param


@pytest.fixture(scope="session")
def torch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama's checkpoint, which nothing changes."""
    return checkpoint("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def letter_model(backend: str, request: pytest.FixtureRequest) -> mlxterp.InterpretableModel:
    """A small model that reads letters, opened anew in each backend; tests may change it."""
    if backend == "mlx":
        return llama_of_mlx()
    folder = request.getfixturevalue("torch_folder")
    return mlxterp.InterpretableModel(folder, tokenizer=TOKENIZER, backend="torch")


@pytest.fixture(scope="session")
def demo() -> mlxterp.demo.Demo:
    """The embedded model, SAE and stories."""
    return mlxterp.load_demo()


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `chat_server` looks for models of a hub."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="session")
def chat_server(hub: Path) -> Generator[str, None, None]:
    """The base URL of a real mlx_lm.server with the demo's model."""
    pytest.importorskip("httpx", reason='pip install "mlxterp[judge]"')
    if "mlx" not in mlxterp.available_backends():
        pytest.skip("mlx is not installed")
    from tests.servers import running_server

    with running_server(hub) as url:
        yield url
