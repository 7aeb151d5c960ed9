"""The command line on the embedded model: what it prints, as JSON too, and how it fails."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

import mlxterp
from mlxterp.autointerp import Scores
from mlxterp.cli import main
from mlxterp.demo.choosing import noticed, short_stories, story_index, words_of
from mlxterp.training.trainer import Trainer

HOSTILE = "A <script>alert(1)</script> [red]cat[/red] \x1b[31m sat\x07 on \u202e the mat."


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch):
    for name in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def corpus(demo, tmp_path_factory) -> Path:
    """Some stories in a file."""
    path = tmp_path_factory.mktemp("cli") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(short_stories(demo)[:30]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def index_path(corpus) -> Path:
    """An index of them, made by the command."""
    path = corpus.with_name("stories.index")
    assert main(["index", str(corpus), "--path", str(path)]) == 0
    return path


@pytest.fixture
def says(capsys):
    """Runs a command that succeeds; gives what it printed."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def fails(capsys):
    """Runs a command that does not; gives its one sentence."""

    def run(*arguments: object, status: int = 2) -> str:
        assert main([str(argument) for argument in arguments]) == status
        errors = capsys.readouterr().err.strip().split("\n")
        assert errors[-1].startswith("mlxterp: ") and "Traceback" not in "".join(errors)
        return errors[-1]

    return run


