"""`display_messages`: messages of a chat as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def display_messages(messages: Sequence[Mapping[Any, str]]) -> None:
    """Prints who says what, a row for each message.

    Args:
        messages: Dicts of "role" and "content".
    """
    table = Table(show_header=False, show_lines=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in messages:
        table.add_row(Text(str(one["role"])), Text(str(one["content"])))
    Console().print(table)
