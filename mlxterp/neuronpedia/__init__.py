"""Neuronpedia, reading: explanations and features that are published there, kept on disk once they were brought.

    from mlxterp import neuronpedia
    registry = neuronpedia.labels("gpt2-small", "8-res_fs768-jb", d_hidden=768)
    index.labels = registry

`check` looks at a folder that is to be imported there; `index.to_neuronpedia` writes one.

Nothing is asked of a network but by these calls, and by them only once for each model and source.
"""

from .dashboard import Dashboard, display_dashboard
from .folder import FolderCheck, FolderProblem, check
from .labels import labels, labels_frame
from .page import NeuronpediaExample, NeuronpediaFeature, feature

__all__ = [
    "Dashboard",
    "FolderCheck",
    "FolderProblem",
    "NeuronpediaExample",
    "NeuronpediaFeature",
    "check",
    "display_dashboard",
    "feature",
    "labels",
    "labels_frame",
]