def answer(printed: str):
    """Parsed JSON that has no NaN in it."""
    return json.loads(printed, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


# -- the main job -----------------------------------------------------------------------------


def test_c8_the_demo_goes_from_a_text_to_features_to_texts_to_effects(backend, tmp_path, says):
    page = tmp_path / "demo.html"
    printed = says("demo", "--backend", backend, "--report", page)
    assert len(re.findall(r"^ +\w+ +feature +\d+  also on at: \w+", printed, flags=re.MULTILINE)) >= 4
    assert len(re.findall(r"^   .*\[\w+\].*", printed, flags=re.MULTILINE)) >= 9
    assert printed.count("makes likelier to come next") == 3
    as_it_is, off = re.findall(r"(?:as it is|switched off): +(.*%)", printed)
    assert as_it_is != off
    as_it_is, up = re.findall(r"(?:as it is|turned up): +([^%\n]*)$", printed, flags=re.MULTILINE)
    assert as_it_is != up
    html = page.read_text(encoding="utf-8")
    assert str(page) in printed and html.count("<article") == 5
    assert not re.search(r"<script|src=|https?://", html)


def test_c8_the_demo_takes_any_text(tmp_path, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = says("demo", "--text", HOSTILE)
    assert "\x1b" not in printed and "\x07" not in printed and "\u202e" not in printed
    html = (tmp_path / "mlxterp-demo.html").read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;" in html


def test_the_demo_chooses_features_that_are_strong_here_and_rare_elsewhere(demo):
    text = "Lily was very sad because she lost her red ball. She looked"
    index = story_index(demo, verbose=False)
    found = noticed(demo, index, text, 5)
    assert len({feature.position for feature in found}) == 5
    assert all(feature.position > 1 and feature.stats.density < 0.03 for feature in found)
    again = noticed(demo, index, text, 5)
    assert [f.feature_id for f in again] == [f.feature_id for f in found]
    assert all(words_of(feature.stats) for feature in found)


# -- each command -----------------------------------------------------------------------------


def test_e3_features_are_those_of_the_python_call(demo, says):
    text = "Tom saw a big dog in the park."
    found = answer(says("features", text, "--top-k", 4, "--exclude", "none", "--json"))
    wanted = demo.model.get_top_features_for_text(text, demo.sae, *demo.place, top_k=4)
    assert [(f["feature_id"], f["activation"]) for f in found["features"]] == wanted
    tokens = demo.model.to_str_tokens(text)
    assert all(tokens[f["position"]] == f["token"] for f in found["features"])
    printed = says("features", text, "--top-k", 4)
    assert len(printed.splitlines()) == 5 and "[" in printed
    assert not re.search(r"\[<\|endoftext\|>\]", printed)


def test_e3_texts_are_those_of_the_python_call(demo, corpus, says):
    stories = short_stories(demo)[:30]
    feature = demo.model.get_top_features_for_text("She looked sad.", demo.sae, *demo.place)[2][0]
    found = answer(says("texts", feature, "--texts", corpus, "--top-k", 3, "--json"))
    wanted = demo.model.get_top_texts_for_feature(feature, demo.sae, stories, *demo.place, top_k=3)
    assert [(t["text"], t["activation"], t["position"]) for t in found["texts"]] == wanted
    assert len(says("texts", feature, "--texts", corpus, "--top-k", 3).splitlines()) == 3


def test_e3_an_index_answers_for_texts_and_cards(index_path, says, tmp_path):
    index = mlxterp.FeatureIndex.open(index_path)
    feature = int(index.summary.count.argmax())
    found = answer(says("texts", feature, "--index", index_path, "--top-k", 3, "--json"))
    assert [t["activation"] for t in found["texts"]] == [e.activation for e in index.examples(feature, 3)]
    (card,) = answer(says("show", feature, "--index", index_path, "--json"))
    assert card["count"] == index.stats(feature).count and len(card["promoted"]) == 10
    assert f"Feature {feature}" in says("show", feature, "--index", index_path)
    page = tmp_path / "card.html"
    assert str(page) in says("show", feature, 1, "--index", index_path, "--html", page)
    assert page.read_text(encoding="utf-8").count("<article") == 2


def test_an_index_is_kept_and_opened_again(corpus, index_path, says):
    before = {path: path.stat().st_mtime_ns for path in index_path.rglob("*") if path.is_file()}
    assert "mlxterp show" in says("index", corpus, "--path", index_path)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_text_is_shown_by_its_features(says):
    (view,) = answer(says("show", "--text", "She looked sad.", "--json", "--top-k", 2))
    assert len(view["features"]) == 2 and "".join(view["tokens"]).endswith("She looked sad.")
    assert "Feature 7 " in says("show", 7, "--text", "She looked sad.")


@pytest.mark.parametrize("command", ["features", "texts", "show"])
def test_standard_input_is_read_where_a_dash_stands(command, says, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"The dog ran.\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    given = {"features": ["-"], "texts": [5, "--texts", "-"], "show": ["--text", "-"]}[command]
    assert answer(says(command, *given, "--json"))


def test_an_sae_is_trained_and_checked(corpus, tmp_path, says, capsys):
    path = tmp_path / "sae"
    options = ["--layer", 1, "--component", "residual", "--k", 8, "--d-hidden", 64, "--tokens", 3000]
    says("train", corpus, *options, "--batch-size", 256, "--save-path", path)
    assert mlxterp.SAE.load(path).k == 8
    status = main(["check", str(path), "--texts", str(corpus), "--max-tokens", "600", "--json"])
    found = answer(capsys.readouterr().out)
    assert found["component"] == "layers.1.resid_post" and status == (0 if found["ok"] else 1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def written(tmp_path) -> dict[str, list[object]]:
    """Commands that would write over something, each with what is there."""
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "sae.safetensors").write_bytes(b"precious")
    for name in ("card.html", "demo.html"):
        (tmp_path / name).write_text("precious")
    return {
        "sae/sae.safetensors": ["train", "--layer", 1, "--save-path", tmp_path / "sae"],
        "card.html": ["show", "--text", "A cat", "--html", tmp_path / "card.html"],
        "demo.html": ["demo", "--report", tmp_path / "demo.html"],
    }


def test_nothing_is_written_over_without_a_terminal_to_ask_in(fails, written, tmp_path, monkeypatch):
    monkeypatch.setattr(mlxterp.InterpretableModel, "train_sae", lambda *_, **__: pytest.fail("it trains"))
    for name, command in written.items():
        assert "is there already" in (said := fails(*command)) and "--overwrite" in said
        assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("answered", ["", "n\n", "nay\n", "\n"])
def test_in_a_terminal_it_is_asked_and_only_yes_writes(written, tmp_path, monkeypatch, answered):
    for name, command in written.items():
        monkeypatch.setattr(sys, "stdin", Terminal(answered))
        monkeypatch.setattr(sys, "stderr", screen := Terminal())
        assert main([str(part) for part in command]) == 2
        assert "Write over it? [y/N]" in screen.getvalue() and "stays as it was" in screen.getvalue()
        assert (tmp_path / name).read_text() == "precious"


def test_yes_and_overwrite_write(says, written, tmp_path, monkeypatch):
    says(*written["card.html"], "--overwrite")
    page = (tmp_path / "card.html").read_text()
    assert "mlxterp-view" in page
    says("show", "--text", "A dog", "--html", tmp_path / "card.html")  # its own pages are made anew
    assert (tmp_path / "card.html").read_text() != page
    (tmp_path / "card.html").write_text("precious")
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main([str(part) for part in written["card.html"]]) == 0
    assert "mlxterp-view" in (tmp_path / "card.html").read_text()


def test_features_are_explained_and_their_explanations_scored(index_path, says, fails, tmp_path):
    index = mlxterp.FeatureIndex.open(index_path)
    features = [int(f) for f in index.summary.count.argsort()[::-1][20:26]]
    told, scored, page = (tmp_path / name for name in ("told.json", "scores.json", "scores.html"))
    printed = says("explain", index_path, *features, "--out", told, "--words", 3)
    assert f"{told}: 6 explanations of 6 features" in printed and "mlxterp score" in printed
    said = answer(says("explain", index_path, *features, "--words", 3, "--json"))
    assert [one["feature_id"] for one in said] == features and "fires on" in said[0]["explanation"]
    printed = says(
        "score", index_path, told, "--out", scored, "--html", page, "--scorers", "detection,simulation"
    )
    assert "control, explanations of other features" in printed and str(scored) in printed
    found = Scores.load(scored)
    assert found.tasks == ["detection", "simulation"] and len(found) == 6
    assert "Scores of explanations" in page.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.html", "scores.json", "told.json"]
    again = answer(says("score", index_path, told, "--scorers", "detection", "--controls", "none", "--json"))
    mean = found.mean("detection")
    assert mean is not None and again["means"]["detection"]["value"] == mean.value
    assert again["means"]["detection"]["controls"] == {} and len(again["explanations"]) == 6
    assert "--overwrite" in fails("score", index_path, told, "--out", scored)
    assert "cannot do 'surprisal'" in fails("score", index_path, told, "--scorers", "surprisal")
    assert "A scorer" in fails("score", index_path, told, "--scorers", "taste")
    assert "--judge" in fails("score", index_path, told, "--scorers", "generation")
    server = ("--judge", "http://127.0.0.1:9/v1", "--windows-per-prompt", 0)
    assert "windows_per_prompt" in fails("score", index_path, told, *server)
    (tmp_path / "names.json").write_text('{"3": "ball"}')
    assert "no explanations" in fails("score", index_path, tmp_path / "names.json")
    assert "no index" in fails("explain", tmp_path, 3)


def test_a_model_in_this_process_judges_from_the_command_line(index_path, says, tmp_path):
    told = tmp_path / "told.json"
    says("explain", index_path, 375, "--out", told)
    own = Path(mlxterp.__file__).parent / "demo" / "model"
    options = ["--scorers", "detection", "--controls", "none", "--judge", own, "--json"]
    found = answer(says("score", index_path, told, *options))
    assert found["judge"].startswith("llama here") and found["means"]["detection"]["chance"] == 0.5


# -- what is wrong ----------------------------------------------------------------------------


def test_bad_input_is_one_sentence_and_status_2(fails, tmp_path, corpus, index_path, monkeypatch):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "empty").write_text(" \n")
    assert "UTF-8" in fails("texts", 1, "--texts", tmp_path / "latin")
    assert "no text" in fails("texts", 1, "--texts", tmp_path / "empty")
    assert "No such file" in fails("index", tmp_path / "gone", "--path", tmp_path / "i")
    assert "numbered 0 to" in fails("texts", 10**6, "--texts", corpus)
    assert "numbered 0 to" in fails("show", 10**6, "--index", index_path)
    assert "no index" in fails("show", 1, "--index", tmp_path)
    assert "top_k" in fails("features", "A cat.", "--top-k", 0)
    assert "--sae" in fails("features", "A cat.", "--model", "x")
    assert "layer" in fails("features", "A cat.", "--layer", 99)
    assert "folder" in fails("demo", "--report", tmp_path / "gone" / "page.html")
    assert "feature" in fails("show")
    assert "one of them" in fails("texts", 1, "--index", index_path, "--texts", corpus)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert "UTF-8" in fails("features", "-")


def test_a_text_where_a_feature_is_expected_is_told_its_option(capsys):
    for arguments, hint in ((["show", "A cat sat."], "--text"), (["texts", "A cat sat."], "number")):
        with pytest.raises(SystemExit):
            main(arguments)
        said = capsys.readouterr().err
        assert "'A cat sat.' is no feature's number" in said and hint in said


def test_unknown_commands_and_missing_arguments_are_refused():
    for arguments in (
        ["nonsense"],
        ["features"],
        ["texts", "many"],
        ["features", "A cat.", "--exclude", "eos"],
        [],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_a_disk_that_is_full_is_told(fails, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "stories.index/shard")

    monkeypatch.setattr(mlxterp.InterpretableModel, "build_index", full)
    assert fails("index", "--path", "x") == "mlxterp: stories.index/shard: No space left on device"


def test_a_server_that_cannot_be_reached_is_told(fails, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("the hub does not answer")

    monkeypatch.setattr(mlxterp.InterpretableModel, "build_index", unreachable)
    assert fails("index", "--path", "x") == "mlxterp: the hub does not answer"


def test_ctrl_c_says_how_to_go_on(fails, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mlxterp.InterpretableModel, "build_index", stopped)
    assert "the same command goes on" in fails("index", "--path", "x", status=130)


def test_a_training_that_was_interrupted_is_saved_and_told(fails, corpus, tmp_path, monkeypatch):
    real = Trainer.train

    def stop(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, *arguments)

    monkeypatch.setattr(Trainer, "train", stop)
    path = tmp_path / "sae"
    options = [
        "--layer",
        1,
        "--d-hidden",
        32,
        "--k",
        4,
        "--batch-size",
        128,
        "--tokens",
        2000,
        "--save-path",
        path,
    ]
    assert "--resume" in fails("train", corpus, *options, status=130)
    assert mlxterp.SAE.load(path).d_hidden == 32


# -- how it is shown --------------------------------------------------------------------------


def test_texts_cannot_command_the_terminal(says):
    for printed in (says("features", HOSTILE), says("show", "--text", HOSTILE)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printed)
        assert "⟨1B⟩" in printed


def test_markup_in_texts_is_text(says):
    tokens = says("show", 1, "--text", "A [bold]cat[/bold] :smile: <b>")
    assert "[bold]cat[/bold] :smile: <b>" in tokens


def test_colours_are_for_terminals_and_no_color_is_respected(says, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in says("features", "The cat sat.")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in says("features", "The cat sat.")


def test_lines_keep_to_the_width_of_a_terminal(says, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "50")
    text = "The little cat sat on the mat and 猫 looked at the big red ball in the garden of the house. " * 3
    for arguments in (["features", text], ["show", "--text", text], ["texts", 5, "--top-k", 3]):
        assert max(map(cell_len, says(*arguments).splitlines())) <= 50


def test_a_warning_is_one_line(capsys, demo, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text(" ".join(demo.texts[0].split()) * 9, encoding="utf-8")
    assert main(["texts", "5", "--texts", str(long)]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("mlxterp: note: ") and "windows" in line]
    assert not any("Warning:" in line for line in errors)


@pytest.mark.parametrize("module", ["mlxterp", "mlxterp.cli"])
def test_python_runs_the_package_as_the_command(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: mlxterp ")


def test_the_program_starts_without_an_array_library_and_ends_quietly_with_its_reader():
    code = (
        "import sys; from mlxterp.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('mlx.core', 'torch', 'transformers', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    command = f"{sys.executable} -m mlxterp.cli features 'The cat sat on the mat.' | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_option_that_would_do_nothing_is_refused(index_path, fails):
    for arguments, said in (
        (["texts", 682, "--index", index_path, "--exclude", "none"], "--exclude is settled"),
        (
            ["texts", 682, "--index", index_path, "--layer", 3],
            "This index is of layers.1.resid_post, not of layers.3",
        ),
        (["show", 682, "--index", index_path, "--top-k", 3], "--top-k says how many"),
        (["features", "hi", "--sae-id", "x"], "--sae-id chooses among"),
        (["graph", "hi", "--index", index_path], "--index gives cards"),
        (["texts", 682, "--index", index_path, "--top-k", 0], "top_k is 0"),
    ):
        assert said in fails(*arguments)
    assert main(["texts", "682", "--index", str(index_path), "--component", "layers.1.residual"]) == 0


def test_what_cannot_be_written_is_said_before_the_work(index_path, fails, tmp_path):
    for arguments in (
        ["explain", index_path, 682, "--out"],
        ["selftest", "--report"],
        ["graph", "hi", "--save"],
    ):
        assert "it is a folder" in fails(*arguments, tmp_path)
    one = tmp_path / "one.json"
    assert "one would be written over the other" in fails("graph", "hi", "--save", one, "--html", one)
    assert not list(tmp_path.iterdir())


def test_streams_that_the_shell_closed_do_not_matter(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()
    assert ended.value.code == 0
