"""What directions and activations say in words: the linear logit lens of features, and that of the residual stream."""

from .feature_logits import FeatureLogits, RandomDirections, feature_logits, random_direction_baseline
from .logit_lens import LogitLens

__all__ = ["FeatureLogits", "LogitLens", "RandomDirections", "feature_logits", "random_direction_baseline"]
