"""The emulator that stands for a GPU: it computes what a GPU does, and reports what it must not."""

import pytest
import torch
from simt import Emulator, SimtError

from mmint.backends.cuda.launcher import SOURCES

CPU = torch.device('cpu')


@pytest.fixture
def run(tmp_path):
    """Compiles a kernel's parameters and body, and runs it."""

    def run(parameters, body, *arguments, grid=(1, 1, 1), block=(32, 1, 1), shared=0, before=''):
        text = f'#include "{SOURCES}/device.cuh"\n{before}\n'
        text += f'extern "C" __global__ void kernel({parameters}) {{\n{body}\n}}\n'
        (tmp_path / 'test.cu').write_text(text)
        emulator = Emulator(tmp_path)
        emulator.launch(
            emulator.kernel('test.cu', 'kernel', CPU), grid, block, shared, arguments, CPU
        )

    return run


def zeros(*shape, dtype=torch.int32):
    return torch.zeros(shape, dtype=dtype)


# ---- what it computes ----


def test_every_thread_of_every_block_runs_once(run):
    out = zeros(2, 3, 4, 5, 6, 7)
    body = """
    const long long block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const long long thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    atomicAdd(out + block * blockDim.x * blockDim.y * blockDim.z + thread, (int)by);
    """
    run('int *out, long long by', body, out, 3, grid=(4, 3, 2), block=(7, 6, 5))
    assert (out == 3).all()


def test_arguments_are_words_and_structs_of_words(run):
    out, x = zeros(5, dtype=torch.int64), torch.tensor([41], dtype=torch.int64)
    body = """
    out[0] = s.inner.a; out[1] = s.inner.b; out[2] = *s.x; out[3] = last; out[4] = nothing == 0;
    """
    before = 'struct pair { long long a, b; }; struct both { pair inner; const long long *x; };'
    run(
        'long long *out, both s, const int *nothing, long long last',
        body, out, ((-7, 2**62), x), None, -1, block=(1, 1, 1), before=before,
    )  # fmt: skip
    assert out.tolist() == [-7, 2**62, 41, -1, 1]
    with pytest.raises(SimtError, match='wrong number of arguments'):
        run('long long *out, long long n', 'out[0] = n;', out)


def test_shared_memory_and_barriers_reverse_a_block(run):
    x, out = torch.arange(200, dtype=torch.int32), zeros(200)
    body = """
    DYNAMIC_SHARED(int, tile);
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
    """
    run('const int *x, int *out', body, x, out, block=(200, 1, 1), shared=800)
    assert torch.equal(out, x.flip(0))


