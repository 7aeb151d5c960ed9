"""Asking a model what a direction means: vectors put in the place of a token while the model writes.

`patchscope` sweeps the length of a direction and shows what the model says of it, beside a random direction and another
feature's; `ask` is what it is made of; `load_verbalizer` reads models that were trained to be asked.
"""

from .answers import Answers, BestScale, Patchscope
from .prompts import PROMPTS, Question
from .sweep import patchscope
from .vectors import ask
from .verbalizer import Verbalized, Verbalizer, load_verbalizer

__all__ = [
    "PROMPTS",
    "Answers",
    "BestScale",
    "Patchscope",
    "Question",
    "Verbalized",
    "Verbalizer",
    "ask",
    "load_verbalizer",
    "patchscope",
]
