"""`FeatureIndex`: answers about every feature of an SAE on many texts, from one pass over them.

`InterpretableModel.build_index` makes one and `FeatureIndex.open` opens it. On disk it is the transpose of
the texts' features (`shard`), so that everything asked of a feature reads one slice. What it answers is in
`Answers`; here it is opened, merged, added to and exported.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..activations.exclusions import check_exclusions
from ..activations.fingerprint import same_weights
from ..anatomy.session import Model, session_of
from ..concepts.registry import FeatureRegistry
from ..core import checks, rooms
from ..core.feature_ids import Feature
from ..core.options import checks_options
from ..core.places import path_of
from ..core.sites import Component
from ..data.dataset import texts_of
from ..errors import FeatureIndexError, InputError, warn
from ..sae import SAE
from .all_examples import AllExamples
from .answers import Answers
from .building import BuildOptions, extend
from .cards import card
from .example_reader import AFTER, BEFORE
from .export import as_frame, write_csv, write_json
from .folder import read_meta
from .merging import merge
from .plan import hash_texts
from .remote import copied, fetched, is_url
from .source import Source, source_for
from .summary import summary_of


@checks_options
class FeatureIndex(Answers):
    """Which texts activate a feature, for all features of an SAE; what is asked is read from disk.

    `InterpretableModel.build_index` makes one.
    """

    @staticmethod
    def open(
        path: str | os.PathLike, model: Model | None = None, sae: SAE | str | Path | None = None
    ) -> FeatureIndex:
        """The index in a folder (or at an fsspec URL, which is copied to a temporary folder).

        Args:
            model: An `InterpretableModel`, for questions that run it (`top_features`, `add`, logits on cards).
            sae: The SAE it was built with, as instance or path, for the same, and for decoder directions.

        Raises:
            FeatureIndexError: There is none, it is damaged, incomplete or of another version; or model or SAE
                are not those it was built with. (Where `add` was interrupted, the index from before opens.)

        Examples:
            >>> again = mlxterp.FeatureIndex.open(index.path, model, sae)
            >>> again.top_texts(ball) == index.top_texts(ball)
            True
        """
        folder = fetched(str(path)) if is_url(path) else path_of(path)
        meta = read_meta(folder)
        if meta is None:
            raise FeatureIndexError(
                f"There is no index in {folder}. model.build_index(sae, texts, path) makes one, as does"
                " `mlxterp index TEXTS --path PATH` in a shell."
            )
        if not meta.complete and not meta.appended_from:
            raise FeatureIndexError(
                f"The index in {folder} was interrupted after {meta.n_texts} texts. Run the same build_index again: it"
                " goes on."
            )
        if not meta.complete:
            meta = meta.before_appending()
            warn(
                f"Appending to the index in {folder} was interrupted. It answers with the {meta.n_texts} texts from"
                " before; index.add of the texts that were being appended goes on."
            )
        if not meta.bound:
            warn(
                f"The index in {folder} was written by mlxterp 0.1.0, without digests of its files, so damage to them"
                " would not be seen. The build_index that made it, called again, writes them."
            )
        index = FeatureIndex(folder, meta, summary_of(folder, meta))
        if is_url(path):
            index._is_copy_of(str(path))
        if model is not None or sae is not None:
            index.attach(model, sae)
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        """`pickle` keeps where the index lies and its labels, not the model and SAE: `attach` gives it those again."""
        return _reopened, (self._url or str(self.path.absolute()), self._labels)

    def __copy__(self) -> FeatureIndex:
        """Another index over the same folder, with the same model and SAE; `copy.deepcopy` gives the same."""
        twin = object.__new__(type(self))
        twin.__dict__.update(
            self.__dict__, _original=self, _spelling=None
        )  # whose end may delete a temporary folder
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureIndex:
        twin = self.__copy__()
        twin._labels = copy.deepcopy(self._labels, memo)
        return twin

    def attach(self, model: Model | None, sae: SAE | str | Path | None) -> FeatureIndex:
        """Gives the index its model and SAE; returns the index.

        Raises:
            FeatureIndexError: They are not those it was built with.
        """
        if model is None or sae is None:
            raise InputError("An index takes both: an InterpretableModel, and the SAE (or its path).")
        source = source_for(session_of(model), sae, self.component, quiet=True)
        source.check(self._meta, self.path)
        self._source, self._spelling = source, None
        return self

    def feature(self, feature_id: Feature, n: int | None = None) -> Any:
        """Everything about one feature on a card (`FeatureCard`): shown in a notebook, printed, or saved as HTML.

        Examples:
            >>> card = index.feature(ball)
            >>> card.logits.promoted[0][0], card.similar[0][0]
            (' rolled', 691)
            >>> card.to_html("card.html").name  # one file, for any browser
            'card.html'
        """
        return card(self, self.check_feature(feature_id), n)

    def all_examples(self, n: int | None = None, before: int = BEFORE, after: int = AFTER) -> AllExamples:
        """The examples of all features, as `examples` gives them, in one sweep over the shards.

        Loop over it, or write it: `to_parquet`, `to_jsonl`, `to_pandas`, `blocks`.

        Args:
            n: At most so many of each; None takes `n_examples`.
            before, after: Tokens to show on both sides.

        Examples:
            >>> for feature, examples in index.all_examples(2):
            ...     if feature == ball:
            ...         print(examples == [], len(examples))
            False 2
        """
        n = checks.count(self.n_examples if n is None else n, "n")
        before, after = checks.count(before, "before", 0), checks.count(after, "after", 0)
        return AllExamples(self, n, before, after)

    def __getitem__(self, asked: str | Feature) -> Any:
        """`index["ball"]` is `index.search("ball")`; `index[741]` is the feature's card, `index.feature(741)`.

        Raises:
            UnknownFeatureError: The id lies outside [0, d_hidden).

        Examples:
            >>> index["ball"][0].feature_id == ball, index[ball].feature_id == ball
            (True, True)
        """
        return self.search(asked) if isinstance(asked, str) else self.feature(asked)

    # -- more texts ---------------------------------------------------------------------------

    @staticmethod
    def merge(parts: Sequence[FeatureIndex | str | os.PathLike], path: str | os.PathLike) -> FeatureIndex:
        """One index of all the parts' texts, in the order given, in a new folder; the parts stay as they are.

        Answers are those of an index built over all texts at once. It has the model and SAE of the first part that
        has them.

        Args:
            parts: Indexes, their folders or their fsspec URLs.
            path: A folder. `save` copies the merged index to a URL.

        Raises:
            FeatureIndexError: The parts differ in SAE, model, component or exclusions, or one is not complete.
        """
        if isinstance(parts, (str, os.PathLike, FeatureIndex)):
            raise InputError(f"Expected a list of indexes or their paths, got {type(parts).__name__}.")
        if is_url(path):
            raise InputError(
                f"Indexes are merged in a folder, not at {path}. merge(parts, folder).save({path!r})"
            )
        indexes = [part if isinstance(part, FeatureIndex) else FeatureIndex.open(part) for part in parts]
        merge([index.path for index in indexes], path_of(path))
        merged = FeatureIndex.open(path)
        merged._source = next((index.source for index in indexes if index.source is not None), None)
        return merged

    def add(self, texts: Any, verbose: bool = True) -> FeatureIndex:
        """Appends texts; answers are those of an index of all texts. After an interruption the same call goes on.

        Raises:
            FeatureIndexError: The index was opened without its model and SAE.
        """
        if self._url is not None:
            warn(
                f"Texts are added to a copy of {self._url}, not to what lies there. Keep it: index.save(another place)."
            )
        options = BuildOptions(verbose=verbose)
        extend(self._with_source(), self.path, texts, options)
        meta = read_meta(self.path)
        assert meta is not None
        self._load(meta, summary_of(self.path, meta))
        return self

    def save(self, path: str | os.PathLike) -> Path | str:
        """Copies the index to a folder that does not exist yet, or to an fsspec URL; returns it."""
        return copied(self.path, path)

    def holds(self, texts: Any) -> bool:
        """Whether these are the index's texts."""
        texts = texts_of(texts, None if self._source is None else self._source.anatomy.model)
        if len(texts) != self.n_texts:
            return False
        return all(
            hash_texts(tuple(texts[shard.begins : shard.begins + shard.texts])) == shard.data
            for shard in self._meta.shards
        )

    def to_pandas(self) -> Any:
        """`table` as a DataFrame: a row for each feature, indexed by feature_id.

        Raises:
            BackendError: pandas is not installed.
        """
        return as_frame(self)

    def export_json(
        self, path: str | os.PathLike, features: Iterable[int] | None = None, n: int | None = None
    ) -> Path | str:
        """Writes features with figures and examples: {"index": facts, "features": {id: {…}}}; returns the path.

        Args:
            path: A file, or an fsspec URL.
            features: Which ones; None takes all that are active somewhere.
            n: Examples of each, at most; None takes `n_examples`.
        """
        return write_json(self, path, features, n)

    def export_csv(
        self, path: str | os.PathLike, features: Iterable[int] | None = None, n: int | None = None
    ) -> Path | str:
        """Writes a row for each example (one without, for a feature that has none) with its feature's figures.

        Text that a spreadsheet would take for a formula gets a ' before it; control characters are written as ⟨1B⟩.

        Args:
            path: A file, or an fsspec URL.
            features: Which ones; None takes all that are active somewhere.
            n: Examples of each, at most; None takes `n_examples`.
        """
        return write_csv(self, path, features, n)

    # -- in the browser -----------------------------------------------------------------------

    def serve(
        self, port: int = 0, open: bool = True, others: Iterable[FeatureIndex] = (), *,
        labels: str | os.PathLike | None = None, read_only: bool = False, calibrations: Iterable[Any] = (),
    ) -> Any:  # fmt: skip
        """Shows the index in the browser, from a server on this machine; returns it, and does not wait.

        All features in a list to search and sort, a page for each; with the model also one's own texts, and steering
        with the unsteered text beside it. Names that are given there are in `labels` at once. Nobody else is
        answered: the address holds a key, and only this machine reaches it.

        Args:
            port: 0 takes a free one.
            open: Open the browser. A notebook shows the page below the cell instead.
            others: Indexes to show beside this one, of other SAEs.
            labels: The file that keeps names, a `FeatureRegistry`'s; None is names.json in the index's folder (the
                names of an index in a temporary folder last as long as the index).
            read_only: Names cannot be changed.
            calibrations: What `steering.calibrate` gave for features; the steer page marks the range that works.

        Returns:
            `explorer.Explorer`: its `url`; `stop` ends it, as does the end of a `with` block.

        Raises:
            InputError: The port is in use, or the file holds something else than names.
            BackendError: Starlette or uvicorn is not installed.

        Examples:
            >>> with index.serve(open=False) as explorer:
            ...     explorer.url.startswith("http://127.0.0.1:")
            True
        """
        return rooms.open(
            "index.serve",
            self,
            port,
            open,
            others,
            labels=labels,
            read_only=read_only,
            calibrations=calibrations,
        )

    def to_site(
        self, folder: str | os.PathLike, features: Iterable[Feature] | None = None, n: int = 12, per_band: int = 3, *,
        others: Iterable[FeatureIndex] = (), verbose: bool = True,
    ) -> Path:  # fmt: skip
        """Writes a folder of files that shows the index in any browser, from a disk or any web server; returns it.

        The same pages as `serve` has, but for what needs the model: own texts and steering. About 2 kB for each
        feature. The same call goes on where it was interrupted, and makes anew what is damaged or has changed.

        Args:
            folder: A new one, or one with a site.
            features: Which ones have a page; None takes all. The list always has all of them.
            n: Examples of each, at most.
            per_band: Examples from each of five tenths of the ranks, at most.
            others: Indexes to show beside this one, of other SAEs.
            verbose: Show a bar where the output is a terminal.

        Raises:
            InputError: The folder holds something else.
            WriteError: Nothing can be written there.

        Examples:
            >>> site = index.to_site("site", [ball], verbose=False)
            >>> sorted(path.name for path in site.iterdir())
            ['data', 'explorer.js', 'index.html', 'palette.css', 'provenance.json', 'style.css']
        """
        return rooms.open(
            "index.to_site", self, folder, features, n, per_band, others=others, verbose=verbose
        )

    def to_neuronpedia(
        self, folder: str | os.PathLike, model_id: str, source_set: str, *,
        features: Iterable[Feature] | None = None, layer: int | None = None, creator_id: str = "mlxterp",
        creator_name: str = "", description: str = "", urls: Sequence[str] = (), n: int = 20, bins: int = 5,
        per_bin: int = 5, before: int = 32, after: int = 31, vectors: bool = False, created: Any = None,
        verbose: bool = True,
    ) -> Path:  # fmt: skip
        """Writes a folder that Neuronpedia imports: features, activations and explanations; returns it.

        It holds <model_id>/<layer>-<source_set>/, as Neuronpedia's public exports do. What an index does not know
        (correlated neurons, losses) stays empty. `neuronpedia.check` looks at such a folder as the importer does.

        Args:
            folder: A new one.
            model_id: As Neuronpedia calls the model: "gpt2-small".
            source_set: The set that the SAE is of: "res-jb".
            features: Which ones; None takes all that are active somewhere.
            layer: None takes the component's.
            creator_id: The user of the database to whom all belongs.
            creator_name, description, urls: Shown with the release.
            n: Strongest windows of each feature, at most.
            bins, per_bin: Windows from each of so many bins between 0 and the largest activation, at most.
            before, after: Tokens of a window.
            vectors: Write the decoder rows, too.
            created: A `datetime`; None is now.
            verbose: Show a bar where the output is a terminal.

        Raises:
            FeatureIndexError: The index was opened without its model and SAE.
            InputError: A name cannot be, or something is at `folder`.
            WriteError: Nothing can be written there.

        Examples:
            >>> folder = index.to_neuronpedia("neuronpedia", "tinystories", "res", features=[ball], verbose=False)
            >>> sorted(path.name for path in (folder / "tinystories" / "1-res").iterdir())[:3]
            ['activations', 'explanations', 'features']
        """
        return rooms.open(
            "index.to_neuronpedia", self, folder, model_id, source_set, features=features, layer=layer,
            creator_id=creator_id, creator_name=creator_name, description=description, urls=urls, n=n, bins=bins,
            per_bin=per_bin, before=before, after=after, vectors=vectors, created=created, verbose=verbose,
        )  # fmt: skip

    def push_to_hub(
        self, repo: str, *, evaluation: Any = None, description: str = "", license: str | None = None,
        private: bool = False, token: str | None = None,
    ) -> str:  # fmt: skip
        """Sends the index, with a card, to a data set of the Hugging Face hub; returns its address.

        It holds the texts. `FeatureIndex.open` of the downloaded folder answers as this one does.

        Args:
            repo: Its name, "owner/name"; made where it is not there.
            evaluation: What `sae.evaluate(model, texts)` gave, whose figures the card states; without it the card says
                that nothing was measured.
            description: Stands at the top of the card.
            license: Such as "mit"; None states none.
            private: Whether a repository that is made is private.
            token: Of the hub; None is the one that `hf auth login` or HF_TOKEN gave.

        Raises:
            InputError: `repo` is no name of a repository, or `evaluation` none.
            NetworkError: The hub cannot be reached, or refuses.
            BackendError: huggingface_hub is not installed.
        """
        return rooms.open(
            "index.push_to_hub", self, repo, evaluation=evaluation, description=description, license=license,
            private=private, token=token,
        )  # fmt: skip


