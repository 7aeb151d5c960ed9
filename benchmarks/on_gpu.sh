#!/usr/bin/env bash
# Everything that wants a GPU, in under eight minutes: tests of the kernels, then the benchmarks.
#
#   benchmarks/on_gpu.sh [FOLDER]           on a machine with a GPU
#   DRY=1 benchmarks/on_gpu.sh [FOLDER]     anywhere, with small sizes on the CPU: whether all parts run
#
# Run it in the repository with mlxterp, pytest, and MLX (mlxterp[cuda], or a Mac) or PyTorch installed. Results and logs
# go to FOLDER (default: gpu-results, or dry-results), beside the name of the card. A part that was finished is not run
# again, so a run that was cut off goes on; each part has a limit of its own, and one that fails or is too slow is told,
# and the others go on. Ends with the number of parts that are not finished.
set -uo pipefail
cd "$(dirname "$0")/.."

dry=${DRY:-}
folder=${1:-$([ -n "$dry" ] && echo dry-results || echo gpu-results)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export MLXTERP_RESULTS=$folder # where benchmarks write instead of benchmarks/results

read -r device card < <("$python" - <<'PY'
import importlib.util
device, name = "cpu", "no GPU"
if importlib.util.find_spec("torch"):
    import torch
    if torch.cuda.is_available():
        device, name = "cuda", torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        device, name = "mps", "Apple GPU"
if name == "no GPU" and importlib.util.find_spec("mlx"):
    import mlx.core as mx
    if mx.default_device() == mx.Device(mx.gpu):
        name = str(mx.device_info().get("device_name", "GPU of MLX"))
print(device, name)
PY
)
[ -n "$dry" ] && device=cpu
echo "${card:-no GPU}" | tee "$folder/card.txt"

limited() { if command -v timeout >/dev/null; then timeout "$@"; else shift; "$@"; fi; }

unfinished=0
part() {  # name, seconds, command …
  local name=$1 seconds=$2 start=$SECONDS status=0
  shift 2
  [ -n "$dry" ] && seconds=$((seconds * 5)) # a CPU that others may use too
  if [ -f "$folder/$name.done" ]; then echo "-- $name: done before"; return; fi
  echo "-- $name"
  limited "$seconds" "$@" >"$folder/$name.log" 2>&1 || status=$?
  tail -n 12 "$folder/$name.log"
  if [ "$status" = 0 ]; then
    echo "$name took $((SECONDS - start)) s" | tee "$folder/$name.done"
  else
    unfinished=$((unfinished + 1))
    echo "$name ended with status $status after $((SECONDS - start)) s; see $folder/$name.log"
  fi
}

sized() { if [ -n "$dry" ]; then echo "$1"; else echo "$2"; fi; }  # for a dry run, for a GPU
model=$("$python" -c 'from mlxterp.demo import FOLDER; print(FOLDER / "model")')

part selftest 60 "$python" -m mlxterp selftest --report "$folder/selftest.json" --overwrite
part tests 120 "$python" -m pytest -q -m gpu -p no:cacheprovider tests/backends/kernels
# shellcheck disable=SC2046  # options are words
part kernels 60 "$python" benchmarks/kernels.py $(sized "--rounds 1 --tokens 64 --d-hidden 512 --d-model 64 --k 8" "--rounds 20")
# shellcheck disable=SC2046
part encode 60 "$python" benchmarks/encode.py --device "$device" \
  $(sized "--rounds 1 --shape 64 64 1024 8" "--rounds 3 --shape 4096 768 32768 32 --shape 4096 2048 65536 64")
# shellcheck disable=SC2046
part train_step 60 "$python" benchmarks/train_step.py --device "$device" \
  $(sized "--rounds 1 --tokens 256 --d-hidden 512 --d-model 64 --k 8" "--rounds 10 --d-model 2048 --d-hidden 32768 --k 64")
# shellcheck disable=SC2046
part graph 60 "$python" benchmarks/graph.py "$model" --rounds 1 --tokens $(sized "4" "8 16") --work "$folder/graph"
# shellcheck disable=SC2046
part index 60 "$python" benchmarks/index.py --part stages batches questions --rounds 1 --scans 1 --work "$folder/index" \
  $(sized "--tokens 2000 --trained-on 4096 --features 256" "--tokens 50000 --trained-on 100000")

echo "Results for ${card:-no GPU}: $folder"
exit "$unfinished"
