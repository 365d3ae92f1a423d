"""What the results of the stages say in the table of the page, a line for each comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ecgmoe.benchmark.paired import Ratio, ratio
from ecgmoe.evaluation.report import number


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        stage: that measured it.
        what: was done.
        ours: its figure with its unit.
        beside: what it is compared with, and that figure.
        ratio: of pairs, above 1 where ours is better; None where it was not measured in pairs.
        aim: the least that the ratio's lower end has to reach; None where there is none.
        longer_ms: median, lower and upper end of how much longer ours takes, where the aim is in milliseconds.
        most_ms: the most that its upper end may come to.
    """

    stage: str
    what: str
    ours: str
    beside: str
    ratio: Ratio | None = None
    aim: float | None = None
    longer_ms: tuple[float, float, float] | None = None
    most_ms: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the whole interval reaches the aim, a part of it, or none."""
        if self.longer_ms is not None and self.most_ms is not None:
            median, low, high = self.longer_ms
            shown = _shown(reached=high <= self.most_ms, missed=low > self.most_ms)
            return f"{shown} ({median:.1f} ms longer, {low:.1f} to {high:.1f}; at most {self.most_ms:g})"
        if self.aim is None or self.ratio is None:
            return ""
        shown = _shown(reached=self.ratio.low >= self.aim, missed=self.ratio.high < self.aim)
        return f"{shown} (at least {self.aim:g})"


def _shown(*, reached: bool, missed: bool) -> str:
    return "reached" if reached else "MISSED" if missed else "not shown"


def rows_of(result: Mapping[str, Any]) -> list[Row]:
    """What a stage compares; nothing for a stage that compares nothing.

    Raises:
        KeyError: it is no result.
    """
    make = _ROWS.get(result["stage"])
    return list(make(result)) if make else []


def _loader(result: Mapping[str, Any]) -> Iterator[Row]:
    stored = "not compressed" if result["compression"] == "none" else result["compression"]
    for name, peer in result["on_the_fly"].items():
        workers = name.partition("_")[0]
        yield Row(
            stage="loader",
            what=f"batches of {result['batch']} of {result['records']:,} prepared ECGs, {stored}",
            ours=f"{result['records_per_second']:,.0f} records/s",
            beside=f"torch DataLoader that reads WFDB, {workers} processes: {peer['records_per_second']:,.0f} records/s",
            ratio=_ratio(peer["times_as_fast"]),
            aim=20.0 if workers == "0" else None,
        )


def _training(result: Mapping[str, Any]) -> Iterator[Row]:
    longer = result["longer_ms"] if result["preset"] == "tiny" else None
    yield Row(
        stage="training",
        what=f"a step of {result['records_per_step']} records, preset {result['preset']}",
        ours=f"{result['ms_per_step']:.0f} ms",
        beside=f"bare DeepSpeed loop, batches in memory: {result['bare_ms_per_step']:.0f} ms",
        ratio=_ratio(result["bare_share"]),
        aim=0.95 if result["preset"] == "bench" else None,
        longer_ms=(longer["median"], longer["low"], longer["high"]) if longer else None,
        most_ms=10.0 if longer else None,
    )


def _scaling(result: Mapping[str, Any]) -> Iterator[Row]:
    each = "one GPU each" if result["device"] == "cuda" else "one thread each"
    for count, found in result["workers"].items():
        yield Row(
            stage="scaling",
            what=f"a step of {result['records_per_step']} records, preset {result['preset']}, {each}",
            ours=f"{count} workers: {found['ms_per_step']:.0f} ms",
            beside=f"one worker: {result['ms_per_step']:.0f} ms",
            ratio=_ratio(found["times_as_fast"]),
        )
        yield Row(
            stage="scaling",
            what=f"the same, beside runs that share the machine and wait for nobody, preset {result['preset']}",
            ours=f"{count} workers: {found['ms_per_step']:.0f} ms",
            beside=f"{count} runs of a share each: {found['apart_ms_per_step']:.0f} ms",
            ratio=_ratio(found["apart_share"]),
        )


def _checkpoint(result: Mapping[str, Any]) -> Iterator[Row]:
    ours, bare = sum(result["bytes"].values()) / 1e6, result["bare_bytes"] / 1e6
    for name, function in (("save", "torch.save"), ("load", "torch.load")):
        found = result[name]
        yield Row(
            stage="checkpoint",
            what=f"{name} a checkpoint of training, preset {result['preset']}",
            ours=f"{number(found['seconds'])} s, {ours:,.1f} MB with digests",
            beside=f"bare {function}, each tensor once: {number(found['bare_seconds'])} s, {bare:,.1f} MB",
            ratio=_ratio(found["bare_share"]),
        )


def _batches(result: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What was measured by number of records in a pass."""
    for key, value in result.items():
        if key.startswith("batch_"):
            yield key.removeprefix("batch_"), value


