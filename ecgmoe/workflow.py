"""The whole way in one call: simulate, prepare, embed, train, evaluate. What is done and unchanged is skipped."""

from __future__ import annotations

import time
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.linear import linear_beside
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.report import report_files, text_table
from ecgmoe.evaluation.routing import heat_maps, routing_summary
from ecgmoe.home import home
from ecgmoe.inference.predict_split import predict_split
from ecgmoe.pipeline.embed import embed
from ecgmoe.pipeline.nodes import refuse_local
from ecgmoe.pipeline.prepare import prepare
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store, digest_of
from ecgmoe.training import tracking
from ecgmoe.training.identity import check_name
from ecgmoe.training.run import check_labels, train

DEMONSTRATION = SimulationConfig(patients=3000, studies=5000)
"""The embedded default: small enough for two cores and minutes, large enough that all five tasks are learnt."""

RANDOM_WEIGHTS = "Random-initialised backbones"
"""How the note on backbones without published weights begins."""


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
    prepared = PreparedData(data or default_data(DEMONSTRATION))
    folder = prepared.store.root
    print(f"data {folder}\nrun  {Store(storage).path(name)}", flush=True)
    # Now, not after an hour of embedding.
    refuse_local(data=folder, storage=Store(storage).root)
    tracking.default_uri(Store(storage).root)
    check_labels(prepared, config)
    features = embed(folder, config.cached, precision=config.training.precision)
    train(config, data=folder, features=features, name=name, storage=storage)
    run_store = Store(storage) / name
    if run_store.exists("report/metrics.json"):
        print(f"{run_store.root} is finished; its report:\n\n{run_store.read_text('report/report.txt')}", flush=True)
        return run_store.read_json("report/metrics.json")
    return evaluate_run(name, storage)


def finished_run(name: str, storage: str) -> Store:
    """The folder of a run that has a model.

    Raises:
        ValueError: there is no such run, or it is not finished.
    """
    store = Store(storage) / name
    if not store.exists("config.json"):
        raise ValueError(f"there is no run {store.root}: name one with --run and --storage")
    if not store.exists("model/model.safetensors"):
        raise ValueError(
            f"the run {store.root} is not finished: call jobs/train.py with its name, it goes on where it stopped"
        )
    return store


def evaluate_run(name: str, storage: str, data: str | None = None, *, split: str = "test") -> dict[str, Any]:
    """Predict a split with a finished run's model, and write predictions/<split>.parquet and a report.

    The baselines beside the model are fitted on the training split of the data that the run was trained on.

    Args:
        name: of the run.
        storage: folder or URL that holds runs.
        data: prepared folder; None takes the one that the run was trained on.
        split: "test" writes report/, another split report-<split>/, other data report-<split>-<name of their folder>/.

    Returns:
        The content of metrics.json.

    Raises:
        ValueError: there is no such run, or it is not finished.
        StorageError: its folder cannot be written.
    """
    store = finished_run(name, storage)
    stored = store.read_json("config.json")
    config = from_dict(RunConfig, stored["config"])
    store.require_writable()
    trained_on = PreparedData(stored["data"]["folder"])
    prepared = PreparedData(data) if data else trained_on
    predictions = predict_split(store.path("model"), prepared.store.root, split)
    labels = trained_on.labels()
    constants = Constants.fit(labels.filter(pc.equal(labels["split"], "train")), config.task_table())
    linear, about = linear_beside(trained_on, prepared, predictions["study_id"].to_numpy(), config.task_table())
    metrics = {**evaluate(predictions, constants, config.task_table(), linear=linear), "linear": about}
    elsewhere = prepared.store.root != trained_on.store.root
    # The run's own report stays what it is.
    part = f"{split}-{prepared.store.root.rstrip('/').rpartition('/')[2]}" if elsewhere else split
    with store.writing(f"predictions/{part}.parquet") as file:
        pq.write_table(predictions, file, compression="zstd")
    title = f"{name}: {split} split of {prepared.manifest['dataset']}, {len(predictions):,} records"
    if elsewhere:
        title += f"; trained on {trained_on.manifest['dataset']}"
    remarks = notes(config, prepared.manifest, metrics, store.read_json("model/config.json")["backbones"])
    report = "report" if part == "test" else f"report-{part}"
    routing = routing_summary(predictions, config.model.expert_names)
    # A picture is passed on without its report: it carries the report's remarks.
    pictures = heat_maps(routing, "\n".join([title, *remarks])) if routing else {}
    for file_name, picture in pictures.items():
        with store.writing(f"{report}/{file_name}") as file:
            file.write(picture)
    if routing:
        store.write_json(f"{report}/routing.json", routing)
    files = report_files(metrics, title, remarks)
    # It goes last: it says that the report is whole, and logged.
    whole = files.pop("metrics.json")
    for file_name, text in files.items():
        store.write_text(f"{report}/{file_name}", text)
    print("\n" + text_table(metrics, title, remarks), flush=True)
    print(f"\nreport {store.path(report)}\nmodel  {store.path('model')}", flush=True)
    track(store, metrics, part, report, {**files, "metrics.json": whole}, pictures)
    store.write_text(f"{report}/metrics.json", whole)
    return metrics


def notes(
    config: RunConfig, manifest: dict[str, Any], metrics: dict[str, Any], backbones: list[dict[str, Any]]
) -> list[str]:
    """What a reader of the report must not overlook; `backbones` as the model folder describes them."""
    lines = []
    if manifest["dataset"] == "simulated":
        lines.append("SIMULATED DATA: these figures say nothing about real patients.")
    if not config.training.epochs:
        lines.append("Nothing was trained: the heads are as they were initialised, and these figures are chance.")
    if config.random_backbones:
        lines.append(f"{RANDOM_WEIGHTS}: {', '.join(config.random_backbones)}.")
    for each in backbones:
        if provenance := each["provenance"]:
            line = f"{each['name']}: weights of {provenance['source']} ({provenance['licence']}); its pretraining saw "
            line += f"{provenance['pretraining']}."
            if manifest["dataset"] == "mimic-iv-ecg" and "MIMIC-IV-ECG" in provenance["pretraining"]:
                line += " THESE RECORDS ARE AMONG THEM: no figure here is that of unseen ECGs."
            lines.append(line)
    if metrics["tasks"].get("rr", {}).get("note"):
        lines.append(f"rr: {metrics['tasks']['rr']['note']}; its figures are no claim.")
    return lines


def track(
    store: Store,
    metrics: dict[str, Any],
    part: str,
    report: str,
    files: dict[str, str],
    pictures: dict[str, bytes],
) -> None:
    """Log the metrics, the report and its pictures to the run's own MLflow run.

    Raises:
        StorageError: MLflow refuses.
    """
    known = store.read_json("mlflow.json")
    numbers = {
        f"{part}/{task}_{key}": value
        for task, values in metrics["tasks"].items()
        for key, value in values.items()
        if isinstance(value, int | float)
    }
    # With what training could not send.
    tracker = tracking.Tracker(known["tracking_uri"], known["run_id"], store)
    tracker.log(numbers, step=0)
    for name in ("report.md", "metrics.csv", "metrics.json"):
        tracker.text(files[name], f"{report}/{name}")
    for name, picture in pictures.items():
        tracker.picture(picture, f"{report}/{name}")
    tracker.finish()
