#!/usr/bin/env bash
# Makes the folder that gpu_check.sh takes along to a machine with a card and no network, which has
# Python 3.12, PyTorch for CUDA 13.0 and what a PyTorch environment usually brings (NumPy, OpenCV,
# SciPy, Matplotlib, Pillow, PyYAML, rich, pytest):
#     bash tools/pack_for_gpu.sh FOLDER
# Runs where there is a network, the CUDA toolkit 13.0 and no card. PYTHON names a Python 3.12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3.12}
if [ "$("$python" -c 'import sys; print(*sys.version_info[:2])')" != "3 12" ]; then
    echo "$python is $("$python" --version), Python 3.12 is accepted: name one in PYTHON" >&2
    exit 1
fi
needs="addict ftfy mako mat4py model-index modelindex ordered-set platformdirs prettytable
    pycocotools pytools shapely siphash24 termcolor terminaltables typing_extensions wcwidth yapf"

mkdir -p "$1"
folder="$(cd "$1" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
export PYTHON="$work/venv/bin/python"
"$PYTHON" -m pip install --quiet setuptools wheel numpy
bash tools/build_pycuda.sh "$work/wheels"
# shellcheck disable=SC2086
"$PYTHON" -m pip install --quiet --no-deps --no-compile --upgrade --target "$folder" \
    "$work"/wheels/pycuda-*.whl $(grep -E '^onedl-' tools/requirements.txt) $needs
"$PYTHON" setup.py --quiet build --build-base "$work/build" --build-lib "$folder/kernels"
find "$folder/kernels" -type f ! -name '*.so' -delete
find "$folder/kernels" -type d -empty -delete
strip "$folder"/pycuda/*.so
# Where transformers is there in version 5, mmpretrain takes it for the 4 that it asks for, and fails.
sed -i "s/'transformers>=4.28.0'/'transformers>=4.28.0', 'transformers<5'/" \
    "$folder/mmpretrain/utils/dependency.py"
# What no run on that machine reads.
rm -rf "$folder"/*/.mim/tools "$folder"/*/.mim/demo "$folder"/{yapftests,tests,docs,bin}
find "$folder" -name __pycache__ -prune -exec rm -rf {} +
du -sh "$folder"
