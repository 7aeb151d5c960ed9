"""An index of the same texts as another, by another SAE at the same or another component.

`Same` is what a room takes from an index to build a second one that is held against it (`autointerp.control_index`).
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

from ..activations.exclusions import Rule, rule_for
from ..core.sites import Component
from ..errors import FeatureIndexError
from ..sae import SAE
from .building import BuildOptions, build
from .by_token import texts_in
from .feature_index import FeatureIndex
from .folder import read_meta
from .source import Source
from .summary import summary_of


@dataclass(frozen=True, eq=False, slots=True)
class Same:
    """The texts and rules of an index.

    Attributes:
        index: It.
        source: Its model, SAE and component.
        texts: All of them.
    """

    index: FeatureIndex
    source: Source
    texts: list[str]

    @staticmethod
    def of(index: FeatureIndex) -> Same:
        """Of an index.

        Raises:
            FeatureIndexError: It was opened without its model and SAE.
        """
        return Same(index, index._with_source(), texts_in(index))

    def rule(self, component: Component) -> Rule:
        """Which tokens of a component count: those that the index counts, with sinks measured there."""
        own = self.index._meta.rule
        if component.name == self.source.component.name:
            return own
        return rule_for(self.source.anatomy.model, component, own.exclude)

    def built(self, sae: SAE, component: Component, folder: Path | None, verbose: bool) -> FeatureIndex:
        """The index by another SAE.

        Args:
            folder: None makes a temporary one, gone with the index.

        Raises:
            FeatureIndexError: The texts have other tokens when they are read again, or nothing can be written there.
        """
        source = replace(self.source, sae=sae, component=component)
        exclude = tuple(self.index.excluded)
        options = BuildOptions(self.index.n_examples, exclude, self.index._meta.seed, verbose=verbose)
        where = Path(tempfile.mkdtemp(prefix="mlxterp-index-")) if folder is None else folder
        try:
            build(source, self.texts, where, options)
            found = _opened(where, source)
            self._check(found)
        except BaseException:
            if folder is None:
                shutil.rmtree(where, ignore_errors=True)
            raise
        if folder is None:
            weakref.finalize(found, shutil.rmtree, where, ignore_errors=True)
        return found

    def _check(self, other: FeatureIndex) -> None:
        own, found = (one.n_tokens + sum(one.excluded.values()) for one in (self.index, other))
        if own != found:
            raise FeatureIndexError(
                f"The texts of {self.index.path} have {found} tokens when read again, and had {own}. Were they token"
                " ids? A second index of them needs texts."
            )


def _opened(folder: Path, source: Source) -> FeatureIndex:
    meta = read_meta(folder)
    assert meta is not None
    return FeatureIndex(folder, meta, summary_of(folder, meta), source)
