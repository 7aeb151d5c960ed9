"""Attention pictures and head types by the names of the existing library: `from mlxterp.visualization import …`.

The same as in `mlxterp.attention`, which has more.
"""

from ..attention import (
    AttentionVisualizationConfig,
    InteractiveAttentionConfig,
    attention_from_trace,
    attention_heatmap,
    copying_score,
    current_token_score,
    display_interactive_attention,
    first_token_score,
    get_attention_patterns,
    induction_score,
    interactive_attention,
    interactive_attention_from_trace,
    previous_token_score,
    save_interactive_attention,
)

__all__ = [
    "AttentionVisualizationConfig",
    "InteractiveAttentionConfig",
    "attention_from_trace",
    "attention_heatmap",
    "copying_score",
    "current_token_score",
    "display_interactive_attention",
    "first_token_score",
    "get_attention_patterns",
    "induction_score",
    "interactive_attention",
    "interactive_attention_from_trace",
    "previous_token_score",
    "save_interactive_attention",
]
