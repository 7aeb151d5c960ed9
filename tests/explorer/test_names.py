"""Names that are given in the browser: kept in a registry's file, seen by Python, safe from a second browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxterp import FeatureIndex, FeatureRegistry, InputError, SAEError
from mlxterp.explorer.label_file import ConflictError, LabelFile, ReadOnlyError
from mlxterp.index.folder import NAMES
from tests.explorer.client import JSON, Client
from tests.explorer.conftest import BALL, Shown


@pytest.fixture
def file(shown: Shown) -> Path:
    """The file of the shared server's names."""
    return shown.index.path / NAMES


@pytest.fixture
def client(shown: Shown, file: Path) -> Iterator[Client]:
    """Asks the server that all tests share; afterwards nothing has a name."""
    with Client(shown.url) as made:
        yield made
        file.unlink(missing_ok=True)
        made.said("0/labels")


def test_a_name_is_in_the_file_in_python_and_in_the_browser(client: Client, shown: Shown, file: Path):
    answer = client.name(BALL, "ball", "none", note="round things")
    assert answer.status_code == 200 and answer.json()["by"] == "person"
    assert FeatureRegistry.load(file, shown.demo.sae)[BALL] == {"name": "ball", "notes": "round things"}
    assert shown.index.label(BALL) == "ball"
    assert client.said("0/labels")["labels"][str(BALL)]["name"] == "ball"
    said = client.said(f"0/feature/{BALL}")
    assert (said["label"], said["name"], said["note"]) == ("ball", "ball", "round things")
    assert client.said("0/search?q=ball&k=1") == [[BALL, 1.0, "named 'ball'"]]


def test_of_two_browsers_the_second_is_told_what_the_first_wrote(client: Client):
    seen = client.said(f"0/feature/{BALL}")["etag"]
    first = client.name(BALL, "ball", seen).json()
    answer = client.name(BALL, "toy", seen)
    assert answer.status_code == 409 and answer.json()["current"] == {
        "name": "ball", "note": "", "etag": first["etag"],
    }  # fmt: skip
    assert client.name(BALL, "toy", first["etag"]).json()["label"] == "toy"
    assert client.name(571, "park", "none").status_code == 200  # another feature is no conflict


def test_names_that_another_program_wrote_are_seen_and_not_lost(client: Client, shown: Shown, file: Path):
    client.name(BALL, "ball", "none")
    other = FeatureRegistry.load(file)
    other[571] = "park"
    other[BALL] = "balls"
    other.save(file)
    assert client.name(BALL, "toy", LabelFile(shown.index, file).etag(5)).status_code == 409
    assert client.said("0/labels")["labels"].keys() == {"571", str(BALL)}
    assert client.name(5, "five", "none").status_code == 200
    assert {f: e["name"] for f, e in FeatureRegistry.load(file).items()} == {
        5: "five",
        571: "park",
        BALL: "balls",
    }


def test_a_name_is_taken_away_with_its_etag(client: Client, file: Path):
    etag = client.name(BALL, "ball", "none").json()["etag"]
    path = f"/api/0/label/{BALL}"
    assert client.http.delete(path, headers={"if-match": "none"}).status_code == 409
    assert client.http.delete(path, headers={"if-match": etag}).json()["etag"] == "none"
    assert len(FeatureRegistry.load(file)) == 0


@pytest.mark.parametrize(
    "said",
    [
        {"name": ""}, {"name": "  "}, {"name": 5}, {}, {"name": "a" * 201}, {"name": "a", "note": None},
        {"name": "a", "note": "n" * 10_001}, {"name": "\ud800"}, {"name": "a", "more": 1},
    ],
)  # fmt: skip
def test_what_is_no_name_is_a_bad_request(client: Client, file: Path, said: Any):
    headers = {**JSON, "if-match": "none"}
    answer = client.http.put("/api/0/label/5", content=json.dumps(said), headers=headers)
    assert answer.status_code == 400 and answer.json()["error"].strip()
    assert not file.exists()


def test_who_does_not_say_what_he_saw_is_refused(client: Client):
    assert client.http.put("/api/0/label/5", content='{"name":"a"}', headers=JSON).status_code == 428


def test_hostile_names_are_kept_as_they_are(client: Client, shown: Shown):
    hostile = '"><img src=x onerror=alert(1)></script>\u202e=cmd()'
    assert client.name(5, hostile, "none").status_code == 200
    assert shown.index.labels[5]["name"] == hostile
    assert client.get("0/labels").content.isascii()
    assert "'=" not in client.get("0/names.json").text


