#!/usr/bin/env bash
# What needs a GPU, in at most 9 minutes: builds the package, runs `pytest -m gpu`, measures.
#
#   OUT=results WHEELS=wheels MISSILE_CACHE=weights benchmarks/gpu/run.sh
#
# python3 must bring JAX for the machine's CUDA and the build's tools; nothing is fetched. Packages
# that it lacks may lie in $WHEELS, weights of the zoo in $MISSILE_CACHE: docs/development.md says
# which. QUICK= runs the benchmarks in full, as far as the time goes.
set -euo pipefail
cd "$(dirname "$0")/../.."

OUT=${OUT:-benchmarks/results/gpu}
WHEELS=${WHEELS:-.whl}
QUICK=${QUICK---quick}
LIMIT_S=${LIMIT_S:-540}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
export MISSILE_CACHE=${MISSILE_CACHE:-out/gpu-cache}
export PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1
failed=()

section() { printf '\n===== %s (%d s) =====\n' "$1" "$SECONDS"; }

step() { # NAME COMMAND...: runs it within the time that is left, and goes on if it fails
  section "$1"
  local left=$((LIMIT_S - SECONDS))
  if ((left < 5)) || ! timeout "$left" "${@:2}"; then failed+=("$1"); fi
}

section build
# An environment over python3's own packages, which a .pth file adds: python3 may be in one itself.
rm -rf out/gpu-venv
python3 -m venv --without-pip out/gpu-venv
python=$PWD/out/gpu-venv/bin/python
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
python3 -c "$purelib" >"$("$python" -c "$purelib")/machine.pth"
if compgen -G "$WHEELS/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-deps "$WHEELS"/*.whl
fi
"$python" -m pip install -q --no-deps --no-build-isolation --editable .

mkdir -p "$OUT"
{
  nvidia-smi || echo "no nvidia-smi"
  "$python" -m pip list 2>/dev/null | grep -i -E '^(jax|flax|numpy|missile)'
} | tee "$OUT/machine.txt"

step tests "$python" -m pytest -m gpu tests/gpu
for name in overhead colocation swap density; do
  # Unquoted, so that an empty QUICK is no argument.
  # shellcheck disable=SC2086
  step "$name" "$python" -m benchmarks "$name" $QUICK --json "$OUT/$name.json"
done
step channels out/gpu-venv/bin/missile channels probe --fresh --out "$OUT/channels.json"

# From here on several clients share the GPU, so none of them may take all of it.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
library=$("$python" -c 'from missile_jax.plugin.library import find_library as find; print(find().path)')
# shellcheck disable=SC2086
MISSILE_PJRT_LIBRARY=$library \
  step wrapper "$python" -m benchmarks wrapper $QUICK --json "$OUT/wrapper.json"
# nice and SCHED_IDLE say nothing to a GPU.
# shellcheck disable=SC2086
step processes "$python" -m benchmarks processes $QUICK --systems uncontrolled,missile \
  --json "$OUT/processes.json"

section done
ls -l "$OUT"
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
