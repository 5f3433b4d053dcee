#!/bin/bash
# Ten runs that go line by line and twenty of a capped kernel, times as noisy as the host is (no --time-scale): only what
# includes I-side maintenance may differ between them, and random splits of the twenty raise at most one false alarm.
# Takes about three minutes once the kernels are built. BY_LINE= and CAPPED= name other kernels.
set -euo pipefail
cd "$(dirname "$0")/.."
faultline=${FAULTLINE:-target/release/faultline}
work=$PWD/target/compare-policies
rm -rf "$work"
run() {
    timeout -k 5 300 "$faultline" lab --kernel "$2" --cpu max --mem 2048 --results "$work/$1" -- \
        run relax --quiet --blocks page,thp --rounds 5 >/dev/null 2>&1
}
# Alternating, so that a busy hour of the host falls on both.
for _ in $(seq 10); do
    run by-line "${BY_LINE:-policy:by-line}"
    run capped "${CAPPED:-policy:upton}"
    run capped "${CAPPED:-policy:upton}"
done
"$faultline" compare "$work/by-line" "$work/capped" --json >"$work/comparison.json"
python3 - "$faultline" "$work" <<'PYTHON'
import json, pathlib, random, shutil, subprocess, sys
faultline, work = sys.argv[1], pathlib.Path(sys.argv[2])
told = json.loads((work / "comparison.json").read_text())
differ = {(m["case"], m["measure"]["phase"]): m["change"] for m in told["metrics"] if m["change"] in ("better", "worse")}
print("by-line -> capped:", told["change"], differ)
assert differ.get(("thp", "exec")) == "better", "the cap was not seen"
assert all(phase in ("exec", "host_icache") for _, phase in differ), "more than the I side differs"
runs = sorted((work / "capped").iterdir())
random.seed(1)
false_alarms = 0
for _ in range(20):
    random.shuffle(runs)
    for side, part in (("a", runs[:10]), ("b", runs[10:])):
        shutil.rmtree(work / side, ignore_errors=True)
        (work / side).mkdir()
        for run in part:
            (work / side / run.name).symlink_to(run)
    ended = subprocess.run([faultline, "compare", work / "a", work / "b"], stdout=subprocess.DEVNULL)
    assert ended.returncode in (0, 1)
    false_alarms += ended.returncode
print("false alarms in 20 splits of one kernel:", false_alarms)
assert false_alarms <= 1
PYTHON
