"""What people found out about features: a name and notes for each, in one JSON file (see `store`).

    {"1234": {"name": "geographic_locations", "description": "Activates on city and country names",
              "examples": ["Paris, France"], "confidence": "high", "notes": "…"}}

The file is a plain dictionary that `json` reads and writes. A registry bound to an SAE adds two keys: "sae", so that
its names cannot be put on another SAE's features, and "digest", so that damage is found.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ..core.feature_ids import named_feature
from ..core.integers import is_number, scalar
from ..core.places import path_of
from ..core.public_names import PublicNames
from ..errors import InputError, SAEError
from . import store
from .explanations import PERSON, checked_text
from .store import BOUND, FIELDS, explanation_of, is_explanation, without_binding

_TEXTS = ("description", "notes")

Entry = dict[str, Any]


class FeatureRegistry(PublicNames, MutableMapping[int, Entry]):
    """Names and notes of features, by feature id; iterates in ascending order.

    An entry is a dictionary: "name", "description" and "notes" (strings), "examples" (a list of strings), "confidence"
    (a word such as "high", or a number), and "source", who says so where no person does ("gpt-4o-mini"). Only "name" is
    needed.

    Args:
        entries: {feature id: entry}; ids may be strings, as in JSON. A name alone is an entry too ({741: "ball"}); of
            several names, as `sae.concepts` has them, the surest is taken; of explanations alone, the first.
        sae: The SAE whose features these are, or its fingerprint; None binds the registry to none.

    Raises:
        InputError: An id that is no feature id, or an entry of another form.
        SAEError: An id outside `sae`, or `entries` are bound to another SAE.

    Examples:
        >>> registry = mlxterp.FeatureRegistry({ball: {"name": "ball", "confidence": "high"}})
        >>> registry.save("sae_features.json").name
        'sae_features.json'
        >>> index.labels = mlxterp.FeatureRegistry.load("sae_features.json")
        >>> index.label(ball)
        'ball'
    """

    def __init__(self, entries: Mapping[Any, Any] | None = None, sae: Any = None):
        self._entries: dict[int, Entry] = {}
        self.fingerprint: str | None = None
        given = type(entries).__name__
        if entries is not None and not isinstance(entries, Mapping):
            concepts = entries  # of an SAE, as a rule
            entries = getattr(concepts, "names", None)
            if isinstance(entries, Mapping):
                entries = {**getattr(concepts, "explanations", {}), **entries}
            else:
                raise InputError(f"Expected a dictionary {{feature id: name or {{'name': …}}}}, got {given}.")
        entries = {} if entries is None else entries
        bound = entries.fingerprint if isinstance(entries, FeatureRegistry) else entries.get(BOUND)
        if bound is not None:
            self.bind(bound)
        for key, entry in without_binding(entries):
            if (feature := _feature(key)) in self._entries:
                raise InputError(f"Feature {feature} comes twice.")
            self[feature] = entry
        if sae is not None:
            self.bind(sae)

    @staticmethod
    def load(path: str | os.PathLike, sae: Any = None) -> FeatureRegistry:
        """The registry of a JSON file.

        Args:
            sae: The SAE to use it with; a file that is bound to another is refused.

        Raises:
            InputError: There is no such file, or it holds something else.
            SAEError: It belongs to another SAE, or names a feature that `sae` does not have.
        """
        file = path_of(path)
        found = store.read_registry(file)
        try:
            return FeatureRegistry(found, sae)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the JSON file, whole or not at all; returns its path.

        Raises:
            InputError: An entry was changed into something that is none, or the file cannot be written.
        """
        entries = {feature: _entry(feature, self._entries[feature]) for feature in self}
        return store.write(path, store.registry(entries, self.fingerprint))

    def bind(self, sae: Any) -> None:
        """Says that these are features of `sae` (an SAE or its fingerprint).

        Raises:
            SAEError: They are another SAE's, or it has no such feature.
        """
        found = getattr(sae, "fingerprint", sae)
        if not isinstance(found, str) or not re.fullmatch(r"[0-9a-f]{64}", found):
            raise InputError(f"A registry is bound to an SAE or to its fingerprint, got {found!r}.")
        if self.fingerprint not in (None, found):
            raise SAEError(
                f"These names belong to another SAE (fingerprint {str(self.fingerprint)[:12]}…, not {found[:12]}…)."
                " Features of two SAEs have nothing in common but their numbers."
            )
        width = getattr(sae, "d_hidden", None)
        if width is not None and self._entries and max(self._entries) >= width:
            raise SAEError(f"The registry names feature {max(self._entries)}; this SAE has {width}.")
        self.fingerprint = found

    def label(self, feature_id: int) -> str | None:
        """A feature's name; None where it has none."""
        entry = self._entries.get(_feature(feature_id))
        return None if entry is None else entry["name"]

    def source(self, feature_id: int) -> str | None:
        """Who says so: "person", or the explainer that the entry names; None where the feature has no name."""
        entry = self._entries.get(_feature(feature_id))
        return None if entry is None else entry.get("source", PERSON)

    def search(self, text: str) -> list[int]:
        """Ids of the entries that hold every word of `text`, in any case; those that hold it in the name first."""
        if not isinstance(text, str):
            raise InputError(f"Expected a text to search for, got {type(text).__name__}.")
        words = text.casefold().split()
        holds = lambda said: all(word in said.casefold() for word in words)  # noqa: E731
        found = [feature for feature in self if holds(" ".join(_said(self._entries[feature])))]
        return sorted(found, key=lambda feature: not holds(self._entries[feature]["name"]))

    # -- a dictionary -------------------------------------------------------------------------

    def __getitem__(self, feature_id: int) -> Entry:
        return self._entries[_feature(feature_id)]

    def __setitem__(self, feature_id: int, entry: Any) -> None:
        feature = _feature(feature_id)
        self._entries[feature] = _entry(feature, entry)

    def __delitem__(self, feature_id: int) -> None:
        del self._entries[_feature(feature_id)]

    def __contains__(self, feature_id: object) -> bool:
        return (feature_id if (found := named_feature(feature_id)) is None else found) in self._entries

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        bound = f" of SAE {self.fingerprint[:12]}…" if self.fingerprint else ""
        return f"FeatureRegistry({len(self)} features{bound})"


