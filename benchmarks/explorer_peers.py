"""Pages of 256 features by a peer, in an environment of its own; printed as a line of JSON.

    PYTHON benchmarks/explorer_peers.py sae-dashboard --model FOLDER --sae FOLDER --texts texts.json --out FOLDER

Environments as index_peers.py names them; benchmarks/explorer.py --peer NAME=PYTHON runs this beside ours. The peer
collects what its pages show, as index_peers.py has it do, and writes them to one file. One thread, processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import index_peers
import torch


def written(peer: str, data: Any, file: Path) -> None:
    """Writes the pages of the features that were collected."""
    if peer == "sae-vis":
        data.save_feature_centric_vis(filename=file)
        return
    from sae_dashboard.data_writing_fns import save_feature_centric_vis  # type: ignore[import-not-found]

    save_feature_centric_vis(data, file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=index_peers.DASHBOARDS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", type=Path, required=True, help="as SAELens saves it")
    parser.add_argument("--texts", type=Path, required=True, help="a JSON list")
    parser.add_argument("--component", default="layers.4.resid_post")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the pages")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    file, found = args.out / f"{args.peer}.html", []
    with contextlib.redirect_stdout(sys.stderr):  # what the peers have to say
        run, does = index_peers.DASHBOARDS[args.peer](args)
        ids = index_peers.token_ids(args)
        written(args.peer, run(ids[:4]), file)  # everything is imported
        collecting = index_peers.seconds_of(lambda: found.append(run(ids)))
        writing = index_peers.seconds_of(lambda: written(args.peer, found[0], file))
    said = {
        "does": f"{args.peer} {metadata.version(args.peer)}: {does}", "tokens": ids.numel(),
        "collecting": collecting, "writing": writing, "bytes": file.stat().st_size,
    }  # fmt: skip
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
