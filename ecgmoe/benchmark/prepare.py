"""How fast prepare is, beside the sum of its parts on the same records, and what it takes of disk and memory."""

from __future__ import annotations

import io
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from ecgmoe.benchmark.memory import Watch
from ecgmoe.datasets.index import build_index
from ecgmoe.ecg.beats import detect_r_peaks
from ecgmoe.ecg.quality_policy import QualityPolicy, apply_policy
from ecgmoe.ecg.read import UsableRecord, read_record
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.pipeline.config import DatasetName
from ecgmoe.pipeline.prepare import prepare
from ecgmoe.pipeline.ray_data import connect
from ecgmoe.pipeline.record_shard import ShardWriter
from ecgmoe.pipeline.scale import scale_plan

_SMALL = 128
_PIECES = 16
PARTS = ("read", "clean", "detect", "write")


def prepare_benchmark(
    dataset: DatasetName, root: str, scratch: Path, *, workers: tuple[int, ...] = (1, 2), repeats: int = 3
) -> dict[str, Any]:
    """Alternate the parts alone, in this process, with the whole of prepare on 1, 2, ... workers.

    Args:
        dataset: which reader.
        root: the dataset.
        scratch: folder for what prepare writes; its contents are deleted.
        workers: CPUs that Ray is started with.
        repeats: rounds; medians are reported.

    Returns:
        Time per record of each part; and of prepare by number of workers: seconds to start (Ray's workers and their
        imports, the card: prepare of 128 records), records per second after that, those of as many plain processes that do
        the same parts, and overhead, the time that the engine takes beyond theirs.
    """
    small = scratch.with_name(f"{scratch.name}-small")
    simulate(small / "raw", SimulationConfig(patients=_SMALL, studies=_SMALL))
    paths = build_index(dataset, root).table["path"].to_pylist()
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    bare: dict[int, list[float]] = {count: [] for count in workers}
    starts: dict[int, list[float]] = {count: [] for count in workers}
    rates: dict[int, list[float]] = {count: [] for count in workers}
    for _ in range(repeats):
        for name, seconds in _parts(root, paths).items():
            parts[name].append(seconds / len(paths))
        for count in workers:
            bare[count].append(len(paths) / _bare(root, paths, count))
            starts[count].append(_whole("simulated", str(small / "raw"), small / "data", count))
            whole = _whole(dataset, root, scratch, count)
            rates[count].append((len(paths) - _SMALL) / (whole - starts[count][-1]))
    medians = {name: statistics.median(values) for name, values in parts.items()}
    alone = sum(medians.values())
    return {
        "dataset": dataset,
        "records": len(paths),
        "repeats": repeats,
        "parts_ms": {name: 1e3 * value for name, value in medians.items()},
        "parts_records_per_second": 1 / alone,
        "prepare": {
            str(count): {
                "start_s": statistics.median(starts[count]),
                "records_per_second": statistics.median(rates[count]),
                "spread": [min(rates[count]), max(rates[count])],
                "bare_records_per_second": statistics.median(bare[count]),
                "overhead": statistics.median(b / r for b, r in zip(bare[count], rates[count], strict=True)) - 1,
            }
            for count in workers
        },
    }


def _parts(root: str, paths: list[str]) -> dict[str, float]:
    """Seconds of each part over all records, one thread, the files in the page cache after the first round."""
    policy, reader = QualityPolicy(), ReaderOptions()
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[name] += time.perf_counter() - start

    writer = ShardWriter(io.BytesIO(), "benchmark")
    for number, path in enumerate(paths):
        try:
            signal = timed("read", read_record, f"{root}/{path}", reader)
            signal, quality = timed("clean", apply_policy, signal, policy)
        except RecordFault:
            continue
        peaks = timed("detect", detect_r_peaks, signal)
        timed("write", writer.add, number, UsableRecord(signal=signal, r_peaks=peaks, quality=quality))
    timed("write", writer.close, [])
    return spent


def _bare(root: str, paths: list[str], count: int) -> float:
    """Seconds of the same parts in so many plain processes at once: two cores rarely do twice the work of one."""
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        # Each process imports and meets the first files before the clock starts.
        list(pool.map(_parts, [root] * 4 * count, [paths[:16]] * 4 * count))
        start = time.perf_counter()
        pieces = [paths[begin::_PIECES] for begin in range(_PIECES)]
        list(pool.map(_parts, [root] * _PIECES, pieces))
        return time.perf_counter() - start


def _whole(dataset: DatasetName, root: str, scratch: Path, workers: int) -> float:
    """Seconds of prepare on a Ray with so many CPUs that runs already; its workers start within."""
    shutil.rmtree(scratch, ignore_errors=True)
    connect(num_cpus=workers)
    try:
        start = time.perf_counter()
        prepare(dataset, root, str(scratch))
        return time.perf_counter() - start
    finally:
        ray.shutdown()


def scale_benchmark(studies: int, scratch: Path) -> dict[str, Any]:
    """Simulate so many ECGs and prepare them: seconds, bytes on disk, and the driver's and a worker's peak memory."""
    raw, data = scratch / "raw", scratch / "data"
    simulate(raw, SimulationConfig(patients=max(1, studies // 5), studies=studies, seed=11))
    connect()
    watch = Watch()
    start = time.perf_counter()
    with watch:
        manifest = prepare("simulated", str(raw), str(data))
    seconds = time.perf_counter() - start
    ray.shutdown()
    sizes = {
        "records": sum(path.stat().st_size for path in (data / "records").iterdir()),
        "labels": (data / "labels.parquet").stat().st_size,
        "raw": sum(path.stat().st_size for path in (raw / "files").rglob("*") if path.is_file()),
    }
    return {
        "studies": studies,
        "planned_bytes": asdict(scale_plan(studies)),
        "records": manifest["records"],
        "shards": manifest["shards"],
        "seconds": seconds,
        "disk_bytes": sizes,
        "driver_peak_bytes": watch.driver,
        "worker_peak_bytes": watch.worker,
    }
