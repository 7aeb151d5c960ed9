"""Attention pictures and head types by the names of the existing library: `from mlxterp.visualization import …`.

The same as in `mlxterp.attention`, which has more.
"""

from ..attention import (
    AttentionPatternDetector,
    AttentionVisualizationConfig,
    InteractiveAttentionConfig,
    attention_from_trace,
    attention_heatmap,
    copying_score,
    current_token_score,
    detect_head_types,
    detect_induction_heads,
    display_interactive_attention,
    find_attention_pattern,
    first_token_score,
    get_attention_patterns,
    induction_score,
    interactive_attention,
    interactive_attention_from_trace,
    previous_token_score,
    save_interactive_attention,
)

__all__ = [
    "AttentionPatternDetector",
    "AttentionVisualizationConfig",
    "InteractiveAttentionConfig",
    "attention_from_trace",
    "attention_heatmap",
    "copying_score",
    "current_token_score",
    "detect_head_types",
    "detect_induction_heads",
    "display_interactive_attention",
    "find_attention_pattern",
    "first_token_score",
    "get_attention_patterns",
    "induction_score",
    "interactive_attention",
    "interactive_attention_from_trace",
    "previous_token_score",
    "save_interactive_attention",
]
