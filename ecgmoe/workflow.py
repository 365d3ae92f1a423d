"""The whole way in one call: simulate, prepare, embed, train, evaluate. What is done and unchanged is skipped."""

from __future__ import annotations

import time
from typing import Any

from ecgmoe.assessment import evaluate_run
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import to_dict
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.home import home
from ecgmoe.pipeline.embed import embed
from ecgmoe.pipeline.nodes import refuse_local
from ecgmoe.pipeline.prepare import prepare
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store, digest_of
from ecgmoe.training import tracking
from ecgmoe.training.identity import check_name
from ecgmoe.training.run import check_labels, train
from ecgmoe.training.start import check_start, with_whole_path

DEMONSTRATION = SimulationConfig(patients=3000, studies=5000)
"""The embedded default: small enough for two cores and minutes, large enough that all five tasks are learnt."""


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
    check_name(name)
    config = with_whole_path(config)
    prepared = PreparedData(data or default_data(DEMONSTRATION))
    folder = prepared.store.root
    print(f"data {folder}\nrun  {Store(storage).path(name)}", flush=True)
    # Now, not after an hour of embedding.
    refuse_local(data=folder, storage=Store(storage).root)
    tracking.default_uri(Store(storage).root)
    check_labels(prepared, config)
    if not (Store(storage) / name).exists("config.json"):
        check_start(config)
    features = embed(folder, config.cached, precision=config.training.precision)
    train(config, data=folder, features=features, name=name, storage=storage)
    run_store = Store(storage) / name
    if run_store.exists("report/metrics.json"):
        print(f"{run_store.root} is finished; its report:\n\n{run_store.read_text('report/report.txt')}", flush=True)
        return run_store.read_json("report/metrics.json")
    return evaluate_run(name, storage)
