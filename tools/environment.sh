# Sourced by quickstart.sh and run_tests.sh: changes to the checkout, uses the active virtual
# environment or makes .venv here, and installs mmint with what it needs, once for each state of
# the files that say what that is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
kernels=$(find mmint/backends/arithmetic mmint/backends/cpu/kernels -name '*.[ch]' | sort)
# shellcheck disable=SC2086
inputs="$PWD $(cat setup.py tools/requirements.txt $kernels | cksum)"
stamp="$VIRTUAL_ENV/.mmint-installed"
if [ "$(cat "$stamp" 2>/dev/null)" != "$inputs" ]; then
    if python -m pip show --quiet mmengine mmcv mmcv-lite mmdet 2>/dev/null; then
        echo "The active environment $VIRTUAL_ENV has OpenMMLab's own releases, which the forks in" \
            "tools/requirements.txt would overwrite: deactivate it, and .venv is made instead." >&2
        exit 1
    fi
    python -m pip install --quiet --upgrade pip setuptools
    python -m pip install --quiet -r tools/requirements.txt
    python -m pip install --quiet --no-build-isolation --editable '.[mm,dev]'
    python -c 'from mmint.backends import cpu; print("C kernels:", cpu.level())' || {
        echo "The C kernels of mmint were not built, and without them it is many times slower than" \
            "float: install a C compiler with OpenMP (gcc or clang) and run this again." >&2
        exit 1
    }
    echo "$inputs" > "$stamp"
fi
