"""The index of an SAE's features over many texts (`FeatureIndex`): built in one pass, read in milliseconds."""

from .all_examples import AllExamples
from .answers import FeatureHit
from .building import BuildOptions, build
from .example_blocks import ExampleBlock
from .examples import FeatureExample
from .feature_index import FeatureIndex
from .source import Source
from .stats import FeatureStats
from .table import FeatureTable

__all__ = [
    "AllExamples", "BuildOptions", "ExampleBlock", "FeatureExample", "FeatureHit", "FeatureIndex", "FeatureStats",
    "FeatureTable", "Source", "build",
]  # fmt: skip
