"""Convolutions by the algorithm that is fastest here: PyTorch's own, products of patches, or Winograd's."""
