"""Kernels compile for every GPU that is accepted; the choice of a compiler; the cache."""

import multiprocessing
import os
import re
import stat
import time

import pytest
from simt.emulator import ENTRY

from mmint.backends.cuda import compiler
from mmint.backends.cuda.compiler import Nvcc, Nvrtc
from mmint.backends.cuda.launcher import SOURCES

ARCHITECTURES = ['sm_75', 'sm_80', 'sm_86', 'sm_89', 'sm_90a', 'sm_100', 'sm_120']
# The sources ask only whether a GPU is older than sm_80: the oldest from there on, the newest and
# the H100's stand for those that differ in nothing but ptxas.
WHEN = dict.fromkeys(('sm_75', 'sm_90a', 'sm_120'), [pytest.mark.slow])
WHEN |= dict.fromkeys(('sm_86', 'sm_89', 'sm_100'), [pytest.mark.exhaustive])
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
    'architecture', [pytest.param(name, marks=WHEN.get(name, [])) for name in ARCHITECTURES]
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
