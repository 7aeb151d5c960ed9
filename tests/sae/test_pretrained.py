"""Published SAEs: the table, its search, and what the hub's own client says when something is amiss.

No network is needed: the hub is a folder laid out as huggingface_hub's cache, or a server on this
machine. huggingface_hub reads its settings when it is imported, so it runs in a fresh Python here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlxterp import BackendError, InputError, SAEError
from mlxterp.sae.pretrained import PretrainedSAE, download, files_of, find_pretrained, pretrained_saes
from mlxterp.sae.pretrained import table as table_module

ALL = pretrained_saes()

COUNTS = {
    "gemma_scope_2": 8784, "gemma_scope": 2833, "dictionary_learning": 838, "qwen_scope": 544, "saelens": 292,
    "circuit_tracer": 208, "llama_scope": 192, "llama_scope_r1": 96, "gemma_scope_transcoder": 26,
    "circuit_tracer_clt": 26, "kissane": 12, "temporal": 3, "goodfire": 2, "deepseek": 1,
}  # fmt: skip


# -- the table ----------------------------------------------------------------------------------


def test_the_table_holds_every_release_of_the_registry():
    assert len({entry.release for entry in ALL}) == 170
    assert Counter(entry.loader for entry in ALL) == COUNTS
    assert len({(entry.release, entry.sae_id) for entry in ALL}) == len(ALL) == 13857


def test_every_entry_says_where_it_lies_and_what_it_reads():
    for entry in ALL:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.repo_id) and re.fullmatch(
            r"[\w.-]+/[\w.-]+", entry.model
        )
        assert entry.path and not entry.path.startswith("/") and ".." not in entry.path
        assert entry.loader in table_module.FILES
        known = entry.hook == "hook_embed" or re.fullmatch(r"blocks\.\d+\.[a-z0-9_.]+", entry.hook or "")
        assert known or entry.loader == "circuit_tracer_clt"


def test_transcoders_say_where_they_write():
    writing = Counter(entry.loader for entry in ALL if entry.hook_out)
    assert set(writing) == {"gemma_scope_2", "gemma_scope_transcoder", "circuit_tracer"}
    assert all(entry.hook_out for entry in ALL if "transcoder" in entry.release)


def test_reading_the_table_takes_less_than_a_second():
    table_module._releases.cache_clear()
    start = time.perf_counter()
    find_pretrained("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert time.perf_counter() - start < 1


def test_facts_that_change_how_files_are_read_are_kept():
    centred = {e.release for e in ALL if e.model_kwargs.get("center_writing_weights")}
    assert centred == {"gpt2-small-mlp-tm", "gpt2-small-res-jb", "gpt2-small-res-jb-feature-splitting"}
    scaled = find_pretrained("gemma-2b-res-jb", "blocks.12.hook_resid_post")
    assert scaled.norm_scaling_factor == 0.21381938399317255
    mistral = pretrained_saes(release="mistral-7b-res-wg")
    assert [e.config_overrides for e in mistral] == [{"normalize_activations": "constant_norm_rescale"}] * 3


def test_an_entry_can_be_changed_by_nobody_but_its_holder():
    name = ("mistral-7b-res-wg", "blocks.8.hook_resid_pre")
    find_pretrained(*name).config_overrides.clear()
    assert find_pretrained(*name).config_overrides
    assert find_pretrained(*name) == find_pretrained(*name)
    assert hash(find_pretrained(*name)) == hash(find_pretrained(*name))


def test_the_script_writes_the_same_table_for_the_same_registry():
    pytest.importorskip("yaml")
    path = Path(__file__).parents[2] / "tools/pretrained/build_table.py"
    if not path.is_file():
        pytest.skip("needs the tools folder beside the tests")
    spec = importlib.util.spec_from_file_location("build_table", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    saes = [{"id": f"layer_{n}", "path": n, "l0": 3} for n in (10, 9)]
    registry = {"r": {"repo_id": "a/b", "model": "gpt2-small", "saes": saes}}
    registry["r"]["conversion_func"] = "mntss_clt_layer_transcoder"
    table = script.build(registry, "0")
    assert table["releases"][0]["columns"] == {
        "sae_id": ["layer_9", "layer_10"],
        "path": ["W_enc_9.safetensors", "W_enc_10.safetensors"],
        "l0": [3, 3],
    }
    assert json.dumps(table) == json.dumps(script.build(registry, "0"))


# -- search -------------------------------------------------------------------------------------


def test_every_word_of_a_query_must_occur():
    found = pretrained_saes("Gemma-2-2B layer_20/ width_16k RES hook_resid_post")
    assert found and {e.hook for e in found} == {"blocks.20.hook_resid_post"}
    assert {e.model for e in found} == {"google/gemma-2-2b"}
    assert pretrained_saes("gpt2 no-such-word") == []


def test_a_model_is_found_by_each_of_its_names():
    by_name = [pretrained_saes(model=m) for m in ("openai-community/gpt2", "GPT2", "gpt2-small")]
    assert by_name[0] == by_name[1] == by_name[2] and len(by_name[0]) > 100
    assert pretrained_saes(model="gpt") == []


def test_results_come_in_the_order_of_layers_and_no_more_than_asked():
    hooks = [e.hook for e in pretrained_saes(release="gpt2-small-res-jb")]
    assert hooks[:11] == [f"blocks.{n}.hook_resid_pre" for n in range(11)]
    assert hooks[11:] == ["blocks.11.hook_resid_post", "blocks.11.hook_resid_pre"]
    assert pretrained_saes("gpt2-small-res-jb", limit=2) == pretrained_saes("gpt2-small-res-jb")[:2]


@pytest.mark.parametrize(
    "wrong", [{"query": 3}, {"model": b"x"}, {"release": ["x"]}, {"limit": 0}, {"limit": True}]
)
def test_arguments_of_another_type_are_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is "):
        pretrained_saes(**wrong)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(SAEError, match=r"'gpt2-small-res-jb'.*pretrained_saes\("):
        find_pretrained("gpt2-small-resid-jb")
    with pytest.raises(SAEError, match=r"'blocks\.8\.hook_resid_pre'.*lists its 13"):
        find_pretrained("gpt2-small-res-jb", "block.8.resid_pre")
    with pytest.raises(SAEError, match="as a release it is called 'gpt2-small-res-jb'"):
        find_pretrained("jbloom/GPT2-Small-SAEs-Reformatted")
    with pytest.raises(InputError):
        find_pretrained("gpt2-small-res-jb", 8)  # pyright: ignore[reportArgumentType]


def test_the_id_may_be_left_out_where_a_release_has_one_sae():
    assert find_pretrained("goodfire-llama-3.1-8b-instruct").sae_id == "layer_19"
    with pytest.raises(SAEError, match="holds 13 SAEs; say which by sae_id"):
        find_pretrained("gpt2-small-res-jb")


# -- files --------------------------------------------------------------------------------------

KISSANE = "gpt2-small_L1_Hcat_z_lr1.20e-03_l18.00e-01_ds24576_bs4096_dc1.00e-06_rsanthropic_rie25000_nr4_v5"

NEEDED = [
    ("gpt2-small-res-jb", "blocks.8.hook_resid_pre", "blocks.8.hook_resid_pre/",
     "cfg.json sae_weights.safetensors", "sparsity.safetensors"),
    ("gpt2-small-resid-post-v5-32k", "blocks.0.hook_resid_post", "v5_32k_layer_0.pt/",
     "cfg.json sae_weights.safetensors", "sparsity.safetensors"),
    ("gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical", "layer_20/width_16k/average_l0_71/",
     "params.npz", ""),
    ("gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76", "layer_0/width_16k/average_l0_76/",
     "params.npz", "config.json"),
    ("gemma-scope-2-4b-pt-res-all", "layer_0_width_16k_l0_big", "resid_post_all/layer_0_width_16k_l0_big/",
     "params.safetensors config.json", "README.md"),
    ("gemma-scope-2-27b-pt-res", "layer_16_width_16k_l0_big", "resid_post/layer_16_width_16k_l0_big/",
     "params.safetensors", ""),
    ("llama_scope_lxr_8x", "l0r_8x", "Llama3_1-8B-Base-L0R-8x/",
     "hyperparams.json checkpoints/final.safetensors", "lm_config.json checkpoints/pruned.safetensors"),
    ("llama_scope_r1_distill", "l0r_800m_slimpajama", "800M-Slimpajama-0-OpenR1-Math-220k/L0R/",
     "config.json sae_weights.safetensors", "lm_config.json"),
    ("llama-3.1-8b-instruct-andyrdt", "resid_post_layer_3_trainer_1", "resid_post_layer_3/trainer_1/",
     "config.json ae.pt", "eval_results.json checkpoints/ae_100.pt"),
    ("qwen-scope-3-8b-base-w64k-l50", "layer3", "", "layer3.sae.pt", "layer13.sae.pt config.json"),
    ("mwhanna-qwen3-4b-transcoders", "layer_0", "", "layer_0.safetensors config.yaml", "wanb-config.yaml"),
    ("mwhanna-qwen3-14b-transcoders", "layer_0", "", "layer_0.safetensors", "wandb-config.yaml"),
    ("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_2", "",
     "config.yaml W_enc_2.safetensors W_dec_2.safetensors", "W_enc_20.safetensors W_dec_20.safetensors"),
    ("gpt2-small-hook-z-kk", "blocks.1.hook_z", "", f"{KISSANE}_cfg.json {KISSANE}.pt", "other.pt"),
    ("temporal-sae-gemma-2-2b", "blocks.12.hook_resid_post", "gemma-2-2B/layer_12/temporal/",
     "conf.yaml latest_ckpt.safetensors", "latest_ckpt.pt"),
    ("goodfire-llama-3.3-70b-instruct", "layer_50", "", "Llama-3.3-70B-Instruct-SAE-l50.pt", "labels.csv"),
    ("deepseek-r1-distill-llama-8b-qresearch", "blocks.19.hook_resid_post", "",
     "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", "README.md"),
]  # fmt: skip


@pytest.mark.parametrize(("release", "sae_id", "folder", "needed", "others"), NEEDED)
def test_only_the_files_that_are_needed_are_named(release, sae_id, folder, needed, others):
    entry = find_pretrained(release, sae_id)
    present = [folder + name for name in (*others.split(), *needed.split())] + ["README.md", ".gitattributes"]
    assert files_of(entry, present) == [folder + name for name in needed.split()]


def test_every_format_of_the_table_is_among_those_cases():
    assert (
        {find_pretrained(case[0], case[1]).loader for case in NEEDED}
        == set(COUNTS)
        == set(table_module.FILES)
    )


def test_a_needed_file_that_is_absent_is_named_with_near_ones():
    entry = find_pretrained("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    with pytest.raises(SAEError, match=r"needs the file .*cfg\.json.*Near matches: .*config\.json"):
        files_of(entry, ["blocks.8.hook_resid_pre/config.json"])
    with pytest.raises(SAEError, match="Unknown format 'npy'"):
        files_of(PretrainedSAE("r", "s", "a/b", "p", "a/m", None, "npy"), [])


# -- the hub ------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HELD = {"layer_1/cfg.json": b"{}", "layer_1/sae_weights.safetensors": b"weights", "README.md": b"words"}


def ask(*questions: str, **environ: str) -> list[str]:
    """What a fresh Python answers: the value of each expression, or the error it raises."""
    pytest.importorskip("huggingface_hub")
    code = (
        "import json, sys, time\nfrom mlxterp.sae.pretrained import *\n"
        "time.sleep = lambda seconds: None\n"  # huggingface_hub waits half a minute between its attempts
        "def answer(question):\n"
        "    try:\n        return str(eval(question))\n"
        "    except Exception as error:\n        return f'{type(error).__name__}: {error}'\n"
        "print(json.dumps([answer(question) for question in sys.argv[1:]]))\n"
    )
    mine = {k: v for k, v in os.environ.items() if not k.upper().startswith(("HF_", "TRANSFORMERS_"))}
    mine = {k: v for k, v in mine.items() if "proxy" not in k.lower()} | {"NO_PROXY": "*"} | environ
    command = [sys.executable, "-c", code, *questions]
    done = subprocess.run(command, capture_output=True, text=True, env=mine, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A home of huggingface_hub whose cache holds one repository."""
    root = tmp_path / "hub/models--maker--saes"
    for name, content in HELD.items():
        file = root / "snapshots" / COMMIT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(COMMIT)
    return tmp_path


