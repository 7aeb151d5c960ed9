"""Feature geometry beside its controls: which figures are above those of random directions, over three training seeds.

    pip install ".[cpu,umap]" && python benchmarks/geometry.py [PART …] [--smollm2 FOLDER]

The model is tinystories_instruct_3m_gpt2 of ../shared (8 layers, d_model 128), with TopK SAEs (k 16) of 128, 512 and
2048 features at layers.3.resid_post, trained by `model.train_family` on 400,000 tokens, one epoch, three seeds, and of
2048 features at layer 6; and the embedded model with its SAE, where seeds are those of the measurement.
What is read are stories that no SAE has seen. The SAEs are kept in --work. A part that is named is measured alone, and
the others' figures stay as they are in results/:

    splitting       children that firing confirms, beside shuffled parents; does cosine say what is new (stitching)
    clusters        HDBSCAN of decoder rows beside covariance-matched rows
    enrichment      token sets that features pass, by random directions and by shuffled tokens; false positives of both
    meta            meta-SAEs: variance of held-out rows beside covariance-matched ones; siblings that share a part
    absorption      ten concepts, two widths: rate and absorbers' cosine beside random probes and shuffled labels
    logit_classes   kurtosis and classes by layer
    universality    two training seeds
    coactivation    features together, and those that are seldom together though they point the same way
    first_letter    the task by which absorption was found, on SmolLM2-135M-Instruct (--smollm2), layer 14; an SAE of
                    4096 features of ../shared, trained on 660,101 tokens
    first_letter_small   the same with an SAE of 2048 features trained here, on 150,000 tokens

A row has the mean over seeds with its 95 % interval (Student's t; three seeds make it wide), the control with 95 % of
its draws, and "stands out" where the value is above 97.5 % of the draws in every seed, else "none" with the number
of seeds in which it is. Seeds that could not be measured are counted as failed. In the results' file each row also
has the seeds' values and the bootstrap interval of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from geometry_given import SEEDS, Given  # isort: skip  (it brings one_thread)

import geometry_concepts
import geometry_parts
from common import report, results_path
from geometry_rows import Row

PARTS: dict[str, Callable[[Given], dict[str, Row]]] = {
    "splitting": geometry_parts.splitting,
    "clusters": geometry_parts.clusters,
    "enrichment": geometry_parts.enrichment,
    "meta": geometry_parts.meta,
    "absorption": geometry_concepts.absorption,
    "logit_classes": geometry_parts.logit_classes,
    "universality": geometry_parts.universality,
    "coactivation": geometry_parts.coactivation,
    "first_letter": geometry_concepts.first_letter,
    "first_letter_small": geometry_concepts.first_letter_small,
}
NOTES = [
    "over seeds: 95 % interval of the mean over seeds, Student's t",
    "stands out: above 97.5 % of the control's draws in every seed; none (in n of m): in n of m seeds only",
    "value nan, or failures: no seed, or so many, could be measured",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mlxterp-geometry")
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct")
    args = parser.parse_args()
    if unknown := sorted({*args.parts} - {*PARTS}):
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    given = Given(args.work, SEEDS, args.smollm2)
    for part in args.parts or [name for name in PARTS if args.smollm2 or not name.startswith("first_letter")]:
        start = time.process_time()
        found = PARTS[part](given)
        found["processor seconds"] = Row(value=round(time.process_time() - start, 1))
        rows = kept(part) | {f"{part}: {name}": row for name, row in found.items()}
        report("geometry", {name: rows[name] for name in ordered(rows)}, NOTES)
        sys.stdout.flush()


def kept(part: str) -> dict[str, Row]:
    """Rows of the other parts that were measured before."""
    path = results_path("geometry")
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    return {name: Row(row) for name, row in before.items() if not name.startswith(f"{part}: ")}


def ordered(names: Sequence[str] | dict[str, Row]) -> list[str]:
    """Part by part."""
    return sorted(names, key=lambda name: list(PARTS).index(name.partition(":")[0]))


if __name__ == "__main__":
    main()
