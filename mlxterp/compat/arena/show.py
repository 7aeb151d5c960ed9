"""`display_messages`: messages of a chat as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...errors import InputError

_MESSAGE = "{'role': 'user', 'content': text}"


def display_messages(messages: Sequence[Mapping[Any, str]]) -> None:
    """Prints who says what, a row for each message.

    Args:
        messages: Dicts of "role" and "content".

    Raises:
        InputError: One is something else.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise InputError(f"messages is {type(messages).__name__}; expected a list of {_MESSAGE}.")
    messages = list(messages)
    for one in messages:
        if not isinstance(one, Mapping) or not {"role", "content"} <= one.keys():
            raise InputError(f"A message is {_MESSAGE}, got {one!r:.80}.")
    table = Table(show_header=False, show_lines=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in messages:
        table.add_row(Text(str(one["role"])), Text(str(one["content"])))
    Console().print(table)
