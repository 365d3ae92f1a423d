"""One page of what the stages measured: Markdown, JSON, and a picture of the ratios."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ecgmoe.benchmark.paired import Ratio, ratio
from ecgmoe.evaluation.report import markdown_rows, number
from ecgmoe.pipeline.store import Store

NAME = "benchmark"
NOT_RUN = "**Not run**: scaling over GPUs, the roofline and MFU of embed, and the memory beside the paper's 8.2 GB."


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
    """

    stage: str
    what: str
    ours: str
    beside: str
    ratio: Ratio | None = None
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the whole interval reaches the aim, a part of it, or none."""
        if self.aim is None or self.ratio is None:
            return ""
        shown = "reached" if self.ratio.low >= self.aim else "MISSED" if self.ratio.high < self.aim else "not shown"
        return f"{shown} (at least {self.aim:g})"


def write_page(folder: str) -> dict[str, Any]:
    """Put every FOLDER/STAGE.json of `jobs/benchmark.py --out` on one page: benchmark.md, benchmark.json, benchmark.svg.

    Raises:
        ValueError: the folder holds no result, or a file there is none.
    """
    store = Store(folder)
    found = {}
    for name in sorted(store.names()):
        if not name.endswith(".json") or name == f"{NAME}.json":
            continue
        try:
            result = store.read_json(name)
            found[name.removesuffix(".json")] = (result, rows_of(result), _about(result["machine"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{store.path(name)} is no result of --out, or of an earlier version ({error!r}): move it elsewhere"
            ) from error
    if not found:
        raise ValueError(f"{store.root} holds no result: measure some stages first, with --out {store.root}/STAGE.json")
    rows = [row for _, each, _ in found.values() for row in each]
    store.write_text(f"{NAME}.md", "\n".join(_lines(found, rows)))
    page = {
        "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
        "stages": {name: result for name, (result, *_) in found.items()},
    }
    store.write_json(f"{NAME}.json", page)
    with store.writing(f"{NAME}.svg") as file:
        file.write(_picture([row for row in rows if row.ratio is not None]))
    return page


def _about(machine: Mapping[str, Any]) -> str:
    """Revision, machine and versions of a result in one line."""
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    return (
        f"revision {machine['revision']}, {machine['cpus']} cores ({machine['processor']}), "
        f"{machine['memory_gib']:.0f} GiB; {versions}."
    )


def _lines(found: Mapping[str, tuple[dict[str, Any], list[Row], str]], rows: list[Row]) -> list[str]:
    lines = ["# Benchmark", ""]
    if len({about for *_, about in found.values()}) > 1:
        lines += [
            "**These results are of different machines, versions or revisions: compare them within a stage alone.**",
            "",
        ]
    lines += [
        "Ours and what stands beside it take turns on one machine; a ratio is the median over these pairs with its 95 % "
        "interval, above 1 where ours is better. Encoders start from random weights unless a model folder is named.",
        NOT_RUN,
        "",
        markdown_rows(
            [
                ("stage", "what", "ours", "beside", "ratio", "aim, for the interval's lower end"),
                *(
                    (row.stage, row.what, row.ours, row.beside, row.ratio.line() if row.ratio else "", row.verdict)
                    for row in rows
                ),
            ]
        ),
        "",
        f"![Ratios with their intervals]({NAME}.svg)",
        "",
        "## How",
    ]
    for name, (result, _, about) in found.items():
        machine = result["machine"]
        lines += [f"### {name}", "```", machine["command"], "```", f"{machine['date']}, {about}{_memory(result)}", ""]
    return lines


def _memory(result: Mapping[str, Any]) -> str:
    """The memory that a stage took; nothing for a result of before it was watched."""
    peak = result.get("peak_memory_bytes")
    if peak is None:
        return ""
    return f" Peak memory {peak / 1e6:,.0f} MB, of the job and all its processes together, making its data included."


def rows_of(result: Mapping[str, Any]) -> list[Row]:
    """What a stage compares; nothing for a stage that compares nothing.

    Raises:
        KeyError: it is no result.
    """
    make = _ROWS.get(result["stage"])
    return list(make(result)) if make else []


def _loader(result: Mapping[str, Any]) -> Iterator[Row]:
    for name, peer in result["on_the_fly"].items():
        workers = name.partition("_")[0]
        yield Row(
            stage="loader",
            what=f"batches of {result['batch']} of {result['records']:,} prepared ECGs, {result['compression']}",
            ours=f"{result['records_per_second']:,.0f} records/s",
            beside=f"torch DataLoader that reads WFDB, {workers} processes: {peer['records_per_second']:,.0f} records/s",
            ratio=_ratio(peer["times_as_fast"]),
            aim=20.0 if workers == "0" else None,
        )


def _training(result: Mapping[str, Any]) -> Iterator[Row]:
    yield Row(
        stage="training",
        what=f"a step of {result['records_per_step']} records, preset {result['preset']}",
        ours=f"{result['ms_per_step']:.0f} ms",
        beside=f"bare DeepSpeed loop, batches in memory: {result['bare_ms_per_step']:.0f} ms",
        ratio=_ratio(result["bare_share"]),
        aim=0.95 if result["preset"] == "bench" else None,
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
    for records, found in _batches(result):
        yield Row(
            stage="trained",
            what=f"all tasks, {records} at once, two trained models on real records",
            ours=f"{found['ms_per_record']['model']:.1f} ms per ECG",
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
        pairs = found["ratios"]
        yield Row(
            stage="embed",
            what=f"{name}, size {result['size']}, {result['workers']} workers",
            ours=f"{found['embed_records_per_second']:,.0f} records/s",
            beside=f"bare loops: {found['bare_records_per_second']:,.0f} records/s",
            ratio=ratio(pairs, [1.0] * len(pairs)) if len(pairs) >= 6 else None,
            aim=0.9,
        )


def _prepare(result: Mapping[str, Any]) -> Iterator[Row]:
    for workers, found in result["prepare"].items():
        yield Row(
            stage="prepare",
            what=f"{result['records']:,} records of {result['dataset']}, {workers} workers",
            ours=f"{found['records_per_second']:,.0f} records/s",
            beside=f"as many plain processes: {found['bare_records_per_second']:,.0f} records/s",
        )


_PARTS = {"read": "reading WFDB files, one thread", "r_peaks": "R peaks, one thread; ours of twelve leads"}
_LIBRARIES = {
    "wfdb_millivolt": "wfdb.rdrecord in millivolt",
    "wfdb_digital": "wfdb.rdrecord in the file's numbers",
    "neurokit2_lead_ii": "neurokit2 of lead II",
}


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


_ROWS = {
    "loader": _loader,
    "training": _training,
    "checkpoint": _checkpoint,
    "inference": _inference,
    "trained": _trained,
    "predict": _predict,
    "embed": _embed,
    "prepare": _prepare,
    "parts": _parts,
    "start": _start,
}


def _ratio(values: Mapping[str, Any]) -> Ratio:
    return Ratio(**{**values, "ratios": tuple(values["ratios"])})


def _picture(rows: list[Row]) -> bytes:
    """The ratios on a logarithmic axis, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.35 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        assert row.ratio is not None
        median, low, high = row.ratio.median, row.ratio.low, row.ratio.high
        axes.errorbar(median, place, xerr=[[median - low], [high - median]], fmt="o", color="tab:blue", capsize=3)
        if row.aim is not None:
            axes.plot(row.aim, place, "|", color="tab:red", markersize=14)
    axes.set_yticks(range(len(rows)), [f"{row.stage}: {row.what}\n{row.beside}" for row in reversed(rows)], fontsize=6)
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("ratio with 95 % interval, above 1 where ours is better; red: the aim")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()
