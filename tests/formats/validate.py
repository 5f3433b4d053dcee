"""Lets the tools that labs use read every format of the given runs and plans, and counts what they understood.

`validate` starts this program. Each reader also gets a damaged file, which it must refuse: a reader that accepts anything
proves nothing.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree
from collections import Counter

from junitparser import JUnitXml
from kcidb_io.schema import LATEST, V5_3

TOOLS = pathlib.Path("target/format-tools")
FAULTLINE = os.environ.get("FAULTLINE", "target/release/faultline")
# The words that the log scanners of labs take for a failure of the machine.
SCANNED = re.compile(r"BUG:|WARNING:|Oops|Kernel panic")


class Refused(Exception):
    """A reader refused a file."""


def require(holds, what):
    if not holds:
        raise Refused(what)


def statuses(stored):
    """Counts the verdicts of cases, and of steps and runs that have no cases."""
    runs = stored["runs"] if "runs" in stored else [stored]
    if "summary" not in stored:
        return Counter(case["verdict"]["status"] for run in runs for case in run["cases"] or [run])
    summary, found = stored["summary"], Counter()
    by_id = {run["run"]["id"]: run for run in runs}
    for step in summary["steps"]:
        cases = by_id.get(step.get("directory"), {}).get("cases") or [step]
        found.update(case["verdict"]["status"] for case in cases)
    if regression := summary.get("regression"):
        found.update(case["verdict"]["status"] for case in regression["cases"] or [regression])
    return found


def count(status, *names):
    return sum(status[name] for name in names)


def ktap(text, status):
    """Checks that kunit.py finds every test and reports no error of its own. Its exit code is 1 if any test failed."""
    command = [sys.executable, TOOLS / "kunit/tools/testing/kunit/kunit.py", "parse"]
    said = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found = re.search(r"Testing complete\. Ran (\d+) tests: (.*)", said.stdout)
    require(found, said.stdout + said.stderr)
    told = {name: int(number) for name, number in re.findall(r"(\w+): (\d+)", found[2])}
    wanted = {
        "passed": status["pass"],
        "failed": count(status, "fail", "error", "timeout"),
        "skipped": status["skip"],
    }
    require(told == {name: number for name, number in wanted.items() if number}, f"{told}, not {wanted}")
    require("[ERROR]" not in said.stdout, said.stdout)
    return found[0]


def kcidb(text, status):
    try:
        told = json.loads(text)
        V5_3.validate(told)
        LATEST.validate(LATEST.upgrade(json.loads(text)))
    except Exception as error:  # kcidb-io and json raise many kinds of exceptions.
        raise Refused(str(error)) from error
    measured = [test for test in told["tests"] if "number" in test]
    judged = Counter(test["status"] for test in told["tests"] if "number" not in test)
    wanted = {"PASS": status["pass"], "FAIL": status["fail"], "SKIP": status["skip"], "ERROR": count(status, "error", "timeout")}
    # There is one more test for each run.
    require(all(judged[name] >= number for name, number in wanted.items()), f"{judged}, not {wanted}")
    return f"{judged.total()} tests, {len(measured)} measurements"


def junit(text, status):
    try:
        suites = JUnitXml.fromstring(text.encode())
    except xml.etree.ElementTree.ParseError as error:
        raise Refused(str(error)) from error
    kinds = Counter(type(case.result[0]).__name__ if case.result else "Pass" for suite in suites for case in suite)
    kinds["Pass"] += kinds.pop("SystemOut", 0)
    wanted = {
        "Pass": status["pass"],
        "Failure": status["fail"],
        "Skipped": status["skip"],
        "Error": count(status, "error", "timeout"),
    }
    require(all(kinds[name] == number for name, number in wanted.items()), f"{kinds}, not {wanted}")
    require((suites.failures, suites.errors) == (wanted["Failure"], wanted["Error"]), "the sums in the file are wrong")
    return f"{suites.tests} cases, {suites.failures} failures, {suites.errors} errors"


def prom(text, _status):
    command = [TOOLS / "prometheus/promtool", "check", "metrics"]
    said = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    require(said.returncode == 0 and not said.stdout + said.stderr, said.stdout + said.stderr)
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    require(samples, "no samples")
    return f"{len(samples)} samples"


def lines(pattern):
    """Returns a reader that matches lines. Linaro and LAVA publish no reader that runs alone; lava-run is another test."""

    def check(text, _status):
        wrong = [line for line in text.splitlines() if not re.fullmatch(pattern, line)]
        require(text and not wrong, f"not in the format: {wrong[:3]}")
        return f"{len(text.splitlines())} lines"

    return check


NAME = r"[A-Za-z0-9._-]+"
READERS = {
    "ktap": (ktap, lambda text: text.replace("\nok 1", "\n??", 1).replace("\nnot ok 1", "\n??", 1)),
    "kcidb": (kcidb, lambda text: text.replace('"origin": "faultline"', '"origin": null', 1)),
    "junit": (junit, lambda text: text.replace("</testcase>", "", 1)),
    "prom": (prom, lambda text: text + "# TYPE faultline_run_status counter\n"),
    "linaro": (lines(rf"{NAME} (pass|fail|skip)( \d+ ns)?"), lambda text: text + "a name pass\n"),
    "lava": (
        lines(rf"<LAVA_SIGNAL_TESTCASE TEST_CASE_ID={NAME} RESULT=(pass|fail|skip)( UNITS=ns MEASUREMENT=\d+)?>"),
        lambda text: text.replace("RESULT=", "RESULT=>", 1),
    ),
}


def faultline(*arguments):
    """Returns the output of a command. Any verdict but an error will do."""
    said = subprocess.run([FAULTLINE, *arguments], capture_output=True, text=True, check=False)
    require(said.returncode in (0, 1, 4) and said.stdout, f"{arguments}: {said.stderr}")
    words = SCANNED.findall(said.stdout + said.stderr)
    require(not words, f"{arguments} prints {words}")
    return said.stdout


def show(subject, form):
    # LAVA's helper is not in PATH, so the command prints signals.
    return faultline("show", subject, "--format", form)


def others(subjects):
    """Looks for scanned words in the output of other commands on the same runs."""
    before, after, *_ = subjects
    for form in ("text", "markdown", "json"):
        faultline("compare", before, after, "--format", form)
        faultline("compare", after, before, "--format", form)
    for directory in {str(pathlib.Path(subject).parent) for subject in subjects}:
        faultline("list", directory)
        faultline("list", directory, "--json")
    for log in sorted(pathlib.Path("crates/klog/tests/logs").glob("*.log")):
        faultline("dmesg", log)
        faultline("dmesg", log, "--json")


def main(subjects):
    seen = Counter()
    for subject in subjects:
        told, status = [], statuses(json.loads(show(subject, "json")))
        seen.update(status)
        for form, (read, damage) in READERS.items():
            text = show(subject, form)
            told.append(f"{form}: {read(text, status)}")
            damaged = damage(text)
            require(damaged != text, f"{form} of {subject} was not damaged")
            try:
                read(damaged, status)
            except Refused:
                continue
            raise Refused(f"the reader of {form} takes a damaged file")
        show(subject, "human")
        print(f"{subject}: {dict(status)}\n    " + "\n    ".join(told))
    others(subjects)
    missing = {"pass", "fail", "skip", "error"} - set(seen)
    require(not missing, f"no run that ends with {missing} was read")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refused as refused:
        sys.exit(f"validate: {refused}")
