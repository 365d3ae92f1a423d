"""The cells of a table: a variant, a seed and the patients that it does not see, each an ordinary run.

All cells are one Ray Tune run. A cell that is finished is not computed again, one that was cut off goes on from its checkpoint,
and one that fails does not end the others. Cells whose pre-training is the same one share it: name those of one variant before
those of the next, so that it is there for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray import tune

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.evaluation.known import known_arrays
from ecgmoe.inference.predict_split import predict_split
from ecgmoe.pipeline.embed import embed
from ecgmoe.pipeline.nodes import alive_nodes, refuse_local
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.training.alone import can_be_alone
from ecgmoe.training.identity import refuse_other_run, run_identity
from ecgmoe.training.run import check_labels, train
from ecgmoe.training.start import check_start
from ecgmoe.training.tracking import ParentRun
from ecgmoe.tuning.trials import STATE, Ended, at_once, run_trials

SEED, FOLD = "seed", "fold"
STATES = "table"
"""Name of Ray Tune's experiments of cells, numbered."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training.

    Attributes:
        variant: what is trained.
        seed: of its training.
        fold: which patients it does not see; None where the data's own splits are used.
    """

    variant: str
    seed: int
    fold: int | None = None

    @property
    def run(self) -> str:
        """Name of its run."""
        part = "" if self.fold is None else f"fold{self.fold}-"
        return f"{self.variant}-{part}seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the cells of a table have in common.

    Attributes:
        configs: of each variant.
        folders: prepared folder by fold; that of None is the data itself.
        split: that is predicted.
        store: folder of the table; the runs of its cells lie there.
    """

    configs: Mapping[str, RunConfig]
    folders: Mapping[int | None, str]
    split: str
    store: Store

    @property
    def predictions(self) -> str:
        """File of a cell's predictions, in its run."""
        return f"predictions/{self.split}.parquet"

    def config(self, cell: Cell) -> RunConfig:
        """The configuration of a cell."""
        config = self.configs[cell.variant]
        return replace(config, training=replace(config.training, seed=cell.seed))


def compute_cells(
    plan: Plan, cells: Sequence[Cell], *, wanted_at_once: int | None = None, parent: ParentRun | None = None
) -> dict[Cell, str]:
    """Train every cell that is not finished, and predict the patients that it did not see.

    Args:
        plan: of the table.
        cells: of the table.
        wanted_at_once: trainings side by side; None takes as many as there is room for.
        parent: MLflow run of the table.

    Returns:
        Why a cell failed, for those that did. One whose process ended (memory, a lost node) is tried again from its
        checkpoint, `max_failures` times.

    Raises:
        ValueError: a cell's name is taken by another configuration, or data or layout do not fit.
    """
    if not cells:
        return {}
    # Of a variant that has no cell to compute nothing is checked or embedded.
    configs = {name: plan.configs[name] for name in dict.fromkeys(cell.variant for cell in cells)}
    for config in configs.values():
        for folder in plan.folders.values():
            check_labels(PreparedData(folder), config)
    for name, config in configs.items():
        # A cell may train on any node, and reads it there.
        refuse_local(start_from=config.start_from)
        # What has begun has its own copy of the model that it started from.
        if not any((plan.store / cell.run).exists("config.json") for cell in cells if cell.variant == name):
            check_start(config)
    # Folds share their features, so that one of them stands for all.
    features = embedded(configs, next(iter(plan.folders.values())))
    left = [cell for cell in cells if not _finished(plan, cell, features[cell.variant])]
    if done := len(cells) - len(left):
        print(f"{done} of {len(cells)} cells are finished", flush=True)
    if not left:
        return {}
    together = min(at_once(each.training, wanted_at_once) for each in configs.values())
    failures: dict[Cell, str] = {}
    for again in reversed(range(1 + max(each.training.max_failures for each in configs.values()))):
        ended = _run(plan, left, features, together, parent)
        failures |= {cell: each.failure for cell, each in ended.items() if each.failure}
        left = [cell for cell, each in ended.items() if each.lost]
        if not left or not again:
            break
        names = ", ".join(cell.run for cell in left)
        print(f"the process of {names} is gone: on from the last checkpoint, {again} more attempts", flush=True)
        for cell in left:
            del failures[cell]
    return failures


