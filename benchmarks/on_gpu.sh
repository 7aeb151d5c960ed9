#!/usr/bin/env bash
# Everything that wants a GPU, in under eight minutes: tests of the kernels, then the benchmarks.
#
#   benchmarks/on_gpu.sh [FOLDER]
#
# Run it in the repository with mlxterp, pytest, and MLX (mlxterp[cuda], or a Mac) or PyTorch installed. Results and logs
# go to FOLDER (default: gpu-results), named by the card. A part that was finished is not run again, so a run that was cut
# off goes on; each part has a limit of its own, and one that fails or is too slow is told, and the others go on.
set -uo pipefail
cd "$(dirname "$0")/.."

folder=${1:-gpu-results}
mkdir -p "$folder"
python=${PYTHON:-python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

card=$("$python" - <<'PY'
import importlib.util
name = "no GPU"
if importlib.util.find_spec("torch"):
    import torch
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        name = "Apple GPU"
if name == "no GPU" and importlib.util.find_spec("mlx"):
    import mlx.core as mx
    if mx.default_device().type == mx.DeviceType.gpu:
        name = str(mx.device_info().get("device_name", "GPU of MLX"))
print(name)
PY
)
echo "$card" | tee "$folder/card.txt"

limited() { if command -v timeout >/dev/null; then timeout "$@"; else shift; "$@"; fi; }

part() {  # name, seconds, command …
  local name=$1 seconds=$2 start=$SECONDS status=0
  shift 2
  if [ -f "$folder/$name.done" ]; then echo "-- $name: done before"; return; fi
  echo "-- $name"
  limited "$seconds" "$@" >"$folder/$name.log" 2>&1 || status=$?
  tail -n 12 "$folder/$name.log"
  if [ "$status" = 0 ]; then touch "$folder/$name.done"; else echo "$name ended with status $status after $((SECONDS - start)) s"; fi
}

part selftest 60 "$python" -m mlxterp selftest --report "$folder/selftest.json" --overwrite
part tests 120 "$python" -m pytest -m gpu -p no:cacheprovider tests/backends
part kernels 60 "$python" benchmarks/kernels.py --rounds 20
part encode 60 "$python" benchmarks/encode.py --rounds 3
part train_step 60 "$python" benchmarks/train_step.py --rounds 3
part graph 60 "$python" benchmarks/graph.py "$("$python" -c 'from mlxterp.demo import FOLDER; print(FOLDER / "model")')" --rounds 1 --tokens 8 16
part index 60 "$python" benchmarks/index.py --part stages questions --rounds 1 --scans 1

newer() { find benchmarks/results -name '*.json' -newer "$folder/card.txt"; }
for file in $(newer); do cp "$file" "$folder/"; done
echo "Results for $card: $folder"