def test_offline_the_cache_answers(cached):
    held, folder, pinned = ask(
        "list_files('maker/saes')",
        "download('maker/saes', ['layer_1/cfg.json', 'README.md'])",
        f"download('maker/saes', ['layer_1/cfg.json'], revision='{COMMIT}')",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(cached),
    )
    assert held == str(sorted(HELD))
    assert Path(folder) == Path(pinned) == cached / "hub/models--maker--saes/snapshots" / COMMIT
    assert (Path(folder) / "layer_1/cfg.json").read_bytes() == b"{}"


def test_offline_what_the_cache_lacks_is_said_with_what_to_do(cached):
    answers = ask(
        "download('maker/saes', ['layer_1/config.json'])",
        "download('maker/others', ['cfg.json'])",
        "download('maker/saes', ['README.md'], revision='v2')",
        "list_files('maker/others')",
        "list_files('maker/saes', 'v2')",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(cached),
    )
    for answer in answers:
        assert answer.startswith("SAEError: The cache in") and "Unset HF_HUB_OFFLINE" in answer
        assert str(cached / "hub") in answer
    assert "Near matches: 'layer_1/cfg.json'" in answers[0] and "'v2'" in answers[2]


def test_without_a_connection_the_cache_answers_or_the_cause_is_said(cached):
    held, lacking, unknown = ask(
        "list_files('maker/saes')",
        "download('maker/saes', ['layer_9/cfg.json'])",
        "list_files('maker/others')",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(cached),
    )
    assert held == str(sorted(HELD))
    assert lacking.startswith("SAEError: layer_9/cfg.json of maker/saes could not be brought")
    assert unknown.startswith("SAEError: The list of files of maker/others could not be brought")
    assert "ConnectError" in unknown and all("Check the connection" in told for told in (lacking, unknown))


