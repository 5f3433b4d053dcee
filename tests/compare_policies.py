"""Checks what `compare` reports for the runs that compare-policies made."""

import json
import pathlib
import random
import shutil
import subprocess
import sys

FAULTLINE, WORK = sys.argv[1], pathlib.Path(sys.argv[2])
# The measurements that include the host's I-cache maintenance.
I_SIDE = {"exec", "host_icache"}
SPLITS = 20
RUNS = 10


def side(name, runs):
    """Makes a directory that links to these runs, and returns it."""
    directory = WORK / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for run in runs:
        (directory / run.name).symlink_to(run)
    return directory


def compare(before, after):
    small = ["--threshold", "5", "--min-difference", "0"]
    words = [FAULTLINE, "compare", before, after, *small, "--json"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1, 4):
        sys.exit(ended.stderr)
    told = json.loads(ended.stdout)
    assert (ended.returncode == 1) == (told["headline"] in ("worse", "regressed")), "exit code and verdict differ"
    return told


def changed(told):
    return {
        (metric["case"], metric["measure"]["phase"], metric["measure"]["stat"]): metric["change"]
        for metric in told["metrics"]
        if metric["change"] in ("better", "worse")
    }


def main():
    by_line, capped = (sorted((WORK / name).iterdir()) for name in ("by-line", "capped"))
    assert (len(by_line), len(capped)) == (RUNS, 2 * RUNS), "runs are missing"
    # The capped runs that came directly after a by-line run.
    ten = side("ten-capped", capped[::2])
    for before, after, change in ((WORK / "by-line", ten, "better"), (ten, WORK / "by-line", "worse")):
        told = compare(before, after)
        differ = changed(told)
        print(f"{before.name} -> {after.name}: {told['headline']}: {told['reason']}")
        assert told["headline"] == change and told["exact"] is False
        assert differ.get(("thp", "exec", "p50")) == change, "the cap was not seen"
        others = {metric for metric in differ if metric[1] not in I_SIDE}
        assert not others, f"more than the I side differs: {others}"
        facts = [fact for fact in told["facts"] if fact["change"] in ("better", "worse")]
        assert not facts, f"facts differ: {facts}"
    random.seed(1)
    alarms = []
    for _ in range(SPLITS):
        random.shuffle(capped)
        told = compare(side("a", capped[:RUNS]), side("b", capped[RUNS:]))
        alarms += [told["reason"]] if told["headline"] in ("worse", "regressed") else []
    print(f"false alarms in {SPLITS} splits of one kernel: {len(alarms)} {alarms}")
    assert len(alarms) <= 1, "chance was taken for change"


main()
