#!/usr/bin/env bash
# The tests of the kernels and of the runtime, and drawn QDQ graphs of odd shapes, under AddressSanitizer: what reads or
# writes past a tensor, a weight or scratch stops with a report of where.
#
#   scripts/asan.sh                      all of them, with 2,000 graphs
#   scripts/asan.sh --graphs 20000 --seed 7
#   scripts/asan.sh --cases target/ci-cases
#                                        the node cases of ONNX too, through the binary, on each instruction set
#                                        (`.ci/run cases` extracts them; needs QUANTAL_SHARED, as .ci/run does)
#
# Any toolchain will do, also a stable one, which ships the runtime but keeps the flag to itself. `--target` keeps build
# scripts and macros out of it. Every instruction set of this CPU is walked; assembly (AMX) is not looked into.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

graphs=2000 seed=0 cases=
while [ $# -gt 0 ]; do
    case $1 in
        --graphs) graphs=$2 ;;
        --seed) seed=$2 ;;
        --cases) cases=$2 ;;
        *) sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
    shift 2
done

host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address --cfg quantal_asan"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/asan
# What is kept for the life of a thread is no leak.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:${ASAN_OPTIONS:-}

cargo test --target "$host" --package quantal-tensor --package quantal-kernels --lib
QUANTAL_ODD_GRAPHS=0 cargo test --target "$host" --package quantal-runtime --lib --tests -- \
    --skip layers_of_drawn_shapes --skip thirty_thousand_nodes
QUANTAL_ODD_GRAPHS=$graphs QUANTAL_ODD_SEED=$seed cargo test --target "$host" --package quantal-runtime --test odd_shapes

if [ -n "$cases" ]; then
    cargo build --target "$host" --package quantal-cli
    binary=$CARGO_TARGET_DIR/$host/debug/quantal
    conformance=$(realpath -m "${QUANTAL_SHARED:-../shared}")/conformance
    for isa in portable avx2 avxvnni avx512vnni amx neon neondot; do
        # Those that this CPU lacks only repeat the one below.
        python3 "$conformance/onnx_node_suite.py" run --cases "$cases" --tmp "$CARGO_TARGET_DIR/nodes-$isa" --kinds node \
            --jobs "$(nproc)" --json "$CARGO_TARGET_DIR/nodes-$isa.json" \
            --cmd "env QUANTAL_ISA=$isa $(printf '%q' "$binary") run {model} --input {input} --output {output}" \
            >"$CARGO_TARGET_DIR/nodes-$isa.txt" 2>&1 || true
        if grep -q "AddressSanitizer" "$CARGO_TARGET_DIR/nodes-$isa.txt" "$CARGO_TARGET_DIR/nodes-$isa.json"; then
            echo "scripts/asan.sh: a node case with QUANTAL_ISA=$isa: $CARGO_TARGET_DIR/nodes-$isa.txt" >&2
            exit 1
        fi
    done
fi
echo "scripts/asan.sh: clean"
