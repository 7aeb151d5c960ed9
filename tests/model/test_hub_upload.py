"""What is sent to the hub is what was saved, byte for byte; a local server stands in for the hub's addresses."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlxterp import SAE, FeatureIndex, InputError
from mlxterp.errors import NetworkError

huggingface_hub = pytest.importorskip("huggingface_hub")
REPO = "somebody/things"


@dataclass
class Hub:
    """What a server was sent."""

    url: str = ""
    made: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    refuse: bool = False

    def written(self, folder: Path) -> Path:
        """The files, in a folder."""
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


def answer(hub: Hub, path: str, body: bytes) -> Any:
    """What the hub's addresses answer, as huggingface_hub asks them."""
    if path == "/api/repos/create":
        said = json.loads(body)
        hub.made.append(said)
        kind = "datasets/" if said.get("type") == "dataset" else ""
        return {"url": f"{hub.url}/{kind}{REPO}", "name": REPO}
    if "/preupload/" in path:
        files = [
            {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
            for one in json.loads(body)["files"]
        ]
        return {"files": files}
    if "/commit/" in path:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                assert entry["value"]["encoding"] == "base64"
                hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        kind = "datasets/" if "/datasets/" in path else ""
        return {"commitUrl": f"{hub.url}/{kind}{REPO}/commit/0", "commitOid": "0" * 40, "success": True}
    return {"id": REPO, "sha": "0" * 40, "siblings": []}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server on this machine."""
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            chunked = self.headers.get("transfer-encoding") == "chunked"
            body = self.chunks() if chunked else self.rfile.read(int(self.headers.get("content-length", 0)))
            status = 403 if found.refuse else 200
            said = {"error": "no"} if found.refuse else answer(found, self.path, body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_POST = handle_one

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_sae_comes_back_as_it_was_sent(hub: Hub, demo: Any, tmp_path: Path):
    sae = demo.sae
    evaluation = sae.evaluate(demo.model, demo.texts[:1])
    assert (
        sae.push_to_hub(REPO, evaluation=evaluation, description="An SAE.", license="mit", token="t")
        == f"{hub.url}/{REPO}"
    )
    folder = hub.written(tmp_path / "got")
    saved = sae.save(tmp_path / "saved")
    for path in (one for one in saved.rglob("*") if one.is_file()):
        assert hub.files[path.relative_to(saved).as_posix()] == path.read_bytes()
    assert SAE.load(folder).fingerprint == sae.fingerprint
    card = hub.files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: mlxterp\n") and "license: mit" in card and "An SAE." in card
    assert f"| explained variance | {evaluation.explained_variance:.4g} |" in card
    assert f"| loss recovered, against zeros | {evaluation.loss_recovered_zero:.4g} |" in card
    assert sae.fingerprint in card and f"{evaluation.tokens:,} tokens" in card


def test_an_index_comes_back_as_it_was_sent(hub: Hub, demo: Any, tmp_path: Path):
    index = demo.model.build_index(demo.sae, demo.texts[:2], tmp_path / "index", verbose=False)
    assert index.push_to_hub(REPO, private=True, token="t") == f"{hub.url}/datasets/{REPO}"
    assert hub.made[0]["type"] == "dataset" and "private" in json.dumps(hub.made[0])
    folder = hub.written(tmp_path / "got")
    for path in (one for one in index.path.rglob("*") if one.is_file()):
        assert hub.files[path.relative_to(index.path).as_posix()] == path.read_bytes()
    again = FeatureIndex.open(folder, demo.model, demo.sae)
    assert again.top_texts(741) == index.top_texts(741) and again.n_tokens == index.n_tokens
    assert "Not evaluated" in hub.files["README.md"].decode()


def test_a_refusal_says_what_to_do(hub: Hub, demo: Any):
    hub.refuse = True
    with pytest.raises(NetworkError, match="hf auth login"):
        demo.sae.push_to_hub(REPO, token="t")
    assert hub.files == {}


@pytest.mark.parametrize(
    ("repo", "options"),
    [("x", {}), ("a/b/c", {}), ("../x", {}), (5, {}), (REPO, {"evaluation": 5}), (REPO, {"license": "a\nb"}),
     (REPO, {"private": "no"})],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_before(hub: Hub, demo: Any, repo: Any, options: dict[str, Any]):
    with pytest.raises(InputError):
        demo.sae.push_to_hub(repo, token="t", **options)
    assert hub.files == {}
