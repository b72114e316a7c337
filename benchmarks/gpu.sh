#!/usr/bin/env bash
# Everything that only a GPU can show, in under ten minutes on one H200: tests, attention, updates with
# and without shared prefixes, where an update's time goes, decoding, whole episodes. Run it in an
# environment with the extras train, liger and test; flash-attn is measured where it is installed.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
python=${PYTHON:-python}
peak=${PEAK_TFLOPS:-989}  # dense bfloat16 of an H100 or H200

failed=0

step() {  # at most 120 s each and 580 s in all
    local began=$SECONDS left=$((580 - SECONDS)) status=124
    echo "== $*"
    if ((left > 0)); then
        timeout $((left < 120 ? left : 120)) "$python" "$@"
        status=$?
    fi
    ((status == 0)) || failed=1
    echo "== status $status, $((SECONDS - began)) s"
}

step -m pytest -q -m gpu -p no:cacheprovider
step benchmarks/on_gpu.py attention
step benchmarks/update.py --shape qwen3-0.6b --dtype bfloat16 --prompt 150 --response 400 \
    --pack-tokens 16384 --repeats 3 --kinds update --peak-tflops "$peak"
step benchmarks/on_gpu.py profile
for shape in qwen3-0.6b qwen3-4b; do
    step benchmarks/update.py shapes --shape $shape --dtype bfloat16 --prompt 2048 --episodes 16 \
        --response 512 --pack-tokens 8192 --repeats 1
done
step benchmarks/on_gpu.py uneven
step benchmarks/engine.py decode --shape qwen3-0.6b --dtype bfloat16 --batch 128 --context 896 \
    --tokens 256 --rounds 1
step benchmarks/engine.py --episodes 512 --batch 256 --rounds 1 --workers 8
exit $failed
