#!/bin/bash
# Opens the report and the fleet page in headless Chromium from file://, light and dark, wide and narrow: no console
# message, nothing loaded from elsewhere, no violation that axe-core finds. Leaves screenshots in target/report-page.
# Needs chromium, node and npm. FAULTLINE= names another binary.
set -euo pipefail
cd "$(dirname "$0")/.."
faultline=${FAULTLINE:-target/release/faultline}
work=$PWD/target/report-page
mkdir -p "$work"
[ -d "$work/node_modules/axe-core" ] && [ -d "$work/node_modules/playwright-core" ] ||
    npm install --silent --no-audit --no-fund --prefix "$work" axe-core@4 playwright-core@1
"$faultline" report host-runner/tests/runs/debian-6.1 host-runner/tests/runs/debian-6.12 -o "$work/report.html"

# A fleet of 1,000 runs, made from the stored one: 20 machines, 7 kernels.
fleet=$work/fleet
rm -rf "$fleet"
python3 - "$fleet" <<'PYTHON'
import json, pathlib, sys
text = pathlib.Path("host-runner/tests/runs/debian-6.1/result.json").read_text()
for n in range(1000):
    run = json.loads(text)
    run["run"]["id"] = f"2026{n // 250 + 1:02}{n % 28 + 1:02}T{n % 24:02}0000Z-{n:04}"
    run["run"]["started"] = f"2026-{n // 250 + 1:02}-{n % 28 + 1:02}T{n % 24:02}:00:00Z"
    run["machine"]["lab"]["cpu"] = f"model-{n % 20:02}"
    run["machine"]["kernel_release"] = f"6.{n % 7 + 1}.0"
    if n % 7:
        run["verdict"] = {"status": ["pass", "pass", "skip", "error"][n % 4], "reason": "made for a test"}
        run["cases"][2]["complaints"] = []
    run["cases"][2]["exec"]["ns"]["max"] = 5_000_000_000 + (n * 7919 % 1000) * 1_000_000
    path = pathlib.Path(sys.argv[1]) / run["run"]["id"]
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps(run))
PYTHON
start=$(date +%s%N)
"$faultline" report --fleet "$fleet" -o "$work/fleet.html"
took_ms=$((($(date +%s%N) - start) / 1000000))
bytes=$(stat -c %s "$work/fleet.html")
echo "fleet page of 1,000 runs: $took_ms ms, $bytes bytes"
[ "$took_ms" -le 2000 ] && [ "$bytes" -le $((5 << 20)) ]
NODE_PATH=$work/node_modules node tests/report-page.cjs "$work"
