"""Kernels on NVIDIA GPUs through PyCUDA, in PyTorch's context and on its stream.

Everything happens in the primary context of a device, which is PyTorch's own, and nothing here
waits for the device or allocates its memory. PyCUDA launches on streams of its own and on the
default one, which has no handle; where PyTorch's current stream is another (in a graph capture, for
one), a stream of PyCUDA's is made to wait for it before the launch, and it for that stream
afterwards, which is the same order.

The last reference to a PyCUDA context detaches it, which would destroy PyTorch's. So there is one
`PyCudaLauncher` in a process, and it gives everything back in `close`, before the interpreter ends.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from .compiler import cubin
from .launcher import SOURCES, Argument, Size, packed, refuse_first_use

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


@dataclass
class Device:
    """What is held of a GPU: PyTorch's context, a stream in it, modules and their kernels."""

    context: Any
    stream: Any
    for_torch: torch.cuda.Stream  # the same stream
    modules: dict[str, Any] = field(default_factory=dict)
    kernels: dict[tuple[str, str], Kernel] = field(default_factory=dict)


class PyCudaLauncher:
    """The launcher interface for tensors on NVIDIA GPUs; `launcher.launcher` makes the only one.

    Raises:
        ImportError: if PyCUDA is not installed.
        RuntimeError: if there is no NVIDIA driver, or no GPU.
    """

    device_type = 'cuda'

    def __init__(self) -> None:
        self._driver = _driver()
        self._devices: dict[torch.device, Device] = {}
        self._lock = threading.RLock()  # autograd's threads launch, too
        atexit.register(self.close)

    def close(self) -> None:
        """Gives back what is held of every device, in the order that the driver asks for."""
        while self._devices:
            _, held = self._devices.popitem()
            held.context.push()
            with suppress(self._driver.Error):  # of an earlier kernel, which is reported already
                self._driver.Context.synchronize()
            for kernel in held.kernels.values():  # each keeps its module
                kernel.function = None
            held.modules.clear()
            held.stream = None
            held.context.detach()

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
        held = self._devices.get(device)
        kernel = held.kernels.get((source, name)) if held else None
        return kernel or self._load(source, name, device)

    def newest(self) -> tuple[int, int]:
        """The newest CUDA whose kernels the driver takes."""
        version = self._driver.get_driver_version()
        return version // 1000, version % 1000 // 10

    def _load(self, source: str, name: str, device: torch.device) -> Kernel:
        refuse_first_use()
        with self._lock, self._in_context(device, source) as held:
            if source not in held.modules:
                binary = cubin(SOURCES / source, self.architecture(device), self.newest())
                held.modules[source] = self._driver.module_from_buffer(binary)
            function = held.modules[source].get_function(name)
            return held.kernels.setdefault((source, name), Kernel(name, function))

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
        words = packed(arguments, device)
        with self._in_context(device, kernel.name) as held:
            if shared > kernel.shared:
                limit = self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
                kernel.function.set_attribute(limit, shared)
                kernel.shared = shared
            current = torch.cuda.current_stream(device)
            if current.cuda_stream == 0:
                kernel.function._launch_kernel(grid, block, words, shared, None)
            else:
                with _in_order(held.for_torch, current):
                    kernel.function._launch_kernel(grid, block, words, shared, held.stream)

    @contextmanager
    def _in_context(self, device: torch.device, what: str) -> Iterator[Device]:
        """The device's primary context; errors of the driver in one sentence."""
        driver = self._driver
        try:
            held = self._devices.get(device) or self._hold(device)
            held.context.push()
            try:
                yield held
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

    def _hold(self, device: torch.device) -> Device:
        """Takes hold of a device, once."""
        with self._lock:
            if device not in self._devices:
                torch.cuda.init()
                context = self._driver.Device(device.index).retain_primary_context()
                try:
                    context.push()
                    stream = self._driver.Stream(NON_BLOCKING)
                except self._driver.Error:
                    context.detach()
                    raise
                self._driver.Context.pop()
                self._devices[device] = Device(
                    context, stream, torch.cuda.ExternalStream(stream.handle, device)
                )
            return self._devices[device]


@contextmanager
def _in_order(ours: torch.cuda.Stream, current: torch.cuda.Stream) -> Iterator[None]:
    """Within this context work on one stream takes the place of work on the other."""
    ours.wait_stream(current)
    try:
        yield
    finally:
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
            "`pip install 'mmint[cuda]'`, as docs/gpu.md says"
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
