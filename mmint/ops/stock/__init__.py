"""Integer versions of the PyTorch functions that stock models call; importing registers them."""

from . import (  # noqa: F401
    arithmetic,
    attention,
    convolutions,
    interpolation,
    norms,
    pooling,
    products,
)
