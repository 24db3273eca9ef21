"""Kernels compile for every GPU that is accepted; the cache; what is said of what is missing."""

import math
import multiprocessing
import os
import re
import stat
import subprocess
import sys
import time
import types

import pytest
import torch
from comparison import BITS
from simt import Emulator
from simt.emulator import ENTRY

from mmint import backends
from mmint.backends import NonFiniteError
from mmint.backends.cuda import compiler, finite, launcher, quantize
from mmint.backends.cuda.compiler import Nvcc, Nvrtc
from mmint.backends.cuda.launcher import SOURCES, use_launcher, words_of
from mmint.backends.errors import naming

ARCHITECTURES = ['sm_75', 'sm_80', 'sm_86', 'sm_89', 'sm_90a', 'sm_100', 'sm_120']
CUDA = torch.device('cuda', 0)
RESOURCES = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r'(\d+) bytes spill loads.*?Used (\d+) registers',
    re.S,
)


def compilers():
    """nvcc and NVRTC, as far as they are there; one of them always is where tests run."""
    found = [Nvrtc(path) for path in compiler.nvrtc_libraries()[:1]]
    path = compiler.shutil.which('nvcc')
    return found + ([Nvcc(path)] if path else [])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path / 'mmint' / 'kernels'


@pytest.fixture
def compiles(monkeypatch):
    """Counts compilations of a stand-in for the compiler."""
    calls = []

    class Standin:
        def version(self):
            return f'standin {self.number}'

        def compile(self, source, architecture):
            calls.append((source.name, architecture))
            return compiler.Compiled(f'{source.name} {architecture}'.encode(), '')

    standin = Standin()
    standin.number = 1
    monkeypatch.setattr(compiler, 'find_compiler', lambda *_: standin)
    return calls


# ---- every architecture ----


def test_there_is_a_compiler():
    assert compilers(), 'the CUDA kernels are compiled in the tests: install nvidia-cuda-nvrtc'


@pytest.mark.parametrize(
    'architecture',
    [pytest.param(a, marks=[] if a == 'sm_80' else pytest.mark.slow) for a in ARCHITECTURES],
)
@pytest.mark.parametrize('source', sorted(path.name for path in SOURCES.glob('*.cu')))
def test_kernels_compile(source, architecture, record_property):
    """Registers and spills of every kernel go to the report, which `-rP` and --junitxml show."""
    made = compilers()[0].compile(SOURCES / source, architecture)
    assert made.cubin.startswith(b'\x7fELF')
    table = RESOURCES.findall(made.report)
    assert sorted(name for name, *_ in table) == sorted(
        ENTRY.findall((SOURCES / source).read_text())
    )
    for name, stack, stores, loads, registers in table:
        line = f'{registers} registers, {stack} bytes of stack, {stores} and {loads} bytes spilled'
        record_property(f'{name} for {architecture}', line)
        print(f'{architecture:6} {source:12} {name:24} {line}')


@pytest.mark.parametrize('compiler', compilers(), ids=lambda c: type(c).__name__)
def test_what_a_compiler_refuses_is_said_in_one_sentence(compiler, tmp_path):
    bad = tmp_path / 'bad.cu'
    bad.write_text('extern "C" __global__ void bad(float *x) { *x = y; }\n')
    with pytest.raises(
        RuntimeError, match=r'cannot compile bad\.cu for sm_90a \(.*"y" is undefined'
    ):
        compiler.compile(bad, 'sm_90a')
    bad.write_text('')
    with pytest.raises(RuntimeError, match='cannot compile bad.cu for sm_60 .*CUDA version that'):
        compiler.compile(bad, 'sm_60')


def test_a_compiler_that_runs_out_of_memory():
    for report in ('ptxas fatal   : Memory allocation failure: out of memory', 'std::bad_alloc'):
        error = compiler.failure('nvcc', SOURCES / 'sgd.cu', 'sm_80', report, False)
        assert isinstance(error, MemoryError) and 'free memory' in str(error)
    error = compiler.failure('NVRTC 13.0', SOURCES / 'sgd.cu', 'sm_80', '', True)
    assert str(error).startswith('NVRTC 13.0 ran out of memory when it compiled sgd.cu for sm_80')


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(compiler.shutil, 'which', lambda name: None)
    monkeypatch.setattr(compiler, 'nvrtc_libraries', list)
    compiler.find_compiler.cache_clear()
    with pytest.raises(
        ImportError, match='neither nvcc nor NVRTC.*put nvcc on the PATH, or install'
    ):
        compiler.find_compiler('sm_90a')
    monkeypatch.undo()
    compiler.find_compiler.cache_clear()


