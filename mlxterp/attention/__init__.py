"""Attention: which tokens each head reads, what kind of head that makes it, and what depends on it.

reader.py (patterns of texts and traces) → patterns.py (`AttentionPatterns`) → pictures.py (the names of the existing
library); scores.py (numbers of a pattern)
"""

from ..viz.pattern_figure import AttentionVisualizationConfig
from .head_effect import HeadEffect, head_effect
from .head_scores import HeadScore, HeadScores, head_scores
from .head_types import (
    AttentionPatternDetector,
    detect_head_types,
    detect_induction_heads,
    find_attention_pattern,
)
from .patterns import AttentionPatterns
from .pictures import (
    InteractiveAttentionConfig,
    attention_from_trace,
    attention_heatmap,
    display_interactive_attention,
    interactive_attention,
    interactive_attention_from_trace,
    save_interactive_attention,
)
from .reader import attention_patterns, get_attention_patterns
from .scores import (
    copying_score,
    current_token_score,
    duplicate_token_score,
    first_token_score,
    induction_score,
    mean_distance,
    pattern_entropy,
    previous_token_score,
    repeated_token_score,
)

__all__ = [
    "AttentionPatternDetector",
    "AttentionPatterns",
    "AttentionVisualizationConfig",
    "HeadEffect",
    "HeadScore",
    "HeadScores",
    "InteractiveAttentionConfig",
    "attention_from_trace",
    "attention_heatmap",
    "attention_patterns",
    "copying_score",
    "current_token_score",
    "detect_head_types",
    "detect_induction_heads",
    "display_interactive_attention",
    "duplicate_token_score",
    "find_attention_pattern",
    "first_token_score",
    "get_attention_patterns",
    "head_effect",
    "head_scores",
    "induction_score",
    "interactive_attention",
    "interactive_attention_from_trace",
    "mean_distance",
    "pattern_entropy",
    "previous_token_score",
    "repeated_token_score",
    "save_interactive_attention",
]
