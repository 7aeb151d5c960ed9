"""`Results`: what `AutoInterp.run` gives, a dictionary as in the section, which also prints as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...core.frames import data_frame
from ...viz.lines import Table


class Results(dict[int, dict[str, Any]]):
    """{latent: {"explanation", "predictions", "correct seqs", "score"}}, the last three where scores were asked for.

    Attributes:
        reasons: What went wrong, by latent: too few windows, no reply, a reply that cannot be read.
        chance: Score of a reply that always is "None"; NaN where nothing was scored.
        asked: Who explained and judged, and the version of the prompts.
    """

    def __init__(
        self, found: Mapping[int, dict[str, Any]], reasons: Mapping[int, str], chance: float, asked: str
    ):
        super().__init__(found)
        self.reasons, self.chance, self.asked = dict(reasons), chance, asked

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each latent.

        Raises:
            BackendError: pandas is not installed.
        """
        names = dict.fromkeys(name for row in self.values() for name in row)
        columns = {name: [row[name] for row in self.values()] for name in names}
        whys = [self.reasons.get(latent, "") for latent in self]
        return data_frame({"latent": list(self), **columns, "reason": whys})

    def __str__(self) -> str:
        heads = ["latent", *next(iter(self.values()), {}), ""]
        rows = [
            [str(latent), *map(_shown, row.values()), self.reasons.get(latent, "")]
            for latent, row in self.items()
        ]
        chance = (
            "" if math.isnan(self.chance) else f'; a reply that is always "None" scores {self.chance:.2f}'
        )
        return "\n".join([f"{len(self)} latents, {self.asked}{chance}", "", *Table(heads, rows).lines()])


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
