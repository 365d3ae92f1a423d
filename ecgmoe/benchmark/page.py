"""One page of what the stages measured: Markdown, JSON, and a picture of the ratios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ecgmoe.benchmark.rows import Row, rows_of
from ecgmoe.evaluation.report import markdown_rows
from ecgmoe.pipeline.store import Store

NAME = "benchmark"


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
    store.write_text(f"{NAME}.svg", _picture([row for row in rows if row.ratio is not None]))
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
        *_not_run([result for result, *_ in found.values()]),
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


_ON_GPUS = {
    "scaling": "scaling over GPUs",
    "roofline": "the roofline and MFU on a GPU, and the memory beside the paper's 8.2 GB",
}


def _not_run(results: list[dict[str, Any]]) -> list[str]:
    """A line on what needs GPUs and is not among the results; none where all is."""
    on_gpus = {each["stage"] for each in results if each.get("device") == "cuda"}
    missing = [what for stage, what in _ON_GPUS.items() if stage not in on_gpus]
    return [f"**Not run**: {'; '.join(missing)}."] if missing else []


def _memory(result: Mapping[str, Any]) -> str:
    """The memory that a stage took; nothing for a result of before it was watched."""
    peak = result.get("peak_memory_bytes")
    if peak is None:
        return ""
    return f" Peak memory {peak / 1e6:,.0f} MB, of the job and all its processes together, making its data included."


def _picture(rows: list[Row]) -> str:
    """The ratios on a logarithmic axis, as SVG."""
    from matplotlib.figure import Figure

    from ecgmoe.evaluation.plots import svg

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
    return svg(figure)
