"""The headers of `mmint/backends/arithmetic` as a library: their functions, called by ctypes."""

import ctypes
import subprocess
from pathlib import Path

import mmint

BACKENDS = Path(mmint.__file__).parent / 'backends'
HEADERS = sorted((BACKENDS / 'arithmetic').glob('*.h'))

INT, LONG, FLOAT = ctypes.c_int, ctypes.c_longlong, ctypes.c_float
ULONG, UINT = ctypes.c_ulonglong, ctypes.c_uint


class Wide(ctypes.Structure):
    """A `wide_t`."""

    _fields_ = [('mantissa', LONG), ('exponent', INT)]


class Coefficients(ctypes.Structure):
    """A `coefficients_t`."""

    _fields_ = [(name, LONG) for name in ('p', 'q', 'r', 'exponent')]


class Spread(ctypes.Structure):
    """A `spread_t`."""

    _fields_ = [('rstd', Wide), ('constant', ctypes.c_bool)]


class RandomWords(ctypes.Structure):
    """The arguments that name random bits."""

    _fields_ = [(name, LONG) for name in ('stochastic', 'k0', 'k1', 'c1', 'c2', 'c3')]


# name: (result, arguments); 128-bit integers come as two halves
FUNCTIONS = {
    'bit_length': (INT, [ULONG]),
    'field_of': (INT, [UINT]),
    'mantissa24_of': (UINT, [UINT]),
    'shift_right_even': (ULONG, [ULONG, INT]),
    'shift_either_way_even': (ULONG, [ULONG, INT]),
    'shift_right_stochastic': (LONG, [LONG, INT, UINT]),
    'exponent_of': (INT, [UINT, INT]),
    'quantize_one': (LONG, [UINT, INT, ctypes.c_bool, UINT]),
    'map_one': (INT, [UINT, INT, ctypes.c_bool, UINT]),
    'dequantize_one': (FLOAT, [LONG, INT]),
    'clamped_exponent': (INT, [LONG]),
    'scale_is_exact': (ctypes.c_bool, [LONG, INT]),
    'scale_of': (FLOAT, [INT]),
    'draw_one': (UINT, [RandomWords, LONG]),
    'narrow': (Wide, [LONG, INT]),
    'from_float': (Wide, [FLOAT]),
    'to_float': (FLOAT, [Wide]),
    'to_integer': (LONG, [Wide, INT]),
    'multiply': (Wide, [Wide, Wide]),
    'plus': (Wide, [Wide, Wide]),
    'divide': (Wide, [Wide, Wide]),
    'inverse_root': (Wide, [Wide]),
    'spread_of': (Spread, [LONG, LONG, LONG, INT, Wide]),
    'forward_coefficients': (Coefficients, [Wide, Wide, LONG, LONG, INT]),
    'bias_excess': (INT, [UINT, INT]),
    'finish_sum': (FLOAT, [LONG, INT, LONG, INT]),
    'sgd_narrowing': (INT, [ULONG, INT]),
    'position_of': (LONG, [UINT, UINT]),
    'box_is_good': (ctypes.c_bool, [ctypes.POINTER(FLOAT), LONG]),
}
C_TYPES = {
    INT: 'int', LONG: 'int64_t', FLOAT: 'float', ULONG: 'uint64_t', UINT: 'uint32_t',
    ctypes.c_bool: 'bool', Wide: 'wide_t', Coefficients: 'coefficients_t', Spread: 'spread_t',
    RandomWords: 'random_words', ctypes.POINTER(FLOAT): 'const float *',
}  # fmt: skip
CONSTANTS = [
    'FRACTION_BITS', 'PHILOX_ROUNDS', 'SCALE_BITS', 'WIDTH', 'LOWEST', 'LAYER_WEIGHT_BITS',
    'NORMALISED_BITS', 'LAYER_SHIFT_BITS', 'ADDITION_ALIGNMENT', 'SUM_FRACTION_BITS', 'BOUND_BITS',
    'SGD_PARAMETER', 'SGD_MOMENTUM', 'SGD_NESTEROV', 'SGD_UPDATE',
    'POSITION_BITS', 'WEIGHT_BITS', 'FARTHEST_BITS',
]  # fmt: skip
OTHERS = """
static int128_t whole(int64_t high, uint64_t low) {
    return (int128_t)high * ((int128_t)1 << 64) + low;
}
wide_t test_from_integer(int64_t high, uint64_t low) { return from_integer(whole(high, low)); }
int64_t test_divide_even(int64_t high, uint64_t low, int64_t divisor) {
    return divide_even(whole(high, low), divisor);
}
float test_add(uint32_t top_x, uint32_t top_y, int bits, uint32_t x, uint32_t y, bool stochastic,
               uint32_t drawn) {
    const addition_t a = addition_of(top_x, top_y, bits);
    return add_one(&a, x, y, stochastic, drawn);
}
void test_box_taps(int64_t start, int64_t end, int64_t size, int64_t results, int64_t ratio,
                   bool aligned, int32_t *taps, int16_t *weights) {
    box_taps_of(start, end, size, results, ratio, aligned, (taps_t *)taps, weights);
}
"""


