"""Autointerp: explain features, and score explanations on other texts, with chance beside every figure."""

from .examples import Drawn, Examples, Sample, collect
from .explainers import Explainer, TokenListExplainer
from .explaining import explain
from .judges import EmbeddingJudge, Judge, Question, TokenListJudge
from .llm_explainer import LLMExplainer
from .local_judge import LocalJudge
from .openai_judge import OpenAIJudge
from .plan import Plan
from .scores import Detail, FeatureScore, Scores
from .scoring import score
from .writers import CorpusWriter, Prompt, Writer

__all__ = [
    "CorpusWriter", "Detail", "Drawn", "EmbeddingJudge", "Examples", "Explainer", "FeatureScore", "Judge",
    "LLMExplainer", "LocalJudge", "OpenAIJudge", "Plan", "Prompt", "Question", "Sample", "Scores",
    "TokenListExplainer", "TokenListJudge", "Writer", "collect", "explain", "score",
]  # fmt: skip
