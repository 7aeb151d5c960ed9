"""What is read from Neuronpedia's API, from servers that answer well and from those that do not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mlxterp import InputError, MlxterpError, MlxterpWarning, UnknownFeatureError, neuronpedia
from mlxterp.errors import NetworkError
from mlxterp.neuronpedia.server import own_folder
from tests.neuronpedia.serving import row, serving
from tests.viz.reading import HOSTILE, assert_offline

MODEL, SOURCE = "gpt2-small", "8-res_fs768-jb"
EXPORT = [
    row("3", "toys"),
    row(0, "Mondays"),
    row("3", "a second one"),
    row("5", None),
    row(7, "  plural nouns "),
]
PAGE = {
    "index": "3", "explanations": [row("3", "toys"), row("3", "balls", explanationModelName=None)],
    "frac_nonzero": 0.0042, "maxActApprox": 11.5, "pos_str": [" ball", " toy"], "pos_values": [1.5, 1.25],
    "neg_str": ["the"], "neg_values": [-1],
    "activations": [{"tokens": ["a", " toy"], "values": [0, 2.5], "maxValue": 2.5},
                    {"tokens": [" red", " ball", "."], "values": [0.0, 11.5, 0.0]}],
}  # fmt: skip


def answered(given: Any, status: int = 200, **headers: str) -> Any:
    return serving(lambda _path: (status, dict(headers), given))


def asked(url: str, **options: Any) -> Any:
    return neuronpedia.labels(MODEL, SOURCE, **{"base_url": url, "cache": False, "d_hidden": 10} | options)


# -- explanations ---------------------------------------------------------------------------------


def test_the_first_explanation_of_a_feature_is_its_name():
    with answered(EXPORT) as (url, paths):
        found = asked(url)
    assert paths == [f"/api/explanation/export?modelId={MODEL}&saeId={SOURCE}"]
    assert {f: found.label(f) for f in found} == {0: "Mondays", 3: "toys", 7: "plural nouns"}
    assert found[3]["notes"] == "Neuronpedia, oai_token-act-pair, gpt-x"


def test_a_table_has_a_row_for_each_feature():
    pytest.importorskip("pandas")
    with (
        answered(EXPORT) as (url, _),
        pytest.warns(MlxterpWarning, match="7 of 10 features of .* have no description"),
    ):
        frame = neuronpedia.labels_frame(MODEL, SOURCE, d_hidden=10, base_url=url, cache=False)
    assert list(frame.index) == list(range(10)) and list(frame.columns) == ["description", "type", "model"]
    assert frame["description"].tolist() == ["Mondays", "", "", "toys", "", "", "", "plural nouns", "", ""]
    assert frame["model"][3] == "gpt-x" and frame["model"][1] == ""
    with answered([row(1, "b"), row(0, "a")]) as (url, _):
        assert len(neuronpedia.labels_frame(MODEL, SOURCE, base_url=url, cache=False)) == 2


def test_rows_that_cannot_be_are_left_out_and_counted():
    rows = [*EXPORT, row(True, "x"), row("1.5", "x"), row(None, "x"), row(2, 7), "no row", row(10, "beyond"),
            row("-1", "below")]  # fmt: skip
    with answered(rows) as (url, _), pytest.warns(MlxterpWarning) as told:
        found = asked(url)
    assert sorted(found) == [0, 3, 7]
    [said] = [str(one.message) for one in told]
    assert said.startswith(
        "Of 12 explanations of gpt2-small/8-res_fs768-jb some are left out: 5 that cannot be read"
    )
    assert "True" in said and "2 of features outside [0, 10) (10, -1)" in said


def test_without_explanations_there_is_a_warning():
    with answered([]) as (url, _), pytest.warns(MlxterpWarning, match="no explanations of gpt2-small/8-res"):
        assert len(asked(url)) == 0


def test_thirty_megabytes_are_read():
    rows = [row(str(i), f"about {i} " + "x" * 400) for i in range(60_000)]
    data = json.dumps(rows).encode()
    assert len(data) > 30e6
    with answered(data) as (url, _):
        found = asked(url, d_hidden=60_000)
    assert len(found) == 60_000 and found.label(59_999).startswith("about 59999")


@pytest.mark.parametrize(
    ("status", "headers", "body", "error", "message"),
    [
        (404, {}, {"message": "no"}, InputError, "no such model, source or feature"),
        (500, {}, b"oops", NetworkError, "status 500"),
        (429, {}, b"slow down", NetworkError, "status 429"),
        (200, {"Claims": "5000"}, EXPORT, NetworkError, r"broke off after \d+ of 5000 bytes"),
        (200, {}, json.dumps(EXPORT).encode()[:-9], NetworkError, "does not answer as Neuronpedia does"),
        (200, {}, b"<html>maintenance</html>", NetworkError, "does not answer as Neuronpedia does"),
        (200, {}, b"\xff\xfe\x00", NetworkError, "does not answer as Neuronpedia does"),
        (200, {}, b"", NetworkError, "does not answer as Neuronpedia does"),
        (200, {}, b'[{"index": 1, "description": NaN}]', NetworkError, "NaN is not a number"),
        (200, {}, b'[{"index": 1, "index": 2}]', NetworkError, "'index' comes twice"),
        (200, {}, b"[" * 5000 + b"]" * 5000, NetworkError, "nested too deeply"),
        (200, {}, {"error": "no key"}, NetworkError, "no list of explanations, but dict 'no key'"),
        (302, {"Location": "file:///etc/passwd"}, b"", NetworkError, "cannot be read"),
        (302, {"Location": "ftp://127.0.0.1/x"}, b"", NetworkError, "cannot be read"),
    ],
)  # fmt: skip
def test_what_a_server_does_wrong_is_said_with_its_address(tmp_path, status, headers, body, error, message):
    with serving(lambda _path: (status, dict(headers), body)) as (url, _):
        with pytest.raises(error, match=message) as raised:
            asked(url, cache=tmp_path)
        assert url in str(raised.value) and isinstance(raised.value, MlxterpError)
    assert not list(tmp_path.rglob("*.json"))  # nothing of it is kept


def test_a_server_that_is_not_there_or_silent_is_named(tmp_path):
    with answered(EXPORT) as (gone, _):
        pass
    with pytest.raises(
        NetworkError, match=r"cannot be read: .* can be copied to .*res_fs768-jb\.json"
    ) as raised:
        asked(gone, cache=tmp_path)
    assert isinstance(raised.value, ConnectionError)

    def late(_path: str) -> Any:
        time.sleep(1.0)
        return 200, {}, EXPORT

    with (
        serving(late) as (url, _),
        pytest.raises(NetworkError, match=r"nothing came for 0\.2 seconds|timed out"),
    ):
        asked(url, timeout=0.2)


def test_what_was_brought_once_is_answered_without_a_network(tmp_path):
    with answered(EXPORT) as (url, paths):
        first = asked(url, cache=tmp_path)
        assert dict(asked(url, cache=tmp_path)) == dict(first) and len(paths) == 1
    again = asked(url, cache=tmp_path)  # the server is gone
    assert dict(again) == dict(first)
    [file] = tmp_path.rglob("*.json")
    assert file.parent.name == MODEL and file.stem == SOURCE
    file.write_text("half of it")
    with pytest.warns(MlxterpWarning, match="cannot be read .* brought again"), pytest.raises(NetworkError):
        asked(url, cache=tmp_path)


def test_by_default_the_users_own_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert own_folder() == tmp_path / "mlxterp" / "neuronpedia"
    with answered(EXPORT) as (url, _):
        neuronpedia.labels(MODEL, SOURCE, base_url=url)
    assert len(list(own_folder().rglob("*.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("", SOURCE), {}, "model_id=''"),
        ((MODEL, "../../etc"), {}, "source_id='../../etc'"),
        ((MODEL, "a/b"), {}, "such as '8-res_fs768-jb'"),
        ((MODEL, 5), {}, "source_id=5"),
        ((MODEL, SOURCE), {"base_url": "file:///etc"}, "expected an address"),
        ((MODEL, SOURCE), {"base_url": None}, "expected an address"),
        ((MODEL, SOURCE), {"timeout": 0}, "timeout"),
        ((MODEL, SOURCE), {"d_hidden": 0}, "d_hidden"),
    ],
)  # fmt: skip
def test_names_and_numbers_that_cannot_be_are_refused(arguments, options, message):
    with pytest.raises(InputError, match=message):
        neuronpedia.labels(*arguments, **{"cache": False, **options})


# -- one feature ----------------------------------------------------------------------------------


def test_a_feature_has_what_its_page_says(tmp_path):
    with answered(PAGE) as (url, paths):
        found = neuronpedia.feature(MODEL, SOURCE, 3, base_url=url, cache=tmp_path)
    assert paths == [f"/api/feature/{MODEL}/{SOURCE}/3"]
    assert neuronpedia.feature(MODEL, SOURCE, 3, base_url=url, cache=tmp_path).promoted == found.promoted
    assert [(e.text, e.source) for e in found.explanations] == [
        ("toys", "gpt-x"),
        ("balls", "oai_token-act-pair"),
    ]
    assert (found.density, found.max_activation) == (0.0042, 11.5)
    assert found.promoted == ((" ball", 1.5), (" toy", 1.25)) and found.suppressed == (("the", -1.0),)
    assert [max(e.values) for e in found.examples] == [11.5, 2.5] and str(found.examples[0]) == " red« ball»."
    text = str(found)
    assert "toys (gpt-x)" in text and "density 0.420%" in text and f"{url}/{MODEL}/{SOURCE}/3" in text


def test_what_strangers_wrote_stays_text():
    page = {"explanations": [row("3", HOSTILE)], "activations": [{"tokens": [HOSTILE], "values": [1]}],
            "pos_str": [HOSTILE], "pos_values": [1]}  # fmt: skip
    with answered(page) as (url, _):
        found = neuronpedia.feature(MODEL, SOURCE, 3, base_url=url, cache=False)
    read = assert_offline(found._repr_html_())
    assert not any(tag == "script" for tag, _ in read.elements) and "\x1b" not in found.to_str(color=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": [{"tokens": ["a"], "values": []}]}, "more tokens than activations"),
        ({"activations": {"a": 1}}, "'activations' is no list"),
        ({"pos_values": ["1", "2"]}, "'pos_values' is no list of numbers"),
        ({"pos_values": [1]}, "has 2 entries and"),
        ({"frac_nonzero": "much"}, "'frac_nonzero' is no number"),
        ({"explanations": ["text"]}, "'explanations' is no list of objects"),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_fit_is_refused(change, message):
    with (
        answered({**PAGE, **change}) as (url, _),
        pytest.raises(NetworkError, match=f"not answer as Neuronpedia does: .*{message}"),
    ):
        neuronpedia.feature(MODEL, SOURCE, 3, base_url=url, cache=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frac_nonzero": 10**400}, "too large"), ({"pos_values": [10**400, 1]}, "too large"),
        ({"maxActApprox": "1e999"}, "'maxActApprox' is not finite"),
        ({"pos_str": ["a"]}, "'pos_str' has 1 entries and 'pos_values' 2"),
    ],
)  # fmt: skip
def test_numbers_of_a_page_that_cannot_be_are_the_servers_fault(changed, message):
    body = json.dumps(PAGE | changed).replace('"1e999"', "1e999").encode()
    with answered(body) as (url, _), pytest.raises(NetworkError, match=message):
        neuronpedia.feature(MODEL, SOURCE, 3, base_url=url, cache=False)


def test_an_address_that_is_none_is_refused_before_anything_is_asked():
    for url in ("http://[bad", "http://", "http://a b", "ftp://a"):
        with pytest.raises(InputError, match="expected an address"):
            neuronpedia.feature(MODEL, SOURCE, 3, base_url=url, cache=False)


def test_a_feature_is_named_by_what_a_search_returned_too():
    with answered(PAGE) as (url, asked_for):
        found = neuronpedia.feature(MODEL, SOURCE, (3, 0.5), base_url=url, cache=False)
    assert found.feature_id == 3 and asked_for == [f"/api/feature/{MODEL}/{SOURCE}/3"]
    with pytest.raises(UnknownFeatureError, match="No feature -1: features are numbered from 0"):
        neuronpedia.display_dashboard("gpt2-small-res-jb", "blocks.7.hook_resid_pre", -1)
