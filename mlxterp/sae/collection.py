"""`SAECollection`: many SAEs of one model, by name, by layer or by width.

    transcoders = SAECollection.load("folder").by("layer")     # one for each layer: circuits
    family = SAECollection({128: narrow, 512: wide})           # several widths at one component: geometry

It is a dictionary of SAEs that are opened when they are first asked for, their weights where they lie in the files.
A folder that `save` wrote has one main file, `collection.json`, which binds the SAEs' own main files by their digests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..anatomy.session import Model
from ..core import checks, rooms
from ..core.feature_ids import Feature
from ..core.files import atomic_folder
from ..core.integers import is_listable
from ..core.options import checks_options
from ..core.places import expanded
from ..core.public_names import PublicNames
from ..errors import InputError, SAEError
from .formats import write_set
from .manifest import MANIFEST, SIZES, Key, check_target, entry_of, folder_names, key_of, manifest
from .members import Member, at_path, in_folder, of_release
from .model_names import same_model
from .sae import SAE, parts_of

By = Literal["layer", "width", "component"]
_READ: dict[str, Callable[[Member], Any]] = {
    "layer": Member.layer,
    "width": lambda member: member.fact("d_hidden"),
    "component": lambda member: member.fact("component"),
}
"""What SAEs are found by, and how it is read."""


class NoSuchSAEError(SAEError, KeyError):
    """A collection holds no SAE under that key."""

    def __str__(self) -> str:  # KeyError would show the message quoted and escaped
        return str(self.args[0])


@checks_options
class SAECollection(PublicNames, Mapping[Key, SAE]):
    """Many SAEs under keys of one's own: names, layers or widths.

    What lies in files is opened when it is first asked for, and then kept. Weights in safetensors as float32 are not
    read but mapped: they take memory only while they are looked at, and their files must not be changed meanwhile. An
    SAE that has encoded or decoded holds its weights where its library wants them, until `close`.

    Args:
        saes: {key: SAE or path of one}, or a list of them, whose keys are 0, 1, ….

    Raises:
        InputError: There are none, or something else is among them.
        SAEError: There is nothing at a path.

    Examples:
        >>> import mlxterp
        >>> collection = mlxterp.SAECollection({"mine": sae, "again": sae.replace()})
        >>> collection.widths, list(collection.where(component=sae.component))
        ([2048], ['mine', 'again'])
        >>> collection.save("saes").name, len(mlxterp.SAECollection.load("saes"))
        ('saes', 2)
    """

    def __init__(self, saes: Mapping[Any, Any] | Iterable[Any]):
        pairs = saes.items() if isinstance(saes, Mapping) else enumerate(_listed(saes))
        members: dict[Key, Member] = {}
        for given, sae in pairs:
            if (key := key_of(given)) in members:
                raise InputError(f"The key {key!r} comes twice.")
            members[key] = Member(sae) if isinstance(sae, SAE) else at_path(sae, key)
        self._members = _not_empty(members)

    @classmethod
    def _of(cls, members: Mapping[Key, Member]) -> SAECollection:
        made = cls.__new__(cls)
        made._members = _not_empty(dict(members))
        return made

    # -- where it comes from ------------------------------------------------------------------

    @staticmethod
    def load(
        path: str | os.PathLike,
        format: str | None = None,
        backend: str | None = None,
        device: str | None = None,
        k: int | None = None,
    ) -> SAECollection:
        """The SAEs in a folder: what `save` wrote, or whatever SAEs are in it and in the folders below.

        Keys are those that were saved; else names: the path of each SAE below the folder, without its ending.

        Args:
            format: One of `mlxterp.sae.FORMATS`, which all are in; None finds out.
            backend, device, k: As in `SAE.load`, for all of them.

        Raises:
            SAEError: There is no SAE, one of them cannot be opened, or `collection.json` is damaged.
        """
        return SAECollection._of(in_folder(path, format, backend, device, k))

    @staticmethod
    def from_release(
        release: str,
        ids: Iterable[str] | str | None = None,
        *,
        layers: Iterable[int] | int | None = None,
        widths: Iterable[int] | int | None = None,
        backend: str | None = None,
        device: str | None = None,
        revision: str | None = None,
    ) -> SAECollection:
        """Published SAEs of one release, under their ids; the files of each come when it is first asked for.

        Args:
            release: Of the table (`mlxterp.pretrained_saes()`); or a repository of the hub ("owner/name",
                "owner/name@revision", "hf://owner/name/folder"), all of whose SAEs come, or those that its
                `config.yaml` lists for each layer.
            ids: Which of its SAEs; None takes all.
            layers: Only those at these layers.
            widths: Only those with so many features, as their ids say ("width_16k" is 16384).
            revision: Branch, tag or commit.

        Raises:
            SAEError: No such release or id, or none that fits.
            InputError: `widths` is given, and an id does not say its width; or SAEs of a repository are to be chosen.
        """
        return SAECollection._of(of_release(release, ids, layers, widths, backend, device, revision))

    # -- a dictionary -------------------------------------------------------------------------

    def __getitem__(self, key: Key) -> SAE:
        if (found := self._members.get(key_of(key))) is None:
            shown = ", ".join(map(repr, list(self._members)[:8])) + (", …" if len(self) > 8 else "")
            raise NoSuchSAEError(
                f"This collection has no SAE {key!r}; its keys are {shown}. by('layer') and by('width') give others."
            )
        return found.sae()

    def __iter__(self) -> Iterator[Key]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members  # without opening it

    def __repr__(self) -> str:
        keys = ", ".join(map(repr, list(self._members)[:6])) + (", …" if len(self) > 6 else "")
        return f"SAECollection({len(self)} SAE{'s' * (len(self) > 1)}: {keys})"

    # -- by layer and width -------------------------------------------------------------------

    @property
    def layers(self) -> list[int]:
        """Layers that the SAEs read, ascending, each once; those that name none are left out."""
        return sorted({layer for member in self._members.values() if (layer := member.layer()) is not None})

    @property
    def widths(self) -> list[int]:
        """Numbers of features (`d_hidden`), ascending, each once."""
        return sorted({member.fact("d_hidden") for member in self._members.values()})

    @property
    def components(self) -> list[str]:
        """Paths of the components that the SAEs read, in their order, each once; those that name none are left out."""
        found = (member.fact("component") for member in self._members.values())
        return list(dict.fromkeys(name for name in found if name))

    def by(self, what: By) -> SAECollection:
        """The same SAEs under other keys: their layers, widths or components, ascending.

        Raises:
            SAEError: Two have the same, or one has none; `where` chooses among them first.
        """
        read = _READ[checks.choice(what, "what", tuple(_READ))]
        found: dict[Key, tuple[Key, Member]] = {}
        for key, member in self._members.items():
            value = read(member)
            if value is None:
                raise SAEError(f"SAE {key!r} names no {what}, so it cannot be found by it.")
            if value in found:
                raise SAEError(
                    f"SAEs {found[value][0]!r} and {key!r} have the same {what}, {value!r}. Choose one with where(…)."
                )
            found[value] = key, member
        return self._of({value: found[value][1] for value in sorted(found)})

    def where(
        self, layer: int | None = None, width: int | None = None, component: str | None = None
    ) -> SAECollection:
        """Those of the SAEs that have this layer, number of features or component, under their keys.

        Raises:
            SAEError: None has.
            InputError: A layer or width is no number, or a component no name.
        """
        wanted = {
            "layer": checks.count_or_none(layer, "layer", 0),
            "width": checks.count_or_none(width, "width"),
            "component": component,
        }
        if not isinstance(component, (str, type(None))):
            raise InputError(f"component is {component!r}; it must be a path, such as 'layers.3.mlp'.")
        asked = {name: value for name, value in wanted.items() if value is not None}
        found = {
            key: member
            for key, member in self._members.items()
            if all(_READ[name](member) == value for name, value in asked.items())
        }
        if not found:
            said = " and ".join(f"{name} {value!r}" for name, value in asked.items())
            raise SAEError(
                f"No SAE of this collection has {said}. Its layers are {self.layers}, its widths {self.widths}, its"
                f" components {self.components}."
            )
        return self._of(found)

    def at(self, layer: int | None = None, width: int | None = None, component: str | None = None) -> SAE:
        """The one SAE that has this layer, number of features or component.

        Raises:
            SAEError: None has, or several have.
        """
        found = self.where(layer, width, component)
        if len(found) > 1:
            raise SAEError(
                f"{len(found)} SAEs fit: {', '.join(map(repr, found))}. Say more of the one that is meant."
            )
        return next(iter(found.values()))

    def same_component(self) -> str:
        """The component that all of them read, for what compares their features.

        Raises:
            SAEError: One names no component, or another one, or has another width of activations; or one that is open
                names another model. It is named.
        """
        names = ("component", "d_model", "d_out")
        facts = {key: tuple(m.fact(name) for name in names) for key, m in self._members.items()}
        first, expected = next(iter(facts.items()))
        for key, found in facts.items():
            if found[0] is None:
                raise SAEError(
                    f"SAE {key!r} names no component (sae.metadata['component']), so it cannot be compared."
                )
            for name, one, other in zip(names, expected, found, strict=True):
                if one != other:
                    raise SAEError(
                        f"SAE {key!r} has {name} {other}, SAE {first!r} has {one}. Compare SAEs of one component:"
                        " collection.where(component=…)."
                    )
        models = {key: name for key, m in self._members.items() if (name := m.model()) is not None}
        for key, name in models.items():
            start, one = next(iter(models.items()))
            if not same_model(one, name):
                raise SAEError(
                    f"SAE {key!r} is of the model {name!r}, SAE {start!r} of {one!r}. Compare those of one."
                )
        return str(expected[0])

    # -- as files and indexes -----------------------------------------------------------------

    def save(
        self, path: str | os.PathLike, dtype: str = "float32", names: bool = True, format: str = "mlxterp"
    ) -> Path:
        """Writes a folder with all SAEs and `collection.json`, whole or not at all; returns it.

        A collection that was saved there before is replaced. One SAE after the other is opened and let go of.

        Args:
            dtype, names: Of each, as in `SAE.save`.
            format: "mlxterp", or "circuit_tracer": transcoders, one for each layer, as `layer_<L>.safetensors` and one
                `config.yaml`. ReLU, JumpReLU (which batchtopk becomes in training) and TopK, with or without skip.

        Raises:
            SAEError: Something else is there, one of them cannot be saved, or the format does not hold them.
            WriteError: Nothing can be written there; a collection that was there is unchanged.
        """
        if checks.choice(format, "format", ("mlxterp", "circuit_tracer"), error=SAEError) == "circuit_tracer":
            return write_set(
                path, (parts_of(m.sae(keep=False), names) for m in self._members.values()), dtype
            )
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"Expected the path of a folder to save in, got {path!r}.")
        target = expanded(path).resolve()
        check_target(target)
        with atomic_folder(target, ".saes.", SAEError) as draft:
            entries = []
            for key, name in folder_names(self).items():
                sae = self._members[key].sae(keep=False)
                sae.save(draft / name, "mlxterp", dtype, names)
                entries.append(entry_of(key, draft / name, sae.component, [getattr(sae, n) for n in SIZES]))
            (draft / MANIFEST).write_text(manifest(entries), encoding="utf-8", newline="\n")
        return target

    def close(self) -> None:
        """Lets go of the SAEs that were opened from files; each is opened again when it is asked for.

        What was changed in them since, such as names, is gone unless it was saved.
        """
        for member in self._members.values():
            member.let_go()

    def build_indexes(
        self, model: Model, texts: Any, path: str | os.PathLike, **options: Any
    ) -> dict[Key, Any]:
        """A `FeatureIndex` of each SAE over the same texts, in a folder of its own within `path`: one pass for all.

        The same call goes on where it was interrupted.

        Args:
            model: An `InterpretableModel`.
            texts: As `model.build_index` takes them; read once.
            path: The folder of the indexes' folders.
            options: Of `model.build_indexes`.

        Returns:
            {key: index}.

        Raises:
            InputError: `model` is no InterpretableModel, or there are no texts.
        """
        return rooms.open("collection.build_indexes", self, model, texts, path, **options)

    # -- what is asked of several widths (`geometry`) -----------------------------------------

    def firing_on(
        self, width: int, feature: Feature, at: int, index: Any, *, model: Model | None = None, n: int = 20,
        top_k: int = 10,
    ) -> list[Any]:  # fmt: skip
        """Features of another width on the tokens where a feature of one width is strongest.

        Those that are active there most beyond their density come first, then those that are strongest there.

        Args:
            at: The width whose features are asked for.
            index: {width: FeatureIndex} over the same texts, activations (…, d_model), or texts, with `model`.
            n: Strongest tokens that are looked at; of each text, where it is known, one.
            top_k: Features at most; only those that are active on one of these tokens.

        Returns:
            `geometry.Firing` values: feature_id, share of these tokens, density (of all) and mean activation.

        Raises:
            SAEError, UnknownFeatureError: No such width or feature, or the SAEs are of several components.
            InputError: The features are of other tokens.

        Examples:
            >>> narrow = mlxterp.SAETrainConfig(d_hidden=64, k=16, epochs=1)
            >>> narrow = model.train_sae(1, texts, "resid_post", narrow, verbose=False)
            >>> family = mlxterp.SAECollection({64: narrow, 2048: sae})
            >>> found = family.firing_on(2048, ball, 64, texts, model=model)
            >>> found[0].share > found[0].density
            True
        """
        return rooms.open(
            "collection.firing_on", self, width, feature, at, index, model=model, n=n, top_k=top_k
        )

    def both_on(self, text: str, widths: Sequence[int] | None = None, *, model: Model, top_k: int = 3) -> Any:
        """The strongest features of several widths on each token of a text, as a grid (`geometry.OnText`).

        Args:
            model: An `InterpretableModel`, which reads the text.
            top_k: Features of each token and width, at most.

        Raises:
            SAEError: There is no such width, or the SAEs are of several components.
            InputError, NoTokenizerError: `text` is not one text, or the model has no tokenizer.

        Examples:
            >>> found = mlxterp.SAECollection([sae]).both_on("Lily lost her red ball.", model=model)
            >>> found.tokens[5], found.at(2048, 5)[0][0] == ball
            (' ball', True)
        """
        return rooms.open("collection.both_on", self, text, widths, model=model, top_k=top_k)

    def search(
        self, query: str, embed: Callable[[list[str]], Any] | None = None, *, widths: Sequence[int] | None = None,
        indexes: Mapping[int, Any] | None = None, top_k: int = 10,
    ) -> list[Any]:  # fmt: skip
        """Features of all widths whose label is nearest to a query (`geometry.Found` values), the nearest first.

        Labels are the names and explanations in `sae.concepts` and in the indexes; a feature without one stands under
        the tokens that it fires on most often, where its index is given.

        Args:
            embed: Texts → their embeddings (n, size), which are compared by cosine; None compares words (TF-IDF).
            widths: Which; None takes all.
            indexes: {width: FeatureIndex}.
            top_k: Features at most; without `embed` only those that share a word with the query.

        Raises:
            InputError: The query is empty, no feature has a label, or `embed` gives something else.
            SAEError: There is no such width.

        Examples:
            >>> found = mlxterp.SAECollection([sae]).search("ball", indexes={2048: index})
            >>> found[0].feature_id == ball, found[0].label
            (True, 'toys ball')
        """
        return rooms.open(
            "collection.search", self, query, embed, widths=widths, indexes=indexes, top_k=top_k
        )


def _listed(saes: Any) -> list[Any]:
    if isinstance(saes, (os.PathLike, SAE)) or not is_listable(saes):
        raise InputError(
            f"Expected {{key: SAE}} or a list of SAEs, got {type(saes).__name__}. SAECollection.load(folder) opens"
            " those of a folder, SAECollection.from_release(release) published ones."
        )
    return list(saes)


def _not_empty(members: dict[Key, Member]) -> dict[Key, Member]:
    if not members:
        raise InputError("A collection holds at least one SAE; none was given.")
    return members
