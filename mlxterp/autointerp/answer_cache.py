"""What a server answered, kept on disk: a run that was killed goes on without asking again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.files import strict_json, telling
from ..errors import warn


class AnswerCache:
    """Answers by the digest of what was asked: a file with one line for each, written as they come.

    Args:
        folder: Where it lies; None keeps them in memory.
    """

    def __init__(self, folder: Path | None):
        self._file = None if folder is None else folder / "answers.jsonl"
        self._answers: dict[str, Any] = {}
        self._lock = threading.Lock()
        if self._file is not None:
            with telling(self._file):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._load(self._file)

    def _load(self, file: Path) -> None:
        if not file.is_file():
            return
        text = file.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):  # a killed run did not finish its last line; that is asked again
            with open(file, "r+b") as out:
                out.truncate(whole)
        lost = 0
        for line in text[:whole].splitlines():
            try:
                said = strict_json(line)
                key, reply = said["key"], said["reply"]
                lists = {name: list(reply[name]) for name in ("top", "answers") if name in reply}
                self._answers[key] = {"top": [], **lists, "text": str(reply["text"]), **_counts(reply)}
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                lost += 1
        if lost:
            warn(f"{lost} lines of {file} cannot be read; what they answered is asked again.")

    def get(self, key: str) -> Any:
        """What was answered; None where it was not asked."""
        with self._lock:
            return self._answers.get(key)

    def put(self, key: str, reply: Any) -> None:
        """Keeps an answer."""
        with self._lock:
            self._answers[key] = reply
            if self._file is not None:
                with telling(self._file), open(self._file, "a", encoding="utf-8") as out:
                    out.write(json.dumps({"key": key, "reply": reply}) + "\n")


def digest(body: Mapping[str, Any]) -> str:
    """Of everything that was asked."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _counts(reply: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that a reply was said to have."""
    return {name: int(reply[name]) for name in ("tokens_in", "tokens_out") if name in reply}
