"""Every picture is a `View`: it gives its HTML and its text, and the base makes cells, files and prints of them."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import mlxterp
from mlxterp.viz import FeatureReport, Section, View

ROOT = Path(mlxterp.__file__).parent
MADE_ONCE = {"_repr_html_", "to_html"}
PICTURES = {
    "attention.head_effect": "HeadEffect", "attention.head_scores": "HeadScores",
    "attention.patterns": "AttentionPatterns", "autointerp.scores": "Scores",
    "circuits.graph": "AttributionGraph", "circuits.heads": "HeadLoadings",
    "circuits.intervention": "FeatureIntervention", "circuits.qk": "QKAttribution",
    "circuits.validation": "Validation", "evaluation.cross_layer": "CrossLayerEvaluation",
    "geometry.absorption": "Absorption", "geometry.apart": "Apart", "geometry.children": "Splitting",
    "geometry.clusters": "Clusters", "geometry.enrichment": "Enrichment",
    "geometry.first_letter": "FirstLetter", "geometry.logit_classes": "LogitClasses",
    "geometry.maps": "DecoderMap", "geometry.mediation": "Mediation", "geometry.meta_pairs": "SharedPairs",
    "geometry.meta_sae": "MetaSAE", "geometry.on_text": "OnText", "geometry.pairs": "Coactivation",
    "geometry.partners": "Universality", "geometry.placed_rows": "PlacedRows", "geometry.probes": "Probe",
    "demo.selftest": "SelfTest", "geometry.sparse_probing": "SparseProbing",
    "geometry.stitching": "Stitching", "index.table": "FeatureTable", "lens.comparison": "LensComparison",
    "lens.jacobian_lens": "JacobianLens", "lens.logit_lens": "LogitLens", "lens.tuned_lens": "TunedLens",
    "neuronpedia.dashboard": "Dashboard", "neuronpedia.folder": "FolderCheck",
    "neuronpedia.page": "NeuronpediaFeature",
    "patching.causal_map": "CausalTrace", "patching.result": "PatchingResult",
    "patchscopes.answers": "Patchscope", "steering.calibration": "Calibration", "steering.receipt": "Receipt",
    "steering.sweep": "Sweep",
    "study.evidence": "Evidence", "study.feature_study": "FeatureStudy", "viz.card": "FeatureCard",
    "viz.report": "FeatureReport", "viz.token_view": "TokenView",
}  # fmt: skip


def classes_that_define(names: set[str]) -> set[tuple[str, str]]:
    """(file, class) of every class in whose body a function has one of these names."""
    return {
        (path.relative_to(ROOT).as_posix(), node.name)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(inner, ast.FunctionDef) and inner.name in names for inner in node.body)
    }


def test_notebooks_and_files_are_made_in_one_place():
    own = {
        ("circuits/graph.py", "AttributionGraph"),  # its `to_html` takes indexes, too
        ("explorer/explorer.py", "Explorer"),  # a server is no picture: a notebook shows its address
    }
    assert classes_that_define(MADE_ONCE) == {("viz/view.py", "View"), *own}


def test_every_class_that_notebooks_show_is_a_view():
    found = {f"{module}.{name}" for module, name in PICTURES.items()}
    for module in PICTURES:
        importlib.import_module(f"mlxterp.{module}")
    kinds, waiting = set(), [View]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__.startswith("mlxterp.") and not kind.__abstractmethods__:
                kinds.add(f"{kind.__module__.removeprefix('mlxterp.')}.{kind.__name__}")
    assert kinds == found


@pytest.mark.parametrize(("module", "name"), PICTURES.items())
def test_a_view_is_shown_by_notebooks_by_print_and_as_a_file(module, name):
    kind = getattr(importlib.import_module(f"mlxterp.{module}"), name)
    assert issubclass(kind, View) and not kind.__abstractmethods__
    for shown in ("fragment", "to_str", "to_html", "_repr_html_"):
        assert callable(getattr(kind, shown))
    assert kind.__str__ is View.__str__


def test_a_picture_without_text_cannot_be_made():
    class Half(View):
        def fragment(self, level=3, links=None, element_id=""):
            return "<p>half</p>"

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_a_report_prints_its_parts_in_their_order():
    report = FeatureReport("Two\nthings", (Section("First", "a"), Section("Second")), "read this")
    assert report.to_str(color=False) == "Two↵things\n\nread this\n\nFirst\na\n\nSecond"
    assert str(report) == report.to_str() and repr(report) == "FeatureReport('Two↵things', 2 parts)"
