"""How long a person waits for `import ecgmoe` and for the help of a job."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def start_benchmark(pairs: int = 10) -> dict[str, Any]:
    """Alternate fresh processes, each with the files in the page cache.

    Returns:
        Seconds of a process that does nothing, that imports ecgmoe, and that prints the help of each job: medians, and the
        largest.
    """
    ways = {"python alone": ["-c", "pass"], "import ecgmoe": ["-c", "import ecgmoe"]}
    for folder in ("jobs", "tune"):
        for job in sorted((ROOT / folder).glob("[a-z]*.py")):
            ways[f"{folder}/{job.name} --help"] = [str(job), "--help"]
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(pairs + 1):
        for name, arguments in ways.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            if turn:
                found[name].append(time.perf_counter() - started)
    return {
        "rounds": pairs,
        "seconds": {name: statistics.median(values) for name, values in found.items()},
        "largest": {name: max(values) for name, values in found.items()},
    }