def test_warp_exchanges(run):
    out = zeros(12, 64)
    body = """
    const int lane = threadIdx.x % 32, v = lane * lane;
    int *o = out + threadIdx.x;
    o[0 * 64] = __shfl_sync(~0u, v, 5);
    o[1 * 64] = __shfl_sync(~0u, v, 3, 8);
    o[2 * 64] = __shfl_xor_sync(~0u, v, 16);
    o[3 * 64] = __shfl_down_sync(~0u, v, 3);
    o[4 * 64] = __shfl_up_sync(~0u, v, 3);
    o[5 * 64] = __ballot_sync(~0u, lane % 3 == 0);
    o[6 * 64] = __any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane == 7);
    o[7 * 64] = __reduce_add_sync(~0u, v);
    o[8 * 64] = __reduce_max_sync(~0u, -v) + __reduce_min_sync(~0u, -v);
    o[9 * 64] = __shfl_sync(lane < 16 ? 0xFFFF : 0xFFFF0000, v, lane ^ 1);
    o[10 * 64] = (int)(__shfl_sync(~0u, (long long)v << 40, 9) >> 40);
    o[11 * 64] = __reduce_or_sync(~0u, v) ^ __reduce_xor_sync(~0u, v);
    """
    run('int *out', body, out, block=(64, 1, 1))
    squares = [lane * lane for lane in range(32)]
    both = [0, 0]
    for v in squares:
        both = [both[0] | v, both[1] ^ v]
    ballot = sum(1 << lane for lane in range(0, 32, 3))
    expected = [
        [25] * 32,
        [squares[lane // 8 * 8 + 3] for lane in range(32)],
        [squares[lane ^ 16] for lane in range(32)],
        [squares[lane + 3 if lane < 29 else lane] for lane in range(32)],
        [squares[lane - 3 if lane > 2 else lane] for lane in range(32)],
        [ballot] * 32,
        [1] * 32,
        [sum(squares)] * 32,
        [-(31**2)] * 32,
        [squares[lane ^ 1] for lane in range(32)],
        [81] * 32,
        [both[0] ^ both[1]] * 32,
    ]
    assert out.view(12, 2, 32)[:, 0].tolist() == expected
    assert torch.equal(out[:, :32], out[:, 32:])


def test_atomics_add_up_over_blocks(run):
    out = torch.tensor([0, -5, 0], dtype=torch.int64)
    body = """
    atomicAdd(out, 2ull); atomicMax((long long *)out + 1, (long long)threadIdx.x);
    if (atomicCAS(out + 2, 0ull, 9ull) == 0) atomicAdd(out, 1000000ull);
    """
    run('unsigned long long *out', body, out, grid=(10, 1, 1))
    assert out.tolist() == [1_000_640, 31, 9]


def test_byte_products(run):
    x, out = torch.randint(-128, 128, (3, 32, 4), dtype=torch.int8), zeros(32)
    body = 'out[threadIdx.x] = __dp4a(x[threadIdx.x], x[32 + threadIdx.x], x[64 + threadIdx.x]);'
    run('const int *x, int *out', body, x, out)
    expected = (x[0].int() * x[1].int()).sum(1) + x[2].contiguous().view(torch.int32).flatten()
    assert torch.equal(out, expected.int())


@pytest.mark.parametrize('rows, depth', [(16, 32), (8, 16)])
def test_matrix_fragments_as_the_ptx_manual_has_them(run, rows, depth):
    """Each lane loads and stores by the manual's formulas; the result is the plain product."""
    torch.manual_seed(rows)
    a = torch.randint(-128, 128, (rows, depth), dtype=torch.int8)
    b = torch.randint(-128, 128, (depth, 8), dtype=torch.int8)
    c = torch.randint(-1000, 1000, (rows, 8), dtype=torch.int32)
    body = """
    const int group = threadIdx.x >> 2, member = threadIdx.x & 3;
    """
    if rows == 16:
        body += """
        unsigned a[4] = {}, b[2] = {};
        int d[4];
        for (int i = 0; i < 16; i++) {
            const int row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
            const int column = member * 4 + (i & 3) + (i < 8 ? 0 : 16);
            a[i / 4] |= (unsigned)(uint8_t)left[row * 32 + column] << 8 * (i & 3);
        }
        for (int i = 0; i < 8; i++) {
            const int row = member * 4 + (i & 3) + (i < 4 ? 0 : 16);
            b[i / 4] |= (unsigned)(uint8_t)right[row * 8 + group] << 8 * (i & 3);
        }
        int *o = out + group * 8 + member * 2;
        for (int i = 0; i < 4; i++) d[i] = o[(i < 2 ? 0 : 64) + (i & 1)];
        mma_m16n8k32_s8(d, a, b);
        for (int i = 0; i < 4; i++) o[(i < 2 ? 0 : 64) + (i & 1)] = d[i];
        """
    else:
        body += """
        unsigned a = 0, b = 0;
        int d[2];
        for (int i = 0; i < 4; i++) {
            a |= (unsigned)(uint8_t)left[group * 16 + member * 4 + i] << 8 * i;
            b |= (unsigned)(uint8_t)right[(member * 4 + i) * 8 + group] << 8 * i;
        }
        for (int i = 0; i < 2; i++) d[i] = out[group * 8 + member * 2 + i];
        mma_m8n8k16_s8(d, a, b);
        for (int i = 0; i < 2; i++) out[group * 8 + member * 2 + i] = d[i];
        """
    out = c.clone()
    run('const signed char *left, const signed char *right, int *out', body, a, b, out)
    assert torch.equal(out, c + a.int() @ b.int())


def test_ldmatrix(run):
    x = torch.arange(4 * 8 * 8, dtype=torch.int16).view(4, 8, 8)
    out = torch.zeros(2, 32, 4, 2, dtype=torch.int16)
    body = """
    __shared__ __align__(16) short tile[256];
    for (int i = threadIdx.x; i < 256; i += 32) tile[i] = x[i];
    __syncwarp();
    unsigned plain[4], turned[4];
    ldmatrix_x4(plain, tile + 8 * threadIdx.x);
    ldmatrix_x4_trans(turned, tile + 8 * threadIdx.x);
    for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = plain[i];
    for (int i = 0; i < 4; i++) out[128 + threadIdx.x * 4 + i] = turned[i];
    """
    run('const short *x, unsigned *out', body, x, out)
    for matrix in range(4):
        assert torch.equal(out[0, :, matrix].reshape(8, 8), x[matrix])
        assert torch.equal(out[1, :, matrix].reshape(8, 8), x[matrix].t())


COPY = """
    __shared__ __align__(16) int tile[3 * 128];
    for (int stage = 0; stage < 3; stage++) {
        cp_async_16(tile + 128 * stage + 4 * threadIdx.x, x + 128 * stage + 4 * threadIdx.x, %s);
        cp_async_commit();
    }
    cp_async_wait<%d>();
    %s
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = tile[4 * (31 - threadIdx.x) + i];
    cp_async_wait<0>();
"""


def test_asynchronous_copies_arrive_when_they_are_waited_for(run):
    x, out = torch.arange(1, 385, dtype=torch.int32), zeros(128)
    run('const int *x, int *out', COPY % ('16', 2, '__syncthreads();'), x, out)
    assert torch.equal(out.view(32, 4), x[:128].view(32, 4).flip(0))
    run('const int *x, int *out', COPY % ('threadIdx.x / 2', 0, '__syncthreads();'), x, out)
    expected = x[:128].clone().view(torch.int8)
    for thread in range(32):  # the rest of a copy's 16 bytes are zeros
        expected[16 * thread + thread // 2 : 16 * thread + 16] = 0
    assert torch.equal(out.view(32, 4), expected.view(torch.int32).view(32, 4).flip(0))


# ---- what it reports ----


def reports(message):
    return pytest.raises(SimtError, match=message)


def test_an_asynchronous_copy_not_waited_for(run):
    x, out = torch.arange(1, 385, dtype=torch.int32), zeros(128)
    with reports('which no thread of the block has written'):
        run('const int *x, int *out', COPY % ('16', 2, ''), x, out)
    body = (COPY % ('16', 3, '__syncthreads();')).replace('cp_async_wait<0>();', '')
    with reports('ends before its asynchronous copies'):
        run('const int *x, int *out', body, x, out)


@pytest.mark.parametrize(
    'body, message',
    [
        ('out[threadIdx.x + 1] = 1;',
         r'thread \(31, 0, 0\) of block \(0, 0, 0\) writes 4 bytes, 0 bytes after the end of a '
         r'buffer of 128 bytes \(test\.cu:4\)'),
        ('out[(int)threadIdx.x - 1] = 1;', 'writes 4 bytes, 4 bytes before the start of'),
        ('int v = out[threadIdx.x + 4]; __syncthreads(); out[threadIdx.x] = v;',
         r'thread \(28, 0, 0\) .* reads 4 bytes, 0 bytes after the end of'),
        ('*(long long *)(out + 31) = 1;', 'writes 8 bytes across the end of'),
        ('*(long long *)(out + 1) = 1;', 'touches 8 bytes at byte 4 .* no multiple of 8'),
        ('atomicAdd(out + 32, 1);', 'updates 4 bytes, 0 bytes after'),
        ('*(int *)8 = 1;', 'belong to no buffer'),
        ('__shared__ int a[32]; a[threadIdx.x] = 1; __syncthreads(); int *next = a + 1;'
         'next += threadIdx.x; out[threadIdx.x] = *next;',
         '0 bytes after the end of the shared array a'),
        ('__shared__ int a[8]; a[threadIdx.x] = 1; out[threadIdx.x] = a[threadIdx.x];',
         'index 8 of an array'),
        ('int a[8] = {}; a[out[0]] = 1; if (threadIdx.x == 8) out[1] = a[threadIdx.x];',
         'index 8 of an array'),
        ('DYNAMIC_SHARED(int, d); d[threadIdx.x] = 1;', 'after the end of dynamic shared memory'),
    ],
)  # fmt: skip
def test_access_out_of_bounds(run, body, message):
    with reports(message):
        run('int *out', body, zeros(32), shared=64)


def test_gaps_between_buffers_are_out_of_bounds(run):
    whole = zeros(96)
    with reports('after the end of a buffer of 128 bytes'):
        run('int *a, int *b', 'a[threadIdx.x + 16] = *b;', whole[:32], whole[64:])
    run('int *a, int *b', 'a[threadIdx.x + 16] = *b;', whole[:48], whole[40:], block=(8, 1, 1))


def test_shared_memory_that_nobody_wrote(run):
    body = '__shared__ int a[2]; a[1] = 1; out[0] = a[out[0]];'
    with reports('reads byte 0 of the shared array a, which no thread of the block has written'):
        run('int *out', body, zeros(1), block=(1, 1, 1))
    body = '__shared__ int a; if (blockIdx.x == 0) a = 1; out[0] = a;'
    with reports(r'block \(1, 0, 0\) reads byte 0'):  # what an earlier block wrote is gone
        run('int *out', body, zeros(1), grid=(2, 1, 1), block=(1, 1, 1))


@pytest.mark.parametrize('between', ['', '__syncthreads();', '__syncwarp();'])
@pytest.mark.parametrize('distance', [1, 32])
def test_races_in_shared_memory(run, between, distance):
    """A barrier orders a block, __syncwarp a warp only."""
    body = f"""
    __shared__ int a[64];
    a[threadIdx.x] = threadIdx.x;
    {between}
    out[threadIdx.x] = a[threadIdx.x ^ {distance}];
    """
    out = zeros(64)
    if between == '__syncthreads();' or (between and distance == 1):
        run('int *out', body, out, block=(64, 1, 1))
        assert out.tolist() == [i ^ distance for i in range(64)]
    else:
        with reports('no (thread of the block has written|barrier between)|which .* wrote with no'):
            run('int *out', body, out, block=(64, 1, 1))


def test_overwriting_what_others_still_read(run):
    body = """
    __shared__ int a[32];
    for (int i = 0; i < 2; i++) {
        a[threadIdx.x] = i;
        __syncthreads();
        out[threadIdx.x] = a[31 - threadIdx.x];
        %s
    }
    """
    run('int *out', body % '__syncthreads();', zeros(32))
    with reports('of the shared array a, which .* (wrote|read) with no barrier between'):
        run('int *out', body % '', zeros(32))


@pytest.mark.parametrize(
    'body',
    ['out[0] = 1;', 'out[0]++;', 'out[1 + blockIdx.x] = out[1];', 'atomicAdd(out, 1); out[0] = 2;'],
)
def test_blocks_that_touch_the_same_bytes(run, body):
    with reports('with no barrier between'):
        run('int *out', body, zeros(4), grid=(3, 1, 1), block=(1, 1, 1))


def test_a_fence_publishes_what_a_block_wrote(run):
    body = """
    out[1 + blockIdx.x] = 5;
    __threadfence();
    if (atomicAdd(out, 1) == gridDim.x - 1) out[4] = out[1] + out[2] + out[3];
    """
    out = zeros(5)
    run('int *out', body, out, grid=(3, 1, 1), block=(1, 1, 1))
    assert out.tolist() == [3, 5, 5, 5, 15]
    with reports('no barrier between'):
        run('int *out', body.replace('__threadfence();', ''), zeros(5), grid=(3, 1, 1),
            block=(1, 1, 1))  # fmt: skip


@pytest.mark.parametrize(
    'body, message',
    [
        ('if (threadIdx.x == 7) return; __syncthreads();',
         r'\(0, 0, 0\) .* waits at a barrier in line 4 for ever, thread \(7, 0, 0\) .* has ended'),
        ('if (threadIdx.x < 40) __syncthreads();\nelse __syncthreads();',
         r'waits at a barrier in line 4 for ever, thread \(63, 0, 0\) .* at a barrier in line 5'),
        ('if (threadIdx.x == 3) __syncwarp(); else __syncthreads();',
         r'thread \(63, 0, 0\).* waits at a barrier|waits at an exchange'),
        ('if (threadIdx.x != 3) __syncwarp();', 'waits at an exchange in line 4 for ever'),
        ('if (threadIdx.x % 32 < 16) __syncwarp();\nelse __shfl_sync(~0u, 1, 0);',
         'exchanges at line 5 while .* does so at line 4'),
        ('__shfl_sync(1u << threadIdx.x % 32 ^ ~0u, 1, 0);', 'whose mask leaves it out'),
        ('if (threadIdx.x < 16) __shfl_sync(0xFFFF, 1, 20);', 'reads a lane outside its mask'),
        ('int d[2] = {}; if (threadIdx.x > 32) return; mma_m8n8k16_s8(d, 1, 1);', 'for ever'),
    ],
)  # fmt: skip
def test_threads_that_wait_for_others_in_vain(run, body, message):
    with reports(message):
        run('int *out', body, zeros(1), block=(64, 1, 1))


def test_sums_beyond_int32(run):
    body = 'int d[2] = {2147483647, 0}; mma_m8n8k16_s8(d, 0x7F7F7F7F, 0x01010101);'
    with reports('more than an int32 holds'):
        run('int *out', body, zeros(1))


@pytest.mark.parametrize(
    'size, message',
    [
        (dict(block=(1025, 1, 1)), '1 to 1024 threads'),
        (dict(grid=(0, 1, 1)), 'a grid has'),
        (dict(shared=1 << 20), '227 KiB'),
    ],
)
def test_sizes_that_no_gpu_takes(run, size, message):
    with reports(message):
        run('int *out', '', zeros(1), **size)


def test_a_fault_ends_one_launch_only(run):
    out = zeros(32)
    with reports('after the end'):
        run('int *out', 'out[threadIdx.x + 1] = 1;', out)
    run('int *out', 'out[threadIdx.x] = 2;', out)
    assert (out == 2).all()
