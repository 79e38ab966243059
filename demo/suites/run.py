#!/usr/bin/env python3
"""Runs pymongo's own test suite directly on a server and through the proxy.

    run.py TENANTRY [MODULE...]

TENANTRY is the proxy's binary, a MODULE such as test_gridfs one of the suite's
files; left out, a choice that takes some minutes. What passes directly must
pass through a proxy that isolates nobody (mode = "disabled"), in both of its
presentations. Where it doesn't, differences.txt must say why; else the exit
code is 1.

Each module gets a server and a proxy of its own, so that none meets what
another has left. A test that fails through the proxy without a known reason is
run twice more, alone, before it counts: several measure time, and the server
is slow.
"""

import contextlib
import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache"
SUITES = CACHE / "suites"
PYTHON = CACHE / "venv" / "bin" / "python"
TEST_SECONDS = 60
MODULE_SECONDS = 600
START_SECONDS = 60
TRIES = 3
MISSING = ("missing", "it did not end")

MODULES = """
test_bulk test_causal_consistency test_change_stream test_collation test_collection
test_collection_management test_command_monitoring test_comment test_crud_unified test_crud_v1
test_cursor test_custom_types test_database test_dbref test_examples test_grid_file test_gridfs
test_gridfs_bucket test_gridfs_spec test_json_util_integration test_raw_bson test_read_concern
test_read_write_concern_spec test_run_command test_session test_sessions_unified test_threads
test_transactions test_versioned_api_integration test_write_concern
""".split()

PRESENTATIONS = {
    "mongos": 'presentation = "mongos"',
    "replica set": 'presentation = "replica-set"\nreplica_set = "rs0"',
}

# Without a control database: its own commands would meet the tests' fail points.
CONFIG = """
[log]
level = "warn"

[[listeners]]
address = "127.0.0.1:{listen}"
{presentation}

[admin]
address = "127.0.0.1:{admin}"

[control]
enabled = false

[clusters.home]
uri = "mongodb://127.0.0.1:{server}/"

[routing]
mode = "disabled"
home = "home"
shared_database = "pymongo_test"
tenant_database = "pymongo_test_{{key}}"
"""


def main(binary, modules):
    suite, python = install()
    directly = {}
    for module in modules:
        say(f"directly, {module}")
        directly.update(run(suite, python, [f"test/{module}.py"], None))
    passed = {test for test, (outcome, _) in directly.items() if outcome == "passed"}
    say(f"{len(passed)} of {len(directly)} tests pass directly")
    proxied = {
        name: through(suite, python, modules, passed, (binary, settings)) for name, settings in PRESENTATIONS.items()
    }
    sys.exit(compare(passed, proxied))


def through(suite, python, modules, passed, proxy):
    """What becomes of the tests that pass directly; the best of several tries."""
    found, known = {}, differences()
    for module in modules:
        want = {test for test in passed if test.startswith(f"test/{module}.py::")}
        say(f"through the proxy as {proxy[1].split(chr(34))[1]}, {module}")
        seen = run(suite, python, [f"test/{module}.py"], proxy)
        for _ in range(TRIES - 1):
            failed = [test for test in want if is_bad(seen.get(test, MISSING)) and not reason_for(test, known)]
            if not failed:
                break
            again = run(suite, python, failed, proxy)
            seen.update({test: again[test] for test in failed if test in again})
        found.update({test: seen.get(test, MISSING) for test in want})
    return found


def is_bad(result):
    return result[0] in ("failed", "missing")


def compare(passed, proxied):
    known, code = differences(), 0
    for test in sorted(passed):
        results = {name: found[test] for name, found in proxied.items()}
        passes = any(outcome == "passed" for outcome, _ in results.values())
        if passes and not any(map(is_bad, results.values())):
            continue  # in some presentation at least; the suite skips what it can't expect of the other
        reason = reason_for(test, known)
        if not reason:
            code = 1
        print(f"{test.removeprefix('test/')}\n    {reason or 'UNEXPLAINED'}")
        for name, (outcome, why) in results.items():
            print(f"    {name}: {outcome} {why}")
    for name, found in proxied.items():
        outcomes = [outcome for outcome, _ in found.values()]
        print(f"{name}: of {len(outcomes)} tests {outcomes.count('passed')} pass, {outcomes.count('skipped')} are skipped")
    return code


