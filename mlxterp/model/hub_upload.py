"""`sae.push_to_hub` and `index.push_to_hub`: a folder with a card, sent to the Hugging Face hub.

huggingface_hub does the work, so its login, mirrors (HF_ENDPOINT) and offline mode (HF_HUB_OFFLINE) hold. The card
states the figures of `sae.evaluate` where they are given, and says so where they are not.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import checks
from ..core.places import is_repository
from ..core.version import version
from ..errors import BackendError, InputError, NetworkError
from ..evaluation.evaluation import SAEEvaluation
from ..index import FeatureIndex
from ..sae import SAE
from ..sae.model_names import named_model

CARD = "README.md"
_FIGURES = {
    "explained_variance": "explained variance", "l0": "active features of a token",
    "dead_share": "share of features never active", "cosine": "cosine of activation and reconstruction",
    "loss": "loss of the model", "loss_with_sae": "loss with the reconstruction",
    "loss_zero": "loss with zeros", "loss_recovered_zero": "loss recovered, against zeros",
    "loss_recovered_mean": "loss recovered, against the mean", "kl_with_sae": "KL with the reconstruction",
}  # fmt: skip


def push_sae(
    sae: SAE, repo: str, *, evaluation: Any = None, description: str = "", license: str | None = None,
    private: bool = False, token: str | None = None,
) -> str:  # fmt: skip
    """`sae.push_to_hub`: saves the SAE, writes its card, and sends both; returns the address.

    Raises:
        InputError: `repo` is no name of a repository, or `evaluation` none.
        NetworkError: The hub cannot be reached, or refuses.
        BackendError: huggingface_hub is not installed.
    """
    found = _checked(repo, evaluation)
    with tempfile.TemporaryDirectory(prefix="mlxterp-") as name:
        folder = sae.save(Path(name) / "sae")
        facts = {
            "SAE": repr(sae), "component": str(sae.component), "fingerprint": sae.fingerprint,
            "model": _model_of(sae.metadata), "mlxterp": version(),
        }  # fmt: skip
        use = f'SAE.load("the folder of this repository")  # or model.load_sae("{repo}")'
        (folder / CARD).write_text(
            _card(repo, "sparse-autoencoder", facts, found, description, license, use), "utf-8"
        )
        return _sent(folder, repo, "model", private, token)


def push_index(
    index: FeatureIndex, repo: str, *, evaluation: Any = None, description: str = "", license: str | None = None,
    private: bool = False, token: str | None = None,
) -> str:  # fmt: skip
    """`index.push_to_hub`: sends the index's folder with a card, as a data set (it holds texts); returns the address.

    Raises:
        InputError, NetworkError, BackendError: As `push_sae`.
    """
    found = _checked(repo, evaluation)
    with tempfile.TemporaryDirectory(prefix="mlxterp-") as name:
        folder = Path(name) / "index"
        shutil.copytree(index.path, folder, ignore=shutil.ignore_patterns(".*"))
        left_out = ", ".join(f"{n:,} {reason}" for reason, n in index.excluded.items() if n) or "nothing"
        facts = {
            "SAE": index.sae_name, "fingerprint of the SAE": index.fingerprint, "component": index.component,
            "model": _model_of({"model": index._meta.model.get("name"), "model_type": index._meta.model.get("type")}),
            "features": f"{index.d_hidden:,}, {len(index.live):,} active",
            "texts": f"{index.n_texts:,}, with {index.n_tokens:,} tokens that count", "left out": left_out,
            "mlxterp": version(),
        }  # fmt: skip
        use = 'FeatureIndex.open("the folder of this repository")'
        (folder / CARD).write_text(
            _card(repo, "feature-index", facts, found, description, license, use), "utf-8"
        )
        return _sent(folder, repo, "dataset", private, token)


def _model_of(facts: Mapping[str, Any]) -> str:
    """What the card calls the model: its name, or its type; paths of this machine are nobody else's business."""
    return named_model(facts) or str(facts.get("model_type") or "not stated")


def _checked(repo: Any, evaluation: Any) -> SAEEvaluation | None:
    if not isinstance(repo, str) or not is_repository(repo) or "/" not in repo:
        raise InputError(f"{repo!r} names no repository: expected owner/name, as in 'me/my-sae'.")
    if evaluation is not None and not isinstance(evaluation, SAEEvaluation):
        raise InputError(
            f"evaluation is {type(evaluation).__name__}; expected what sae.evaluate(model, texts) gives."
        )
    return evaluation


def _card(
    repo: str, tag: str, facts: Mapping[str, str], evaluation: SAEEvaluation | None, description: str,
    license: str | None, use: str,
) -> str:  # fmt: skip
    head = ["---", "library_name: mlxterp", "tags:", "- interpretability", f"- {tag}"]
    head += [f"license: {_plain(license)}"] if license is not None else []
    lines = [*head, "---", "", f"# {repo}", ""]
    lines += [_without_head(description), ""] if description else []
    lines += ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in facts.items()), ""]
    lines += ["## Figures", ""]
    if evaluation is None:
        lines += ["Not evaluated: `sae.evaluate(model, texts)` measures it.", ""]
    else:
        lines += [
            f"Measured by `sae.evaluate` at {evaluation.component}, on {evaluation.tokens:,} tokens.", "",
            "| figure | value |", "|---|---|",
            *(f"| {name} | {_number(getattr(evaluation, key))} |" for key, name in _FIGURES.items()), "",
        ]  # fmt: skip
    return "\n".join(
        [*lines, "## Use", "", "```python", f"from mlxterp import FeatureIndex, SAE\n\n{use}", "```", ""]
    )


def _without_head(text: str) -> str:
    """A description, as one line of text where it could end the head of the card."""
    return "\n".join(line for line in str(text).splitlines() if line.strip() != "---")


def _plain(license: str) -> str:
    name = checks.strings(license, "license")[0]
    if not name.replace("-", "").replace(".", "").isalnum():
        raise InputError(f"license is {license!r}; expected a name such as 'mit' or 'apache-2.0'.")
    return name


def _cell(value: str) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not a number"


def _sent(folder: Path, repo: str, kind: str, private: bool, token: str | None) -> str:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise BackendError(
            "push_to_hub needs huggingface_hub, which is not installed: pip install huggingface_hub"
        ) from error
    api = HfApi(token=token, library_name="mlxterp", library_version=version())
    try:
        url = api.create_repo(repo, repo_type=kind, private=checks.flag(private, "private"), exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repo,
            repo_type=kind,
            commit_message=f"Uploaded by mlxterp {version()}",
        )
    except InputError:
        raise
    except Exception as error:  # of many kinds, without one root
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise NetworkError(
            f"{repo} was not sent to the Hugging Face hub: {said[0]} Log in with `hf auth login` (a token that may"
            " write) or set HF_TOKEN, check the connection, then call again; what was sent stays."
        ) from error
    return str(url)
