#!/usr/bin/env bash
# One engine beside the official code on one device, every tap: run, judged, explained, identified.
#
#   bench/engine.sh ENGINE PYTHON OUT [ENGINE_ROOT]
#
# ENGINE is sglang or comfyui, PYTHON the interpreter that has it, ENGINE_ROOT a checkout of ComfyUI. The environment says
# the rest: P this project's interpreter, D the device, W the weights, CASE the case (docs/full-size.md; by default the
# 25-frame case with made weights on a GPU, which wants 45 GiB of it and, for SGLang, 45 GB in TMPDIR). What is there
# already is kept, so that the same call goes on. Exit code: the gate's.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; fi
engine=$1 python=$2 out=$3 root=${4:-}
run="${P:-python3} -m parity"
shared=(--case "${CASE:-ltx_2.3_one_stage_ti2v_25f}" --weights "${W:-forge:full:0}" --device "${D:-cuda}")

mkdir -p "$out"
test -d "$out/official" || $run run --runner official "${shared[@]}" --taps '*' --out "$out/official"
test -d "$out/$engine" || $run run --runner "$engine" --runner-python "$python" ${root:+--engine-root "$root"} \
  "${shared[@]}" --taps '*' --out "$out/$engine"
$run explain "$out/$engine" --against "$out/official" | tee "$out/explain.txt"
$run identify "$out/$engine" --weights "${W:-forge:full:0}" --device "${D:-cuda}" | tee "$out/identify.txt"
$run gate "$out/$engine" --against "$out/official" --json | tee "$out/verdict.json"