class FakeHub(BaseHTTPRequestHandler):
    """Answers as the hub does: maker/saes is there, maker/gated is gated, all else does not exist.

    A token is never right.
    """

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/").removeprefix("api/models/")
        repo, _, rest = path.partition("/saes")
        kind, _, where = rest.strip("/").partition("/")
        revision, _, file = where.partition("/")
        if "Authorization" in self.headers:
            self.answer(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif path.startswith("maker/gated"):
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif repo != "maker" or not rest.startswith("/"):
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif kind == "refs":
            refs = [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}]
            self.answer(200, json.dumps({"branches": refs, "tags": [], "converts": []}).encode(), {})
        elif revision not in ("main", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif kind == "tree":
            files = [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in HELD.items()]
            self.answer(200, json.dumps(files).encode(), {})
        elif file in HELD:
            self.answer(200, HELD[file], {"X-Repo-Commit": COMMIT, "ETag": f'"{len(HELD[file])}"'})
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: tests print nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of a hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_the_files_asked_for_are_brought(hub, tmp_path):
    names = ["layer_1/cfg.json", "layer_1/sae_weights.safetensors"]
    held, folder = ask("list_files('maker/saes')", f"download('maker/saes', {names})",
                       HF_ENDPOINT=hub, HF_HOME=str(tmp_path))  # fmt: skip
    assert held == str(sorted(HELD))
    found = sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())
    assert found == names and Path(folder).name == COMMIT
    assert (Path(folder) / names[1]).read_bytes() == HELD[names[1]]


