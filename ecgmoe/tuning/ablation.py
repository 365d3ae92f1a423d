"""The paper's tables on any prepared data: variants, seeds and folds as cells of one Ray Tune run, and a report.

STORAGE/NAME/table.json               what the name stands for; the same call goes on where it stopped
STORAGE/NAME/<variant>-...-seed<s>/   the run of each cell
STORAGE/NAME/pretraining/             pre-trainings, for variants that have the same one
STORAGE/NAME/report/                  <table>.md, .tex, .csv, .html and .json

Without `final` each record is predicted by models that never saw its patient, and the test split stays closed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ecgmoe.assessment import notes
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import require, to_dict
from ecgmoe.evaluation.report import RESEARCH_ONLY
from ecgmoe.inference.predict_split import wanted_labels
from ecgmoe.pipeline.config import PAPER_PATIENTS
from ecgmoe.pipeline.folds import rows_of_a_fold, write_folds
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.identity import check_name
from ecgmoe.training.run import check_labels, check_resources
from ecgmoe.training.start import with_whole_path
from ecgmoe.training.tracking import ParentRun
from ecgmoe.tuning.cells import Cell, Plan, compute_cells, embedded
from ecgmoe.tuning.config import Protocol
from ecgmoe.tuning.estimate import together
from ecgmoe.tuning.identity import claim, parent_run
from ecgmoe.tuning.page import render
from ecgmoe.tuning.table_figures import Figures, compared, figures_of
from ecgmoe.tuning.table_report import csv_text, latex, markdown, parts, table_rows
from ecgmoe.tuning.tables import Table
from ecgmoe.tuning.trials import at_once
from ecgmoe.variants import variant

REPORT = "report"


def ablate(
    config: RunConfig,
    tables: Sequence[Table],
    protocol: Protocol,
    *,
    data: str,
    name: str,
    storage: str,
    wanted_at_once: int | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train every cell that is not finished, and report.

    Args:
        config: of ECG-MoE; the variants follow from it.
        tables: that are wanted; a variant that several have is trained once.
        protocol: seeds and folds.
        data: prepared folder.
        name: of the tables; the same name goes on where it stopped, and may get other tables and more seeds.
        storage: folder or URL; everything lies in STORAGE/NAME.
        wanted_at_once: trainings side by side; None takes as many as there is room for.
        dry_run: say what it will take, and stop.

    Returns:
        By table the content of report/<table>.json; with `dry_run` the estimate.

    Raises:
        ValueError: options that do not fit, something else under this name, or no cell that ended well.
    """
    check_name(name)
    config = with_whole_path(config)
    names = tuple(dict.fromkeys(each for table in tables for each in table.variants))
    configs = {each: variant(each, config) for each in names}
    prepared, store = PreparedData(data), Store(storage) / name
    if protocol.paper:
        _require_papers_data(prepared, dry_run=dry_run)
    check_labels(prepared, config)
    if protocol.final:
        # Without a test record every cell would train to its end and fail then.
        wanted_labels(prepared, "test")
    # Before anything is embedded; a layout without room would wait for ever.
    check_resources(config.training)
    side_by_side = at_once(config.training, wanted_at_once)
    if dry_run:
        return _estimate(configs, protocol, prepared, side_by_side, config.training.num_workers)
    folders = _folders(prepared.store.root, store, protocol)
    claim(store, "table.json", _identity(config, prepared, protocol))
    plan = Plan(configs=configs, folders=folders, split="test", store=store)
    cells = [Cell(variant=v, fold=f, seed=s) for v in names for s in protocol.seeds for f in folders]
    parent = parent_run(store, storage, name, {"protocol": asdict(protocol)}, config)
    failed = compute_cells(plan, cells, wanted_at_once=wanted_at_once, parent=parent)
    whole = [cell for cell in cells if cell not in failed]
    failures = [f"{cell.run}: {why}" for cell, why in failed.items()]
    require(bool(whole), f"all {len(cells)} trainings failed: {'; '.join(failures[:3])}")
    for table in tables:
        _report(plan, table, config, protocol, prepared, cells, failed, parent)
    print(f"\nreports {store.path(REPORT)}", flush=True)
    best = _best(store, [cell for cell in whole if cell.variant == "ecg_moe"] or whole)
    version = tracking.register_model(best, parent.uri, name)
    print(f"model {best.path('model')}, in MLflow's registry {name} version {version}", flush=True)
    return {table.name: store.read_json(f"{REPORT}/{table.name}.json") for table in tables}


def _identity(config: RunConfig, data: PreparedData, protocol: Protocol) -> dict[str, Any]:
    """Seeds and tables may be added later, and folds computed later: each cell has an identity of its own."""
    about = {key: data.manifest[key] for key in ("dataset", "records_key", "labels_sha256")}
    folds = None if protocol.final else protocol.folds
    return {"config": to_dict(config), "data": {"folder": data.store.root, **about}, "folds": folds}


