"""Integer versions of the PyTorch functions that stock models call; importing registers them."""

from . import arithmetic, attention, convolutions, norms, pooling, products  # noqa: F401
