"""Makes a fleet of 1,000 runs from one run. Usage: fleet.py RESULT DIRECTORY."""

import json
import pathlib
import sys

text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
for n in range(1000):
    run = json.loads(text)
    run["run"]["id"] = f"2026{n // 250 + 1:02}{n % 28 + 1:02}T{n % 24:02}0000Z-{n:04}"
    run["run"]["started"] = f"2026-{n // 250 + 1:02}-{n % 28 + 1:02}T{n % 24:02}:00:00Z"
    run["machine"]["lab"]["cpu"] = f"model-{n % 20:02}"
    run["machine"]["kernel_release"] = f"6.{n % 7 + 1}.0"
    if n % 7:
        run["verdict"] = {"status": ["pass", "pass", "skip", "error"][n % 4], "reason": "made for a test"}
        run["cases"][2]["complaints"] = []
    run["cases"][2]["times"]["exec"]["ns"]["max"] = 5_000_000_000 + (n * 7919 % 1000) * 1_000_000
    path = pathlib.Path(sys.argv[2]) / run["run"]["id"]
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps(run), encoding="utf-8")
