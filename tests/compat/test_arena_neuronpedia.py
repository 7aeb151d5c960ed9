"""ARENA's "Understanding latents", rows D4, D5 and D22: descriptions, dashboards, tables of published SAEs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

import mlxterp
from mlxterp import InputError, MlxterpWarning, SAEError, UnknownFeatureError
from mlxterp.compat.arena import (
    display_dashboard,
    get_pretrained_saes_directory,
    load_and_process_autointerp_dfs,
)
from mlxterp.compat.saelens.sae import as_compat
from tests.neuronpedia.serving import row, serving
from tests.viz.reading import assert_offline

CALLS = {
    "D4": (
        "get_pretrained_saes_directory()[sae_release]", "release.neuronpedia_id[f\"blocks.8.hook_resid_pre_{width}\"]",
        "/api/explanation/export?modelId={}&saeId={}", "load_and_process_autointerp_dfs(width)",
        "drop_duplicates(subset=[\"index\"], keep=\"first\")", "how=\"left\"", "latents missing descriptions",
    ),
    "D5": ("display_dashboard(sae_release, sae_id, latent_idx)",),
    "D22": (
        "data.model, data.release, data.repo_id, len(data.saes_map)", "release.__dict__.items()",
        "if k not in [\"saes_map\", \"neuronpedia_id\"]", "gemma_2b_sae.cfg.__dict__.items()", "GENERATE_KWARGS",
    ),
}  # fmt: skip
"""Row → calls, arguments and attributes in its code."""


def test_the_section_has_what_the_table_lists(shared):
    section = (shared / "spec" / "arena_understanding_latents.txt").read_text(encoding="utf-8")
    section = " ".join(section.split())
    lacking = [word for words in CALLS.values() for word in words if word not in section]
    assert not lacking


def test_D4_descriptions_of_a_width_are_a_table_with_a_row_for_each_latent(tmp_path, capsys):
    pytest.importorskip("pandas")
    export = [row("2", "commas"), row("0", "dates"), row("2", "another"), row("767", "verbs")]
    paths: list[str] = []

    def answer(path: str) -> Any:
        paths.append(path)
        return 200, {}, export

    with serving(answer) as (url, _):
        frame = load_and_process_autointerp_dfs(768, base_url=url, cache=tmp_path)
    assert paths == ["/api/explanation/export?modelId=gpt2-small&saeId=8-res_fs768-jb"]
    assert (
        len(frame) == 768 and frame["index"].tolist() == list(range(768)) and frame["index"].dtype.kind == "i"
    )
    assert frame["description"].iloc[[0, 1, 2, 767]].tolist() == ["dates", "", "commas", "verbs"]
    assert "explanationModelName" in frame.columns
    said = capsys.readouterr().out
    assert (
        "Loaded autointerp df for width=768" in said
        and "Warning: 765/768 latents missing descriptions" in said
    )
    again = load_and_process_autointerp_dfs(768, base_url=url, cache=tmp_path)  # the server is gone
    assert again.equals(frame)
    with pytest.raises(InputError, match=r"no SAE of width 100 on Neuronpedia\. It has: 768, 1536"):
        load_and_process_autointerp_dfs(100)
    with pytest.raises(SAEError, match="No release"):
        load_and_process_autointerp_dfs(768, "nothing")


@pytest.fixture(scope="module")
def index(demo, tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = [text for text in demo.texts if len(demo.model.tokenize(text)) <= 150][:4]
    return demo.model.build_index(demo.sae, texts, tmp_path_factory.mktemp("index") / "demo", verbose=False)


def test_D5_a_dashboard_is_the_card_of_an_index_and_asks_no_network(index):
    feature = int(index.live[0])
    index.labels = mlxterp.FeatureRegistry({feature: "balls to play with"})
    shown = mlxterp.display_dashboard("gpt2-small-res-jb", "blocks.8.hook_resid_pre", feature, index=index)
    assert isinstance(shown, mlxterp.FeatureCard) and shown.feature_id == feature
    html = shown._repr_html_()
    assert_offline(html)
    assert "<iframe" not in html and "http" not in html
    assert "balls to play with" in html and shown.logits is not None and shown.examples
    with pytest.raises(UnknownFeatureError):
        mlxterp.display_dashboard("own", "sae", index.d_hidden, index=index)
    with pytest.raises(InputError, match="index is str"):
        mlxterp.display_dashboard("own", "sae", 3, index="demo")  # type: ignore[arg-type]


def test_D5_without_an_index_it_says_how_to_build_one_and_where_the_page_is(tmp_path, capsys):
    shown = mlxterp.display_dashboard("gemma-2b-res-jb", "blocks.6.hook_resid_post", 607)
    html = shown._repr_html_()
    assert_offline(html)
    assert "<iframe" not in html and "build_index" in str(shown)
    assert str(shown).endswith("https://www.neuronpedia.org/gemma-2b/6-res-jb/607")
    display_dashboard("gemma-2b-res-jb", "blocks.6.hook_resid_post", 607)
    assert capsys.readouterr().out == f"{shown}\n"
    nowhere = next(e for e in mlxterp.pretrained_saes() if e.neuronpedia_id is None)
    assert "does not have this SAE" in str(mlxterp.display_dashboard(nowhere.release, nowhere.sae_id, 3))
    with pytest.raises(SAEError, match="No release"):
        mlxterp.display_dashboard("no such release", "x", 3)
    with pytest.raises(UnknownFeatureError):
        mlxterp.display_dashboard("gemma-2b-res-jb", "blocks.6.hook_resid_post", -1)


def test_D5_neuronpedias_frame_comes_only_where_it_is_asked_for(tmp_path):
    shown = mlxterp.display_dashboard(
        "gemma-2b-res-jb", "blocks.6.hook_resid_post", 607, embed=True, height=400
    )
    html = shown._repr_html_()
    assert '<iframe src="https://www.neuronpedia.org/gemma-2b/6-res-jb/607?embed=true&amp;' in html
    assert 'height="400"' in html
    page = shown.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "frame-src https://www.neuronpedia.org" in page and "default-src 'none'" in page


def test_D5_an_index_of_another_published_sae_is_told(index, monkeypatch):
    sae = index.source.sae
    for key, value in (("release", "gpt2-small-res-jb"), ("sae_id", "blocks.7.hook_resid_pre")):
        monkeypatch.setitem(sae.metadata, key, value)
    with pytest.warns(MlxterpWarning, match="index is of gpt2-small-res-jb, blocks.7"):
        mlxterp.display_dashboard("gpt2-small-res-jb", "blocks.8.hook_resid_pre", 3, index=index)
    mlxterp.display_dashboard("gpt2-small-res-jb", "blocks.7.hook_resid_pre", 3, index=index)


def test_D22_published_saes_of_a_model_are_a_table():
    rows = [
        [data.model, data.release, data.repo_id, len(data.saes_map)]
        for data in get_pretrained_saes_directory().values()
        if data.model == "gemma-2b"
    ]
    assert ["gemma-2b", "gemma-2b-res-jb", "jbloom/Gemma-2b-Residual-Stream-SAEs", 5] in rows
    assert all("gemma-2-2b" not in release for _, release, _, _ in rows)  # those are another model's


def test_D22_a_releases_fields_are_a_table():
    release = get_pretrained_saes_directory()["gemma-2b-res-jb"]
    shown = {k: repr(v) for k, v in release.__dict__.items() if k not in ["saes_map", "neuronpedia_id"]}
    assert {"release", "repo_id", "model", "conversion_func", "expected_var_explained", "expected_l0",
            "config_overrides"} <= set(shown)  # fmt: skip
    assert shown["repo_id"] == "'jbloom/Gemma-2b-Residual-Stream-SAEs'"
    assert release.expected_l0["blocks.6.hook_resid_post"] == 56.0
    assert release.neuronpedia_id["blocks.6.hook_resid_post"] == "gemma-2b/6-res-jb"
    assert set(shown) == {field.name for field in fields(release)} - {"saes_map", "neuronpedia_id"}


def test_D22_an_saes_config_is_a_table(demo):
    settings = as_compat(demo.sae).cfg.__dict__
    named = (
        "architecture d_in d_sae hook_name hook_layer prepend_bos context_size dtype device model_name"
        " normalize_activations dataset_path neuronpedia_id"
    )
    lacking = set(named.split()) - set(settings)
    assert not lacking
    assert (settings["d_in"], settings["d_sae"]) == (192, 2048)
