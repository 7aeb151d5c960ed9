"""`Answers`: what an index says of features, of texts and of tokens; every answer is read from disk.

Base of `FeatureIndex`. Answers follow the same rule as the search without an index (`core.ranking`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..concepts.explanations import Explanation
from ..concepts.labels import shown, skill
from ..core import checks, rooms
from ..core.feature_ids import Feature
from ..core.sparse import SparseFeatures
from ..data.corpus import Corpus
from ..data.dataset import text_of
from ..errors import InputError
from ..features.embeddings import Embed
from ..features.search import top_features_of
from .base import IndexBase
from .encode import encode_counted
from .example_reader import AFTER, BEFORE
from .examples import FeatureExample
from .figures import COLUMNS
from .stats import FeatureStats, commonest, log_histogram, partners, share_of
from .table import FeatureTable

_TOP_TOKENS = 10


class FeatureHit(NamedTuple):
    """A feature that `FeatureIndex.search` found.

    Attributes:
        feature_id: The feature.
        score: 1 for what a person said; for an explanation, how far its score is from chance; by meaning, the cosine
            of the query and the label, 0 where that is negative; else how nearly the feature fires on the words and
            nowhere else. In [0, 1].
        why: What was found: its name, its explanation, or the word it fires on: on what share of the word's
            occurrences, and what share of its firings they are.
    """

    feature_id: int
    score: float
    why: str


class Answers(IndexBase):
    """An index that answers; see `FeatureIndex`."""

    # -- texts of a feature -------------------------------------------------------------------

    def top_texts(self, feature_id: Feature, top_k: int = 10) -> list[tuple[str, float, int]]:
        """Texts on which a feature is most active: (text, activation, position of the token), strongest first.

        A text counts once, at its strongest token (the earliest of equals); among equals the earlier text comes
        first, and a text given twice appears twice. What `get_top_texts_for_feature` gives, but for excluded
        tokens. Empty for a feature that is never active.

        Raises:
            UnknownFeatureError: `feature_id` lies outside [0, d_hidden).

        Examples:
            >>> for text, activation, position in index.top_texts(ball, top_k=2):
            ...     print(round(activation), repr(model.to_str_tokens(text)[position]))
            11 ' ball'
            4 ' toys'
        """
        top_k = checks.count(top_k, "top_k")
        best = self._reader.ranked(self.check_feature(feature_id)).strongest
        found = zip(best.text_ids[:top_k], best.values[:top_k], best.positions[:top_k], strict=True)
        return [(self._reader.text(int(text)), float(value), int(at)) for text, value, at in found]

    def examples(
        self, feature_id: Feature, n: int | None = None, quantile: int | None = None, *, before: int = BEFORE,
        after: int = AFTER,
    ) -> list[FeatureExample]:  # fmt: skip
        """Places where a feature is active, with the tokens around them.

        A text counts once, at its strongest token; places count once where the text up to the token is the same,
        or the token and its five neighbours on both sides are.

        Args:
            n: At most so many; None takes `n_examples`.
            quantile: None gives the strongest, strongest first. 0 to 9 gives a random choice (by a hash, so always
                the same) from that tenth of all texts' ranks: 0 the weakest, 9 the strongest.
            before, after: Tokens to show on both sides.

        Raises:
            UnknownFeatureError: `feature_id` lies outside [0, d_hidden).
            InputError: There is no such quantile.

        Examples:
            >>> [strongest] = index.examples(ball, 1, before=4, after=3)
            >>> strongest.to_str()
            ', then gave the<< ball>> a big kick'
        """
        feature_id = self.check_feature(feature_id)
        n = self.n_examples if n is None else n
        n = checks.count(n, "n")
        for name, tokens in (("before", before), ("after", after)):
            checks.count(tokens, name, 0)
        if quantile is not None:
            quantile = checks.integer(
                quantile, "quantile", 0, 9, hint="0 is the weakest tenth, 9 the strongest."
            )
        return list(self._examples_of(feature_id, n, quantile, before, after))

    def strongest_tokens(self, n: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens on which each feature is strongest, for all features at once.

        By magnitude, among equals the earlier token. A text may come several times, and what texts begin with as
        often as it occurs (`examples` shows each once).

        Returns:
            Text numbers and positions, int64 (d_hidden, n), -1 where a feature is active on fewer tokens; and
            activations, float32 (d_hidden, n), 0 there.
        """
        n = checks.count(n, "n")
        return self._reader.strongest(self.d_hidden, n)

    def stats(self, feature_id: Feature) -> FeatureStats:
        """How often and how strongly a feature fires, and on which tokens.

        Raises:
            UnknownFeatureError: `feature_id` lies outside [0, d_hidden).

        Examples:
            >>> stats = index.stats(ball)
            >>> stats.count, stats.n_tokens, stats.n_texts, stats.top_tokens
            (6, 7267, 3, ((' toys', 4), (' ball', 2)))
        """
        feature_id = self.check_feature(feature_id)
        firings = self._reader.ranked(feature_id).every
        count = int(self._summary.count[feature_id])
        return FeatureStats(
            feature_id, count, self.n_tokens, len(np.unique(firings.text_ids)),
            float(self._summary.total[feature_id] / count) if count else 0.0,
            float(self._summary.maximum[feature_id]), log_histogram(firings.values),
            commonest(self._reader.token_ids(feature_id), self._piece, _TOP_TOKENS),
        )  # fmt: skip

    def table(self) -> FeatureTable:
        """Figures of all features, a row each: sorted, cut, printed, or given to pandas.

        An index of format version 1 is completed for it once, in its folder where that can be written.

        Examples:
            >>> table = index.table()
            >>> len(table), int(table.sort("count").feature_id[0])
            (2048, 1586)
        """
        arrays = {name: np.asarray(self._derived.table[name]) for name in COLUMNS}
        for name in ("count", "n_texts", "top_token_counts"):
            arrays[name] = arrays[name].astype(np.int64)
        used = np.unique(arrays["top_tokens"])
        norms = None if self._source is None else self._source.sae.decoder_norms
        return FeatureTable(
            feature_id=np.arange(self.d_hidden), label=self._all_labels(), **arrays, decoder_norm=norms,
            pieces={token: self._piece(token) for token in used[used >= 0].tolist()}, n_tokens=self.n_tokens,
            d_hidden=self.d_hidden,
        )  # fmt: skip

    # -- features of a text -------------------------------------------------------------------

    def top_features(self, text: str, top_k: int = 10) -> list[tuple[int, float]]:
        """Features most active on a text, by the index's rule: (feature id, its largest activation).

        Excluded tokens do not count. The text need not be one of the index's. Runs the model.

        Raises:
            FeatureIndexError: The index was opened without its model and SAE.

        Examples:
            >>> [feature for feature, activation in index.top_features("Lily lost her red ball.", top_k=5)]
            [1257, 1641, 1676, 1586, 741]
        """
        top_k = checks.count(top_k, "top_k")
        source, model = self._with_source(), self._with_source().anatomy.model
        corpus = Corpus.from_texts([text_of(text, model)], model.tokenize)
        parts = encode_counted(model, corpus, source.sae, source.component, self._meta.rule)
        return top_features_of(SparseFeatures.concat([part.features for part in parts]), top_k)

    def features_for_token(self, token: str, top_k: int = 10) -> list[tuple[int, float]]:
        """Features that fire on a token or word: (feature id, mean activation over all its occurrences).

        Occurrences with and without a leading space count; where the feature is not active its activation is
        0. A word of several tokens counts at its last one (with the model attached).

        Raises:
            InputError: The token does not occur in the index.

        Examples:
            >>> [feature for feature, activation in index.features_for_token("ball", top_k=2)]
            [741, 1377]
        """
        top_k = checks.count(top_k, "top_k")
        return self._words.features_for_token(token, self._tokenize, top_k)

    def search(self, query: str, top_k: int = 10, *, embed: Embed | None = None) -> list[FeatureHit]:
        """Features whose name holds the query, then those whose explanation does, then those that fire on its words.

        Explanations come by their scores; features that fire on the words, by how little else they fire on.
        `index["ball"]` is the same.

        Args:
            embed: Texts → vectors (texts, width), such as a sentence model's `encode`. With it names and explanations
                come by meaning: by the cosine of their embedding and the query's, all that there are.

        Raises:
            InputError: The query is empty, or `embed` gives something else.

        Examples:
            >>> for hit in index.search("ball", top_k=2):
            ...     print(hit.feature_id, hit.why)
            741 fires on 100 % of 'ball', 33 % of its firings
            705 fires on 50 % of 'ball', 7 % of its firings
        """
        top_k = checks.count(top_k, "top_k")
        if not isinstance(query, str) or not query.strip():
            raise InputError(f"The query is {query!r}; give some words.")
        if embed is None:
            named = [FeatureHit(f, 1.0, f"named {self.label(f)!r}") for f in self._named(query)]
            named += [_explained_hit(one) for one in self._explained(query)]
        else:
            named = self._by_meaning(query, embed)
        left, known = max(0, top_k - len(named)), [hit.feature_id for hit in named]
        found = self._words.features_for_query(query, self._tokenize, left, known) if left else []
        return [*named, *(FeatureHit(*one) for one in found)][:top_k]

    def _by_meaning(self, query: str, embed: Embed) -> list[FeatureHit]:
        """Features that have a label, by the cosine of its embedding and the query's."""
        labels = {f: label for f, label in enumerate(self._all_labels(marked=False)) if label is not None}
        return [
            FeatureHit(
                f, min(1.0, max(0.0, cosine)), f"means {labels[f]!r}, cosine {cosine:.2f} to the query"
            )
            for f, cosine in self._meanings.ranked(labels, query, embed)
        ]

    # -- features of a feature ----------------------------------------------------------------

    def similar(self, feature_id: Feature, top_k: int = 10, by: str = "decoder") -> list[tuple[int, float]]:
        """Features most like this one: (feature id, likeness), the most like first.

        Args:
            by: "decoder": cosine of the decoder rows (needs the SAE); "coactivation": see `coactivation`.

        Examples:
            >>> [feature for feature, cosine in index.similar(ball, top_k=3)]
            [691, 986, 972]
        """
        feature_id = self.check_feature(feature_id)
        if by == "coactivation":
            return self.coactivation(feature_id, top_k=top_k)
        if by != "decoder":
            raise InputError(f"by={by!r}; there are: decoder, coactivation.")
        return self._with_source().sae.similar(feature_id, top_k)

    def coactivation(self, feature_id: Feature, other: Feature | None = None, top_k: int = 10) -> Any:
        """How often features fire on the same token, from a sample of 100,000 tokens (chosen by a seeded hash).

        Args:
            other: Gives the one number for these two features.

        Returns:
            [(feature id, Jaccard index: tokens where both fire / tokens where at least one does)], the largest first;
            or the number.
        """
        top_k = checks.count(top_k, "top_k")
        feature_id = self.check_feature(feature_id)
        if other is not None:
            return share_of(self._derived, feature_id, self.check_feature(other))
        return partners(self._summary, self._derived, feature_id, top_k)

    def coactivation_graph(
        self, n: int = 200, *, by: Literal["pmi", "lift", "phi", "jaccard"] = "phi", **options: Any
    ) -> dict[str, list[dict[str, Any]]]:
        """Features that are most often active together, as a graph, from all tokens of the index.

        Args:
            n: Edges at most.
            by: What they are ordered by.
            options: Of `geometry.coactivation`: the level ("token", "window", "text"), min_count, ….

        Returns:
            {"nodes": [{"id", "count", "label"}], "edges": [{"source", "target", `by`}]}, as JSON takes it.

        Raises:
            InputError: An option cannot be, or no feature is active.

        Examples:
            >>> graph = index.coactivation_graph(5, level="text")
            >>> len(graph["edges"]), sorted(graph["nodes"][0])
            (5, ['count', 'id', 'label'])
        """
        return rooms.open("index.coactivation_graph", self, n, by=by, **options)

    def explain(
        self, features: Any, explainer: Any = None, judge: Any = None, *, plan: Any = None, examples: Any = None,
        path: str | os.PathLike | None = None, verbose: bool = True,
    ) -> list[Explanation]:  # fmt: skip
        """Explains features by windows of the index; see `autointerp.explain`.

        Args:
            features: One feature or many.
            explainer: None lists the words that a feature fires on, and asks no language model.
            judge: Scores what was explained, by detection; None leaves it without a score.
            plan: An `autointerp.Plan` of the windows.
            examples: What `autointerp.collect` drew, in place of `plan`.
            path: A file that keeps each explanation as it is made; the same call with it goes on.
            verbose: Whether bars show how many are done.

        Examples:
            >>> from mlxterp import autointerp
            >>> [told] = index.explain(ball, autointerp.TokenListExplainer(1), plan=autointerp.Plan(least=1))
            >>> told.text
            'fires on "ball"'
        """
        return rooms.open(
            "index.explain",
            self,
            features,
            explainer,
            judge,
            plan=plan,
            examples=examples,
            path=path,
            verbose=verbose,
        )

    def score(
        self, explanations: Any, judge: Any = None, scorers: Sequence[str] | None = None, *, writer: Any = None,
        plan: Any = None, examples: Any = None, controls: bool | str | Sequence[str] = True,
        path: str | os.PathLike | None = None, batch_size: int = 256, verbose: bool = True,
    ) -> Any:  # fmt: skip
        """Scores explanations on windows that they were not made from; see `autointerp.score`.

        Args:
            explanations: One or many, by people or by `explain`.
            judge: Who is asked; None looks for the words that an explanation lists.
            scorers: Of "detection", "fuzzing", "intruder", "neighbour_precision", "simulation", "surprisal",
                "embedding", "generation" and "sensitivity"; None takes detection, intruder and, where there is a
                writer, generation.
            writer: Who writes texts on which the index's own model and SAE are run.
            plan: An `autointerp.Plan`; None takes the one that the first explanation was made by.
            examples: What `autointerp.collect` drew, in place of `plan`.
            controls: Of "explanations" and "tokens"; True takes both, False none.
            path: A file that keeps every answer as it comes; the same call with it goes on.
            batch_size: Questions that a judge is given at a time.
            verbose: Whether bars show how many are done.

        Returns:
            `autointerp.Scores`.
        """
        return rooms.open(
            "index.score", self, explanations, judge, scorers, writer=writer, plan=plan, examples=examples,
            controls=controls, path=path, batch_size=batch_size, verbose=verbose,
        )  # fmt: skip

    def study(
        self, feature_id: Feature, *, family: Any = None, meta: Any = None, token_sets: Any = None, judge: Any = None,
        patchscope: Any = None, control: bool = True,
    ) -> Any:  # fmt: skip
        """One feature by every line of evidence there is, each beside its control; see `mlxterp.study`.

        Args:
            family: SAEs of several widths at one component, this one among them.
            meta: A meta-SAE of this SAE.
            token_sets: Sets of tokens; None takes some of the standard ones.
            judge: Who judges explanations; None looks for the words that they list.
            patchscope: What patch scoping of this feature gave.
            control: False leaves the controls out, and says so.

        Returns:
            `study.FeatureStudy`: `print` it, or write it with `to_html`.
        """
        return rooms.open(
            "index.study", self, feature_id, family=family, meta=meta, token_sets=token_sets, judge=judge,
            patchscope=patchscope, control=control,
        )  # fmt: skip

    def select_diverse(
        self, n: int, max_cos: float = 0.7, among: Sequence[int] | np.ndarray | None = None
    ) -> list[int]:
        """At most n features of which no two decoder rows have a cosine above `max_cos`.

        Args:
            among: In this order; None takes those that are active somewhere, the commonest first.
        """
        if among is None:
            among = self.live[np.argsort(-self._summary.count[self.live], kind="stable")]
        return self._with_source().sae.select_diverse(n, max_cos, [self.check_feature(f) for f in among])


def _explained_hit(told: Explanation) -> FeatureHit:
    score = 1.0 if told.by_person else min(1.0, max(0.0, skill(told)))
    return FeatureHit(told.feature_id, score, f"explained as {shown(told)!r}")