def _inference(result: Mapping[str, Any]) -> Iterator[Row]:
    for records, found in _batches(result):
        for peer, times in found["times_ecg_moe"].items():
            yield Row(
                stage="inference",
                what=f"all tasks, {records} at once, weights as initialised, every backbone",
                ours=f"{found['ms_per_record']['ecg_moe']:.1f} ms per ECG",
                beside=f"{peer}: {found['ms_per_record'][peer]:.1f} ms",
                ratio=_ratio(times),
            )


def _trained(result: Mapping[str, Any]) -> Iterator[Row]:
    shares = result["computed"]["model"]
    # Two models of one configuration differ in what their gates have learnt to choose.
    computed = ", ".join(f"{name} of {share:.0%}" for name, share in shares.items() if share >= 0.005)
    for records, found in _batches(result):
        yield Row(
            stage="trained",
            what=f"all tasks, {records} at once, two trained models on real records",
            ours=f"{found['ms_per_record']['model']:.1f} ms per ECG; {computed}",
            beside=f"the peer: {found['ms_per_record']['peer']:.1f} ms",
            ratio=_ratio(found["times_as_long"]),
            aim=1.4,
        )


_FROM = {"prepared": "from prepared data", "files": "from WFDB files, with quality and R peaks"}


def _predict(result: Mapping[str, Any]) -> Iterator[Row]:
    for name, found in result["predict"].items():
        yield Row(
            stage="predict",
            what=f"{result['records']:,} records {_FROM.get(name, name)}, in one process",
            ours=f"{number(found['records_per_second'])} records/s",
            beside=f"bare passes, batches in memory: {number(result['bare_records_per_second'])} records/s",
            ratio=_ratio(found["bare_share"]),
        )
    evaluation = result["evaluation"]
    yield Row(
        stage="predict",
        what=f"evaluation of {result['records']:,} predictions: figures with intervals, and report",
        ours=f"{number(evaluation['ms_per_record'])} ms per record",
        beside="",
    )


def _embed(result: Mapping[str, Any]) -> Iterator[Row]:
    for name, found in result["backbones"].items():
        yield Row(
            stage="embed",
            what=f"{name}, size {result['size']}, {result['workers']} workers",
            ours=f"{found['embed_records_per_second']:,.0f} records/s",
            beside=f"bare loops: {found['bare_records_per_second']:,.0f} records/s",
            ratio=_ratio(found["bare_share"]),
            aim=0.9,
        )


def _prepare(result: Mapping[str, Any]) -> Iterator[Row]:
    one = result["prepare"]["1"]
    for workers, found in result["prepare"].items():
        alone = (
            f"{workers} times one plain process alone: {int(workers) * one['bare_records_per_second']:,.0f} records/s"
        )
        beside = [
            (
                f"{workers} plain processes at once: {found['bare_records_per_second']:,.0f} records/s",
                "bare_share",
                None,
            ),
            (alone, "share_of_processes_alone", 0.8),
            (f"prepare with one worker: {one['records_per_second']:,.0f} records/s", "times_one_worker", None),
        ]
        # With one worker the second says what the first does, and the third is 1.
        for peer, share, aim in beside[:1] if workers == "1" else beside:
            yield Row(
                stage="prepare",
                what=f"{result['records']:,} records of {result['dataset']}, workers: {workers}",
                ours=f"{found['records_per_second']:,.0f} records/s",
                beside=peer,
                ratio=_ratio(found[share]),
                aim=aim,
            )


