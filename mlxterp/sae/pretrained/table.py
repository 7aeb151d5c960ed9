"""Facts about published SAEs: which there are, where they lie, and which files hold each.

The facts stand in `table.json.gz`, which `tools/pretrained/build_table.py` makes from SAELens's
registry (MIT). `pretrained_saes` searches them, `find_pretrained` gives one by name, and `files_of`
says what `hub.download` should bring. Standard library only; nothing here touches a network.
"""

from __future__ import annotations

import difflib
import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from ...core import checks
from ...core.files import strict_json
from ...errors import InputError, SAEError

TABLE = Path(__file__).with_name("table.json.gz")


@dataclass(frozen=True, slots=True)
class PretrainedSAE:
    """One published SAE or transcoder, under the names SAELens gave it.

    Attributes:
        release: The release that it belongs to.
        sae_id: Unique within its release.
        repo_id: Repository on the Hugging Face hub: owner/name.
        path: Within the repository, "/" between parts: the folder with the SAE's files. Of the formats
            circuit_tracer, circuit_tracer_clt (encoder), qwen_scope, kissane, goodfire and deepseek: the file.
        model: Hub name of the language model it was trained on.
        hook: Where it reads, in TransformerLens's names ("blocks.10.hook_resid_post"); None where only a file in
            the repository says it.
        loader: Format of the files; a key of `FILES`.
        hook_out: Where a transcoder writes; None for SAEs, and where only a file in the repository says it.
        norm_scaling_factor: Activations times this have a mean norm of √d_model. It belongs into the weights only
            where the configuration in the repository says `normalize_activations: expected_average_only_in`.
        l0: Features active on each token, as published: measured, or what the training aimed at.
        variance_explained: Share, as published; 1 is all.
        neuronpedia_id: Its name on Neuronpedia; None where it is not there.
        config_overrides: What takes precedence over the configuration in the repository.
        model_kwargs: How TransformerLens is to change the model. Under `center_writing_weights` the SAE expects
            activations from which each token's mean over d_model is subtracted.
    """

    release: str
    sae_id: str
    repo_id: str
    path: str
    model: str
    hook: str | None
    loader: str
    hook_out: str | None = None
    norm_scaling_factor: float | None = None
    l0: float | None = None
    variance_explained: float | None = None
    neuronpedia_id: str | None = None
    config_overrides: dict[str, Any] = field(default_factory=dict, hash=False)
    model_kwargs: dict[str, Any] = field(default_factory=dict, hash=False)


FILES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "saelens": (("{path}/cfg.json", "{path}/sae_weights.safetensors"), ()),
    "gemma_scope": (("{path}/params.npz",), ()),
    "gemma_scope_transcoder": (("{path}/params.npz",), ()),
    "gemma_scope_2": (("{path}/params.safetensors",), ("{path}/config.json",)),
    "llama_scope": (("{path}/hyperparams.json", "{path}/checkpoints/final.safetensors"), ()),
    "llama_scope_r1": (("{path}/config.json", "{path}/sae_weights.safetensors"), ()),
    "dictionary_learning": (("{path}/config.json", "{path}/ae.pt"), ()),
    "qwen_scope": (("{path}",), ()),
    "circuit_tracer": (("{path}",), ("config.yaml",)),
    "circuit_tracer_clt": (("config.yaml", "{path}", "{decoder}"), ()),
    "kissane": (("{stem}_cfg.json", "{path}"), ()),
    "temporal": (("{path}/conf.yaml", "{path}/latest_ckpt.safetensors"), ()),
    "goodfire": (("{path}",), ()),
    "deepseek": (("{path}",), ()),
}
"""Files of each format: those it cannot do without, and those that may be absent. {stem} is the path
without its ending, {decoder} a cross-layer transcoder's other file."""


def pretrained_saes(
    query: str | None = None,
    *,
    model: str | None = None,
    release: str | None = None,
    limit: int | None = None,
) -> list[PretrainedSAE]:
    """Published SAEs that fit everything given, ordered by release and id; empty where none does.

    Args:
        query: Words, each of which occurs in the release, id, repository, model or hook.
        model: Name on the hub, with or without its owner, or as SAELens has it ("gpt2-small").
        release: Name, in full. Like the others, upper and lower case are the same.
        limit: At most this many.

    Raises:
        InputError: An argument is of another type, or `limit` is below 1.

    Examples:
        >>> [found] = mlxterp.pretrained_saes("blocks.8.hook_resid_pre", release="gpt2-small-res-jb")
        >>> found.sae_id, found.repo_id  # model.load_sae(found.release, found.sae_id) brings it
        ('blocks.8.hook_resid_pre', 'jbloom/GPT2-Small-SAEs-Reformatted')
    """
    for name, value in (("query", query), ("model", model), ("release", release)):
        if not (value is None or isinstance(value, str)):
            raise InputError(f"{name} is to be a str or None, got {type(value).__name__} ({value!r}).")
    limit = checks.count_or_none(limit, "limit", hint="None gives all.")
    words = (query or "").lower().split()
    chosen = (
        entry
        for facts in _releases().values()
        if _is(release, facts["release"])
        and (_is(model, facts["source_model"]) or _is(model, facts["model"]))
        for entry in _entries(facts)
        if all(word in _text(entry) for word in words)
    )
    return list(islice(chosen, limit))


