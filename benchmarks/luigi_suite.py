"""Luigi's own scheduler and worker tests, once with Luigi's scheduler and once with ours in its place.

Downloads Luigi's source distribution with pip, and runs the tests that it carries against the package that it carries.
Tests that need what is not installed here fail or are skipped both times. Exits with 1 if any outcome differs.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest.mock
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

SUITES = (
    "scheduler*_test.py worker*_test.py priority_test.py execution_summary_test.py task_running_resources_test.py"
    " task_progress_percentage_test.py task_status_message_test.py task_history_test.py event_callbacks_test.py"
    " customized_run_test.py custom_metrics_test.py dynamic_import_test.py factorial_test.py fib_test.py"
    " instance_test.py interface_test.py recursion_test.py retcodes_test.py set_task_name_test.py simulate_test.py"
    " subtask_test.py wrap_test.py"
)
SWITCH = "SUPERLUIGI_SUITE"


def pytest_configure():
    """Put our scheduler where Luigi's is looked up; this file is a plugin of the pytest that it starts."""
    import luigi.interface
    import luigi.server
    import luigi.worker

    from superluigi.running.scheduler import Scheduler

    sys.modules.setdefault("mock", unittest.mock)
    if os.environ[SWITCH] == "ours":
        theirs = luigi.scheduler.Scheduler
        for module in (luigi.scheduler, luigi.worker, luigi.server):
            assert module.Scheduler is theirs
            module.Scheduler = Scheduler


def download(release, folder):
    """Give the folder of Luigi's sources."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", folder, f"luigi=={release}"], check=True)
    (archive,) = folder.glob("luigi-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def run(sources, which, patterns, options):
    """Give the outcome of each test."""
    here = Path(__file__).resolve().parent
    files = sorted({str(path.relative_to(sources)) for pattern in patterns for path in sources.glob(f"test/{pattern}")})
    report = sources / f"{which}.xml"
    environment = {
        **os.environ,
        SWITCH: which,
        "PYTHONPATH": os.pathsep.join(map(str, [sources, sources / "test", here, here.parent])),
        "LUIGI_CONFIG_PATH": str(sources / "test" / "testconfig" / "luigi.cfg"),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        Path(__file__).stem,
        "-q",
        "-W",
        "ignore",
        "--continue-on-collection-errors",
    ]
    with open(sources / f"{which}.log", "w", encoding="utf-8") as log:
        subprocess.run(
            [*command, f"--junitxml={report}", *options, *files],
            cwd=sources, env=environment, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes[name] = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--luigi", default=version("luigi"), metavar="VERSION", help="default: the installed one")
    parser.add_argument("--files", nargs="+", default=SUITES.split(), metavar="PATTERN", help="in Luigi's test folder")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to leave the sources and the logs")
    parser.add_argument("--pytest", nargs="+", default=[], metavar="OPTION", help="more for pytest, as in --pytest=-n2")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sources = download(arguments.luigi, folder)
        luigis, ours = (run(sources, which, arguments.files, arguments.pytest) for which in ("luigi", "ours"))

    print(f"Luigi {arguments.luigi}'s own tests")
    print(f"{'scheduler':<12}{'passed':>8}{'failure':>9}{'error':>7}{'skipped':>9}")
    for which, outcomes in (("Luigi's", luigis), ("ours", ours)):
        count = Counter(outcomes.values())
        print(f"{which:<12}{count['passed']:>8}{count['failure']:>9}{count['error']:>7}{count['skipped']:>9}")
    different = [name for name in sorted(luigis.keys() | ours.keys()) if luigis.get(name) != ours.get(name)]
    for name in different:
        print(f"{name}: {luigis.get(name)} with Luigi's, {ours.get(name)} with ours")
    print(f"{len(different)} outcomes differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
