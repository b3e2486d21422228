"""What `import superluigi` costs beside `import luigi`, each in a process of its own; and what it must not load."""

import argparse
import statistics
import subprocess
import sys
import time

MODULES = ("luigi", "superluigi")
LATER = ("boto3", "botocore", "pandas", "s3fs", "dask", "distributed", "obstore", "networkx", "portalocker", "tqdm")


def seconds_to(statement):
    """Give how long a new interpreter takes for a statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", statement], check=True)
    return time.perf_counter() - start


def loaded_by(module):
    """Give which of the packages that are for later a module loads."""
    program = f"import sys, {module}; print(*[name for name in {LATER!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.split()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="how often each is imported, in turns")
    arguments = parser.parse_args()
    for module in MODULES:  # so that the byte code is there
        seconds_to(f"import {module}")
    times = {module: [] for module in MODULES}
    bare = []
    for _ in range(arguments.repeat):
        bare.append(seconds_to("pass"))
        for module in MODULES:
            times[module].append(seconds_to(f"import {module}"))
    start = statistics.median(bare)
    print(f"{'import':<14}{'median s':>10}{'least s':>10}{'without start':>15}{'times luigi':>13}  loads already")
    peer = statistics.median(times["luigi"]) - start
    for module in MODULES:
        median = statistics.median(times[module])
        figures = f"{median:>10.3f}{min(times[module]):>10.3f}{median - start:>15.3f}{(median - start) / peer:>13.2f}"
        print(f"{module:<14}{figures}  {', '.join(loaded_by(module)) or 'nothing of these'}")


if __name__ == "__main__":
    main()
