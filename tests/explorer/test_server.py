"""The explorer as Python holds it: it starts, does not wait, stops, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import mlxterp
from mlxterp import FeatureIndex, InputError
from mlxterp.explorer import Explorer
from mlxterp.explorer import explorer as module
from tests.explorer.client import Client, httpx
from tests.explorer.conftest import BALL, Shown


@pytest.fixture(scope="module")
def bare(shown: Shown) -> FeatureIndex:
    """An index without its model and SAE."""
    return FeatureIndex.open(shown.other.path)


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mlxterp")]


def test_started_and_stopped_often_it_leaves_no_thread_and_no_port(bare: FeatureIndex):
    before, files = ours(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    ports = []
    for _ in range(8):
        with bare.serve(open=False) as explorer:
            assert isinstance(explorer, Explorer) and explorer.running
            ports.append(explorer.port)
            assert httpx.get(explorer.url, trust_env=False).status_code == 200
        assert not explorer.running
        explorer.stop()
    assert ours() == before
    assert not files or len(os.listdir("/proc/self/fd")) <= files + 1
    for port in ports:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))


def test_a_port_in_use_is_told_with_one_that_is_free(bare: FeatureIndex):
    with bare.serve(open=False) as explorer:
        with pytest.raises(
            InputError, match=rf"Port {explorer.port} cannot be used .* Port (\d+) is free"
        ) as told:
            bare.serve(explorer.port, open=False)
        free = int(re.findall(r"Port (\d+) is free", str(told.value))[0])
        with bare.serve(free, open=False) as other:
            assert other.port == free


def test_only_this_machine_reaches_it(bare: FeatureIndex):
    with bare.serve(open=False) as explorer:
        assert explorer._socket.getsockname()[0] == "127.0.0.1"


def test_without_its_model_an_index_is_shown_and_what_needs_it_says_so(bare: FeatureIndex):
    with bare.serve(open=False) as explorer, Client(explorer.url) as client:
        assert client.said("about")["live"] is False
        assert client.said("0/feature/3")["similar"] == []
        asked = [
            client.get("0/logits/3"), client.post("0/text", {"text": "a"}), client.post("0/steer", {"prompt": "a"})
        ]  # fmt: skip
        for answer in asked:
            assert answer.status_code == 503 and "index.attach" in answer.json()["error"]
        assert client.said("compare?a=0:3&b=0:4")["why_null"].startswith("Without the SAE")


def test_read_only_it_takes_no_names(bare: FeatureIndex):
    with bare.serve(open=False, read_only=True) as explorer, Client(explorer.url) as client:
        assert client.said("about")["writable"] is False
        assert client.name(3, "three", "none").status_code == 403
        assert client.post("0/names", {"text": "{}"}).status_code == 403


def test_names_are_kept_where_one_says(bare: FeatureIndex, tmp_path: Path):
    file = tmp_path / "mine.json"
    with bare.serve(open=False, labels=file) as explorer, Client(explorer.url) as client:
        assert client.name(3, "three", "none").status_code == 200
    assert mlxterp.FeatureRegistry.load(file).label(3) == "three"
    with (
        FeatureIndex.open(bare.path).serve(open=False, labels=file) as explorer,
        Client(explorer.url) as client,
    ):
        assert client.said("0/feature/3")["label"] == "three"
    bare.labels = {}


def test_texts_that_are_added_meanwhile_are_shown(shown: Shown, tmp_path: Path):
    shown.other.save(tmp_path / "grows")
    assert shown.other.source is not None
    index = FeatureIndex.open(tmp_path / "grows", shown.demo.model, shown.other.source.sae)
    with index.serve(open=False) as explorer, Client(explorer.url) as client:
        before = client.get("0/table")
        index.add(shown.demo.texts[:1], verbose=False)
        after = client.get("0/table", **{"if-none-match": before.headers["etag"]})
        assert after.status_code == 200 and after.headers["etag"] != before.headers["etag"]
        assert client.said("about")["texts"] == index.n_texts == shown.other.n_texts + 1


def test_stopping_ends_what_is_generated(shown: Shown):
    index = FeatureIndex.open(shown.index.path, shown.demo.model, shown.demo.sae)
    with index.serve(open=False, read_only=True) as explorer, Client(explorer.url) as client:
        edits = [{"feature": BALL, "strength": 1}]
        with client.steering(prompt="She saw a", edits=edits, max_tokens=250) as events:
            seen = [next(events) for _ in range(5)]
            explorer.stop()
            rest = list(events)
    assert rest[-1].get("stopped") is True and len(rest) < 400 and seen


def test_it_opens_the_browser_where_that_is_asked(bare: FeatureIndex, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    monkeypatch.setattr(module.webbrowser, "open", lambda url: opened.append(url))
    with bare.serve() as explorer:
        assert opened == [explorer.url]
        assert repr(explorer) == f"Explorer({explorer.url})"
    assert repr(explorer).endswith(", stopped)")


def test_in_a_notebook_it_shows_itself_and_may_stand_in_its_frame(
    bare: FeatureIndex, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr(module.webbrowser, "open", lambda url: pytest.fail("no browser in a notebook"))
    with bare.serve() as explorer:
        shown = explorer._repr_html_()
        assert f'<iframe src="{explorer.url}"' in shown and "<script" not in shown
        policy = httpx.get(explorer.url, trust_env=False).headers["content-security-policy"]
        assert "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*" in policy


@pytest.mark.parametrize(
    "options",
    [{"port": -1}, {"port": 65536}, {"port": "x"}, {"open": 1}, {"others": 5}, {"others": ["x"]}, {"labels": 5},
     {"read_only": "no"}, {"calibrations": [1]}, {"calibrations": 5}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(bare: FeatureIndex, options: dict[str, Any]):
    with pytest.raises(InputError):
        bare.serve(**{"open": False, **options})


def test_others_given_as_one_index_are_refused(bare: FeatureIndex, shown: Shown):
    one: Any = shown.index
    with pytest.raises(InputError, match="list of indexes"):
        bare.serve(open=False, others=one)


def test_importing_the_package_imports_none_of_it():
    names = "('starlette', 'uvicorn', 'mlxterp.explorer')"
    check = f"import mlxterp, sys; print([one for one in sys.modules if one.startswith({names})])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


COMMAND = """
import signal
import sys
from mlxterp.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background pass on that it is ignored
raise SystemExit(main(["serve", sys.argv[1], "--no-open", "--port", "0"]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise on Windows")
def test_ctrl_c_ends_the_command_with_its_names_whole(shown: Shown, tmp_path: Path):
    folder = tmp_path / "copy"
    shown.other.save(folder)
    run = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert run.stdout is not None
    try:
        lines = iter(run.stdout.readline, "")
        url = next(line.strip() for line in lines if line.startswith("http://"))
        with Client(url) as client:
            assert client.name(3, "three", "none").status_code == 200
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 0
        told = run.stdout.read()
        assert "Stopped." in told and "Traceback" not in told
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    assert mlxterp.FeatureRegistry.load(folder / "names.json").label(3) == "three"