def _feature(key: Any) -> int:
    """A feature id, given as an integer, as JSON writes one, or by what a search returned."""
    if isinstance(key, str) and re.fullmatch(r"0|[1-9][0-9]{0,17}", key):
        return int(key)
    found = named_feature(key)
    if found is not None and 0 <= found < 10**18:
        return found
    raise InputError(f"{key!r} is no feature id; expected an integer of at least 0 (and below 10**18).")


def _entry(feature: int, entry: Any) -> Entry:
    """A copy of an entry that is as it should be, of a name alone, or of the surest of a person's names.

    Where there are explanations only, the first is the name.
    """
    if isinstance(entry, (list, tuple)) and entry:
        names = [one for one in entry if not is_explanation(one)]
        entry = max(names, key=_sureness) if names else entry[0]
    if is_explanation(entry):
        told = explanation_of(feature, entry)
        entry = {"name": told.text} | ({} if told.by_person else {"source": told.source})
    if isinstance(entry, str):
        entry = {"name": entry}
    elif isinstance(name := getattr(entry, "name", None), str):  # a `Concept`
        entry = {"name": name, "confidence": _sureness(entry)}
    if not isinstance(entry, Mapping):
        raise InputError(f"Feature {feature}: expected a name or {{'name': …}}, got {entry!r}.")
    if unknown := [key for key in entry if key not in FIELDS]:
        raise InputError(f"Feature {feature}: unknown field {unknown[0]!r}. There are: {', '.join(FIELDS)}.")
    if "name" not in entry:
        raise InputError(f"Feature {feature} has no name.")
    for field in ("name", *(["source"] if "source" in entry else [])):
        checked_text(entry[field], f"Feature {feature}: {field}")
    if "confidence" in entry:
        entry = {
            **entry,
            "confidence": scalar(entry["confidence"]),
        }  # a number of NumPy, which JSON does not know
    _check_fields(feature, entry)
    return {key: list(value) if key == "examples" else value for key, value in entry.items()}


def _check_fields(feature: int, entry: Mapping[str, Any]) -> None:
    for field in _TEXTS:
        if not isinstance(entry.get(field, ""), str):
            raise InputError(f"Feature {feature}: {field} is {entry[field]!r}, expected a string.")
    examples = entry.get("examples", [])
    if not isinstance(examples, (list, tuple)) or not all(isinstance(text, str) for text in examples):
        raise InputError(f"Feature {feature}: examples is {examples!r}, expected a list of strings.")
    confidence = entry.get("confidence", "")
    if not isinstance(confidence, str) and not (is_number(confidence) and math.isfinite(confidence)):
        raise InputError(
            f"Feature {feature}: confidence is {confidence!r}, expected a word such as 'high', or a number."
        )


def _sureness(entry: Any) -> float:
    """A person's confidence in a name; 1 where nothing is said."""
    said = entry.get("confidence", 1.0) if isinstance(entry, Mapping) else getattr(entry, "confidence", 1.0)
    return float(said) if is_number(said) else 1.0


def _said(entry: Entry) -> list[str]:
    return [entry["name"], entry.get("description", ""), *entry.get("examples", []), entry.get("notes", "")]
