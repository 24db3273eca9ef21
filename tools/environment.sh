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
inputs="$PWD $(cat setup.py tools/requirements.txt mmint/backends/cpu/*.[ch] | cksum)"
stamp="$VIRTUAL_ENV/.mmint-installed"
if [ "$(cat "$stamp" 2>/dev/null)" != "$inputs" ]; then
    python -m pip install --quiet --upgrade pip setuptools
    python -m pip install --quiet -r tools/requirements.txt
    python -m pip install --quiet --no-build-isolation --editable '.[mm,dev]'
    echo "$inputs" > "$stamp"
fi
