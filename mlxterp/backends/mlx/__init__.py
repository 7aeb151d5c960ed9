"""The MLX wing: Metal, CUDA and CPU."""
