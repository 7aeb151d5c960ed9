"""Files of published SAEs, brought from the Hugging Face hub and kept in its cache.

`download` takes what `table.files_of` names and gives the folder that holds them; `list_files` says
what a repository has. huggingface_hub does the work, so its cache, login, mirrors and offline mode
(HF_HUB_OFFLINE) hold here too. Files are only brought; nothing in them is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...backends.host.hub import brief, offline, unreachable
from ...errors import BackendError, InputError, SAEError, warn
from .table import PretrainedSAE, pretrained_saes, suggestion


def download(source: PretrainedSAE | str, files: Sequence[str], *, revision: str | None = None) -> Path:
    """Folder, laid out as the repository, that holds these files; what the cache lacks is brought.

    All files come from one commit, even where the repository changes meanwhile. The folder lies in
    huggingface_hub's cache and may hold more than was asked for; it is not to be written to.

    Args:
        source: An SAE of the table, or the name of a repository (owner/name).
        files: Names within the repository.
        revision: Branch, tag or commit; None is the newest, or offline the last that was brought.

    Raises:
        InputError: `files` is empty or no sequence of str.
        SAEError: No such repository, revision or file, no access to it, or no connection.
        BackendError: huggingface_hub is not installed.
    """
    if isinstance(files, str) or not files or not all(isinstance(name, str) for name in files):
        raise InputError(f"files is to be a sequence of at least one file name, got {files!r}.")
    repo_id = source.repo_id if isinstance(source, PretrainedSAE) else _name(source)
    hub, folder, why = _hub(), None, unreachable()
    for name in files:
        with _in_our_words(repo_id, revision, name, why), offline(why is not None):
            local = hub.hf_hub_download(repo_id, name, revision=folder.name if folder else revision)
        folder = folder or Path(local).parents[name.count("/")]  # named after the commit
    assert folder is not None
    return folder


def list_files(repo_id: str, revision: str | None = None) -> list[str]:
    """Names of the files in a repository, sorted; offline, of those in the cache.

    Without a connection the cache is listed too, with a warning.

    Raises:
        SAEError: No such repository or revision, no access to it, or nothing of it in the cache.
        BackendError: huggingface_hub is not installed.
    """
    hub, repo_id = _hub(), _name(repo_id)
    if hub.constants.HF_HUB_OFFLINE:
        folder = _cached(repo_id, revision)
        if folder is None:
            raise SAEError(_offline(repo_id, revision, None))
        return _names(folder)
    why = unreachable()
    try:
        with _in_our_words(repo_id, revision, None, why), offline(why is not None):
            return sorted(hub.HfApi().list_repo_files(repo_id, revision=revision))
    except SAEError as error:
        folder = None if why is None and _answered(error.__cause__) else _cached(repo_id, revision)
        if folder is None:
            raise
    warn(f"The hub could not be reached, so only those files of {repo_id} are listed that the cache holds.")
    return _names(folder)


def _name(repo_id: str) -> str:
    if not isinstance(repo_id, str):
        raise InputError(f"A repository is given by its name (owner/name), got {type(repo_id).__name__}.")
    return repo_id


def _hub() -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise BackendError(
            "Published SAEs are brought by huggingface_hub, which is not installed."
            " pip install huggingface_hub"
        ) from error
    return huggingface_hub


# -- the cache --------------------------------------------------------------------------------


def _cached(repo_id: str, revision: str | None) -> Path | None:
    """Folder of a revision in the cache: refs name its commit, snapshots hold the commit's files."""
    root = Path(_hub().constants.HF_HUB_CACHE) / "--".join(("models", *repo_id.split("/")))
    ref = root / "refs" / (revision or "main")
    commit = ref.read_text(encoding="ascii").strip() if ref.is_file() else revision
    folder = root / "snapshots" / commit if commit else None
    return folder if folder is not None and folder.is_dir() else None


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# -- errors -----------------------------------------------------------------------------------


