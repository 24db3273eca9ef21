"""The real PyCUDA above a stand-in for the driver: what a GPU's driver would be asked to do."""

import re

import driver_stub
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(driver_stub.why_not()), reason=str(driver_stub.why_not())),
]
LAUNCH = re.compile(r'(\d+) cuLaunchKernel (\S+ \S+ \S+ \S+) (-?\d+) (\S+) -> 0')
CLEAN = 'exit retained 1, modules 0, streams 0'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Runs code to a clean end: nothing on stderr, nothing left, nothing that was wrong."""

    def run(code):
        record = tmp_path_factory.mktemp('driver') / 'record'
        done, record = driver_stub.run(code, record, driver_stub.built())
        assert done.stderr == '' and done.returncode == 0
        assert not [line for line in record if line.startswith('WRONG')]
        assert record[-1] == CLEAN
        return done.stdout, record

    return run


@pytest.fixture(scope='module')
def training(run):
    """Three training steps, the third on another stream: what the emulator was given, a record."""
    given, record = run("""
from torch import nn
from mmint.conversion import convert
from mmint.optim import IntSGD
both = Both()
use_launcher(both)
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 40, 3, padding=1, bias=False), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 5, 3),
    nn.Flatten(), nn.Linear(5 * 36, 7),
)
convert(model)
optimizer = IntSGD(model.parameters(), lr=0.1, momentum=0.9)

def step():
    loss = model(torch.randn(2, 3, 8, 8)).square().mean()
    backward = threading.Thread(target=loss.backward)
    backward.start()
    backward.join()
    optimizer.step()

step()
use_launcher(None)
use_launcher(both)
step()
with on_stream():
    step()
print(*both.given, sep='\\n')
""")
    return given.splitlines(), record


def launches(record):
    found = [LAUNCH.fullmatch(line) for line in record if ' cuLaunchKernel ' in line]
    assert all(found)
    return found


def test_every_launch_is_what_the_emulator_was_given(training):
    given, record = training
    assert len(given) > 100
    assert [f'{launch[2]} {launch[4]}' for launch in launches(record)] == given


def test_autograd_launches_from_a_thread_of_its_own(training):
    threads = [launch[1] for launch in launches(training[1])]
    assert threads[0] == threads[-1] and len(set(threads)) == 4


def test_everything_is_loaded_once_and_given_back_in_order(training):
    names = [line.split()[1] for line in training[1]]
    assert names.count('cuDevicePrimaryCtxRetain') == names.count('cuStreamCreate') == 1
    sources = names.count('cuModuleLoadDataEx')
    ends = [name for name in names if re.search('Unload|Destroy|Release|CtxSync', name)]
    assert ends == [
        'cuCtxSynchronize', *['cuModuleUnload'] * sources, 'cuStreamDestroy_v2',
        'cuDevicePrimaryCtxRelease_v2',
    ]  # fmt: skip
    functions = [line.split(' ', 1)[1] for line in training[1] if ' cuModuleGetFunction ' in line]
    assert len(functions) == len(set(functions))


def test_on_a_stream_of_pytorchs_pycudas_waits_for_it_and_it_for_pycudas(training):
    given, record = training
    first = next(i for i, line in enumerate(record) if ' wait ' in line)
    assert {launch[3] for launch in launches(record[:first])} == {'-1'}  # the default stream
    there = [line for line in record[first:] if ' wait ' in line or ' cuLaunchKernel ' in line]
    assert len(there) % 3 == 0 and len(there) > 100
    for before, launch, after in zip(there[::3], there[1::3], there[2::3], strict=True):
        ours = LAUNCH.fullmatch(launch)[3]
        _, waiting, other = re.fullmatch(r'\d+ (wait) (\d+) (\d+)', before).groups()
        assert waiting == ours != other
        assert after.split()[1:] == ['wait', other, ours]


def test_more_than_48_kilobytes_of_shared_memory_are_asked_for_once(run):
    _, record = run("""
both = Both()
product = both.pycuda.kernel('product.cu', 'kk_large', CUDA)
small = both.pycuda.kernel('product.cu', 'kk_small', CUDA)
for kernel, shared in ((small, 36864), (product, 98304), (product, 98304), (product, 65536)):
    both.pycuda.launch(kernel, (1, 1, 1), (256, 1, 1), shared, [], CUDA)
