"""`mlxterp serve`, `site`, `search` and `show WORD`, as they are typed."""

from __future__ import annotations

import gc
import io
import json
import threading
import time
import warnings
from pathlib import Path

import pytest

from mlxterp.cli import main
from mlxterp.demo import Demo
from mlxterp.demo.kept_index import kept_index
from mlxterp.errors import MlxterpWarning
from mlxterp.explorer import Explorer
from tests.explorer.client import Client
from tests.explorer.conftest import Shown


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]):
    """What a command writes, and its exit status."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([str(one) for one in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def test_search_lists_features_of_a_word(says, shown: Shown):
    index = shown.other
    status, out, _ = says("search", "ball", "--index", index.path, "--top-k", 3)
    lines, best = out.splitlines(), index.search("ball", 1)[0]
    assert status == 0 and len(lines) == 4
    assert lines[1].split()[0] == str(best.feature_id) and best.why in lines[1] and "of tokens" in lines[1]
    status, out, _ = says("search", "ball", "--index", index.path, "--json")
    assert json.loads(out)["features"][0]["feature_id"] == best.feature_id
    assert "Nothing is called so" in says("search", "zzzz", "--index", index.path)[1]


def test_show_takes_a_word_and_says_which_feature_that_is(says, shown: Shown):
    [best] = shown.other.search("ball", 1)
    status, out, err = says("show", "ball", "--index", shown.other.path)
    assert status == 0 and out.startswith(f"Feature {best.feature_id}")
    assert f"'ball' is taken for feature {best.feature_id}" in " ".join(err.split())
    status, _, err = says("show", "zzzz", "--index", shown.other.path)
    assert status == 2 and "mlxterp search" in err
    assert says("show", "5000", "--index", shown.other.path)[0] == 2


def test_site_writes_a_folder_and_says_what_to_open(says, shown: Shown, tmp_path: Path):
    more = ["--features", "5,3", "--with", shown.other.path]
    status, out, _ = says("site", shown.other.path, "--out", tmp_path / "s", *more)
    assert status == 0 and (tmp_path / "s" / "index.html").is_file()
    assert (tmp_path / "s" / "data" / "1" / "table.js").is_file()
    assert str(tmp_path / "s" / "index.html") in out.replace("\n", "")
    with pytest.raises(SystemExit):
        main(["site", "x", "--out", "y", "--features", "a,b"])


@pytest.mark.parametrize("more", [["--model", "x"], ["--sae", "x"], ["some.index"]])
def test_the_demo_is_not_an_index_that_is_named(says, more: list[str]):
    status, _, err = says("serve", "--demo", "--no-open", *more)
    assert status == 2 and "--demo" in err


def test_serve_answers_until_it_is_stopped(shown: Shown, monkeypatch: pytest.MonkeyPatch):
    ended: list[int] = []
    paths = [str(shown.other.path), "--with", str(shown.other.path)]
    arguments = ["serve", *paths, "--no-open", "--port", "0", "--read-only"]
    told = io.StringIO()  # capsys loses what is written while it is read
    monkeypatch.setattr("sys.stdout", told)
    thread = threading.Thread(target=lambda: ended.append(main(arguments)))
    thread.start()
    while "http://" not in told.getvalue():
        assert thread.is_alive()
        time.sleep(0.01)
    url = next(line for line in told.getvalue().splitlines() if line.startswith("http://"))
    with Client(url) as client:
        said = client.said("about")
        assert [one["name"] for one in said["sources"]] == ["other", "other"]
        assert not said["live"] and not said["writable"]
    [explorer] = [one for one in gc.get_objects() if isinstance(one, Explorer) and one.url == url]
    explorer.stop()
    thread.join(30)
    assert ended == [0]


def test_the_stories_index_is_built_once_in_the_users_cache(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    few = Demo(shown.demo.model, shown.demo.sae, shown.demo.texts[:3])
    with pytest.warns(MlxterpWarning, match="once, in"):
        first = kept_index(few, verbose=False, drawn=False)
    assert first.path.is_relative_to(tmp_path)
    again = kept_index(few, drawn=False)
    assert again.path == first.path and again.source is not None and again.n_texts == first.n_texts > 0
    (first.path / "summary.safetensors").write_bytes(b"damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)  # what is damaged, and that it is built
        assert kept_index(few, verbose=False, drawn=False).n_texts == first.n_texts
