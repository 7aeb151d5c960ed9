"""Autointerp: explain features, and score explanations on other texts, with chance beside every figure."""

from .control_index import control_index
from .examples import Drawn, Examples, Sample, collect
from .explainers import Explainer, TokenListExplainer
from .explaining import explain
from .feature_score import Detail, FeatureScore
from .judges import CosineJudge, EmbeddingJudge, GainJudge, Judge, Question, StrengthJudge, TokenListJudge
from .local_judge import LocalJudge
from .neighbour_precision import neighbour_precision
from .openai_judge import OpenAIJudge
from .plan import Plan
from .scores import Scores
from .scoring import score

__all__ = [
    "CosineJudge", "Detail", "Drawn", "EmbeddingJudge", "Examples", "Explainer", "FeatureScore", "GainJudge", "Judge",
    "LocalJudge", "OpenAIJudge", "Plan", "Question", "Sample", "Scores", "StrengthJudge", "TokenListExplainer",
    "TokenListJudge", "collect", "control_index", "explain", "neighbour_precision", "score",
]  # fmt: skip
