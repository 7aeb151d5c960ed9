"""`to_site`: an index as a folder of files that any browser opens, from a disk or from any web server.

    index.html, explorer.js, style.css, palette.css    the pages
    data/about.js                                      what is shown
    data/0/table.js, data/0/labels.js                  all features, and their names
    data/0/0.js, data/0/1.js, …                        256 features each
    provenance.json                                    what it was made from, with the digest of each file

Data are scripts that call `mlxterp.data(name, base64 of gzip)`, because a page from a disk may fetch nothing. A file is
made anew where it is not there, is damaged, or would hold something else: the same call goes on where it was
interrupted.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..core import checks
from ..core.digests import check_seal, digest_of, digest_of_bytes, digest_of_file, sealed
from ..core.feature_ids import Feature, is_several
from ..core.files import atomic_write, strict_json
from ..core.options import names_options
from ..core.places import path_of
from ..core.progress import hidden
from ..core.version import version
from ..errors import FeatureIndexError, InputError
from ..index import FeatureIndex
from ..index.folder import META
from . import answers
from .bundle import bundle
from .label_file import LabelFile
from .packed_feature import packed_features
from .pages import files, site_page
from .shown_index import ShownIndex

SHARD = 256
"""Features of a file."""
PROVENANCE = "provenance.json"
_EVERY = 16
"""Files after which it is noted what is done."""
_FORMAT, _VERSION = "mlxterp-site", 1


@names_options
def to_site(
    index: FeatureIndex, folder: str | os.PathLike, features: Iterable[Feature] | None = None, n: int = 12,
    per_band: int = 3, *, others: Iterable[FeatureIndex] = (), verbose: bool = True,
) -> Path:  # fmt: skip
    """Writes a folder of files that shows an index; see `FeatureIndex.to_site`."""
    n, per_band = checks.count(n, "n"), checks.count(per_band, "per_band")
    if features is not None and not is_several(features):
        raise InputError(f"features is {features!r}; give a list of feature ids, or None for all.")
    chosen = None if features is None else sorted({index.check_feature(f) for f in features})
    several = [index, *others]
    if not all(isinstance(one, FeatureIndex) for one in several):
        raise InputError("A site shows FeatureIndexes (FeatureIndex.open); others is a list of them.")
    shown = [ShownIndex(number, one, LabelFile(one, read_only=True)) for number, one in enumerate(several)]
    site = _Site(path_of(folder), shown)
    site.write(chosen, n, per_band, checks.flag(verbose, "verbose"))
    return site.folder


class _Site:
    """A site that is written."""

    def __init__(self, folder: Path, shown: Sequence[ShownIndex]):
        self.folder, self._shown = folder, shown
        self._kept = _kept(folder)
        self._files: dict[str, list[str]] = {}

    def write(self, chosen: list[int] | None, n: int, per_band: int, verbose: bool) -> None:
        """Writes what is not there, and what says what it is last."""
        for name, data in _pages().items():
            self._file(name, [digest_of_bytes(data)], lambda data=data: data)
        about = answers.about(self._shown)
        for one, source in zip(self._shown, about["sources"], strict=True):
            source.update({"live": False, "writable": False, "features": chosen if one.number == 0 else None})
        self._data("about", [], {**about, **about["sources"][0], "sources": about["sources"]})
        for one in self._shown:
            made = _made_of(one)
            self._script(f"{one.number}/table", made, lambda one=one: one.packed_table().data)
            self._data(f"{one.number}/labels", [], {**answers.labels(one), "writable": False})
            self._features(
                one, chosen if one.number == 0 else None, [*made, n, per_band], n, per_band, verbose
            )
        self._finish({"features": chosen, "n": n, "per_band": per_band})

    def _features(
        self,
        shown: ShownIndex,
        chosen: list[int] | None,
        made: list[Any],
        n: int,
        per_band: int,
        verbose: bool,
    ) -> None:
        by_shard: dict[int, list[int]] = {}
        for feature in range(shown.index.d_hidden) if chosen is None else chosen:
            by_shard.setdefault(feature // SHARD, []).append(feature)
        bar = tqdm(by_shard.items(), f"site of {shown.name}", unit="file", disable=hidden(verbose))
        for done, (number, several) in enumerate(bar, 1):
            named = [answers.label(shown, f)["label"] for f in several]
            said = [[answers.told(one) for one in shown.explanations(f)] for f in several]
            self._script(
                f"{shown.number}/{number}", [*made, several, named, said],
                lambda several=several: _json(packed_features(shown, several, n, per_band)),
            )  # fmt: skip
            if done % _EVERY == 0:
                self._note()

    def _data(self, name: str, made: list[Any], value: Any) -> None:
        data = _json(value)
        self._script(name, [*made, digest_of_bytes(data)], lambda: data)

    def _script(self, name: str, made: list[Any], data_of: Callable[[], bytes]) -> None:
        def script() -> bytes:
            packed = base64.b64encode(gzip.compress(data_of(), 6, mtime=0)).decode("ascii")
            return f'mlxterp.data("{name}","{packed}");\n'.encode("ascii")

        self._file(f"data/{name}.js", made, script)

    def _file(self, name: str, made: list[Any], data_of: Callable[[], bytes]) -> None:
        """Writes a file, unless it is there, whole and made of the same.

        Args:
            made: What it is made of; something else makes another file.
        """
        of = digest_of({"made": [version(), *made]})
        path, known = self.folder / name, self._kept.get(name)
        if known is not None and known[0] == of and path.is_file() and digest_of_file(path) == known[1]:
            self._files[name] = known
            return
        data = data_of()
        with atomic_write(path) as draft:
            draft.write_bytes(data)
        self._files[name] = [of, digest_of_bytes(data)]

    def _note(self) -> None:
        """Keeps what is done, for a call that goes on."""
        self._write_provenance({"complete": False})

    def _finish(self, options: dict[str, Any]) -> None:
        for name in self._kept.keys() - self._files.keys():  # of a larger site that was here
            (self.folder / name).unlink(missing_ok=True)
        self._kept = {}
        self._write_provenance({"complete": True, **options})

    def _write_provenance(self, more: dict[str, Any]) -> None:
        said = {
            "format": _FORMAT, "version": _VERSION, "mlxterp": version(), **more,
            "indexes": [answers.facts(one) for one in self._shown],
            "files": {name: list(known) for name, known in sorted({**self._kept, **self._files}.items())},
        }  # fmt: skip
        with atomic_write(self.folder / PROVENANCE) as draft:
            draft.write_text(json.dumps(sealed(said), indent=1), encoding="utf-8")


def _kept(folder: Path) -> dict[str, list[str]]:
    """Files of a site that is in a folder: what each was made of, and its digest.

    Raises:
        InputError: Something else is there.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a site is a folder.")
    path = folder / PROVENANCE
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    try:
        said = strict_json(path.read_bytes())
        check_seal(said)
        if said["format"] != _FORMAT:
            raise ValueError("it is of something else")
        return {
            str(name): [str(of), str(digest)]
            for name, (of, digest) in said["files"].items()
            if ".." not in Path(name).parts and not Path(name).is_absolute()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder} is not empty, and no site that mlxterp wrote ({PROVENANCE}: {error}). Choose another folder."
        ) from error


def _made_of(shown: ShownIndex) -> list[Any]:
    """What the figures of an index depend on."""
    meta = shown.index.path / META
    try:
        return [digest_of_file(meta), shown.sae is not None]
    except OSError as error:
        raise FeatureIndexError(f"{meta} cannot be read: {error}") from error


def _pages() -> dict[str, bytes]:
    found = files()
    scripts = {name: data.decode("utf-8") for name, data in found.items() if name.endswith(".js")}
    others = {name: data for name, data in found.items() if not name.endswith(".js")}
    return {**others, "explorer.js": bundle(scripts).encode(), "index.html": site_page().encode()}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
