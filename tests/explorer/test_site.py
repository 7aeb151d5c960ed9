"""A site is the same as the server: what its files say is read back and compared with the index."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import FeatureIndex, InputError
from mlxterp.explorer import answers, site, to_site
from mlxterp.explorer.bundle import bundle
from mlxterp.explorer.label_file import LabelFile
from mlxterp.explorer.pages import files, site_page
from mlxterp.explorer.shown_index import ShownIndex
from tests.explorer.conftest import BALL, Shown

FEATURES = (BALL, 571, 3, 0)


def data(path: Path) -> bytes:
    """What a file of data hands to the page."""
    found = re.fullmatch(r'mlxterp\.data\("([\w/]+)","([A-Za-z0-9+/=]+)"\);\n', path.read_text("ascii"))
    assert found is not None
    assert path.as_posix().endswith(f"data/{found[1]}.js")
    return gzip.decompress(base64.b64decode(found[2]))


@pytest.fixture(scope="module")
def folder(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of a few features."""
    return to_site(shown.index, tmp_path_factory.mktemp("site") / "small", FEATURES, verbose=False)


def opened(said: dict[str, Any], maximum: float) -> list[dict[str, Any]]:
    """The windows of a feature, as the page unpacks them."""
    strings = said["strings"]

    def window(packed: list[Any]) -> dict[str, Any]:
        text, pos, act, start, tokens, active, steps = packed
        acts = np.zeros(len(tokens))
        acts[active] = np.array(steps) * abs(maximum) / 255
        return {
            "text": text, "pos": pos, "act": act, "start": start, "tokens": [strings[s] for s in tokens], "acts": acts,
        }  # fmt: skip

    return [window(packed) for packed in said["windows"]]


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_of_a_site_is_the_one_of_the_server(folder: Path, shown: Shown, feature: int):
    file = json.loads(data(folder / f"data/0/{feature // 256}.js"))
    packed = file["features"][str(feature)]
    said = answers.feature(ShownIndex(0, shown.index, LabelFile(shown.index, read_only=True)), feature)
    strings = file["strings"]
    for name in ("tokens", "before", "after"):
        assert [[strings[s], n] for s, n in packed.get(name, [])] == said[name]
    windows = opened({"strings": strings, "windows": packed.get("top", [])}, said["max"])
    assert len(windows) == len(said["top"])
    for one, other in zip(windows, said["top"], strict=True):
        assert {k: one[k] for k in ("text", "pos", "start", "tokens")} == {
            k: other[k] for k in ("text", "pos", "start", "tokens")
        }
        assert one["act"] == pytest.approx(other["act"], rel=1e-3)
        np.testing.assert_allclose(one["acts"], other["acts"], atol=abs(said["max"]) / 254)
        assert np.array_equal(one["acts"] != 0, np.array(other["acts"]) != 0)
    if packed.get("hist"):
        first, counts = packed["hist"]
        np.testing.assert_allclose(
            2 ** ((first + np.arange(len(counts) + 1)) / 4), said["hist"][1], rtol=1e-12
        )
        assert counts == said["hist"][0]
    assert [[q, len(several)] for q, several in packed.get("bands", [])] == [
        [band["q"], len(band["examples"])] for band in said["bands"]
    ]
    assert [f for f, _ in packed["similar"]] == [f for f, _ in said["similar"]]
    logits = packed["logits"]
    [expected] = shown.demo.model.feature_logits(shown.demo.sae, [feature], 10)
    assert [strings[s] for s, _ in logits["up"]] == [token for token, _ in expected.promoted]
    assert sum(logits["hist"][2]) == shown.demo.model.language_model.vocab_size


def test_a_site_holds_the_table_the_names_and_what_it_is(folder: Path, shown: Shown):
    one = ShownIndex(0, shown.index, LabelFile(shown.index, read_only=True))
    assert data(folder / "data/0/table.js") == one.packed_table().data
    about = json.loads(data(folder / "data/about.js"))
    assert about["live"] is False and about["sources"][0]["features"] == sorted(FEATURES)
    assert json.loads(data(folder / "data/0/labels.js"))["labels"] == {}
    said = json.loads((folder / "provenance.json").read_text())
    assert said["complete"] and said["features"] == sorted(FEATURES)
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(said["files"]) == on_disk - {"provenance.json"}


def test_the_same_call_writes_nothing_and_another_folder_gets_the_same_bytes(
    folder: Path, shown: Shown, tmp_path: Path
):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*.js")}
    shown.index.to_site(folder, FEATURES, verbose=False)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*.js")} == before
    again = shown.index.to_site(tmp_path / "again", FEATURES, verbose=False)
    for path, (_, content) in before.items():
        assert (again / path.relative_to(folder)).read_bytes() == content


