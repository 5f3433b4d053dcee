#!/bin/bash
# Runs every fuzz target for so many seconds each, one after the other, with AddressSanitizer. What the targets read is
# seeded with real inputs; what they find is kept in fuzz/corpus and fuzz/artifacts, which are not in git.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-300}
# Targets are built with other flags than everything else, in a directory of their own.
unset CARGO_TARGET_DIR

seed() { # target, file…
    local corpus=fuzz/corpus/$1 file
    shift
    mkdir -p "$corpus"
    # Named by what they come from: runs and plans all have files of one name.
    for file in "$@"; do cp "$file" "$corpus/seed-${file//\//-}"; done
}
seed kmsg host-runner/tests/logs/*.log
seed result host-runner/tests/runs/*/result.json
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
