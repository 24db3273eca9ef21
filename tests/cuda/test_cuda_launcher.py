"""The launcher above a fake PyCUDA: what is missing, what fails, and captures in a graph."""

import math
import subprocess
import sys
import types

import pytest
import torch
from comparison import BITS
from simt import Emulator

from mmint import backends
from mmint.backends import NonFiniteError
from mmint.backends.cuda import finite, launcher, quantize
from mmint.backends.cuda.launcher import packed, use_launcher
from mmint.backends.errors import naming

ARCHITECTURES = ['sm_75', 'sm_80', 'sm_86', 'sm_89', 'sm_90a', 'sm_100', 'sm_120']
CUDA = torch.device('cuda', 0)


@pytest.fixture
def no_launcher(monkeypatch):
    """As in a new process, which has launched nothing."""
    monkeypatch.setattr(backends, 'wish', None)
    monkeypatch.setattr(launcher, '_pycuda', None)
    use_launcher(None)
    backends._select.cache_clear()
    yield
    use_launcher(None)
    backends._select.cache_clear()


class Error(Exception):
    pass


class OutOfMemory(Error):
    pass


class Stream:
    """PyTorch's, which notes what it waits for."""

    waits = []

    def __init__(self, handle):
        self.cuda_stream = handle

    def wait_stream(self, other):
        self.waits.append((self.cuda_stream, other.cuda_stream))


@pytest.fixture
def gpu(no_launcher, monkeypatch):
    """A machine that seems to have a GPU, and a PyCUDA whose calls a test can make fail."""
    driver = types.ModuleType('pycuda.driver')
    driver.Error, driver.MemoryError = Error, OutOfMemory
    driver.init = lambda: None
    driver.get_driver_version = lambda: 13000
    driver.pushed = driver.held = 0

    class Context:
        def __init__(self):
            driver.held += 1

        def push(self):
            driver.pushed += 1

        @staticmethod
        def pop():
            driver.pushed -= 1

        @staticmethod
        def synchronize():
            pass

        def detach(self):
            driver.held -= 1
            driver.pushed -= 1

    driver.Context = Context
    driver.Device = lambda index: types.SimpleNamespace(retain_primary_context=Context)
    driver.Stream = lambda flags: types.SimpleNamespace(handle=7)
    package = types.ModuleType('pycuda')
    package.driver = driver
    monkeypatch.setitem(sys.modules, 'pycuda', package)
    monkeypatch.setitem(sys.modules, 'pycuda.driver', driver)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'init', lambda: None)
    monkeypatch.setattr(torch.cuda, 'ExternalStream', lambda handle, device: Stream(handle))
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'NVIDIA Test')
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: Stream(0))
    monkeypatch.setattr('mmint.backends.cuda.pycuda_launcher.cubin', lambda *_: b'cubin')
    yield driver
    if launcher._pycuda:
        launcher._pycuda.close()
    assert driver.pushed == driver.held == 0


@pytest.fixture
def capture(monkeypatch):
    """Everything is captured in a CUDA graph, as PyTorch says."""
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)


