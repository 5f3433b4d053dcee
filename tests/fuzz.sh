#!/bin/bash
# Runs the fuzz targets one after another with AddressSanitizer, each for the number of seconds given as the argument
# (300 by default). Real inputs seed the corpora. What the targets find stays in fuzz/corpus and fuzz/artifacts, which are
# not in git.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-300}
# The targets are built with flags of their own, so they need a build directory of their own.
unset CARGO_TARGET_DIR

seed() { # target, file…
    local corpus=fuzz/corpus/$1 file
    shift
    mkdir -p "$corpus"
    # The whole path becomes the name, because the files of different runs have the same name.
    for file in "$@"; do cp "$file" "$corpus/seed-${file//\//-}"; done
}
seed kmsg crates/klog/tests/logs/*.log
seed result crates/record/tests/runs/*/result.json
seed plan plans/*.toml
seed record
mkdir -p fuzz/corpus/devicetree fuzz/target
for cpus in 1 4; do
    qemu-system-aarch64 -machine "virt,virtualization=on,dumpdtb=fuzz/corpus/devicetree/seed-$cpus" -smp "$cpus" \
        -display none 2>/dev/null
done

for target in $(cargo +nightly fuzz list); do
    log=fuzz/target/$target.log
    if ! cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -timeout=25 -rss_limit_mb=4096 >"$log" 2>&1; then
        tail -40 "$log"
        echo "$target: not clean; the whole log is in $log" >&2
        exit 1
    fi
    echo "$target: $(grep -o 'Done [0-9]* runs in [0-9]* second' "$log")s, clean"
done
