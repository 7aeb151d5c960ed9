"""Processes that train one SAE together do what one process does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environments(backend: str, folder: Path) -> list[dict[str, str]]:
    """What `torchrun` and `mlx.launch` (ring) set for two processes."""
    ports = free_ports(2)
    if backend == "torch":
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0])}
        return [ENVIRONMENT | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    hosts = folder / "hosts.json"
    hosts.write_text(str([[f"127.0.0.1:{port}"] for port in ports]).replace("'", '"'))
    return [ENVIRONMENT | {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)} for rank in range(2)]


def test_two_processes_train_what_one_does(tmp_path, backend):
    architectures = ("topk", "batchtopk", "jumprelu")
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.together", str(tmp_path / "sae")]
    command += ["--backend", backend, "--architectures", *architectures]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, timeout=120)
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for environment in environments(backend, tmp_path)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    for architecture in architectures:
        with np.load(tmp_path / f"sae-{architecture}-0-of-1.npz") as file:
            alone = dict(file)
        for rank in range(2):
            with np.load(tmp_path / f"sae-{architecture}-{rank}-of-2.npz") as file:
                for name, array in alone.items():
                    what = f"{name} of {architecture}, process {rank}"
                    np.testing.assert_allclose(file[name], array, atol=1e-4, err_msg=what)
