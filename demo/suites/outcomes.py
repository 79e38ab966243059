"""A pytest plugin: one line of JSON per test in the file that OUTCOMES names,
written as the test ends, so that a run that is killed has told what it knows."""

import json
import os

_worst = {}


def pytest_runtest_logreport(report):
    state = _worst.setdefault(report.nodeid, {"id": report.nodeid, "outcome": "passed", "why": ""})
    if report.failed:
        state.update(outcome="failed", why=reason(report))
    elif report.skipped and state["outcome"] == "passed":
        state.update(outcome="skipped", why=str(report.longrepr)[-200:])
    if report.when == "teardown":
        # Opened anew each time: some of pymongo's tests take an open file for a leak.
        with open(os.environ["OUTCOMES"], "a") as file:
            file.write(json.dumps(_worst.pop(report.nodeid)) + "\n")


def reason(report):
    lines = [line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return (lines or report.longreprtext.splitlines()[-1:] or [""])[0][:300]
