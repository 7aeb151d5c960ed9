"""One feature by every line of evidence there is, each beside its control: `index.study(feature)`."""

from .evidence import Evidence
from .feature_study import FeatureStudy
from .study import study

__all__ = ["Evidence", "FeatureStudy", "study"]