class Fake:
    """A compiler that makes nothing."""

    def __init__(self, name, release, reason=None):
        self.name, self._release, self._reason = name, release, reason

    def release(self):
        return self._release

    def refuses(self, architecture):
        return self._reason


@pytest.mark.parametrize(
    'release, reason, line',
    [
        ((11, 8), "Unsupported gpu architecture 'sm_100'", 'Unsupported gpu architecture .sm_100'),
        ((13, 2), None, 'it is newer than the driver, which is for CUDA 12.4'),
        ((12, 8), None, None),
        ((11, 8), None, None),
    ],
)
def test_an_nvcc_that_does_not_fit_card_or_driver(monkeypatch, caplog, release, reason, line):
    nvcc, nvrtc = Fake('nvcc', release, reason), Fake('NVRTC 12.8', (12, 8))
    monkeypatch.setattr(compiler.shutil, 'which', lambda name: name)
    monkeypatch.setattr(compiler, 'nvrtc_libraries', lambda: ['libnvrtc.so'])
    monkeypatch.setattr(compiler, 'Nvcc', lambda path: nvcc)
    monkeypatch.setattr(compiler, 'Nvrtc', lambda path: nvrtc)
    compiler.find_compiler.cache_clear()
    taken = [compiler.find_compiler('sm_100', (12, 4)) for _ in range(3)]
    assert set(taken) == {nvrtc if line else nvcc}
    assert len(caplog.messages) == (line is not None)
    if line:
        assert re.fullmatch(f'nvcc .*{line}.*, so NVRTC 12.8 compiles the .*', caplog.messages[0])
        nvrtc._release = (13, 0)
        compiler.find_compiler.cache_clear()
        with pytest.raises(ImportError, match=f'{line}.*; NVRTC 12.8.*install a PyTorch built for'):
            compiler.find_compiler('sm_100', (12, 4))
    compiler.find_compiler.cache_clear()


def test_what_the_compilers_say_of_themselves():
    for made in compilers():
        assert made.release() >= (12, 0) and '.'.join(map(str, made.release())) in made.name
        assert made.refuses('sm_90a') is None
        if isinstance(made, Nvcc):
            assert 'sm_20' in made.refuses('sm_20')


# ---- the cache ----


def test_a_kernel_is_compiled_once(cache, compiles):
    first = compiler.cubin(SOURCES / 'sgd.cu', 'sm_80')
    assert first == compiler.cubin(SOURCES / 'sgd.cu', 'sm_80') == b'sgd.cu sm_80'
    compiler.cubin(SOURCES / 'sgd.cu', 'sm_90a')
    compiler.cubin(SOURCES / 'activation.cu', 'sm_80')
    assert len(compiles) == 3
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(entry.stat().st_mode) == 0o600 for entry in cache.iterdir())
    assert len(list(cache.glob('*.cubin'))) == 3


def test_sources_includes_and_compiler_are_part_of_the_key(tmp_path, cache, compiles):
    source, header, inner = (tmp_path / name for name in ('a.cu', 'a.cuh', 'b.cuh'))
    source.write_text('#include "a.cuh"\n')
    header.write_text('#pragma once\n#include "b.cuh"\n')
    inner.write_text('#include "a.cuh"\n')
    assert compiler.with_includes(source) == [source, header, inner]
    for count, change in enumerate((source, header, inner), start=2):
        compiler.cubin(source, 'sm_80')
        change.write_text(change.read_text() + '// changed\n')
        compiler.cubin(source, 'sm_80')
        assert len(compiles) == count
    compiler.find_compiler('sm_80').number = 2
    compiler.cubin(source, 'sm_80')
    assert len(compiles) == 5


def test_the_arithmetic_shared_with_c_is_among_the_includes():
    found = compiler.with_includes(SOURCES / 'sgd.cu')
    assert compiler.INCLUDES / 'arithmetic/sgd.h' in found and all(p.exists() for p in found)