def find_pretrained(release: str, sae_id: str | None = None) -> PretrainedSAE:
    """The SAE of that name.

    Args:
        release: As SAELens names it, such as "gpt2-small-res-jb".
        sae_id: None where the release holds one SAE only.

    Raises:
        InputError: A name is no str.
        SAEError: There is none of that name, or a release of several and no `sae_id`.
    """
    if not isinstance(release, str) or not (sae_id is None or isinstance(sae_id, str)):
        raise InputError(f"release is to be a str and sae_id a str or None, got {release!r} and {sae_id!r}.")
    facts = _releases().get(release)
    if facts is None:
        raise SAEError(_no_release(release))
    ids = facts["columns"]["sae_id"]
    if sae_id is None and len(ids) > 1:
        raise SAEError(
            f"Release {release!r} holds {len(ids)} SAEs; say which by sae_id, such as {ids[0]!r}."
            f" pretrained_saes(release={release!r}) lists all."
        )
    if sae_id is not None and sae_id not in ids:
        raise SAEError(
            f"Release {release!r} has no SAE {sae_id!r}.{suggestion(sae_id, ids)}"
            f" pretrained_saes(release={release!r}) lists its {len(ids)}."
        )
    return _entry(facts, 0 if sae_id is None else ids.index(sae_id))


def is_release(name: str) -> bool:
    """Whether the table has a release of that name."""
    return name in _releases()


def files_of(entry: PretrainedSAE, repo_files: Sequence[str]) -> list[str]:
    """Names of the files to download for an SAE, and no others.

    Args:
        repo_files: Names of the files in its repository, as `hub.list_files` gives them.

    Raises:
        SAEError: A file it cannot do without is not among them, or the format is unknown.
    """
    if entry.loader not in FILES:
        raise SAEError(f"Unknown format {entry.loader!r}. Known are: {', '.join(FILES)}.")
    folder, _, name = entry.path.rpartition("/")
    decoder = f"{folder}/" * bool(folder) + name.replace("W_enc_", "W_dec_", 1)
    parts = {"path": entry.path, "stem": entry.path.removesuffix(".pt"), "decoder": decoder}
    needed, optional = ([template.format(**parts) for template in group] for group in FILES[entry.loader])
    present = frozenset(repo_files)
    for file in needed:
        if file not in present:
            raise SAEError(
                f"{entry.sae_id!r} of {entry.release!r} needs the file {file!r}, which is not among the"
                f" {len(present)} files listed of {entry.repo_id}.{suggestion(file, present)}"
                " Offline, only what the cache holds is listed; online, the repository may have changed."
            )
    return needed + [file for file in optional if file in present]


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence with the names most like this one, after a space; empty where none is."""
    near = difflib.get_close_matches(name, sorted(known), n=4, cutoff=0.6)
    return f" Near matches: {', '.join(map(repr, near))}." if near else ""


# -- the table --------------------------------------------------------------------------------


@cache
def _releases() -> dict[str, dict[str, Any]]:
    """Facts of every release, by name: what its SAEs share, and columns of what they do not."""
    table = strict_json(gzip.decompress(TABLE.read_bytes()))
    return {facts["release"]: facts for facts in table["releases"]}


def _entries(facts: dict[str, Any]) -> Iterator[PretrainedSAE]:
    return (_entry(facts, row) for row in range(len(facts["columns"]["sae_id"])))


def _entry(facts: dict[str, Any], row: int) -> PretrainedSAE:
    fields: dict[str, Any] = {"hook": None}
    fields |= {name: facts[name] for name in ("release", "repo_id", "model", "loader")}
    fields |= {name: column[row] for name, column in facts["columns"].items()}
    fields |= {name: dict(facts[name]) for name in ("config_overrides", "model_kwargs")}  # the caller's own
    return PretrainedSAE(**fields)


def _is(wanted: str | None, name: str) -> bool:
    return wanted is None or wanted.lower() in (name.lower(), name.lower().rpartition("/")[2])


def _text(entry: PretrainedSAE) -> str:
    parts = (entry.release, entry.sae_id, entry.repo_id, entry.model, entry.hook or "")
    return " ".join(parts).lower()


def _no_release(release: str) -> str:
    holders = [name for name, facts in _releases().items() if facts["repo_id"] == release]
    if holders:
        return f"{release!r} is a repository; as a release it is called {' or '.join(map(repr, holders))}."
    return (
        f"No release {release!r} is known.{suggestion(release, _releases())}"
        ' pretrained_saes("words of its name") searches the table.'
    )
