"""What directions and activations say in words: the logit lens of features, and lenses of the residual stream."""

from .comparison import LensComparison, lens_comparison
from .feature_logits import FeatureLogits, RandomDirections, feature_logits, random_direction_baseline
from .jacobian_lens import JacobianLens
from .logit_lens import LogitLens
from .tuned_lens import TunedLens

__all__ = [
    "FeatureLogits", "JacobianLens", "LensComparison", "LogitLens", "RandomDirections", "TunedLens", "feature_logits",
    "lens_comparison", "random_direction_baseline",
]  # fmt: skip