_LIBRARIES = {
    "wfdb_millivolt": "wfdb.rdrecord in millivolt",
    "wfdb_digital": "wfdb.rdrecord in the file's numbers",
    "neurokit2_lead_ii": "neurokit2 of lead II",
}
_PARTS = {"read": "reading WFDB files, one thread", "r_peaks": "R peaks, one thread; ours of twelve leads"}


def _parts(result: Mapping[str, Any]) -> Iterator[Row]:
    for name, part in result["parts"].items():
        for bare, found in part["bare"].items():
            yield Row(
                stage="parts",
                what=f"{_PARTS.get(name, name)}, {part['records']:,} records of {result['dataset']}",
                ours=f"{part['records_per_second']:,.0f} records/s",
                beside=f"bare {_LIBRARIES.get(bare, bare)}: {found['records_per_second']:,.0f} records/s",
                ratio=_ratio(found["times_as_fast"]),
            )


def _start(result: Mapping[str, Any]) -> Iterator[Row]:
    for name, seconds in result["seconds"].items():
        yield Row(stage="start", what=name, ours=f"{number(seconds)} s", beside="")


def _costs(result: Mapping[str, Any]) -> Iterator[Row]:
    """The last point of each sweep but that of unlike records: how much less it takes than a linear cost would."""
    for sweep, points in result["sweeps"].items():
        first, (last, end) = next(iter(points)), max(points.items(), key=lambda each: each[1]["linear"])
        for kind in ("forward", "training"):
            times = end[kind]["times_first"]["ratios"]
            yield Row(
                stage="costs",
                what=f"{kind}: {last} {sweep} against {first}",
                ours=f"{end[kind]['times_first']['median']:.2f} times as long",
                beside=f"a linear cost: {end['linear']:.2f} times",
                ratio=ratio([end["linear"]] * len(times), times),
            )


def _traffic(result: Mapping[str, Any]) -> Iterator[Row]:
    """What was counted on one and two workers beside the plan."""
    for stage, by_workers in result["counted"].items():
        for workers, found in by_workers.items():
            yield Row(
                stage="traffic",
                what=f"ZeRO {stage}, sent by each of {workers} workers in a step, a small model",
                ours=f"{found['counted_sent']:,.0f} bytes counted",
                beside=f"{found['planned_sent']:,.0f} planned",
            )


def _roofline(result: Mapping[str, Any]) -> Iterator[Row]:
    """Aims are those of encoders of size large on a GPU; a CPU only tries the code."""
    aimed = result["device"] == "cuda" and result["size"] == "large"
    for name, found in result["backbones"].items():
        for way in ("embed", "training"):
            each = found[way]
            memory = "" if each["peak_bytes"] is None else f", {each['peak_bytes'] / 1e9:.1f} GB"
            what = f"{name}, size {result['size']}, {way} on {result['device_name']}, {result['precision']}"
            yield Row(
                stage="roofline",
                what=what,
                ours=f"{each['records_per_second']:,.1f} records/s{memory}",
                beside="the paper: 14.7 records/s, 8.2 GB",
                ratio=_ratio(each["times_paper"]),
                aim=25.0 if aimed else None,
            )
            yield Row(
                stage="roofline",
                what=what,
                ours=f"{each['flops_per_record'] * each['records_per_second'] / 1e12:.3g} TFLOP/s",
                beside="the matrix products that it asks for",
                ratio=_ratio(each["mfu"]),
                aim=0.4 if aimed else None,
            )


_ROWS = {
    "loader": _loader,
    "training": _training,
    "scaling": _scaling,
    "checkpoint": _checkpoint,
    "inference": _inference,
    "trained": _trained,
    "predict": _predict,
    "embed": _embed,
    "prepare": _prepare,
    "parts": _parts,
    "start": _start,
    "costs": _costs,
    "traffic": _traffic,
    "roofline": _roofline,
}


def _ratio(values: Mapping[str, Any]) -> Ratio:
    return Ratio(**{**values, "ratios": tuple(values["ratios"])})
