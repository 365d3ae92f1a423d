#!/usr/bin/env bash
# Install ecgmoe and everything it needs into a virtual environment. `make setup` and the images call this one script.
#
#   docker/install.sh VENV [EXTRAS]      e.g. docker/install.sh .venv dev
#
# torch comes first and through pip, so that the machine's own build of it (CPU or CUDA) is kept; uv then installs the
# rest at the versions of constraints.txt and relaxes momentfm's metadata (see pyproject.toml), which pip cannot.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:?usage: docker/install.sh VENV [EXTRAS]}
extras=${2:-moment}
torch=$(grep '^torch==' constraints.txt)
uv=$(grep '^uv==' constraints.txt)

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: no Python 3.11 or 3.12 found: install python3.11 with its venv module, or set PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! command -v "${CXX:-g++}" >/dev/null && ! command -v c++ >/dev/null; then
    echo "setup: no C++ compiler found, and DeepSpeed compiles its communication op with one:" >&2
    echo "       install g++ (Debian and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++)" >&2
    exit 1
fi

echo "setup: virtual environment $venv from $("$python" --version)"
"$python" -m venv "$venv"
echo "setup: installing $torch"
"$venv/bin/python" -m pip install --quiet "$torch" "$uv"
echo "setup: installing ecgmoe[$extras] at the versions of constraints.txt"
# Compiled once: where Python may not write (PYTHONDONTWRITEBYTECODE, images whose user does not own the packages) every
# worker of Ray would compile thousands of modules each time it starts.
"$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --constraint constraints.txt --editable ".[$extras]"

# The first use would compile this op for 20-120 s inside the first training step and look like a hang.
echo "setup: compiling DeepSpeed's communication op (once per machine, up to two minutes)"
PATH="$(cd "$venv" && pwd)/bin:$PATH" "$venv/bin/python" -m ecgmoe.training.warm_up
echo "setup: done"
