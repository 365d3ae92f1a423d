"""The paper's third question: time and memory of one ECG for all tasks, beside the multi-task baseline and five single-task
models.

Times alternate within one process (`benchmark/inference.py`); memory is that of a process of its own for each.
"""

from __future__ import annotations

from typing import Any

from ecgmoe.benchmark.inference import BASELINE, COPIES, ECG_MOE, inference_benchmark, models_of, one_pass
from ecgmoe.benchmark.memory import measured
from ecgmoe.benchmark.paired import Ratio
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.evaluation.report import markdown_rows, number
from ecgmoe.pipeline.store import Store
from ecgmoe.training.identity import check_name

BATCHES = (1, 32)
PAPER = (
    "The paper reports 14.7 records per second in 8.2 GB of GPU memory, 35 % less than what it compares with, on a GPU that it "
    "does not name: other hardware, other weights, not to be compared with these figures."
)


def rq3(config: RunConfig, *, name: str, storage: str) -> dict[str, Any]:
    """Measure, print, and write STORAGE/NAME/report/rq3.md and rq3.json.

    Args:
        config: of ECG-MoE; the others follow from it. Weights are as initialised.
        name: of the tables.
        storage: folder or URL.

    Returns:
        The content of rq3.json.
    """
    check_name(name)
    found = inference_benchmark(config, batches=BATCHES)
    found["memory_bytes"] = {
        f"batch_{records}": {each: _memory(config, each, records) for each in (ECG_MOE, BASELINE, COPIES)}
        for records in BATCHES
    }
    random = ", ".join(config.random_backbones)
    text = "\n".join(
        [
            "# RQ3: one ECG for all tasks",
            "",
            "**One thread of this machine's CPU, every backbone computed, weights as initialised"
            + (f" (random-initialised backbones: {random})" if random else "")
            + ".**",
            "",
            markdown_rows(rows(found)),
            "",
            "Ratios are medians over interleaved rounds, with their 95 % intervals. Memory is what a process takes more than "
            "after its imports.",
            "",
            PAPER,
            "",
        ]
    )
    store = Store(storage) / name / "report"
    store.write_text("rq3.md", text)
    store.write_json("rq3.json", found)
    print(f"\n{text}\nreport {store.path('rq3.md')}", flush=True)
    return found


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The head and a row per model and batch."""
    table: list[tuple[str, ...]] = [
        ("records at once", "model", "parameters", "records/s", "times as long as ECG-MoE", "memory (MB)")
    ]
    for records in BATCHES:
        key = f"batch_{records}"
        for model, milliseconds in found[key]["ms_per_record"].items():
            times = found[key]["times_ecg_moe"].get(model)
            table.append(
                (
                    str(records),
                    model,
                    f"{found['parameters'][model]:,}",
                    number(1000 / milliseconds),
                    "" if times is None else Ratio(**times).line(),
                    f"{found['memory_bytes'][key][model] / 1e6:.0f}",
                )
            )
    return table


def _memory(config: RunConfig, which: str, records: int) -> int:
    """Bytes that a process takes more than after its imports."""
    found = measured(_passes, to_dict(config), which, records)
    return found.peak_bytes - found.base_bytes


def _passes(values: dict[str, Any], which: str, records: int) -> None:
    """Two passes of one of the three: the first allocates what libraries keep."""
    models = models_of(from_dict(RunConfig, values), which)
    for _ in range(2):
        one_pass(models, records)
