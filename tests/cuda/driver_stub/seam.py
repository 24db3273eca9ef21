"""PyTorch's part of a GPU, and a launcher that runs every kernel twice.

In the emulator, which computes, and through PyCUDA, whose calls the driver's stand-in records. The
tensors are on the CPU; so PyCUDA's launcher is given their addresses, as the emulator has them.
"""

import ctypes
import sys
import threading
from pathlib import Path

import torch
from simt import Emulator
from simt.emulator import ENTRY

from mmint.backends.cuda import launcher, pycuda_launcher
from mmint.backends.cuda.launcher import packed, use_launcher

__all__ = [
    'CUDA', 'Both', 'Stream', 'driver', 'launcher', 'on_stream', 'sys', 'threading', 'torch',
    'use_launcher',
]  # fmt: skip
CUDA = torch.device('cuda', 0)
driver = ctypes.CDLL('libcuda.so.1')
driver.driver_stream.restype = ctypes.c_void_p
driver.driver_fail.restype = None


class Stream:
    """`torch.cuda.Stream`."""

    current = None

    def __init__(self, handle, device=CUDA):
        self.cuda_stream = handle

    def wait_stream(self, other):
        driver.driver_wait(ctypes.c_void_p(self.cuda_stream), ctypes.c_void_p(other.cuda_stream))


class on_stream:
    """`torch.cuda.stream`, of a new stream; captured in a graph if asked for."""

    def __init__(self, capturing=False):
        self.stream, self.capturing = Stream(driver.driver_stream()), capturing

    def __enter__(self):
        Stream.current = self.stream
        torch.cuda.is_initialized = torch.cuda.is_current_stream_capturing = lambda: self.capturing

    def __exit__(self, *_):
        Stream.current = Stream(0)
        torch.cuda.is_initialized = lambda: False


Stream.current = Stream(0)
torch.cuda.is_available = lambda: True
torch.cuda.init = lambda: None
torch.cuda.get_device_capability = lambda device: (9, 0)
torch.cuda.get_device_name = lambda device: 'NVIDIA Stand-in'
torch.cuda.current_stream = lambda device: Stream.current
torch.cuda.ExternalStream = Stream


def kernels_of(source, architecture, newest):
    """In the place of a cubin: the names of its kernels."""
    assert architecture == 'sm_90a' and newest == (13, 0)
    return '\n'.join(['', *ENTRY.findall(Path(source).read_text()), '']).encode()


pycuda_launcher.cubin = kernels_of


class Both:
    """The launcher interface. ``given`` has a line for each launch, as the driver records it."""

    device_type = 'cpu'

    def __init__(self):
        self.emulator, self.given = Emulator(), []

    def architecture(self, device):
        return self.pycuda.architecture(CUDA)

    def newest(self):
        return self.pycuda.newest()

    @property
    def pycuda(self):
        current = launcher._current or self
        use_launcher(None)
        found = launcher.launcher()
        use_launcher(current)
        return found

    def kernel(self, source, name, device):
        return self.emulator.kernel(source, name, device), self.pycuda.kernel(source, name, CUDA)

    def launch(self, kernel, grid, block, shared, arguments, device):
        words = packed(arguments, device)
        sizes = ' '.join(','.join(map(str, size)) for size in (grid, block))
        self.given.append(f'{kernel[0].name} {sizes} {shared} {words.hex() or "-"}')
        self.pycuda.launch(kernel[1], grid, block, shared, [words], CUDA)
        self.emulator.launch(kernel[0], grid, block, shared, arguments, device)
