#!/usr/bin/env bash
# Builds PyCUDA where there is no NVIDIA driver, as CI and a machine that packs for another are:
#     bash tools/build_pycuda.sh FOLDER [pip arguments]
# FOLDER gets the wheel, unless it has one, and in driver/ the stand-in for libcuda.so.1 that it is
# linked with. That needs nvcc on the PATH with the toolkit's headers, a C++ compiler, and two
# minutes. PYTHON names the interpreter, which has setuptools and NumPy.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python=${PYTHON:-python}
version=${PYCUDA:-2026.1}
mkdir -p "$1/driver"
folder="$(cd "$1" && pwd)"
shift

top="$(nvcc --dryrun -cubin "$here/mmint/backends/cuda/mapping.cu" 2>&1 | sed -n 's/^#\$ TOP=//p')"
bash "$here/tests/cuda/driver_stub/build.sh" "$top/include" "$folder/driver"

if ls "$folder"/pycuda-*.whl > /dev/null 2>&1; then exit; fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: -d "$work" \
    "pycuda==$version" "$@"
tar -xf "$work"/pycuda-*.tar.gz -C "$work"
cat > "$work/pycuda-$version/siteconf.py" <<SETTINGS
CUDA_ROOT = '$(cd "$top" && pwd -P)'
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ['$folder/driver']
SETTINGS
"$python" -m pip wheel --quiet --no-deps --no-build-isolation -w "$folder" "$work/pycuda-$version"
