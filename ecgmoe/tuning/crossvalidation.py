"""Models compared on all patients: each record predicted by models that never saw its patient, over folds and seeds.

Predictions of all folds are pooled, those of all seeds too; intervals come from drawing patients, each with all its records,
folds and seeds, so that a comparison is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ecgmoe.assessment import notes
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import require
from ecgmoe.evaluation.class_table import class_table
from ecgmoe.evaluation.known import predicted_values
from ecgmoe.evaluation.linear import linear_beside
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.report import LINEAR, difference_table, report_files, text_table
from ecgmoe.pipeline.folds import write_folds
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import Task
from ecgmoe.training.identity import check_name
from ecgmoe.training.start import with_whole_path
from ecgmoe.tuning.cells import FOLD, Cell, Plan, compute_cells, pooled
from ecgmoe.tuning.results import Results, identities_of, read_results, with_own, write_results
from ecgmoe.tuning.table_figures import constants_of
from ecgmoe.variants import variant

Values = npt.NDArray[Any]


def cross_validate(
    config: RunConfig,
    variants: Sequence[str],
    *,
    data: str,
    name: str,
    storage: str,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    at_once: int | None = None,
    earlier: Sequence[str] = (),
) -> dict[str, Any]:
    """Train every cell and compare the first variant with the others, the linear baseline and the constant.

    Args:
        config: of ECG-MoE; the others follow from it.
        variants: what is trained, as `variants.variant` names it; the others are compared with the first.
        data: prepared folder; its test split stays closed.
        name: of the comparison; the same name goes on where it stopped.
        storage: folder or URL; everything lies in STORAGE/NAME.
        folds: each patient is tested in one of them.
        seeds: of the trainings; each trains all folds anew.
        at_once: trainings side by side; None takes as many as there is room for.
        earlier: folders `results` of other cross-validations of this kind, on whatever machine: what they have is not trained
            again.

    Returns:
        The content of metrics.json, as of a report of one run.

    Raises:
        ValueError: a bad name or variant, too few patients, another configuration under this name, or a training failed.
    """
    check_name(name)
    require(bool(variants) and len(set(variants)) == len(variants), "name each variant once, and at least one")
    require(bool(seeds) and len(set(seeds)) == len(seeds), "name each seed once, and at least one")
    config = with_whole_path(config)
    configs = {each: variant(each, config) for each in variants}
    store = Store(storage) / name
    roots = write_folds(data, store.path("folds"), folds=folds)
    cells = [Cell(variant=v, fold=f, seed=s) for v in variants for s in seeds for f in range(folds)]
    tasks, prepared = config.task_table(), PreparedData(data)
    identities = identities_of(configs, prepared, folds, tasks)
    known = read_results(earlier, identities, prepared, [PreparedData(root) for root in roots], tasks)
    left = [cell for cell in cells if cell not in known.tables]
    plan = Plan(configs=configs, folders=dict(enumerate(roots)), split="test", store=store)
    failed = compute_cells(plan, left, wanted_at_once=at_once)
    if failed:
        reasons = "; ".join(f"{cell.run}: {why}" for cell, why in failed.items())
        raise ValueError(f"{len(failed)} of {len(cells)} trainings failed, call again once that is mended: {reasons}")
    tables = {each: pooled(plan, [cell for cell in cells if cell.variant == each], known.tables) for each in variants}
    metrics = _compare(tables, prepared, roots, tasks)
    title = f"{name}: {variants[0]}, {folds} folds by patient, seeds {', '.join(map(str, seeds))}"
    found = with_own(known, store, left)
    remarks = [
        *notes(config, prepared.manifest, metrics, found.backbones[variants[0]]),
        _origin(found, cells, left, earlier),
    ]
    files = report_files(metrics, title, remarks)
    files["differences.md"] = difference_table(metrics, variants[0])
    several = [task for task in tasks if task.kind == "multiclass" and task.name in metrics["tasks"]]
    files["classes.md"] = "\n".join(class_table(task, tables) for task in several)
    for each, text in files.items():
        store.write_text(f"report/{each}", text)
    for each, table in tables.items():
        with store.writing(f"predictions/{each}.parquet") as file:
            pq.write_table(table, file, compression="zstd")
        write_results(store, each, table, tasks, identities[each], found)
    print(
        f"\n{text_table(metrics, title, remarks)}\n\n{files['differences.md']}\n{files['classes.md']}\n"
        f"report {store.path('report')}",
        flush=True,
    )
    return metrics


def _origin(found: Results, cells: Sequence[Cell], left: Sequence[Cell], earlier: Sequence[str]) -> str:
    """What code trained these cells, and where."""
    revisions = ", ".join(sorted({found.revisions[cell] for cell in cells}))
    taken = f", {len(cells) - len(left)} of them taken from {', '.join(earlier)}" if len(left) < len(cells) else ""
    return f"{len(cells)} trainings at {revisions}{taken}."


def _compare(
    tables: Mapping[str, pa.Table], data: PreparedData, roots: Sequence[str], tasks: Sequence[Task]
) -> dict[str, Any]:
    (_, first), *others = tables.items()
    beside = {name: {task.name: predicted_values(task, table) for task in tasks} for name, table in others}
    constants = constants_of(first, tasks, data)
    linear, about = _linear(first, roots, tasks)
    return {**evaluate(first, constants, tasks, beside={LINEAR: linear, **beside}), LINEAR: about}


def _linear(table: pa.Table, roots: Sequence[str], tasks: Sequence[Task]) -> tuple[dict[str, Values], dict[str, Any]]:
    """The linear baseline of each fold for its records, the same for every seed."""
    study, fold = table["study_id"].to_numpy(), table[FOLD].to_numpy()
    values: dict[str, Values] = {}
    about: dict[str, Any] = {}
    for number, root in enumerate(roots):
        prepared, rows = PreparedData(root), np.flatnonzero(fold == number)
        own, position = np.unique(study[rows], return_inverse=True)
        predicted, about = linear_beside(prepared, prepared, own, tasks)
        for task, each in predicted.items():
            values.setdefault(task, np.full((len(study), *each.shape[1:]), np.nan))[rows] = each[position]
    return {task: each for task, each in values.items() if np.isfinite(each).all()}, about