def test_names_go_out_and_come_in_as_files(client: Client, shown: Shown):
    client.name(BALL, "ball", "none", note="n")
    client.name(571, 'a, "b"', "none")
    exported = client.get("0/names.json"), client.get("0/names.csv")
    assert all("attachment" in one.headers["content-disposition"] for one in exported)
    client.name(571, "else", client.said("0/feature/571")["etag"])
    for kind, one in zip(("json", "csv"), exported, strict=True):
        told = client.post("0/names", {"text": one.text, "format": kind}).json()
        assert told == {"added": 0, "changed": 0, "same": 1, "kept": [571]}
    told = client.post("0/names", {"text": exported[1].text, "format": "csv", "replace": True}).json()
    assert told["changed"] == 1 and shown.index.labels[571]["name"] == 'a, "b"'
    assert client.post("0/names", {"text": '{"3": "three"}'}).json()["added"] == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [("{", "json"), ("[1]", "json"), ('{"5": 5}', "json"), ('{"9999": "a"}', "json"), ("a,b\n1,2\n", "csv"),
     ('{"sae": "' + "0" * 64 + '", "5": "a"}', "json"), ("", "csv"), ("x", "xml")],
)  # fmt: skip
def test_a_bad_file_of_names_is_refused_whole(client: Client, file: Path, text: str, kind: str):
    answer = client.post("0/names", {"text": text, "format": kind})
    assert answer.status_code in (400, 404), answer.text
    assert not file.exists()


# -- without a server -------------------------------------------------------------------------


@pytest.fixture
def index(shown: Shown) -> FeatureIndex:
    """The index, opened without its model."""
    return FeatureIndex.open(shown.index.path)


def test_names_survive_a_restart_and_those_of_python_come_first(index: FeatureIndex, tmp_path: Path):
    path = tmp_path / "kept.json"
    LabelFile(index, path).set(5, "five", "", "none")
    again = FeatureIndex.open(index.path)
    again.labels = {6: "six"}
    LabelFile(again, path).set(7, "seven", "", "none")
    assert {f: again.label(f) for f in (5, 6, 7)} == {5: "five", 6: "six", 7: "seven"}
    assert set(FeatureRegistry.load(path)) == {5, 6, 7}


def test_other_fields_of_an_entry_stay(index: FeatureIndex, tmp_path: Path):
    path = tmp_path / "kept.json"
    FeatureRegistry({5: {"name": "five", "examples": ["5"], "confidence": 0.5}}).save(path)
    kept = LabelFile(index, path)
    kept.set(5, "V", "roman", kept.etag(5))
    assert FeatureRegistry.load(path)[5] == {
        "name": "V",
        "examples": ["5"],
        "confidence": 0.5,
        "notes": "roman",
    }


def test_read_only_names_do_not_change(index: FeatureIndex, tmp_path: Path):
    kept = LabelFile(index, tmp_path / "kept.json", read_only=True)
    assert not kept.writable
    with pytest.raises(ReadOnlyError):
        kept.set(5, "five", "", "none")
    assert index.label(5) is None


def test_names_that_cannot_be_written_are_not_kept_in_silence(index: FeatureIndex, tmp_path: Path):
    (tmp_path / "kept.json").mkdir()
    with pytest.raises(InputError):
        LabelFile(index, tmp_path / "kept.json")
    (tmp_path / "a file").touch()
    kept = LabelFile(index, tmp_path / "a file" / "kept.json") if os.name == "nt" else None
    assert kept is None
    later = LabelFile(index, tmp_path / "below" / "kept.json")
    (tmp_path / "below").touch()
    with pytest.raises(OSError):  # noqa: PT011
        later.set(5, "five", "", "none")
    assert index.label(5) is None


def test_names_of_another_sae_are_refused(index: FeatureIndex, shown: Shown, tmp_path: Path):
    FeatureRegistry({5: "five"}, shown.other.fingerprint).save(tmp_path / "kept.json")
    with pytest.raises(SAEError):
        LabelFile(index, tmp_path / "kept.json")


def test_a_change_that_saw_something_else_raises(index: FeatureIndex, tmp_path: Path):
    kept = LabelFile(index, tmp_path / "kept.json")
    with pytest.raises(ConflictError):
        kept.set(5, "five", "", "0123456789abcdef")
    with pytest.raises(ConflictError):
        kept.remove(5, "0123456789abcdef")
