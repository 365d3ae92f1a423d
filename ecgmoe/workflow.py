"""The whole way in one call: simulate, prepare, embed, train, evaluate. What is done and unchanged is skipped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.report import text_table, write_report
from ecgmoe.home import home
from ecgmoe.inference.predict_split import predict_split
from ecgmoe.pipeline.embed import embed
from ecgmoe.pipeline.prepare import prepare
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store, digest_of
from ecgmoe.training import tracking
from ecgmoe.training.run import train


def default_data(simulation: SimulationConfig) -> str:
    """Simulate and prepare the embedded default under `home()`, unless it is there; returns the prepared folder."""
    key = digest_of(to_dict(simulation))[:8]
    raw, out = home() / "datasets" / f"simulated-{key}", home() / "prepared" / f"simulated-{key}"
    if not raw.exists():
        started = time.perf_counter()
        print(f"simulate: {simulation.studies:,} ECGs of simulated patients to {raw}", flush=True)
        simulate(raw, simulation)
        print(f"simulate: done in {time.perf_counter() - started:.0f} s", flush=True)
    if not (out / "manifest.json").exists():
        print(f"prepare: {raw} to {out}", flush=True)
        manifest = prepare("simulated", str(raw), str(out))
        print(
            f"prepare: {manifest['records']:,} records, {manifest['excluded']} excluded (exclusions.parquet says why)",
            flush=True,
        )
    return str(out)


def run(config: RunConfig, *, name: str, storage: str, data: str | None = None) -> dict[str, Any]:
    """Everything that a run needs, up to its report.

    Args:
        config: the run's configuration.
        name: of the run; the same name resumes it, and is done at once when it is finished.
        storage: folder or URL that holds runs.
        data: prepared folder; None simulates one.

    Returns:
        The content of metrics.json.
    """
    folder = data or default_data(SimulationConfig())
    prepared = PreparedData(folder)
    features = embed(prepared.store.root, config.cached)
    run_store = Store(storage) / name
    train(config, data=prepared.store.root, features=features, name=name, storage=storage)
    if run_store.exists("report/metrics.json"):
        print(f"{run_store.root} is finished; its report:", flush=True)
        return show(run_store)
    return evaluate_run(name, storage, folder)
