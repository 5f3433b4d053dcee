#!/bin/bash
# Lets the tools that labs use read the files of stored runs: kcidb-io, junitparser, prometheus_client, kunit.py parse.
# Takes the Python packages from PyPI into target/validate-formats; kunit.py from LINUX= (a kernel source tree), which is
# skipped, and said to be, where there is none. FAULTLINE= names another binary.
set -euo pipefail
cd "$(dirname "$0")/.."
faultline=${FAULTLINE:-target/release/faultline}
work=$PWD/target/validate-formats
"$work/venv/bin/python" -c "import junitparser, kcidb_io, prometheus_client" 2>/dev/null || {
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet kcidb-io junitparser prometheus_client
}
for run in host-runner/tests/runs/*/ "$@"; do
    out=$work/$(basename "$run")
    mkdir -p "$out"
    for format in ktap junit kcidb linaro prom; do
        "$faultline" show "$run" --format $format >"$out/$format"
    done
    "$work/venv/bin/python" - "$out" <<'PYTHON'
import json, pathlib, sys
from junitparser import JUnitXml
from kcidb_io.schema import V5_0, LATEST
from prometheus_client.parser import text_string_to_metric_families

out = pathlib.Path(sys.argv[1])
kcidb = json.loads((out / "kcidb").read_text())
V5_0.validate(kcidb)
LATEST.validate(LATEST.upgrade(json.loads((out / "kcidb").read_text())))
suites = JUnitXml.fromfile(str(out / "junit"))
cases = [case for suite in suites for case in suite]
assert cases and all(case.name for case in cases)
families = list(text_string_to_metric_families((out / "prom").read_text()))
assert all(f.type == "gauge" and f.documentation and f.samples for f in families), families
assert any(f.name == "faultline_case_seconds" for f in families)
print(f"{out.name}: kcidb {len(kcidb['tests'])} tests; junit {len(cases)} cases, {suites.failures} failures; "
      f"prometheus {len(families)} families")
PYTHON
    if [ -n "${LINUX:-}" ]; then
        # kunit.py ends with 1 where a test failed; what counts is that it understood every line.
        report=$(python3 "$LINUX/tools/testing/kunit/kunit.py" parse "$out/ktap" 2>&1) || true
        grep -q 'Testing complete' <<<"$report" || { echo "$report"; exit 1; }
        if grep -q '\[ERROR\]\|errors: [1-9]' <<<"$report"; then echo "$report"; exit 1; fi
        echo "$(basename "$run"): kunit.py: $(grep 'Testing complete' <<<"$report" | sed 's/.*Ran/Ran/')"
    else
        echo "$(basename "$run"): kunit.py: SKIP, LINUX= names no kernel tree"
    fi
done