def test_what_the_hub_refuses_is_said_with_what_to_do(hub, tmp_path):
    gated, no_repo, near, no_revision, no_file, no_name = ask(
        "download('maker/gated', ['cfg.json'])",
        "list_files('maker/none')",
        "download('google/gemma-scope-2b-pt-ress', ['cfg.json'])",
        "list_files('maker/saes', 'mian')",
        "download('maker/saes', ['layer_1/config.json'])",
        "list_files('a/b/c')",
        HF_ENDPOINT=hub,
        HF_HOME=str(tmp_path),
    )
    assert gated.startswith("SAEError: maker/gated is gated") and "hf auth login" in gated
    assert no_repo.startswith("SAEError: The Hugging Face hub has no repository 'maker/none'")
    assert "Near matches: 'google/gemma-scope-2b-pt-res'" in near
    assert no_revision.startswith("SAEError: maker/saes has no revision 'mian'") and "'main'" in no_revision
    assert no_file.startswith("SAEError: maker/saes has no file") and "'layer_1/cfg.json'" in no_file
    assert no_name.startswith("SAEError: 'a/b/c' names no repository: expected owner/name")


def test_a_wrong_token_is_not_taken_for_a_broken_connection(hub, tmp_path):
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_wrong"}
    for answer in ask("list_files('maker/saes')", "download('maker/saes', ['README.md'])", **settings):
        assert answer.startswith("SAEError") and "correct HF_TOKEN" in answer


def test_without_a_library_for_the_hub_its_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendError, match="pip install huggingface_hub"):
        download(ALL[0], ["cfg.json"])


@pytest.mark.parametrize("files", [[], "cfg.json", [1]])
def test_files_are_given_as_a_sequence_of_names(files):
    with pytest.raises(InputError, match="files is to be a sequence"):
        download("maker/saes", files)
    with pytest.raises(InputError, match="by its name"):
        download(3, ["cfg.json"])  # pyright: ignore[reportArgumentType]
