#!/usr/bin/env bash
# Trains a small Faster R-CNN in float and in int8 and compares them; see tools/quickstart.py.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
python tools/quickstart.py "$@"
