"""Who may ask the explorer: its own page, by its own address, with its token."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.explorer.client import Client, httpx
from tests.explorer.conftest import BALL, Shown


@pytest.fixture(scope="module")
def client(shown: Shown) -> Iterator[Client]:
    """Asks the server that all tests share."""
    with Client(shown.url) as made:
        yield made


def raw(client: Client, request: bytes) -> bytes:
    """The first line that comes back for bytes that are sent as they are."""
    host, port = client.base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(4096).split(b"\r\n")[0]


def bare(client: Client, method: str, path: str, **options: Any) -> Any:
    """The answer to a request that brings no token of its own."""
    with httpx.Client(base_url=client.base, trust_env=False) as asked:
        return asked.request(method, path, **options)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1.evil.example:{port}"]
)
def test_another_host_is_misdirected(client: Client, host: str):
    port = client.base.rsplit(":", 1)[1]
    answer = client.get("about", host=host.format(port=port))
    assert answer.status_code == 421 and "error" in answer.json()


def test_a_request_without_a_host_is_misdirected(client: Client):
    assert b" 421 " in raw(client, b"GET /api/about HTTP/1.0\r\n\r\n")


def test_localhost_is_this_server_too(client: Client):
    port = client.base.rsplit(":", 1)[1]
    assert client.get("about", host=f"localhost:{port}").status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1"]
)
def test_another_origin_is_refused(client: Client, origin: str):
    port = client.base.rsplit(":", 1)[1]
    assert client.get("about", origin=origin.format(port=port)).status_code == 403


def test_the_own_origin_is_answered(client: Client):
    assert client.get("about", origin=client.base).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_calls_another_site_is_refused(client: Client, site: str):
    assert client.get("about", **{"sec-fetch-site": site}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/api/about", "/api/0/table", f"/api/0/feature/{BALL}", "/api/0/text/0", "/", "/api/nothing"]
)
@pytest.mark.parametrize("token", [None, "", "wrong", "\xe9"])
def test_nothing_is_shown_without_the_token(client: Client, path: str, token: str | None):
    headers = {} if token is None else {"x-mlxterp-token": token.encode("latin-1")}
    answer = bare(client, "GET", path, headers=headers)
    assert answer.status_code == 403
    assert client.token not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_token_in_the_address_changes_nothing(client: Client, method: str):
    path = f"/api/0/label/{BALL}?t={client.token}"
    answer = bare(client, method, path, json={"name": "x"})
    assert answer.status_code == 403


def test_a_token_in_the_address_reads(client: Client):
    answer = bare(client, "GET", f"/api/about?t={client.token}")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "status"), [("OPTIONS", 403), ("TRACE", 405), ("PATCH", 405), ("DELETE", 405), ("POST", 405)]
)
def test_other_methods_are_refused(client: Client, method: str, status: int):
    assert client.http.request(method, "/api/about").status_code == status


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_forms_are_no_json(client: Client, kind: str):
    headers = {"content-type": kind} if kind else {}
    assert client.http.post("/api/0/text", content=b'{"text":"a"}', headers=headers).status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        "../app.py", "..%2fapp.py", "%2e%2e/app.py", "%2e%2e%2fapp.py", "..%5capp.py", "....//app.py", "/etc/passwd",
        "index.html", "main.js/..", "main.js%00", "",
    ],
)  # fmt: skip
def test_files_beside_the_pages_are_not_reached(client: Client, path: str):
    host, port = client.base.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)  # sends the path as it stands
    connection.request("GET", f"/static/{path}")
    assert connection.getresponse().status == 404
    connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'{"text":"a","text":"b"}',
        b'{"text":NaN}',
        b"\xff\xfe",
        b"[" * 50_000,
    ],
)
@pytest.mark.parametrize("path", ["0/text", "0/steer", "0/names"])
def test_bad_json_is_a_bad_request(client: Client, path: str, body: bytes):
    answer = client.post(path, body)
    assert answer.status_code == 400 and answer.json()["error"].endswith(".")


@pytest.mark.parametrize("size", [64 * 1024 + 1, 1 << 20])
def test_a_body_that_is_too_large_is_refused_and_the_next_request_answered(client: Client, size: int):
    assert client.post("0/text", b" " * size).status_code == 413
    assert client.get("status").status_code == 200


def test_a_body_that_says_it_is_huge_is_not_waited_for(client: Client):
    head = f"POST /api/0/text HTTP/1.1\r\nHost: {client.base.removeprefix('http://')}\r\n".encode()
    head += f"X-Mlxterp-Token: {client.token}\r\nContent-Type: application/json\r\n".encode()
    head += b"Content-Length: 9999999999\r\n\r\n"
    assert b" 413 " in raw(client, head)


def test_every_answer_forbids_what_the_page_does_not_need(client: Client):
    for path in ("/?t=" + client.token, "/static/main.js", "/api/about", "/nothing"):
        headers = client.http.get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control-")]


NO_FEATURE = ["-1", "2048", "99999999999999999999", "abc", "1.0", "٣", " 1", "1e3", "%00", "0x1"]


@pytest.mark.parametrize("feature", NO_FEATURE)
@pytest.mark.parametrize("of", ["feature", "logits"])
def test_what_is_no_feature_is_not_found(client: Client, of: str, feature: str):
    assert client.get(f"0/{of}/{feature}").status_code == 404


@pytest.mark.parametrize("source", ["2", "-1", "abc", "00000000000", "0x0", "٠"])
def test_what_is_no_index_is_not_found(client: Client, source: str):
    assert client.get(f"{source}/table").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("0/peek?ids=" + ",".join(map(str, range(101))), 400), ("0/peek?ids=1,x", 404), ("0/peek", 200),
        ("0/token?q=", 400), ("0/token?q=zzzzzz", 404), ("0/search?q=%20", 400), ("0/search?q=a&k=0", 400),
        ("0/search?q=a&k=x", 400), ("0/search?q=" + "a" * 1001, 400), ("0/text/99999", 404), ("0/text/x", 404),
        ("0/text/0?feature=2048", 404), ("compare", 400), ("compare?a=0:1", 400), ("compare?a=0:1&b=0:9999", 404),
        ("compare?a=5:1&b=0:1", 404), ("nothing", 404), ("0", 404), ("0/feature/1/2", 404),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_answered_get_a_sentence(client: Client, path: str, status: int):
    answer = client.get(path)
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"].endswith(".")


def test_the_page_has_the_token_and_needs_no_other_address(client: Client):
    answer = client.http.get(f"/?t={client.token}")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.count(client.token) == 1
    assert "http:" not in answer.text and "https:" not in answer.text


def steer(**more: Any) -> dict[str, Any]:
    return {"prompt": "She saw a", "max_tokens": 2, **more}


def edit(**more: Any) -> dict[str, Any]:
    return steer(edits=[{"feature": BALL, "kind": "add", "strength": 1, **more}])


@pytest.mark.parametrize(
    "request_",
    [
        edit(strength="NaN"), edit(strength=None), edit(strength=[1]), edit(strength=True), edit(feature="741"),
        edit(feature=741.5), edit(feature=None), edit(kind="explode"), edit(units="km"), edit(more=1),
        steer(edits={}), steer(edits=[1]), steer(edits=[{"feature": 0, "kind": "clamp"}] * 51), steer(prompt=""),
        steer(prompt=None), steer(prompt=["a"]), steer(prompt="\ud800"), steer(prompt="one two " * 200),
        steer(max_tokens=0), steer(max_tokens=10**9), steer(max_tokens="5"), steer(temperature=-1),
        steer(temperature="hot"), steer(top_p=0), steer(seed=-1), steer(seed=2**64), steer(positions="some"),
        steer(baseline="yes"), steer(chat=True), steer(chat=1), steer(surprise=1),
    ],
)  # fmt: skip
def test_a_generation_that_cannot_be_is_a_bad_request(client: Client, request_: dict[str, Any]):
    answer = client.post("0/steer", request_)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].strip().endswith((".", "?"))


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt":"a","edits":[{"feature":741,"strength":NaN}]}',
        '{"prompt":"a","edits":[{"feature":741,"strength":1e999}]}',
    ],
)
def test_a_strength_that_is_no_number_is_a_bad_request(client: Client, body: str):
    assert client.post("0/steer", body).status_code == 400


def test_an_edit_of_a_feature_that_is_not_there_is_not_found(client: Client):
    assert client.post("0/steer", edit(feature=2048)).status_code == 404
    assert client.post("0/steer", edit(source="7")).status_code == 404


@pytest.mark.parametrize("text", ["", None, 5, ["a"], "\ud800", "word " * 400])
def test_a_text_that_cannot_be_read_is_a_bad_request(client: Client, text: Any):
    assert client.post("0/text", {"text": text}).status_code == 400


def test_hostile_texts_come_back_as_they_are(client: Client):
    hostile = "</script><img src=x onerror=alert(1)> \u202e\u0000 \"'&amp;"
    answer = client.post("0/text", {"text": hostile})
    assert answer.headers["content-type"] == "application/json"
    assert hostile in "".join(answer.json()["tokens"])
    assert answer.content.isascii()
