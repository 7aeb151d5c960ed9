"""The model, SAE, texts and index that a command names; what comes with mlxterp where it names none."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.dataset import open_texts, split_texts
from ..demo import FOLDER, Demo, load_demo
from ..demo.choosing import story_index
from ..errors import InputError, warn
from ..index import FeatureIndex
from ..index.remote import is_url
from ..model.interpretable import InterpretableModel
from ..sae import SAE

STDIN = "-"


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """A model, an SAE, and where in the model it is used."""

    model: InterpretableModel
    sae: SAE
    layer: int
    component: str
    """Name below the layer."""
    demo: Demo | None = None
    """Where these are the ones that come with mlxterp."""

    @property
    def place(self) -> tuple[SAE, int, str]:
        """As the model's methods take it."""
        return self.sae, self.layer, self.component


def open_model(options: Namespace) -> InterpretableModel:
    """The model named."""
    return InterpretableModel(options.model or FOLDER / "model", backend=options.backend)


def open_subject(options: Namespace) -> Subject:
    """The model and SAE named.

    Raises:
        InputError: A model without an SAE, or nothing says where in the model the SAE belongs.
    """
    if options.sae is None and getattr(options, "sae_id", None) is not None:
        raise InputError("--sae-id chooses among the SAEs of a release or repository: name it with --sae.")
    if options.model is None and options.sae is None:
        demo = load_demo(options.backend)
        return Subject(demo.model, demo.sae, *_place(options, demo.sae), demo)
    if options.sae is None:
        raise InputError(
            "--model needs an SAE of that model: add --sae with a file, a folder or a release, and --sae-id where the"
            " release has several (mlxterp.pretrained_saes() lists them)."
        )
    model = open_model(options)
    sae = model.load_sae(options.sae, options.sae_id)
    return Subject(model, sae, *_place(options, sae))


def transcoders_of(options: Namespace) -> Path | str:
    """Where the transcoders named lie; those of the model that comes with mlxterp where none are.

    Raises:
        InputError: Another model is named, and none are.
    """
    if options.transcoders is not None:
        return options.transcoders
    if options.model is not None:
        raise InputError(
            "--model needs transcoders of that model: add --transcoders with a folder or a release. In Python,"
            " model.train_transcoders(texts, save_path=…) trains them."
        )
    return FOLDER / "transcoders"


def open_index(options: Namespace) -> FeatureIndex:
    """The index named, with model and SAE where they are named or come with mlxterp.

    Raises:
        FeatureIndexError: There is none, or it belongs to another SAE or model.
        InputError: None is named, and the SAE is not the one that comes with mlxterp.
    """
    named = options.model is not None or options.sae is not None
    if options.index is None:
        if named:
            raise InputError(
                "--index says which index knows the feature. To make one: mlxterp index TEXTS --path FOLDER --model …"
                " --sae …"
            )
        warn(
            "building an index of the stories that come with mlxterp; mlxterp index --path FOLDER keeps one."
        )
        return at_its_place(options, story_index(load_demo(options.backend)))
    index = FeatureIndex.open(options.index)
    if named:
        subject = open_subject(options)
        index.attach(subject.model, subject.sae)
    elif index.fingerprint == SAE.load(FOLDER / "sae", backend=options.backend).fingerprint:
        demo = load_demo(options.backend)
        index.attach(demo.model, demo.sae)
    return at_its_place(options, index)


def at_its_place(options: Namespace, index: FeatureIndex) -> FeatureIndex:
    """The index, whose place is the one named where one is.

    Raises:
        InputError: It is of another place.
    """
    layer, component = (getattr(options, name, None) for name in ("layer", "component"))
    if layer is None and component is None:
        return index
    own = f"This index is of {index.component}"
    if index.source is None:
        raise InputError(
            f"{own}, as far as it goes without --model and --sae. Leave --layer and --component out."
        )
    asked = f"layers.{layer}.{component or 'mlp'}" if layer is not None else str(component)
    if index.source.anatomy.component(asked).name != index.component:
        raise InputError(
            f"{own}, not of {asked}. Leave --layer and --component out, or name an index of that place."
        )
    return index


def read_text(given: str) -> str:
    """One text: the one given, or standard input without its last line break."""
    return _stdin().removesuffix("\n") if given == STDIN else given


def read_texts(given: str | None, own: Sequence[str] | None) -> list[str]:
    """Texts of a file or of standard input; `own` where none is named.

    Raises:
        InputError: There are none, or they cannot be read.
    """
    if given is None and own is None:
        raise InputError("Name a text file, or - for standard input.")
    if given is None:
        return list(own or ())
    if given == STDIN:
        return split_texts(_stdin(), "Standard input")
    texts = open_texts(given if is_url(given) else Path(given))
    return list(texts.items)  # type: ignore[union-attr]


def stories() -> list[str]:
    """The stories that come with mlxterp."""
    return read_texts(str(FOLDER / "stories.txt"), None)


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"Standard input cannot be read as text (UTF-8): {error}.") from error


def _place(options: Namespace, sae: SAE) -> tuple[int, str]:
    """Layer and component, as named or where the SAE was trained."""
    if options.layer is not None:
        return options.layer, options.component or "mlp"
    named = options.component or sae.component
    if named is None:
        raise InputError(
            "This SAE does not say where it was trained. Name the place: --layer 3 --component mlp."
        )
    parts = named.split(".", 2)
    if len(parts) < 3 or parts[0] != "layers" or not parts[1].isdecimal():
        raise InputError(f"{named!r} names no place in a layer. Give --layer 3 --component mlp.")
    return int(parts[1]), parts[2]
