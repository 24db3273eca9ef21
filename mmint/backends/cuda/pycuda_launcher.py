"""Kernels on NVIDIA GPUs through PyCUDA, in PyTorch's context and on its stream.

Everything happens in the primary context of a device, which is PyTorch's own, and nothing here
waits for the device or allocates its memory. PyCUDA launches on streams of its own and on the
default one, which has no handle; where PyTorch's current stream is another (in a graph capture, for
one), a stream of PyCUDA's is made to wait for it before the launch, and it for that stream
afterwards, which is the same order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .compiler import cubin
from .launcher import SOURCES, Argument, Size, words_of

OLDEST = (7, 5)
STATIC_SHARED = 48 << 10  # more needs permission
NON_BLOCKING = 1
WITH_A_SUFFIX = {(9, 0): 'sm_90a'}


@dataclass
class Kernel:
    """A loaded kernel, and how much shared memory it may have."""

    name: str
    function: Any
    shared: int = STATIC_SHARED


class PyCudaLauncher:
    """The launcher interface for tensors on NVIDIA GPUs.

    Raises:
        ImportError: if PyCUDA is not installed.
        RuntimeError: if there is no NVIDIA driver, or no GPU.
    """

    device_type = 'cuda'

    def __init__(self) -> None:
        self._driver = _driver()
        self._contexts: dict[torch.device, Any] = {}
        self._modules: dict[tuple[str, torch.device], Any] = {}
        self._kernels: dict[tuple[str, str, torch.device], Kernel] = {}
        self._streams: dict[torch.device, tuple[Any, torch.cuda.Stream]] = {}

    def architecture(self, device: torch.device) -> str:
        """As `Launcher.architecture`.

        Raises:
            RuntimeError: if the GPU is older than the kernels need.
        """
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST:
            raise RuntimeError(
                f'{torch.cuda.get_device_name(device)} has compute capability {_dotted(capability)}'
                f', {_dotted(OLDEST)} (Turing) and newer are accepted: use another GPU, or run on '
                'the CPU with an empty CUDA_VISIBLE_DEVICES'
            )
        return WITH_A_SUFFIX.get(capability, f'sm_{capability[0]}{capability[1]}')

    def kernel(self, source: str, name: str, device: torch.device) -> Kernel:
        """As `Launcher.kernel`.

        Raises:
            ImportError, RuntimeError, MemoryError: if it cannot be compiled or loaded.
        """
        key = source, name, device
        if key not in self._kernels:
            with self._in_context(device, source):
                if (source, device) not in self._modules:
                    binary = cubin(SOURCES / source, self.architecture(device))
                    self._modules[source, device] = self._driver.module_from_buffer(binary)
                function = self._modules[source, device].get_function(name)
            self._kernels[key] = Kernel(name, function)
        return self._kernels[key]

    def launch(
        self,
        kernel: Kernel,
        grid: Size,
        block: Size,
        shared: int,
        arguments: Sequence[Argument],
        device: torch.device,
    ) -> None:
        """As `Launcher.launch`.

        Raises:
            RuntimeError: if the driver refuses the launch; torch.cuda.OutOfMemoryError for want of
                memory.
        """
        words = words_of(arguments, device)
        packed = struct.pack(f'{len(words)}q', *words)
        with self._in_context(device, kernel.name):
            if shared > kernel.shared:
                limit = self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
                kernel.function.set_attribute(limit, shared)
                kernel.shared = shared
            with self._stream(device) as stream:
                kernel.function._launch_kernel(grid, block, packed, shared, stream)

    @contextmanager
    def _in_context(self, device: torch.device, what: str) -> Iterator[None]:
        """The device's primary context; errors of the driver in one sentence."""
        driver = self._driver
        try:
            if device not in self._contexts:
                torch.cuda.init()
                self._contexts[device] = driver.Device(device.index).retain_primary_context()
            self._contexts[device].push()
            try:
                yield
            finally:
                driver.Context.pop()
        except driver.MemoryError as error:
            raise torch.cuda.OutOfMemoryError(
                f'{device} has no memory left to load or launch {what}: use a smaller batch, or '
                'end other processes on this GPU'
            ) from error
        except driver.Error as error:
            raise RuntimeError(
                f'{device} refused {what} ({error}): run with CUDA_LAUNCH_BLOCKING=1 to see '
                'whether an earlier operation failed, else report this as a bug of mmint'
            ) from error

    @contextmanager
    def _stream(self, device: torch.device) -> Iterator[Any]:
        """PyTorch's current stream as PyCUDA takes it."""
        current = torch.cuda.current_stream(device)
        if current.cuda_stream == 0:
            yield None
            return
        if device not in self._streams:
            stream = self._driver.Stream(NON_BLOCKING)
            self._streams[device] = stream, torch.cuda.ExternalStream(stream.handle, device)
        stream, ours = self._streams[device]
        ours.wait_stream(current)
        yield stream
        current.wait_stream(ours)


def _driver() -> Any:
    """PyCUDA's driver module, ready to be used."""
    if not torch.cuda.is_available():
        raise RuntimeError(
            'PyTorch finds no NVIDIA GPU with a driver (`nvidia-smi` shows what there is), the '
            'cuda backend needs one: install the driver and a PyTorch built for CUDA, or train on '
            'the CPU'
        )
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise ImportError(
            f'PyCUDA, which runs the CUDA kernels, cannot be imported ({error}): install it with '
            "`pip install 'mmint[cuda]'`, as the README says"
        ) from error
    try:
        driver.init()
    except driver.Error as error:
        raise RuntimeError(
            f'the NVIDIA driver does not start ({error}): check it with `nvidia-smi`, and update '
            "it where it is older than PyTorch's CUDA"
        ) from error
    return driver


def _dotted(capability: tuple[int, int]) -> str:
    return '.'.join(map(str, capability))