def differences():
    """Patterns of tests, each with the reason that stands over it."""
    reason, found = "", []
    for line in (HERE / "differences.txt").read_text().splitlines():
        if line.startswith("# "):
            reason = line[2:]
        elif line:
            found.append((f"test/{line}".replace("[", "[[]"), reason))
    return found


def reason_for(test, known):
    return next((reason for pattern, reason in known if fnmatch.fnmatchcase(test, pattern)), "")


def run(suite, python, tests, proxy):
    """Runs tests on a new server and returns what became of each."""
    with tempfile.TemporaryDirectory(prefix="tenantry-suite-") as folder, contextlib.ExitStack() as ends:
        port = ends.enter_context(server(folder))
        if proxy:
            port = ends.enter_context(tenantry(folder, port, *proxy))
        outcomes = Path(folder, "outcomes")
        outcomes.touch()
        command = [
            python, "-m", "pytest", "-q", "-p", "outcomes", "-p", "no:cacheprovider", "--junitxml", os.devnull,
            "--timeout", str(TEST_SECONDS), "--timeout-method", "signal", *tests,
        ]  # fmt: skip
        env = {**os.environ, "DB_IP": "127.0.0.1", "DB_PORT": str(port), "OUTCOMES": str(outcomes)}
        env.update(PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1")
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, cwd=suite, env=env, timeout=MODULE_SECONDS, capture_output=True)
        lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
        return {line["id"]: (line["outcome"], line["why"]) for line in lines}


@contextlib.contextmanager
def child(command, folder, ready, **options):
    with open(Path(folder, "log"), "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.PIPE, **options)
    try:
        wait(process, ready, Path(folder, "log"))
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def wait(process, ready, log):
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            return ready()
        time.sleep(0.05)
    sys.exit(f"suites: {process.args[0]} did not start:\n{log.read_text(errors='replace')}")


@contextlib.contextmanager
def server(folder):
    port = free_port()
    command = [
        PYTHON, HERE.parent / "secantus" / "launch.py", "--until-stdin-closes", "--host", "127.0.0.1",
        "--port", str(port), "--storage-path", ":memory:", "--log-level", "WARNING", "--enable-test-commands",
    ]  # fmt: skip
    env = {**os.environ, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    with child(command, folder, lambda: socket.create_connection(("127.0.0.1", port), 1).close(), env=env):
        yield port


@contextlib.contextmanager
def tenantry(folder, behind, binary, presentation):
    listen, admin = free_port(), free_port()
    file = Path(folder, "tenantry.toml")
    file.write_text(CONFIG.format(listen=listen, admin=admin, server=behind, presentation=presentation))
    command = [binary, "serve", "--config", file]
    with child(command, folder, lambda: urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5).close()):
        yield listen


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def install():
    """The suite's folder and the Python that runs it, made once per version."""
    lists = [HERE / "requirements.txt", HERE / "pymongo.txt"]
    stamp, want = SUITES / ".stamp", "".join(file.read_text() for file in lists)
    python = SUITES / "venv" / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != want:
        venv.create(SUITES / "venv", with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--no-deps", "--only-binary", ":all:", "-r", lists[0]], check=True)
        for old in SUITES.glob("pymongo-*.tar.gz"):
            old.unlink()
        subprocess.run([*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", SUITES, "-r", lists[1]], check=True)
        for archive in SUITES.glob("pymongo-*.tar.gz"):
            with tarfile.open(archive) as tar:
                tar.extractall(SUITES, filter="data")
        stamp.write_text(want)
    (suite,) = (folder for folder in SUITES.glob("pymongo-*") if folder.is_dir())
    return suite, python


def say(text):
    print(f"suites: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(os.path.abspath(sys.argv[1]), sys.argv[2:] or MODULES)
