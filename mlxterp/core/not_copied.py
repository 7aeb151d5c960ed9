"""What belongs to one model in one process, and says so where it is copied or pickled."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import InputError


class NotCopied:
    """A base whose objects `pickle`, `copy.copy` and `copy.deepcopy` refuse, with what to do instead."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise InputError(
            f"{type(self).__name__} belongs to a model in this process: it is neither copied nor pickled. Keep the"
            " values that you need, as NumPy arrays for another process: np.array(trace.activations[path])."
        )

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(4)

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__reduce_ex__(4)
