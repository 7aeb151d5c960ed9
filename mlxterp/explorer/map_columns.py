"""Where features stand on the map that lies beside an index (`DecoderMap.save`), as a column of the table."""

from __future__ import annotations

import numpy as np

from ..core.files import strict_json
from ..errors import FeatureIndexError, warn
from ..index import FeatureIndex
from ..index.files import ArrayFile
from ..index.folder import MAP

_ARRAYS = ("coordinates", "width", "feature_id", "about")


def map_of(index: FeatureIndex) -> np.ndarray | None:
    """float32 (d_hidden, 2): NaN for features that are not on the map; None where there is none of this SAE."""
    path = index.path / MAP
    if not path.is_file():
        return None
    try:
        arrays = ArrayFile(path, _ARRAYS, None)
        fingerprints = strict_json(arrays["about"].tobytes())["fingerprints"]
        widths = [
            int(width) for width, fingerprint in fingerprints.items() if fingerprint == index.fingerprint
        ]
        if not widths:
            return None
        mine = np.asarray(arrays["width"]) == widths[0]
        found = np.full((index.d_hidden, 2), np.nan, dtype=np.float32)
        found[np.asarray(arrays["feature_id"])[mine]] = np.asarray(arrays["coordinates"])[mine, :2]
        return found
    except (FeatureIndexError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        warn(f"The map beside {index.path} is not shown: it is damaged ({error}). Draw it again.")
        return None
