"""Two GPU kernels, written once: `select.body` and `decode.body`, in a dialect that three preludes explain.

`source` assembles them for Metal, for CUDA and for a C++ compiler, where `tests/backends/kernels`
runs them with an emulated threadgroup. `backends/mlx/kernels.py` hands the first two to MLX.
"""