def check_is_of(index: Any, sae: SAE, component: Component) -> None:
    """Raises InputError where something is no index, or one of another SAE or component."""
    if not isinstance(index, FeatureIndex):
        raise InputError(f"index is {index!r}; open it first: FeatureIndex.open(path).")
    if index.fingerprint != sae.fingerprint or index.component != component.name:
        raise InputError(
            f"The index is of {index.sae_name} at {index.component}, asked was {sae!r} at {component.name}."
            " Build an index for this SAE and component: model.build_index(sae, texts)."
        )


def texts_from_index(
    index: FeatureIndex,
    source: Source,
    texts: Any,
    feature_id: Any,
    top_k: int,
    exclude: Iterable[str] | str | None = None,
) -> list[tuple[str, float, int]]:
    """`index.top_texts`, in place of a search: for an index of this model, SAE, component and these texts.

    Args:
        texts: None takes whichever the index holds.
        exclude: None takes the index's own rule.

    Raises:
        InputError: It is of others, or leaves other tokens out than `exclude` says.
    """
    check_is_of(index, source.sae, source.component)
    left_out = tuple(index.excluded)
    if exclude is not None and check_exclusions(exclude) != left_out:
        raise InputError(
            f"The index leaves out {left_out or 'nothing'}, asked was exclude={exclude!r}. Leave exclude= out to ask"
            " by the index's own rule, or build an index with this one."
        )
    if texts is not None and not index.holds(texts):
        raise InputError(
            f"The index holds {index.n_texts} texts, not the ones given. Leave texts out (texts=None) to ask it about"
            " its own, or build an index of these: model.build_index(sae, texts)."
        )
    kept = index._meta.model
    if (
        same_weights(source.anatomy.model, kept.get("weights")) is False
        or tuple(kept.get("acts", ())) != source.acts
    ):
        raise InputError(
            "The index was built with other weights, or with something else attached to the model, than there is now."
            " Ask the index itself (index.top_texts), or build one of this model: model.build_index(sae, texts)."
        )
    return index.top_texts(feature_id, top_k)


def _reopened(path: str, labels: FeatureRegistry) -> FeatureIndex:
    """What `pickle` makes of a `FeatureIndex`."""
    index = FeatureIndex.open(path)
    index.labels = labels
    return index
