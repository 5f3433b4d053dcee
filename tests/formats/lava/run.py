"""Runs lab/lava/payload-job.yaml with lava-run and with our image. `lava-run` in this repository starts it."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

ROOT = pathlib.Path.cwd()
# The dispatcher's /usr: the system's own, or one that is unpacked for the test.
LAVA = pathlib.Path(os.environ.get("LAVA_USR", ROOT / "target/format-tools/lava/usr"))
WORK = ROOT / "target/lava-run"
PAYLOAD = ROOT / "target/faultline-payload.img"
HERE = ROOT / "tests/formats/lava"
RESULT = re.compile(r"@faultline result name=(\S+) status=(\S+)(?: value=(\S+) unit=(\S+))?")
SECONDS = 200


def job(name, image, change=lambda job: None):
    """Runs the shipped job on an image. Returns whether it ended well, and the results that LAVA recorded."""
    work = WORK / name
    work.mkdir(parents=True)
    text = yaml.safe_load((ROOT / "lab/lava/payload-job.yaml").read_text())
    text["actions"][0]["deploy"]["images"]["kernel"]["url"] = image.as_uri()
    change(text)
    (work / "job.yaml").write_text(yaml.safe_dump(text))
    command = ["timeout", "-k", "5", str(SECONDS), sys.executable, LAVA / "bin/lava-run", "--job-id", "1"]
    command += ["--output-dir", work / "out"]
    command += ["--device", HERE / "device.yaml", work / "job.yaml"]
    paths = f"{HERE}:{LAVA / 'lib/python3/dist-packages'}"
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    (work / "log").write_text(ended.stdout + ended.stderr)
    messages = [yaml.safe_load(line) for line in ended.stderr.splitlines() if '"lvl": "results"' in line]
    results = [message["msg"] for message in messages]
    passed = any(result["case"] == "job" and result["result"] == "pass" for result in results)
    return ended.returncode == 0 and passed, [result for result in results if result["definition"] == "faultline"]


def spoken():
    """Returns the names, statuses and units that the guest prints on its serial line without LAVA.

    LAVA's monitors record a name in lower case and with `_` for each run of other characters. The newest dispatchers
    keep nothing else of it, so no two names may become one.
    """
    command = ["timeout", "-k", "5", "60", "qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a57", "-m", "2048"]
    command += ["-nographic", "-kernel", PAYLOAD]
    said = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stdout
    found = RESULT.findall(said)
    names = {name for name, *_ in found}
    if len({recorded(name) for name in names}) != len(names):
        sys.exit(f"lava-run: LAVA takes two of these names for one: {sorted(names)}")
    return {(recorded(name), status, unit) for name, status, _, unit in found}


def recorded(name):
    """Returns the name under which LAVA records a result of the serial line."""
    return re.sub(r"\W+", "_", name.lower())


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    passed, results = job("payload", PAYLOAD)
    if not passed:
        sys.exit(f"lava-run: the job failed: see {WORK}/payload/log")
    told = {(result["case"], result["result"], result.get("units") or "") for result in results}
    if told != spoken():
        sys.exit(f"lava-run: LAVA and the serial line differ: {sorted(told ^ spoken())}")
    measured = [result for result in results if result.get("measurement") is not None]
    if not measured or not all(float(result["measurement"]) >= 0 for result in measured):
        sys.exit("lava-run: no measurements")
    # A guest that prints nothing must not pass. This image ends before its code.
    mute = WORK / "mute.img"
    mute.write_bytes(PAYLOAD.read_bytes()[:64] + bytes(4096))

    def soon(text):
        text["timeouts"]["action"] = {"seconds": 15}
        text["actions"][2]["test"]["timeout"] = {"seconds": 10}

    if job("mute", mute, soon)[0]:
        sys.exit("lava-run: a job whose guest says nothing passes")
    print(f"lava-run: the payload's job passes with {len(results)} results, {len(measured)} measurements")


if __name__ == "__main__":
    main()
