"""The paper's tables on any prepared data: variants, seeds and folds as cells of one Ray Tune run, and a report.

STORAGE/NAME/table.json               what the name stands for; the same call goes on where it stopped
STORAGE/NAME/<variant>-...-seed<s>/   the run of each cell
STORAGE/NAME/report/                  <table>.md, .tex and .csv, tables.html, tables.json

Without `final` each record is predicted by models that never saw its patient, and the test split stays closed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ecgmoe.assessment import notes
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import require, to_dict
from ecgmoe.evaluation.report import RESEARCH_ONLY
from ecgmoe.filesystem import temporary_folder
from ecgmoe.pipeline.config import PAPER_PATIENTS
from ecgmoe.pipeline.embed import embed
from ecgmoe.pipeline.folds import write_folds
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.identity import check_name
from ecgmoe.training.tracking import ParentRun
from ecgmoe.tuning.cells import Cell, Plan, compute_cells
from ecgmoe.tuning.config import Protocol
from ecgmoe.tuning.estimate import together
from ecgmoe.tuning.identity import claim, parent_run
from ecgmoe.tuning.page import Part, render
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
        The content of report/tables.json; with `dry_run` the estimate.

    Raises:
        ValueError: options that do not fit, something else under this name, or no cell that ended well.
    """
    check_name(name)
    names = tuple(dict.fromkeys(each for table in tables for each in table.variants))
    configs = {each: variant(each, config) for each in names}
    prepared, store = PreparedData(data), Store(storage) / name
    if protocol.paper:
        _require_papers_patients(prepared)
    with contextlib.ExitStack() as stack:
        # A dry run leaves nothing behind.
        place = Store(str(stack.enter_context(temporary_folder()))) if dry_run else store
        if not dry_run:
            claim(store, "table.json", _identity(config, prepared, protocol))
        folders = _folders(prepared.store.root, place, protocol)
        plan = Plan(configs=configs, folders=folders, split="test", store=store)
        cells = [Cell(variant=v, fold=f, seed=s) for s in protocol.seeds for f in folders for v in names]
        if dry_run:
            return _estimate(plan, cells, wanted_at_once)
    parent = parent_run(store, storage, name, {"protocol": asdict(protocol)}, config)
    failed = compute_cells(plan, cells, wanted_at_once=wanted_at_once, parent=parent)
    whole = [cell for cell in cells if cell not in failed]
    failures = [f"{cell.run}: {why}" for cell, why in failed.items()]
    require(bool(whole), f"all {len(cells)} trainings failed: {'; '.join(failures[:3])}")
    found = _report(plan, tables, config, protocol, prepared, whole, failures, parent, name)
    best = _best(store, [cell for cell in whole if cell.variant == "ecg_moe"] or whole)
    version = tracking.register_model(best, parent.uri, name)
    print(f"model {best.path('model')}, in MLflow's registry {name} version {version}", flush=True)
    return found


def _identity(config: RunConfig, data: PreparedData, protocol: Protocol) -> dict[str, Any]:
    """Seeds and tables may be added later, and folds computed later: each cell has an identity of its own."""
    about = {key: data.manifest[key] for key in ("dataset", "records_key", "labels_sha256")}
    folds = None if protocol.final else protocol.folds
    return {"config": to_dict(config), "data": {"folder": data.store.root, **about}, "folds": folds}


def _require_papers_patients(data: PreparedData) -> None:
    found = data.manifest["index"].get("patients")
    require(
        found == PAPER_PATIENTS,
        f"the paper's protocol takes {PAPER_PATIENTS:,} patients of MIMIC-IV-ECG, and {data.store.root} was prepared with "
        f"{'all' if found is None else f'{found:,}'}: prepare with the preset paper (jobs/prepare.py paper --out ...)",
    )


def _folders(data: str, place: Store, protocol: Protocol) -> dict[int | None, str]:
    if protocol.final:
        return {None: data}
    roots = write_folds(data, place.path("folds"), folds=protocol.folds)
    return {fold: roots[fold] for fold in protocol.computed}


def _estimate(plan: Plan, cells: Sequence[Cell], wanted_at_once: int | None) -> dict[str, Any]:
    folder = next(iter(plan.folders.values()))
    features = {
        name: embed(folder, config.cached, precision=config.training.precision) for name, config in plan.configs.items()
    }
    counts = {name: sum(cell.variant == name for cell in cells) for name in plan.configs}
    estimate = together(plan.configs, counts, folder, features)
    side_by_side = min(at_once(config.training, wanted_at_once) for config in plan.configs.values())
    workers = max(config.training.num_workers for config in plan.configs.values())
    print(f"tables: {estimate.line(side_by_side, workers)}", flush=True)
    return asdict(estimate)


def _report(
    plan: Plan,
    tables: Sequence[Table],
    config: RunConfig,
    protocol: Protocol,
    data: PreparedData,
    whole: Sequence[Cell],
    failures: Sequence[str],
    parent: ParentRun,
    name: str,
) -> dict[str, Any]:
    tasks = config.task_table()
    figures = {
        each: figures_of(plan, finished, tasks, data)
        for each in plan.configs
        if (finished := [cell for cell in whole if cell.variant == each])
    }
    title = f"{name} on {data.manifest['dataset']}"
    first = next(iter(figures.values()))
    backbones = (plan.store / whole[0].run).read_json("model/config.json")["backbones"]
    remarks = [*notes(config, data.manifest, first.pooled, backbones), protocol.line()]
    about = f"Mean ± standard deviation over seeds {', '.join(map(str, protocol.seeds))}; the best of each row in bold."
    files: dict[str, str] = {}
    sections: list[Part] = []
    for table in tables:
        own = {each: figures[each] for each in table.variants if each in figures}
        metrics = compared(plan, table, whole, tasks, data)
        failed = [line for line in failures if line.partition("-")[0] in table.variants]
        shown = parts(table, own, metrics, about=about, failures=failed)
        sections += shown
        files[f"{table.name}.md"] = markdown(f"{title}: {table.title}", remarks, shown)
        files[f"{table.name}.tex"] = latex(table_rows(table, own), f"{table.title}. {title}. {' '.join(remarks)}")
        files[f"{table.name}.csv"] = csv_text(table, own, metrics)
    found = {
        "title": title,
        "notes": remarks,
        "protocol": asdict(protocol),
        "failures": list(failures),
        "figures": {each: asdict(values) for each, values in figures.items()},
    }
    files["tables.html"] = render(title, [*remarks, RESEARCH_ONLY], sections)
    files["tables.json"] = json.dumps(found, indent=2, allow_nan=False) + "\n"
    _write(plan.store, files, parent, figures)
    texts = [text for file, text in files.items() if file.endswith(".md")]
    print("\n" + "\n".join(texts) + f"\nreport {plan.store.path(REPORT)}/tables.html", flush=True)
    return found


def _write(store: Store, files: Mapping[str, str], parent: ParentRun, figures: Mapping[str, Figures]) -> None:
    tracker = tracking.Tracker(parent.uri, parent.run_id)
    for file, content in files.items():
        store.write_text(f"{REPORT}/{file}", content)
        tracker.text(content, f"{REPORT}/{file}")
    tracker.log({"table/variants": float(len(figures))}, 0)
    tracker.finish()


def _best(store: Store, cells: Sequence[Cell]) -> Store:
    """The run with the best validation score."""

    def score(cell: Cell) -> float:
        best = CheckpointStore(store / cell.run).best()
        return (best.score if best else None) or 0.0

    return store / max(cells, key=score).run
