"""Tables as pandas DataFrames; pandas is optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BackendError


def data_frame(columns: Mapping[str, Any], index: str = "") -> Any:
    """A DataFrame of columns that are equally long.

    Args:
        index: Name of the rows' numbers, 0, 1, …; "" leaves them without one.

    Raises:
        BackendError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise BackendError('Data frames need pandas: pip install "mlxterp[pandas]".') from error
    made = pandas.DataFrame(columns)
    return made.rename_axis(index) if index else made
