#!/bin/sh
# Runs the kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer:
#     sh tools/sanitize.sh [arguments for pytest]
# Builds into build/sanitize and leaves the installed kernels alone. PYTHON names the interpreter.
set -e
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
MMINT_SANITIZE=1 MMINT_REQUIRE_KERNELS=1 "$python" setup.py -q build --build-base build/sanitize \
    --build-lib build/sanitize/lib
export PYTHONPATH="$PWD/build/sanitize/lib" PYTHONSAFEPATH=1
# PyTorch's own libraries are not instrumented, and Python does not free everything at its end.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    "$python" -m pytest -q -p no:cacheprovider -m 'not slow and not exhaustive' tests/cpu \
    tests/layers/test_exact_layers.py "$@"
