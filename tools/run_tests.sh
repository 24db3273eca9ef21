#!/usr/bin/env bash
# Sets up the environment where it is missing, then lints, builds the docs and tests, fast tests
# first, in two processes of one thread each. Arguments go to pytest instead of the docs and the two
# default runs.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff format --check .
ruff check .
git ls-files '*.c' '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror
mypy
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python -m sphinx -q -W --keep-going -b html docs "$site"
export OMP_NUM_THREADS=1
python -m pytest -q -n 2 --dist worksteal -m 'not slow and not exhaustive and not gpu'
python -m pytest -q -n 2 --dist worksteal -m 'slow and not exhaustive and not gpu'
