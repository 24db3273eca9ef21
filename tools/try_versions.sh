#!/usr/bin/env bash
# Tries mmint with the versions that setup.py claims: each row below installs it with its C kernels
# in a temporary environment and runs tests; the row with OpenMMLab's own releases trains a detector
# and a segmenter for one iteration instead. A row that fails does not stop the next; the exit
# status is 1 if one did. Arguments choose rows by name:
#
#     bash tools/try_versions.sh                    # all
#     bash tools/try_versions.sh oldest openmmlab   # two
#
# Needs python3.10 to python3.13 on the PATH and about 10 GB in TMPDIR.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CUDA_VISIBLE_DEVICES='' MMINT_REQUIRE_KERNELS=1

rows() {
    row oldest python3.10 many_tests torch==2.5.1
    row openmmlab python3.11 train torch==2.14.1 torchvision==0.29.1 mmengine==0.10.7 \
        mmcv-lite==2.1.0 mmdet==3.3.0 mmsegmentation==1.2.2 scikit-learn ftfy regex 'setuptools<81'
    row python3.10 python3.10 few_tests torch
    row python3.11 python3.11 few_tests torch
    row python3.12 python3.12 few_tests torch
    row python3.13 python3.13 few_tests torch
}

# row NAME PYTHON CHECK PACKAGE...: the check is one of the functions below.
row() {
    local name=$1
    [ -z "$chosen" ] || [[ " $chosen " == *" $name "* ]] || return 0
    echo "== $name"
    scratch=$(mktemp -d)
    (set -e; try "${@:2}")  # not in a condition, where -e is ignored
    if [ $? -eq 0 ]; then results+=("$name: passed"); else results+=("$name: failed"); fi
    rm -rf "$scratch"
}

try() {
    local python=$1 check=$2
    mkdir "$scratch/mmint"
    git ls-files -z | xargs -0 cp --parents --no-dereference --target-directory "$scratch/mmint"
    "$python" -m venv "$scratch/venv"
    PATH="$scratch/venv/bin:$PATH"
    python -m pip install --quiet "${@:3}" numpy pytest
    cd "$scratch/mmint"
    python -m pip install --quiet --editable .
    python - <<'PY'
import platform, torch, mmint
from mmint.backends import cpu
print('Python', platform.python_version(), 'torch', torch.__version__, 'kernels', cpu.level())
PY
    "$check"
}

# Without those that need the forks of OpenMMLab or that compare with what newer PyTorch refuses.
many_tests() {
    run_tests tests/layers tests/optim tests/ops -k 'not stock_blocks and not refuses_is_refused'
}

few_tests() {
    run_tests tests/layers/test_product_layers.py tests/backends
}

run_tests() {
    python -m pytest -q -m 'not slow and not exhaustive and not gpu' "$@"
}

# Two images are one batch.
train() {
    local data=$scratch/digits
    python tools/make_digits.py --out "$data" --train 2 --val 1
    step faster-rcnn_r18_fpn train_cfg.max_epochs=1 \
        val_evaluator.ann_file="$data/annotations/val.json"
    step deeplabv2_r18-d8 train_cfg.max_iters=1
}

step() {
    python tools/train.py "configs/quickstart/$1_int8_digits.py" --work-dir "$scratch/work" \
        --cfg-options "${@:2}" train_cfg.val_interval=1 \
        train_dataloader.dataset.data_root="$data/" val_dataloader.dataset.data_root="$data/"
}

chosen=$*
results=()
rows
printf '%s\n' '' "${results[@]}"
[[ "${results[*]}" != *failed* ]]
