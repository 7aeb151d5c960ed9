"""Autointerp: explain features, and score explanations on other texts, with chance beside every figure."""

from .control_index import control_index
from .examples import Drawn, Examples, Sample, collect
from .explainers import Explainer, TokenListExplainer
from .explaining import explain
from .feature_score import Detail, FeatureScore
from .judges import CosineJudge, EmbeddingJudge, GainJudge, Judge, Question, StrengthJudge, TokenListJudge
from .llm_explainer import LLMExplainer
from .local_judge import LocalJudge
from .neighbour_precision import neighbour_precision
from .openai_judge import OpenAIJudge
from .plan import Plan
from .scores import Scores
from .scoring import score
from .writers import CorpusWriter, Prompt, Writer

__all__ = [
    "CorpusWriter", "CosineJudge", "Detail", "Drawn", "EmbeddingJudge", "Examples", "Explainer", "FeatureScore",
    "GainJudge", "Judge", "LLMExplainer", "LocalJudge", "OpenAIJudge", "Plan", "Prompt", "Question", "Sample", "Scores",
    "StrengthJudge", "TokenListExplainer", "TokenListJudge", "Writer", "collect", "control_index", "explain",
    "neighbour_precision", "score",
]  # fmt: skip
