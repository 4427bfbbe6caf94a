#!/usr/bin/env bash
# Makes missile_jax/data/channel_probe.ptx, which a GPU's driver compiles for itself from Pascal on.
#
# nvcc 13 writes for Turing at least. The kernels use nothing that an older GPU lacks, so the two
# lines that say whom the text is for are set back; ptxas checks that against each architecture.
set -euo pipefail
cd "$(dirname "$0")"
source=channel_probe.cu
ptx=../../missile_jax/data/channel_probe.ptx
nvcc -arch=compute_75 -ptx -o "$ptx.new" "$source"
{
  echo "// Of xla_plugin/cuda/$source, sha256 $(sha256sum "$source" | cut -d' ' -f1)"
  sed -e 's/^\.version .*/.version 7.0/' -e 's/^\.target .*/.target sm_60/' -e '/^\/\//d' "$ptx.new"
} >"$ptx"
rm "$ptx.new"