def _require_papers_data(data: PreparedData, *, dry_run: bool) -> None:
    manifest = data.manifest
    found = manifest["index"].get("patients")
    require(
        found == PAPER_PATIENTS and (dry_run or manifest["dataset"] == "mimic-iv-ecg"),
        f"the paper's protocol takes {PAPER_PATIENTS:,} patients of MIMIC-IV-ECG, and {data.store.root} was prepared with "
        f"{'all' if found is None else f'{found:,}'} of {manifest['dataset']}: prepare with the preset paper "
        "(jobs/prepare.py paper --dataset mimic-iv-ecg ...)",
    )


def _folders(data: str, place: Store, protocol: Protocol) -> dict[int | None, str]:
    if protocol.final:
        return {None: data}
    roots = write_folds(data, place.path("folds"), folds=protocol.folds)
    return {fold: roots[fold] for fold in protocol.computed}


def _estimate(
    configs: Mapping[str, RunConfig], protocol: Protocol, data: PreparedData, side_by_side: int, workers: int
) -> dict[str, Any]:
    """Measured on the data's own splits, whose sizes are scaled to those of the folds: folds are not cut for it."""
    folder = data.store.root
    cells = len(protocol.seeds) * (1 if protocol.final else len(protocol.computed))
    estimate = together(
        configs,
        dict.fromkeys(configs, cells),
        folder,
        embedded(configs, folder),
        None if protocol.final else rows_of_a_fold(data.labels(), protocol.folds),
        # One for each seed and fold, unless more variants begin together than there are of these.
        pretrainings=max(cells, min(side_by_side, cells * len(configs))),
    )
    print(f"tables: {estimate.line(side_by_side, workers)}", flush=True)
    return asdict(estimate)


def _report(
    plan: Plan,
    table: Table,
    config: RunConfig,
    protocol: Protocol,
    data: PreparedData,
    cells: Sequence[Cell],
    failed: Mapping[Cell, str],
    parent: ParentRun,
) -> None:
    tasks = config.task_table()
    own = [cell for cell in cells if cell.variant in table.variants]
    whole = [cell for cell in own if cell not in failed]
    figures: dict[str, Figures] = {}
    for name in table.variants:
        if finished := [cell for cell in whole if cell.variant == name]:
            wanted = sum(cell.variant == name for cell in own)
            figures[name] = figures_of(plan, finished, tasks, data, wanted=wanted)
    metrics = compared(plan, table, whole, tasks, data)
    title = f"{table.title}: {data.manifest['dataset']}"
    some = next(iter(figures.values())).pooled if figures else {"tasks": {}}
    remarks = [*notes(config, data.manifest, some, _backbones(plan.store, whole)), protocol.line()]
    about = f"Mean ± standard deviation over seeds {', '.join(map(str, protocol.seeds))}; the best of each row in bold."
    if len(protocol.seeds) == 1:
        about = f"Seed {protocol.seeds[0]} alone; the best of each row in bold."
    if any(name.startswith("untrained_") for name in table.variants):
        about += " untrained_*: heads as they were initialised, so that these figures are chance."
    about += " The constant is of the labels that were predicted, a little better than a constant can be."
    failures = [f"{cell.run}: {why}" for cell, why in failed.items() if cell in own]
    shown = parts(table, figures, metrics, about=about, failures=failures)
    found = {
        "title": title,
        "notes": remarks,
        "protocol": asdict(protocol),
        "failures": failures,
        "figures": {each: asdict(values) for each, values in figures.items()},
        "differences": metrics["tasks"],
    }
    split = "test, opened by --final" if protocol.final else "folds"
    files = {
        "md": markdown(title, remarks, shown),
        "tex": latex(table_rows(table, figures), f"{title}. {' '.join(remarks)}"),
        "csv": csv_text(table, figures, metrics, split=split),
        "html": render(title, [*remarks, RESEARCH_ONLY], shown),
        "json": json.dumps(found, indent=2, allow_nan=False) + "\n",
    }
    for ending, content in files.items():
        plan.store.write_text(f"{REPORT}/{table.name}.{ending}", content)
    print("\n" + files["md"], flush=True)
    # Last, since the store may be away.
    tracker = tracking.Tracker(parent.uri, parent.run_id)
    for ending, content in files.items():
        tracker.text(content, f"{REPORT}/{table.name}.{ending}")
    tracker.finish()


def _backbones(store: Store, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Every backbone of these cells as the model folders describe them: a report must say what each of them has seen."""
    found: dict[str, dict[str, Any]] = {}
    for cell in {each.variant: each for each in cells}.values():
        for backbone in (store / cell.run).read_json("model/config.json")["backbones"]:
            if backbone["provenance"] or backbone["name"] not in found:
                found[backbone["name"]] = backbone
    return list(found.values())


def _best(store: Store, cells: Sequence[Cell]) -> Store:
    """The run with the best validation score."""

    def score(cell: Cell) -> float:
        best = CheckpointStore(store / cell.run).best()
        return -math.inf if best is None or best.score is None else best.score

    return store / max(cells, key=score).run
