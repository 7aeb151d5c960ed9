"""`AutoInterp`: the section's class. Explains latents by what a language model says, and scores it on other windows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ...autointerp import Judge, OpenAIJudge, Question, Sample, TokenListExplainer
from ...core import checks
from ...core.feature_ids import feature_id
from ...core.progress import hidden
from ...errors import InputError, MlxterpError
from ...index.examples import FeatureExample
from ..saelens import ActivationsStore, HookedSAETransformer
from ..saelens.sae import as_compat
from .config import AutoInterpConfig
from .example import Example
from .gather import Gathered, gather
from .prompts import VERSION, Messages, check_messages, generation_prompts, scoring_prompts
from .replies import Predictions, parse_explanation, parse_predictions
from .results import Results
from .show import display_messages
from .talk import ClientTalk, ServerTalk, Talk, said_in, server_talk

Examples = dict[int, list[Example]]
Data = tuple[Examples, Examples]
"""Windows to explain from, and to score on, by latent."""
_THOUGHT = 400
"""Tokens of a reply that thinks in four steps."""


class AutoInterp:
    """Explains latents, and scores the explanations.

    Who is asked: `client`, else the server of a `judge` that is an `OpenAIJudge`, else the one at OPENAI_BASE_URL, else
    OpenAI. Other judges answer for each window whether the latent fires there; with one of those and neither `client`
    nor `api_key`, explanations list the words that a latent fires on, and no language model is asked for them.

    Args:
        cfg: The latents, and how many windows of each.
        model: A `HookedSAETransformer` of `mlxterp.compat.saelens`, or an `InterpretableModel`.
        sae: Its SAE, of either kind.
        act_store: Where tokens come from.
        api_key: For the server; None takes OPENAI_API_KEY. Local servers take any.
        judge: Of `mlxterp.autointerp`: who scores, in place of a reply that lists numbers.
        client: An object like `openai.OpenAI()`.

    Attributes:
        gathered: What `gather_data` looked at, random windows that were active among it; None before.
        reasons: Latents without windows, and why.

    Raises:
        InputError: Nobody is there to ask, or an argument is of another kind.
        UnknownFeatureError: The SAE has no such latent.

    Examples:
        >>> from mlxterp.autointerp import TokenListJudge
        >>> from mlxterp.compat.arena import AutoInterp, AutoInterpConfig
        >>> from mlxterp.compat.saelens import SAE, ActivationsStore, HookedSAETransformer
        >>> gpt2, gpt2_sae = HookedSAETransformer(model), SAE(sae)
        >>> store = ActivationsStore.from_sae(gpt2, gpt2_sae, dataset=texts, context_size=48)
        >>> cfg = AutoInterpConfig([1629], n_top_ex_for_generation=4, n_top_ex_for_scoring=2, scoring=True)
        >>> results = AutoInterp(cfg, gpt2, gpt2_sae, store, judge=TokenListJudge()).run()
        >>> list(results[1629])
        ['explanation', 'predictions', 'correct seqs', 'score']
    """

    def __init__(
        self, cfg: AutoInterpConfig, model: Any, sae: Any, act_store: ActivationsStore, api_key: str | None = None,
        *, judge: Judge | None = None, client: Any = None,
    ):  # fmt: skip
        if not isinstance(cfg, AutoInterpConfig):
            raise InputError(f"cfg is an AutoInterpConfig, got {type(cfg).__name__}.")
        if not isinstance(act_store, ActivationsStore):
            raise InputError(
                f"act_store is an ActivationsStore of mlxterp.compat.saelens, got {type(act_store).__name__}."
            )
        self.cfg = cfg
        self.model = model if isinstance(model, HookedSAETransformer) else HookedSAETransformer(model)
        self.sae, self.act_store, self.api_key = as_compat(sae), act_store, api_key
        for latent in cfg.latents:
            feature_id(latent, self.sae.sae.d_hidden)
        self.gathered: Gathered | None = None
        self.reasons: dict[int, str] = {}
        self._talk = _talk(api_key, judge, client, cfg.concurrency)
        self._judge = None if isinstance(judge, OpenAIJudge) else judge
        if self._talk is None and judge is None:
            raise InputError(
                "Nobody is there to ask: give api_key= (or set OPENAI_API_KEY), set OPENAI_BASE_URL to a local server's"
                " address, or give client= or judge=. judge=TokenListJudge() needs no language model."
            )
        self._alone = threading.Lock()  # whoever runs a model in this process

    # -- the whole ----------------------------------------------------------------------------

    def run(self, debug: bool = False, data: Data | None = None) -> Results:
        """Explains every latent, and with `cfg.scoring` scores what was said.

        A latent that cannot be explained or scored has a row all the same; `results.reasons` says why.

        Args:
            debug: Whether what the first latent's model is asked, and what it replies, is printed.
            data: What `gather_data` gave, so that the model need not run again.

        Raises:
            JudgeError: The server cannot be used at all.
        """
        from tqdm.auto import tqdm

        asked, data = self._asked(), self._data(data, debug)
        latents = self.cfg.latents
        with (
            ThreadPoolExecutor(min(self.cfg.concurrency, len(latents))) as pool,
            tqdm(total=len(latents), desc="autointerp", unit="latent", disable=hidden(), delay=1.0) as bar,
        ):
            rows = []
            for row in pool.map(lambda latent: self._row(latent, data, debug), latents):
                rows.append(row)
                bar.update()
        return self._results(rows, asked)

    async def arun(self, debug: bool = False, data: Data | None = None) -> Results:
        """As `run`, for a running event loop: requests are made in threads, `cfg.concurrency` at a time.

        Only asking is done so: without `data` the model first runs here.
        """
        loop, latents = asyncio.get_running_loop(), self.cfg.latents
        asked = await asyncio.to_thread(self._asked)
        found = self._data(data, debug)  # the model runs in this thread
        pool = ThreadPoolExecutor(min(self.cfg.concurrency, len(latents)))
        try:
            rows = [loop.run_in_executor(pool, self._row, latent, found, debug) for latent in latents]
            return self._results(await asyncio.gather(*rows), asked)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    # -- its parts ----------------------------------------------------------------------------

    def gather_data(self) -> Data:
        """One pass over the store's tokens: windows to explain from, and to score on, by latent.

        Both are of different contexts. Random windows are those where the latent is nowhere active: each was looked up,
        and `gathered` says how many were not. A latent with too few windows has none; `reasons` says why.
        """
        self.gathered = gather(self.cfg, self.model, self.sae, self.act_store)
        generation: Examples = {}
        scoring: Examples = {}
        self.reasons = {one.latent: one.reason for one in self.gathered.chosen.values() if one.reason}
        for latent, one in self.gathered.chosen.items():
            threshold = self.cfg.act_threshold_frac * one.maximum
            for side, windows in ((generation, one.generation), (scoring, one.scoring)):
                side[latent] = [
                    Example(tokens.tolist(), acts.tolist(), threshold, self.model) for tokens, acts in windows
                ]
        return generation, scoring

    def get_generation_prompts(
        self, generation_examples: Sequence[Example], latent: int | None = None
    ) -> Messages:
        """What is asked of who explains.

        Args:
            latent: Whose windows these are; needed where `cfg.top_logits` asks for the tokens that it promotes.

        Raises:
            InputError: There are no windows, or no latent where one is needed.
        """
        promoted: Sequence[str] = ()
        if self.cfg.top_logits:
            if latent is None:
                raise InputError("cfg.top_logits lists the tokens that a latent promotes: give latent=.")
            with self._alone:
                [found] = self.model.interpretable.feature_logits(self.sae.sae, [latent], self.cfg.top_logits)
            promoted = [token for token, _ in found.promoted]
        return generation_prompts(generation_examples, self.cfg, promoted)

    def get_scoring_prompts(self, explanation: str, scoring_examples: Sequence[Example]) -> Messages:
        """What is asked of who judges: numbered windows, from 1, none of them marked.

        Raises:
            InputError: There are no windows.
        """
        return scoring_prompts(explanation, scoring_examples)

    def get_response(
        self, messages: Messages, max_tokens: int, n_completions: int = 1, debug: bool = False
    ) -> list[str]:
        """What a language model replies to messages, n times.

        Args:
            debug: Whether messages and first reply are printed.

        Raises:
            InputError: Something else than messages, or there is no language model to ask.
            JudgeError: No reply that can be read.
        """
        check_messages(messages)
        if self._talk is None:
            raise InputError("No language model is asked here: give api_key=, client= or an OpenAIJudge.")
        tokens, n = checks.count(max_tokens, "max_tokens"), checks.count(n_completions, "n_completions")
        replies = self._talk.replies(messages, tokens, n)
        if debug:
            display_messages(said_in(messages, replies))
        return [reply.strip() for reply in replies]

    def parse_explanation(self, explanation: str) -> str:
        """What follows the last "activates on", without a full stop; "" where nothing does."""
        return parse_explanation(explanation)

    def parse_predictions(self, predictions: str) -> Predictions:
        """The windows that a reply names, counted from 1: a list. A reply that cannot be read is an empty one, which
        says `failed` and why."""
        return parse_predictions(predictions, self.cfg.n_ex_for_scoring)

    def score_predictions(self, predictions: Sequence[int], scoring_examples: Sequence[Example]) -> float:
        """Share of the windows told right; NaN for predictions that failed. Windows without an answer do not count."""
        left_out: tuple[int, ...] = ()
        if isinstance(predictions, Predictions):
            if predictions.failed:
                return float("nan")
            left_out = predictions.unanswered
        chosen = set(predictions)
        right = [
            (number in chosen) == one.is_active
            for number, one in enumerate(scoring_examples, 1)
            if number not in left_out
        ]
        return sum(right) / len(right) if right else float("nan")

    # -- one latent ---------------------------------------------------------------------------

    def _row(self, latent: int, data: Data, debug: bool) -> tuple[dict[str, Any], str]:
        """Its row, and what went wrong."""
        generation, scoring = (side.get(latent, []) for side in data)
        debug = debug and latent == self.cfg.latents[0]
        reason = self.reasons.get(latent, "it has no windows") if not generation else ""
        explanation = ""
        try:
            explanation = "" if reason else self._explained(latent, generation, debug)
            reason = reason or ("" if explanation else "the reply explains nothing")
        except MlxterpError as error:
            reason = str(error)
        row: dict[str, Any] = {"explanation": explanation or f"(none: {reason})"}
        if not self.cfg.scoring:
            return row, reason
        found = Predictions(failed=True)
        if explanation and not scoring:
            reason = self.reasons.get(latent, "it has no windows to score on")
        elif explanation:
            try:
                found = self._predicted(latent, explanation, scoring, debug)
                reason = found.reason
            except MlxterpError as error:
                reason = str(error)
        return {
            **row, "predictions": found,
            "correct seqs": [number for number, one in enumerate(scoring, 1) if one.is_active],
            "score": self.score_predictions(found, scoring),
        }, reason  # fmt: skip

    def _explained(self, latent: int, examples: list[Example], debug: bool) -> str:
        if self._talk is None:
            samples = [Sample(_window(latent, one), "top", True) for one in examples]
            told = TokenListExplainer().explain(latent, samples)
            return "" if told is None else told.text
        tokens = max(self.cfg.max_tokens_in_explanation, _THOUGHT * self.cfg.cot)
        [reply] = self.get_response(self.get_generation_prompts(examples, latent), tokens, debug=debug)
        return self.parse_explanation(reply)

    def _predicted(self, latent: int, explanation: str, examples: list[Example], debug: bool) -> Predictions:
        if self._judge is None:
            messages = self.get_scoring_prompts(explanation, examples)
            [reply] = self.get_response(messages, self.cfg.max_tokens_in_prediction, debug=debug)
            return parse_predictions(reply, len(examples))
        questions = [Question("detection", explanation, _window(latent, one)) for one in examples]
        with self._alone:
            answers = np.asarray(self._judge.probabilities(questions), dtype=np.float64)
        chosen = np.flatnonzero(answers > 0.5) + 1
        unanswered = (np.flatnonzero(np.isnan(answers)) + 1).tolist()
        return Predictions(
            chosen.tolist(), failed=len(unanswered) == len(answers), unanswered=tuple(unanswered)
        )

    # -- all of them --------------------------------------------------------------------------

    def _asked(self) -> str:
        """Who is asked; finds out whether the server is there, before anything takes time."""
        parts = []
        if self._talk is not None:
            parts.append(f"asked was {self._talk.name}, prompts {VERSION}")
        else:
            parts.append(f"explained by {TokenListExplainer().name}")
        if self._judge is not None and self.cfg.scoring:
            parts.append(f"judged by {self._judge.name}")
        return ", ".join(parts)

    def _data(self, data: Data | None, debug: bool) -> Data:
        if data is None:
            data = self.gather_data()
        if not isinstance(data, tuple) or len(data) != 2 or not all(isinstance(one, Mapping) for one in data):
            raise InputError("data= is what gather_data() gave: two dictionaries of Examples by latent.")
        if debug and self.gathered is not None:
            print(self.gathered)
        return data

    def _results(self, rows: Sequence[tuple[dict[str, Any], str]], asked: str) -> Results:
        cfg = self.cfg
        pairs = list(zip(cfg.latents, rows, strict=True))
        chance = cfg.n_random_ex_for_scoring / cfg.n_ex_for_scoring if cfg.scoring else float("nan")
        reasons = {latent: reason for latent, (_, reason) in pairs if reason}
        return Results({latent: row for latent, (row, _) in pairs}, reasons, chance, asked)


def _talk(api_key: str | None, judge: Judge | None, client: Any, concurrency: int) -> Talk | None:
    if client is not None:
        return ClientTalk(client)
    if isinstance(judge, OpenAIJudge):
        return ServerTalk(judge)
    if judge is not None and api_key is None:
        return None
    return server_talk(api_key, concurrency)


def _window(latent: int, example: Example) -> FeatureExample:
    """A window as judges of `mlxterp.autointerp` take it."""
    acts = np.array(example.acts, dtype=np.float32)
    at = int(np.abs(acts).argmax())
    return FeatureExample(
        latent, "".join(example.str_toks), 0, at, float(acts[at]), tuple(example.str_toks), acts, 0
    )