def test_processes_that_want_the_same_kernel_compile_it_once(cache, compiles, tmp_path):
    """Each would take most of a minute, and all of the memory."""
    log = tmp_path / 'log'
    standin = compiler.find_compiler('sm_80')
    compile_once = standin.compile

    def compile_slowly(source, architecture):
        with log.open('a') as file:
            file.write('compiled\n')
        time.sleep(0.2)
        return compile_once(source, architecture)

    standin.compile = compile_slowly
    forked = multiprocessing.get_context('fork')
    processes = [
        forked.Process(target=compiler.cubin, args=(SOURCES / 'sgd.cu', 'sm_80')) for _ in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text() == 'compiled\n'


def test_all_kernels_are_compiled_at_once(cache, compiles):
    compiler.compile_all('sm_80')
    assert sorted(name for name, _ in compiles) == sorted(p.name for p in SOURCES.glob('*.cu'))


@pytest.mark.parametrize('damage', [b'', b'short', None])
def test_a_damaged_entry_is_made_again(cache, compiles, damage):
    right = compiler.cubin(SOURCES / 'sgd.cu', 'sm_80')
    (entry,) = cache.glob('*.cubin')
    content = entry.read_bytes()
    entry.write_bytes(content[:-1] + b'!' if damage is None else damage)
    assert compiler.cubin(SOURCES / 'sgd.cu', 'sm_80') == right and len(compiles) == 2
    assert list(cache.glob('*.cubin')) == [entry] and entry.read_bytes() == content


@pytest.mark.parametrize('mode', [0o770, 0o707, 0o777])
def test_a_cache_that_others_can_write_is_refused(cache, compiles, mode):
    cache.mkdir(parents=True)
    cache.chmod(mode)
    with pytest.raises(PermissionError, match='can be written by others.*set XDG_CACHE_HOME'):
        compiler.cubin(SOURCES / 'sgd.cu', 'sm_80')


def test_a_cache_of_another_user_is_refused(cache, compiles, monkeypatch):
    compiler.cubin(SOURCES / 'sgd.cu', 'sm_80')
    monkeypatch.setattr(os, 'getuid', lambda: 12345)
    with pytest.raises(PermissionError, match='a directory that only you can write is accepted'):
        compiler.cubin(SOURCES / 'sgd.cu', 'sm_80')


def test_where_no_cache_can_be_made_kernels_are_compiled_all_the_same(
    tmp_path, compiles, monkeypatch
):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.warns(UserWarning, match='compiled anew in every process.*set XDG_CACHE_HOME'):
        assert compiler.cubin(SOURCES / 'sgd.cu', 'sm_80') == b'sgd.cu sm_80'


# ---- what is missing ----


@pytest.fixture
def no_launcher(monkeypatch):
    """As in a new process, which has launched nothing."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
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


@pytest.mark.usefixtures('emulated')
def test_a_graph_that_would_draw_the_same_bits_at_every_replay_is_refused(monkeypatch):
    x = torch.randn(9)
    quantize(x, 8, None)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    quantize(x, 8, None)
    with pytest.raises(RuntimeError, match='same random bits at every replay: capture what rounds'):
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
        words_of([x, (1, (x.to('meta'),))], x.device)
    use_launcher(Emulator())
    try:
        with pytest.raises(ValueError, match='tensors on cpu and on meta'):
            quantize(x, 8, None, largest=torch.zeros((), dtype=torch.int32, device='meta'))
    finally:
        use_launcher(None)
        finite.forget(x.device)


def test_the_variable_names_the_backend_and_must_fit_the_device(no_launcher, monkeypatch):
    monkeypatch.setenv(backends.VARIABLE, 'cuda')
    use_launcher(Emulator())
    assert backends.backend_for(torch.device('cpu')) is backends.cuda
    with pytest.raises(RuntimeError, match="'cuda' was given and a tensor on a 'cuda' device"):
        backends.backend_for(CUDA)
    monkeypatch.setenv(backends.VARIABLE, 'cpu')
    with pytest.raises(RuntimeError, match="='cpu' was given and .*'cuda' device, .*.to..cpu.."):
        backends.backend_for(CUDA)


def test_the_variable_asks_for_cuda_and_the_model_is_on_the_cpu(gpu, monkeypatch):
    monkeypatch.setenv(backends.VARIABLE, 'cuda')
    with pytest.raises(RuntimeError, match="'cpu' device, tensors on 'cuda' are accepted: move"):
        backends.backend_for(torch.device('cpu'))