def test_importing_mmint_touches_neither_cuda_nor_pycuda():
    code = (
        'import sys, torch, mmint, mmint.backends.cuda; assert not torch.cuda.is_initialized(); '
        'assert not any(name.split(".")[0] == "pycuda" for name in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)


def test_no_driver(no_launcher, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(RuntimeError, match='finds no NVIDIA GPU with a driver.*install the driver'):
        backends.backend_for(CUDA)


def test_no_pycuda(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pycuda.driver', None)
    monkeypatch.setitem(sys.modules, 'pycuda', None)
    with pytest.raises(
        ImportError, match=r"PyCUDA.*cannot be imported.*pip install 'mmint\[cuda\]'"
    ):
        backends.backend_for(CUDA)


def test_a_driver_that_does_not_start(gpu):
    def init():
        raise Error('cuInit failed: system not yet initialized')

    gpu.init = init
    with pytest.raises(RuntimeError, match='driver does not start .*not yet init.*nvidia-smi'):
        backends.backend_for(CUDA)


def test_a_card_that_is_too_old(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 0))
    assert backends.backend_for(CUDA) is backends.cuda
    with pytest.raises(RuntimeError, match='NVIDIA Test has compute capability 7.0, 7.5 .* newer'):
        launcher.launcher().kernel('sgd.cu', 'sgd_step', CUDA)
    assert gpu.pushed == 0


@pytest.mark.parametrize('capability', [(7, 5), (8, 6), (9, 0), (10, 0), (12, 0)])
def test_architectures(gpu, monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert launcher.launcher().architecture(CUDA) in ARCHITECTURES


def failing(error):
    def fail(*arguments):
        raise error

    return fail


def test_out_of_memory_when_loading_and_launching(gpu):
    gpu.module_from_buffer = failing(OutOfMemory('cuModuleLoadDataEx failed: out of memory'))
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match='cuda:0 has no memory left to load or .*sgd'
    ):
        launcher.launcher().kernel('sgd.cu', 'sgd_step', CUDA)
    function = types.SimpleNamespace(_launch_kernel=failing(OutOfMemory('out of memory')))
    gpu.module_from_buffer = lambda cubin: types.SimpleNamespace(get_function=lambda name: function)
    kernel = launcher.launcher().kernel('sgd.cu', 'sgd_step', CUDA)
    with pytest.raises(torch.cuda.OutOfMemoryError, match='use a smaller batch'):
        launcher.launcher().launch(kernel, (1, 1, 1), (1, 1, 1), 0, [], CUDA)
    function._launch_kernel = failing(Error('invalid argument'))
    with pytest.raises(RuntimeError, match='cuda:0 refused sgd_step .invalid argument.'):
        launcher.launcher().launch(kernel, (1, 1, 1), (1, 1, 1), 0, [], CUDA)
    assert gpu.pushed == 0


def test_arguments_go_out_as_64_bit_words(gpu):
    launches = []
    function = types.SimpleNamespace(_launch_kernel=lambda *arguments: launches.append(arguments))
    gpu.module_from_buffer = lambda cubin: types.SimpleNamespace(get_function=lambda name: function)
    run = launcher.launcher()
    kernel = run.kernel('sgd.cu', 'sgd_step', CUDA)
    run.launch(kernel, (3, 2, 1), (64, 1, 1), 16, [7, None, (-1, (2**40,))], CUDA)
    words = b''.join(word.to_bytes(8, 'little', signed=True) for word in (7, 0, -1, 2**40))
    assert launches == [((3, 2, 1), (64, 1, 1), words, 16, None)]
    assert run.kernel('sgd.cu', 'sgd_step', CUDA) is kernel


def test_switching_launchers_leaves_pycuda_alone(gpu):
    ours = launcher.launcher()
    use_launcher(Emulator())
    use_launcher(None)
    assert launcher.launcher() is ours


def test_a_launch_that_fails_leaves_the_current_stream_joined(gpu, monkeypatch):
    """In a graph capture a stream that is not joined makes the whole capture invalid."""
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: Stream(3))
    monkeypatch.setattr(Stream, 'waits', [])
    function = types.SimpleNamespace(_launch_kernel=failing(Error('invalid argument')))
    gpu.module_from_buffer = lambda cubin: types.SimpleNamespace(get_function=lambda name: function)
    kernel = launcher.launcher().kernel('sgd.cu', 'sgd_step', CUDA)
    with pytest.raises(RuntimeError, match='refused sgd_step'):
        launcher.launcher().launch(kernel, (1, 1, 1), (1, 1, 1), 0, [], CUDA)
    assert Stream.waits == [(7, 3), (3, 7)]


def test_a_first_use_in_a_graph_capture_is_refused_before_it_spoils_the_capture(gpu, capture):
    for first_use in (
        lambda: launcher.launcher().kernel('sgd.cu', 'sgd_step', CUDA),
        lambda: finite.flag(CUDA),
    ):
        with pytest.raises(RuntimeError, match='has not run on this GPU.*step once before the cap'):
            first_use()
    assert gpu.held == 0


@pytest.mark.usefixtures('emulated', 'fresh_run')
def test_a_graph_that_would_draw_the_same_bits_at_every_replay_is_refused(monkeypatch):
    x = torch.randn(9)
    quantize(x, 8, None)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    quantize(x, 8, None)
    with pytest.raises(RuntimeError, match='same random bits: call mmint.begin_iteration'):
        quantize(x, 8, BITS)


@pytest.mark.usefixtures('emulated')
def test_what_a_replay_meets_is_named_as_in_the_capture(monkeypatch):
    """Calls between capture and replay are counted anew, and have other names."""
    x = torch.tensor([1.0, math.inf])
    with naming(lambda: NonFiniteError('in the graph')), monkeypatch.context() as patch:
        finite.flag(x.device)
        patch.setattr(torch.cuda, 'is_initialized', lambda: True)
        patch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
        captured = finite.number(x.device)
        finite.check(x.device)
    for _ in range(2):
        with naming(lambda: NonFiniteError('outside')):
            quantize(x[:1], 8, None)
        finite.flag(x.device).fill_(captured)  # as a kernel does in a replay
        with pytest.raises(NonFiniteError, match='in the graph'):
            finite.check(x.device)
    finite.check(x.device)


@pytest.mark.usefixtures('emulated')
def test_an_iteration_waits_for_the_device_once(monkeypatch):
    """The optimizer checks, and the hook after it finds nothing left to check."""
    read = []
    monkeypatch.setattr(finite, 'int', lambda flag: read.append(int(flag)) or 0, raising=False)
    device = torch.device('cpu')
    finite.forget(device)
    finite._devices[device].captured.clear()
    for iteration in range(3):
        quantize(torch.randn(9), 8, None)
        finite.check(device)
        finite.check(device)
        assert len(read) == iteration + 1


def test_tensors_on_different_devices():
    x = torch.zeros(1)
    with pytest.raises(ValueError, match='tensors on cpu and on meta.* move them with .to'):
        packed([x, (1, (x.to('meta'),))], x.device)
    use_launcher(Emulator())
    try:
        with pytest.raises(ValueError, match='tensors on cpu and on meta'):
            quantize(x, 8, None, largest=torch.zeros((), dtype=torch.int32, device='meta'))
    finally:
        use_launcher(None)
        finite.forget(x.device)


def test_the_variable_names_the_backend_and_must_fit_the_device(no_launcher, monkeypatch):
    monkeypatch.setattr(backends, 'wish', 'cuda')
    use_launcher(Emulator())
    assert backends.backend_for(torch.device('cpu')) is backends.cuda
    with pytest.raises(RuntimeError, match="'cuda' was given and a tensor on a 'cuda' device"):
        backends.backend_for(CUDA)
    monkeypatch.setattr(backends, 'wish', 'cpu')
    with pytest.raises(RuntimeError, match="='cpu' was given and .*'cuda' device, .*.to..cpu.."):
        backends.backend_for(CUDA)


def test_the_variable_asks_for_cuda_and_the_model_is_on_the_cpu(gpu, monkeypatch):
    monkeypatch.setattr(backends, 'wish', 'cuda')
    with pytest.raises(RuntimeError, match="'cpu' device, tensors on 'cuda' are accepted: move"):
        backends.backend_for(torch.device('cpu'))
