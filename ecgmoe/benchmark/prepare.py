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
from functools import partial
from pathlib import Path
from typing import Any

import ray

from ecgmoe.benchmark.memory import Watch
from ecgmoe.benchmark.paired import interleaved, ratio
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
    dataset: DatasetName, root: str, scratch: Path, *, pairs: int, workers: tuple[int, ...] = (1, 2)
) -> dict[str, Any]:
    """Alternate the parts alone with the whole of prepare, for each number of workers.

    Args:
        dataset: which reader.
        root: the dataset.
        scratch: folder for what prepare writes; its contents are deleted.
        pairs: interleaved rounds.
        workers: CPUs that Ray is started with; the first is 1.

    Returns:
        Milliseconds per record of each part in one process; and by number of workers: seconds to start (Ray's workers and
        their imports), records per second of prepare after that and without what it takes for a few records, those of as
        many plain processes that do the same parts, and ratios of prepare to these, to so many times one such process
        alone, and to prepare with one worker.
    """
    small = scratch.with_name(f"{scratch.name}-small")
    simulate(small / "raw", SimulationConfig(patients=_SMALL, studies=_SMALL))
    paths = build_index(dataset, root).table["path"].to_pylist()
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    starts: dict[int, list[float]] = {count: [] for count in workers}

    def alone() -> float:
        found = _parts(root, paths)
        for name, seconds in found.items():
            parts[name].append(1e3 * seconds / len(paths))
        return len(paths) / sum(found.values())

    def whole(count: int) -> float:
        start, fixed, seconds = _whole(dataset, root, scratch, small, count)
        starts[count].append(start)
        return (len(paths) - _SMALL) / (seconds - fixed)

    ways: list[Callable[[], float]] = [alone]
    for count in workers:
        ways += [partial(_bare, root, paths, count), partial(whole, count)]
    _, *figures = interleaved(ways, pairs, warm_up=0)
    bare, rates = dict(zip(workers, figures[::2], strict=True)), dict(zip(workers, figures[1::2], strict=True))
    return {
        "dataset": dataset,
        "records": len(paths),
        "pairs": pairs,
        "parts_ms": {name: statistics.median(values) for name, values in parts.items()},
        "prepare": {
            str(count): {
                "start_s": statistics.median(starts[count]),
                "records_per_second": statistics.median(rates[count]),
                "bare_records_per_second": statistics.median(bare[count]),
                "bare_share": asdict(ratio(rates[count], bare[count])),
                "share_of_processes_alone": asdict(ratio(rates[count], [count * rate for rate in bare[1]])),
                "times_one_worker": asdict(ratio(rates[count], rates[1])),
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
    """Records per second of the same parts in so many plain processes at once: two cores rarely do twice the work of one."""
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        # Each process imports and meets the first files before the clock starts.
        list(pool.map(_parts, [root] * 4 * count, [paths[:16]] * 4 * count))
        start = time.perf_counter()
        pieces = [paths[begin::_PIECES] for begin in range(_PIECES)]
        list(pool.map(_parts, [root] * _PIECES, pieces))
        return len(paths) / (time.perf_counter() - start)


def _whole(dataset: DatasetName, root: str, scratch: Path, small: Path, workers: int) -> tuple[float, float, float]:
    """Seconds of prepare on a Ray with so many CPUs: of a few records while its workers start, of these again, and of all."""

    def seconds(*arguments: Any) -> float:
        shutil.rmtree(arguments[-1], ignore_errors=True)
        start = time.perf_counter()
        prepare(*arguments)
        return time.perf_counter() - start

    few = ("simulated", str(small / "raw"), str(small / "data"))
    connect(num_cpus=workers)
    try:
        return seconds(*few), seconds(*few), seconds(dataset, root, str(scratch))
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
