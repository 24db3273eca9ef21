#!/usr/bin/env bash
# Everything to know about a new NVIDIA card, in at most nine minutes, in one command:
#     bash tools/gpu_check.sh RESULTS [PACKAGES]
# RESULTS gets gpu_check.json and gpu_check.md, which grow with every part, and the parts' logs.
# PACKAGES is a folder that tools/pack_for_gpu.sh made, for a machine without a network. PYTHON names
# the interpreter. A part that fails, or does not end in its time, does not stop the next; time that
# a part leaves goes to those after it.
set -uo pipefail
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python=${PYTHON:-python3}
detector=${DETECTOR:-mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py}
classifier=${CLASSIFIER:-mmpretrain::resnet/resnet50_8xb32_in1k.py}
slower=${SLOWER:-1} # for a rehearsal on a busy machine without a card
results="${1:?a folder for the results}"
mkdir -p "$results"
results="$(cd "$results" && pwd)"
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "${2:-}" ]; then
    packages="$(cd "$2" && pwd)" || exit
    export PYTHONPATH="$PYTHONPATH:$packages"
    cp -n "$packages"/kernels/mmint/backends/cpu/_kernels*.so "$tools/../mmint/backends/cpu/" || true
fi
cd "$tools/.." || exit
mkdir -p mmint/.mim # as an installation does, for configs that begin with mmint::
ln -sfn "$PWD/configs" mmint/.mim/configs
echo 'Import: []' > mmint/.mim/model-index.yml

end=0
# part NAME SECONDS COMMAND...: runs it, and adds a row to the tables
part() {
    local name="$1" started=$SECONDS status=0
    end=$((end + $2 * slower))
    shift 2
    local bound=$((end - started > 5 ? end - started : 5))
    echo "== $name, at most $bound s"
    timeout -s INT -k 5 "$bound" "$@" > "$results/$name.log" 2>&1 || status=$?
    tail -n 25 "$results/$name.log"
    $python -I -S "$tools/gpu_report.py" "$results" "$name" "$status" $((SECONDS - started))
}
parts="$python $tools/gpu_parts.py"
benchmark="$python $tools/benchmark.py"

part card 75 $parts card
part smoke 25 $parts smoke
part sanitizer 50 compute-sanitizer --error-exitcode 9 $parts exact
part tests 180 timeout -s INT $((200 * slower)) $python -m pytest -m gpu -q --tb=short \
    -p no:cacheprovider tests/cuda
part ops 60 $benchmark ops --device cuda --quick --seconds 0.3 --json "$results/ops.json"
part detector 60 $benchmark train --config "$detector" --batch 8 --size 800 1344 --repeats 3 \
    --device cuda --json "$results/detector.json"
part classifier 40 $benchmark train --config "$classifier" --batch 64 --size 224 224 --repeats 5 \
    --device cuda --json "$results/classifier.json"
part graph 20 $parts graph
part hottest 30 $parts hottest "$results"
cat "$results/gpu_check.md"