def _run(
    plan: Plan, left: Sequence[Cell], features: Mapping[str, dict[str, str]], together: int, parent: ParentRun | None
) -> dict[Cell, Ended]:
    """One Ray Tune run over these cells."""
    call = partial(
        compute_cell,
        configs={cell.run: to_dict(plan.config(cell)) for cell in left},
        folders={cell.run: plan.folders[cell.fold] for cell in left},
        features={cell.run: features[cell.variant] for cell in left},
        split=plan.split,
        storage=plan.store.root,
        parent=asdict(parent) if parent else None,
    )
    ended = run_trials(
        call,
        {"cell": tune.grid_search([cell.run for cell in left])},
        store=plan.store,
        # What Ray Tune knows of an earlier start is of no use: the runs themselves say what is finished.
        name=f"{STATES}-{len((plan.store / STATE).names()) + 1}",
        at_once=together,
        label=lambda values: values["cell"],
        total=len(left),
        alone=all(can_be_alone(plan.config(cell)) for cell in left),
    )
    by_name = {cell.run: cell for cell in left}
    return {by_name[each.values["cell"]]: each for each in ended}


def compute_cell(
    values: Mapping[str, Any],
    *,
    configs: Mapping[str, Any],
    folders: Mapping[str, str],
    features: Mapping[str, dict[str, str]],
    split: str,
    storage: str,
    parent: Mapping[str, str] | None,
) -> None:
    """What Ray Tune calls for a cell: train it and predict; the arguments are by run name."""
    name = values["cell"]
    config, data = from_dict(RunConfig, configs[name]), folders[name]
    above = ParentRun(**parent) if parent else None
    alone = can_be_alone(config)
    model = train(
        config,
        data=data,
        features=features[name],
        name=name,
        storage=storage,
        parent=above,
        alone=alone,
        shared=storage,
    )
    # Where others trained it, this process is on the node of the driver, which may be one without a GPU, or with no CPU to
    # spare among many nodes.
    here = alone or (not config.training.use_gpu and len(alive_nodes()) == 1)
    # As many as trained: the others belong to the cells beside this one.
    table = predict_split(model, data, split, workers=config.training.num_workers, here=here)
    for task in config.task_table():
        # A cell whose model has diverged is a failed one, not a finished one that no table can read.
        known_arrays(task, table)
    with (Store(storage) / name).writing(f"predictions/{split}.parquet") as file:
        pq.write_table(table, file, compression="zstd")


def embedded(configs: Mapping[str, RunConfig], folder: str) -> dict[str, dict[str, str]]:
    """Feature keys of each configuration, computed where they are missing."""
    keys: dict[str, dict[str, str]] = {}
    found: list[tuple[Any, dict[str, str]]] = []
    for name, config in configs.items():
        wanted = config.cached, config.training.precision
        known = next((features for one, features in found if one == wanted), None)
        if known is None:
            known = embed(folder, config.cached, precision=config.training.precision)
            found.append((wanted, known))
        keys[name] = known
    return keys


def _finished(plan: Plan, cell: Cell, features: dict[str, str]) -> bool:
    run = plan.store / cell.run
    refuse_other_run(run, run_identity(plan.config(cell), PreparedData(plan.folders[cell.fold], features)))
    return run.exists(plan.predictions)


def pooled(plan: Plan, cells: Sequence[Cell], elsewhere: Mapping[Cell, pa.Table] | None = None) -> pa.Table:
    """Predictions of these cells with columns seed and fold (-1 for none), ordered by seed and study.

    Args:
        plan: of the table.
        cells: finished ones.
        elsewhere: predictions of cells that have no run here.
    """
    tables = []
    for cell in cells:
        table = (elsewhere or {}).get(cell)
        if table is None:
            with (plan.store / cell.run).parquet(plan.predictions) as file:
                table = file.read()
        for column, value in ((SEED, cell.seed), (FOLD, -1 if cell.fold is None else cell.fold)):
            table = table.append_column(column, pa.array(np.full(len(table), value, dtype=np.int32)))
        tables.append(table)
    # Those of elsewhere are without the routing.
    return pa.concat_tables(tables, promote_options="default").sort_by([(SEED, "ascending"), ("study_id", "ascending")])