def exported(name: str) -> str:
    """A C function that calls the header's one."""
    result, arguments = FUNCTIONS[name]
    parameters = ', '.join(f'{C_TYPES[type_]} a{i}' for i, type_ in enumerate(arguments))
    values = ', '.join(f'a{i}' for i in range(len(arguments)))
    return f'{C_TYPES[result]} test_{name}({parameters}) {{ return {name}({values}); }}\n'


def compiled(folder: Path) -> ctypes.CDLL:
    """The headers' functions, and their constants in a dictionary, ``constants``."""
    text = ''.join(f'#include "arithmetic/{path.name}"\n' for path in HEADERS)
    text += ''.join(map(exported, FUNCTIONS)) + OTHERS
    text += ''.join(f'const int constant_{name} = {name};\n' for name in CONSTANTS)
    (folder / 'all.c').write_text(text)
    command = [
        'gcc', '-std=gnu11', '-O2', '-shared', '-fPIC', '-Wall', '-Wextra', '-Werror',
        '-fsanitize=undefined', '-fsanitize-undefined-trap-on-error', f'-I{BACKENDS}',
    ]  # fmt: skip
    subprocess.run([*command, 'all.c', '-o', 'all.so'], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / 'all.so'))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, f'test_{name}')
        function.restype, function.argtypes = result, arguments
        setattr(library, name, function)
    library.constants = {name: INT.in_dll(library, f'constant_{name}').value for name in CONSTANTS}
    library.test_from_integer.restype = Wide
    library.test_from_integer.argtypes = [LONG, ULONG]
    library.test_divide_even.restype = LONG
    library.test_divide_even.argtypes = [LONG, ULONG, LONG]
    library.test_add.restype = FLOAT
    library.test_add.argtypes = [UINT, UINT, INT, UINT, UINT, ctypes.c_bool, UINT]
    library.test_box_taps.restype = None
    library.test_box_taps.argtypes = [
        LONG, LONG, LONG, LONG, LONG, ctypes.c_bool,
        ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int16),
    ]  # fmt: skip
    return library


def box_weights(
    library: ctypes.CDLL, start: int, end: int, size: int, results: int, ratio: int, aligned: bool
) -> list[list[int]]:
    """The weights that `box_taps_of` gives each place, result by result."""
    taps, most = (ctypes.c_int32 * (3 * results))(), size + 2 * results
    weights = (ctypes.c_int16 * (most + 1))(*[-7] * (most + 1))
    library.test_box_taps(start, end, size, results, ratio, aligned, taps, weights)
    assert weights[most] == -7  # it is not written to
    rows = [[0] * size for _ in range(results)]
    for i, row in enumerate(rows):
        first, stop, at = taps[3 * i : 3 * i + 3]
        row[first:stop] = weights[at : at + stop - first]
    return rows
