"""Writes tests/geometry/fixtures/sae_probes.json: what sae-probes' own functions say of seeded rows.

Needs `pip install --no-deps sae-probes==0.4.2`, torch, scikit-learn, pandas, zstandard, joblib and tqdm; sae-lens and
xgboost are imported there and not used here.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
for absent, name in (
    ("sae_lens", "SAE"),
    ("xgboost", "XGBClassifier"),
    ("transformer_lens", "HookedTransformer"),
):
    module = types.ModuleType(absent)
    setattr(module, name, object)
    sys.modules.setdefault(absent, module)

from tests.geometry.probed_rows import KS, SIZES, probed_rows  # noqa: E402


def main() -> None:
    import torch
    from sae_probes.run_sae_evals import (  # pyright: ignore[reportMissingImports]
        get_sorted_indices,
        mean_act_normalization,
    )
    from sae_probes.utils_training import find_best_reg  # pyright: ignore[reportMissingImports]

    written = {}
    for n in SIZES:
        x, y, x_test, y_test, codes, test_codes = probed_rows(n)
        order = get_sorted_indices(
            torch.from_numpy(codes), torch.from_numpy(y), mean_act_normalization
        ).numpy()
        found = {"order": order[: max(KS)].tolist()}
        sides = {str(k): (codes[:, order[:k]], test_codes[:, order[:k]]) for k in KS}
        for name, (fit, test) in {**sides, "dense": (x, x_test)}.items():
            metrics = find_best_reg(fit, y, test, y_test, seed=42).metrics
            found[name] = [metrics.test_acc, metrics.test_auc, metrics.test_f1, metrics.val_auc]
        written[str(n)] = found
    path = ROOT / "tests/geometry/fixtures/sae_probes.json"
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path} ({np.__version__=})")


if __name__ == "__main__":
    main()
