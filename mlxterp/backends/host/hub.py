"""The Hugging Face hub, asked for models: quickly where it cannot be reached, and answered in our words.

Both wings load models by name through `place_of` and `asking`; `sae.pretrained` uses `unreachable` and `offline`.
huggingface_hub's cache, login, mirrors and offline mode (HF_HUB_OFFLINE) hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...core.places import expanded, is_repository, looks_like_path, near
from ...errors import InputError

_PATIENCE = 5.0
"""Seconds until a connection is made."""
_NEEDED = "config.json and the safetensors"


def place_of(source: str | os.PathLike) -> str:
    """A folder that exists, or the name of a repository.

    Raises:
        InputError: What can only be a path leads to no folder, or the name is none that the hub could have.
    """
    text, folder = os.fspath(source), expanded(source)
    if not text:
        raise InputError(
            f"The name is empty. Give a folder that holds {_NEEDED}, or a Hugging Face repository."
        )
    try:
        if folder.is_dir():
            return str(folder)
        is_file = folder.is_file()
    except (OSError, ValueError) as error:
        raise InputError(f"{text[:80]!r} is no path: {error}.") from error
    if is_file:
        raise InputError(
            f"There is no folder {text!r}: it is a file. Give the folder that holds {_NEEDED}: {str(folder.parent)!r}."
        )
    if looks_like_path(source):
        raise InputError(
            f"There is no folder {text!r}.{near(source)} Give a folder that holds {_NEEDED}, or a Hugging Face"
            ' repository such as "openai-community/gpt2".'
        )
    if not is_repository(text):
        raise InputError(
            f"There is no folder {text!r}, and it names no repository of the Hugging Face hub: expected a folder, or"
            f' a name such as "gpt2" or "openai-community/gpt2".{near(source)}'
        )
    return text


@contextmanager
def asking(place: str) -> Iterator[None]:
    """Within the block models are loaded from the hub, or from its cache where the hub cannot be reached.

    Args:
        place: As `place_of` gives it; of a folder nothing is asked.

    Raises:
        InputError: The hub has no such repository, does not give it, or cannot be reached, and the cache lacks it.
    """
    if Path(place).is_dir():
        yield
        return
    why = unreachable()
    try:
        with offline(why is not None):
            yield
    except Exception as error:
        if isinstance(error, InputError) or (said := _refusal(error, place, why)) is None:
            raise
        raise InputError(said) from error


def unreachable() -> Exception | None:
    """Why no connection to the hub can be made; None where one can, or none is allowed (HF_HUB_OFFLINE).

    Asked once: downloads by themselves try again for half a minute.
    """
    try:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session
    except ImportError:
        return None
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        return error if names & {"ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError"} else None
    return None


@contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """Within the block only huggingface_hub's cache answers."""
    if not wanted:
        yield
        return
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def brief(error: BaseException) -> str:
    """An error's kind and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _refusal(error: BaseException, repo: str, why: Exception | None) -> str | None:
    """What the hub or its cache answered; None where the error is another."""
    from huggingface_hub import constants, errors

    causes = _causes(error)

    def any_of(*kinds: Any) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if any_of(errors.GatedRepoError):
        return (
            f"{repo} is gated, and its files are not open to you yet. Accept its terms on its page of the Hugging Face"
            " hub, then log in on this machine with `hf auth login`, or set HF_TOKEN."
        )
    if any_of(errors.RepositoryNotFoundError):
        return (
            f"The Hugging Face hub has no repository {repo!r}, or it is private; and there is no folder of that name."
            f"{near(repo)} For a private one log in with `hf auth login`, or set HF_TOKEN."
        )
    if any_of(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        cache = constants.HF_HUB_CACHE
        lacks = (
            f"the cache in {cache} does not hold {repo!r} whole; no folder is called so either.{near(repo)}"
        )
        if why is not None:
            return (
                f"The Hugging Face hub cannot be reached ({brief(why)}), and {lacks} Check the connection (proxy,"
                f" firewall), or give a folder that holds {_NEEDED}."
            )
        if constants.HF_HUB_OFFLINE:
            return (
                f"HF_HUB_OFFLINE forbids a connection, and {lacks} Unset HF_HUB_OFFLINE once to download it, set"
                f" HF_HOME to where it was downloaded, or give a folder that holds {_NEEDED}."
            )
        return f"The Hugging Face hub did not answer, and {lacks} Check the connection, then call again."
    return None


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