""")
    asked = [line.split(' ', 1)[1] for line in record if 'Launch' in line or 'FuncSet' in line]
    assert [line.split()[:3] for line in asked] == [
        ['cuLaunchKernel', 'kk_small', '1,1,1'],
        ['cuFuncSetAttribute', 'kk_large', '8'],
        *[['cuLaunchKernel', 'kk_large', '1,1,1']] * 3,
    ]


def test_a_capture(run):
    """A kernel that was loaded before; a first use, and a launch that fails, harm nothing."""
    out, record = run("""
both = Both()
kernel = both.pycuda.kernel('sgd.cu', 'sgd_step', CUDA)
with on_stream(capturing=True):
    both.pycuda.launch(kernel, (1, 1, 1), (256, 1, 1), 0, [], CUDA)
    for attempt in (
        lambda: both.pycuda.kernel('sgd.cu', 'sgd_step', CUDA) and 1 / 0,
        lambda: both.pycuda.kernel('exact.cu', 'relu', CUDA),
        lambda: driver.driver_fail(b'cuLaunchKernel', 719)
        or both.pycuda.launch(kernel, (1, 1, 1), (256, 1, 1), 0, [], CUDA),
    ):
        try:
            attempt()
        except Exception as error:
            print(type(error).__name__, error)
""")
    zero, first, failed = out.splitlines()
    assert zero.startswith('ZeroDivisionError')
    assert first.startswith('RuntimeError') and 'run the same step once before' in first
    assert failed.startswith('RuntimeError cuda:0 refused sgd_step (cuLaunchKernel failed')
    streams = [line.split()[2:] for line in record if ' wait ' in line]
    assert streams == [pair for _ in range(2) for pair in (streams[0], streams[0][::-1])]
    assert sum(' cuModuleLoadDataEx ' in line for line in record) == 1


ERRORS = [
    ('cuDevicePrimaryCtxRetain', 2, 'OutOfMemoryError cuda:0 has no memory left'),
    ('cuDevicePrimaryCtxRetain', 46, 'RuntimeError cuda:0 refused'),
    ('cuStreamCreate', 2, 'OutOfMemoryError cuda:0 has no memory left'),
    ('cuCtxPushCurrent_v2', 719, 'RuntimeError cuda:0 refused'),
    ('cuModuleLoadDataEx', 2, 'OutOfMemoryError cuda:0 has no memory left'),
    ('cuModuleLoadDataEx', 209, 'RuntimeError cuda:0 refused'),
    ('cuModuleGetFunction', 500, 'RuntimeError cuda:0 refused'),
    ('cuFuncSetAttribute', 1, 'RuntimeError cuda:0 refused product'),
    ('cuLaunchKernel', 2, 'OutOfMemoryError cuda:0 has no memory left to load or launch'),
    ('cuLaunchKernel', 719, 'RuntimeError cuda:0 refused product'),
    ('cuCtxSynchronize', 719, 'it worked'),
]


def test_errors_of_the_driver(run):
    """One sentence each, after which the same works, and the end is clean."""
    out, record = run(f"""
both = Both()
def attempt():
    try:
        kernel = both.pycuda.kernel('product.cu', 'kk_large', CUDA)
        kernel.name = 'product'
        both.pycuda.launch(kernel, (1, 1, 1), (256, 1, 1), 98304, [], CUDA)
        return 'it worked'
    except Exception as error:
        return f'{{type(error).__name__}} {{error}}'
for function, result, _ in {ERRORS}:
    driver.driver_fail(function.encode(), result)
    print(attempt())
    print(attempt())
    both.pycuda.close()
""")
    said = out.splitlines()
    assert said[1::2] == ['it worked'] * len(ERRORS)
    for actual, (function, _, expected) in zip(said[::2], ERRORS, strict=True):
        assert actual.startswith(expected), function
    calls = [line.split()[1] for line in record if line.endswith('-> 0')]
    assert calls.count('cuDevicePrimaryCtxRelease_v2') == calls.count('cuDevicePrimaryCtxRetain')


def test_a_run_that_ends_in_an_error_says_only_that(tmp_path):
    done, record = driver_stub.run("""
both = Both()
kernel = both.pycuda.kernel('product.cu', 'kk_small', CUDA)
both.pycuda.launch(kernel, (1, 1, 1), (128, 1, 1), 0, [], CUDA)
raise SystemExit('the end')
""", tmp_path / 'record', driver_stub.built())  # fmt: skip
    assert (done.returncode, done.stderr) == (1, 'the end\n')
    assert record[-1] == CLEAN and not [line for line in record if line.startswith('WRONG')]
