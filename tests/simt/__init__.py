"""CUDA kernels on a CPU: an emulator that runs the very same sources and checks what they do."""

from .emulator import Emulator, SimtError

__all__ = ['Emulator', 'SimtError']