@contextmanager
def _in_our_words(
    repo_id: str, revision: str | None, file: str | None, why: Exception | None = None
) -> Iterator[None]:
    """Raises an SAEError for whatever huggingface_hub raises: it is of many kinds, without one root.

    Args:
        why: Why the hub cannot be reached, where it cannot.
    """
    try:
        yield
    except Exception as error:
        if why is not None and not isinstance(error, _hub().errors.HFValidationError):
            raise SAEError(_no_way(why, repo_id, file)) from error
        raise SAEError(_explanation(error, repo_id, revision, file)) from error


def _explanation(error: Exception, repo_id: str, revision: str | None, file: str | None) -> str:
    kinds = _hub().errors
    if isinstance(error, kinds.GatedRepoError):
        return (
            f"{repo_id} is gated, and its files are not open to you yet. Accept its terms on its page of the"
            " Hugging Face hub, then log in on this machine with `hf auth login`, or set HF_TOKEN."
        )
    if isinstance(error, kinds.RepositoryNotFoundError):
        known = {entry.repo_id for entry in pretrained_saes()}
        return (
            f"The Hugging Face hub has no repository {repo_id!r}, or it is private."
            f"{suggestion(repo_id, known)} For a private one log in with `hf auth login`, or set HF_TOKEN."
        )
    if isinstance(error, kinds.RevisionNotFoundError):
        return (
            f"{repo_id} has no revision {revision!r}: expected a branch, a tag or a whole commit hash."
            f"{suggestion(revision or 'main', _revisions(repo_id))} Leave it out for the newest."
        )
    if isinstance(error, kinds.LocalEntryNotFoundError) and _hub().constants.HF_HUB_OFFLINE:
        return _offline(repo_id, revision, file)
    if isinstance(error, kinds.EntryNotFoundError) and _answered(error):
        near = suggestion(file or "", list_files(repo_id, revision))
        return f"{repo_id} has no file {file!r}.{near} list_files({repo_id!r}) lists all it has."
    if isinstance(error, kinds.HFValidationError):
        return f"{repo_id!r} names no repository: expected owner/name, as in 'google/gemma-scope-2b-pt-res'."
    return _no_way(error.__cause__ or error, repo_id, file)


def _no_way(error: BaseException, repo_id: str, file: str | None) -> str:
    """Says that the hub refuses, for the token it got, or cannot be reached."""
    what = f"{file} of {repo_id}" if file else f"The list of files of {repo_id}"
    said = f"{what} could not be brought from the Hugging Face hub: {brief(error)}."
    if _status(error) in (401, 403):
        return f"{said} Log in anew with `hf auth login`, or correct HF_TOKEN; it may lack the right to read."
    return (
        f"{said} Check the connection (proxy, firewall) and the space on the disk, then call again; what was"
        " brought stays."
    )


def _offline(repo_id: str, revision: str | None, file: str | None) -> str:
    """Says what of a repository the cache holds, and how to get the rest."""
    cache, folder = _hub().constants.HF_HUB_CACHE, _cached(repo_id, revision)
    held = _names(folder) if folder else []
    what = repr(file) if file else "anything"
    at = f" at revision {revision!r}" if revision else ""
    found = f"Files of it that are there: {len(held)}."
    return (
        f"The cache in {cache} does not hold {what} of {repo_id}{at}, and HF_HUB_OFFLINE forbids a"
        f" connection. {found}{suggestion(file or '', held)} Unset HF_HUB_OFFLINE once to download it, or set"
        " HF_HOME to where it was downloaded."
    )


def _answered(error: BaseException | None) -> bool:
    """Whether the hub itself said no; else it could not be reached, or was down."""
    status = _status(error)
    return status < 500 if status else isinstance(error, ValueError)  # else an argument that was not sent


def _status(error: BaseException | None) -> int | None:
    """HTTP status of the hub's answer; None where it gave none."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def _revisions(repo_id: str) -> list[str]:
    with _in_our_words(repo_id, None, None):
        refs = _hub().HfApi().list_repo_refs(repo_id)
    return [ref.name for ref in (*refs.branches, *refs.tags)]
