"""The PyTorch wing: CUDA, MPS and CPU."""