def test_an_interrupted_site_goes_on(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    features, made = [3, 300, 600, 900], []
    real = site.packed_features

    def counted(one: ShownIndex, several: list[int], n: int, per_band: int) -> Any:
        made.append(several[0])
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(one, several, n, per_band)

    monkeypatch.setattr(site, "packed_features", counted)
    monkeypatch.setattr(site, "_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        shown.index.to_site(tmp_path / "s", features, verbose=False)
    shown.index.to_site(tmp_path / "s", features, verbose=False)
    assert made == [3, 300, 600, 600, 900]
    whole = to_site(shown.index, tmp_path / "whole", features, verbose=False)
    for path in whole.rglob("*.js"):
        assert (tmp_path / "s" / path.relative_to(whole)).read_bytes() == path.read_bytes()


def test_what_is_damaged_gone_or_named_anew_is_made_again(folder: Path, shown: Shown, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shard, table = copy / f"data/0/{BALL // 256}.js", copy / "data/0/table.js"
    good = shard.read_bytes()
    shard.write_bytes(good[:-20])
    table.unlink()
    index = FeatureIndex.open(shown.index.path, shown.demo.model, shown.demo.sae)
    index.to_site(copy, FEATURES, verbose=False)
    assert shard.read_bytes() == good and table.is_file()
    index.labels = {BALL: "ball"}
    index.to_site(copy, FEATURES, verbose=False)
    assert json.loads(data(copy / "data/0/labels.js"))["labels"][str(BALL)]["name"] == "ball"
    assert json.loads(data(shard))["features"][str(BALL)]["label"] == "ball"
    index.to_site(copy, [BALL], verbose=False)
    assert not (copy / "data/0/0.js").exists()


def test_a_folder_of_something_else_is_left_alone(shown: Shown, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        shown.index.to_site(tmp_path, [BALL], verbose=False)
    with pytest.raises(InputError, match="is a file"):
        shown.index.to_site(tmp_path / "notes.txt", [BALL], verbose=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("hostile", ["../../escaped.js", "/tmp/escaped.js"])
def test_a_strangers_provenance_leads_out_of_no_folder(shown: Shown, tmp_path: Path, hostile: str):
    outside = tmp_path / "escaped.js"
    outside.write_text("mine")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    said = {"format": "mlxterp-site", "files": {hostile: ["x", "y"]}}
    (folder / "provenance.json").write_text(json.dumps(said))
    to_site(shown.index, folder, [3], verbose=False)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize(
    "options", [{"features": 5}, {"features": [5000]}, {"n": 0}, {"per_band": -1}, {"others": [1]}]
)
def test_what_cannot_be_a_site_is_refused(shown: Shown, tmp_path: Path, options: dict[str, Any]):
    with pytest.raises((InputError, ValueError)):
        shown.index.to_site(tmp_path / "s", **{"verbose": False, "features": [3], **options})


# -- the script -------------------------------------------------------------------------------


def test_the_page_of_a_site_names_no_other_place():
    page = site_page()
    assert 'src="explorer.js"' in page and "static/" not in page and "{{" not in page
    assert "default-src 'none'; script-src 'self'" in page and "http" not in page.replace("http-equiv", "")


def test_the_script_holds_every_module_once_and_imports_nothing():
    scripts = {name: text.decode() for name, text in files().items() if name.endswith(".js")}
    made = bundle(scripts)
    assert not re.search(r"^\s*(import|export)\b", made, re.MULTILINE)
    assert sorted(re.findall(r"^modules\['([\w-]+\.js)'\] = ", made, re.MULTILINE)) == sorted(scripts)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_node_likes_the_script(tmp_path: Path):
    scripts = {name: text.decode() for name, text in files().items() if name.endswith(".js")}
    (tmp_path / "explorer.js").write_text(bundle(scripts), encoding="utf-8")
    run = subprocess.run(["node", "--check", tmp_path / "explorer.js"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_modules_keep_their_names_apart():
    made = bundle(
        {
            "main.js": "import {$, size as wide} from './a.js';\nconst own = 1;\nwindow.found = [$(own), wide];\n",
            "a.js": "const own = 2;\nexport const $ = (x) => x + own;\nexport function size() { return own; }\n",
        }
    )
    assert "const { $, size: wide } = modules['a.js'];" in made
    assert made.index("modules['a.js'] =") < made.index("modules['main.js'] =")
    assert "return { $, size };" in made


@pytest.mark.parametrize(
    "text",
    [
        "import a from './a.js';", "import * as a from './a.js';", "import './a.js';", "import {a} from 'a';",
        "import {a} from './a.css';", "export default 1;", "export {a};",
        "export let a = 1;", "export * from './a.js';",
        "import {\n  a\n} from './a.js';", "import {a} from './missing.js';", "import {a} from './main.js';",
    ],
)  # fmt: skip
def test_forms_that_a_script_cannot_have_are_refused(text: str):
    with pytest.raises(ValueError, match=r"main\.js|is not there|circle"):
        bundle({"main.js": text + "\n", "a.js": "export const a = 1;\n"})
