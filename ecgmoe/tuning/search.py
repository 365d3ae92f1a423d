"""A search over options of the configuration: trials, the winner, and the winner trained anew with fresh seeds.

STORAGE/NAME/search.json       what the name stands for; the same call goes on where it stopped
STORAGE/NAME/trial-<id>/       the run of each trial
STORAGE/NAME/winner-seed<s>/   the winner's runs
STORAGE/NAME/pretraining/      pre-trainings, for trials that have the same one
STORAGE/NAME/report/           trials.md, trials.csv, search.html, search.json

Trials are chosen by the best validation score of a run. The test split stays closed unless it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from ecgmoe.assessment import notes
from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict, require, to_dict
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.report import SHOWN, measured
from ecgmoe.pipeline.embed import embed
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.checkpoint_store import CheckpointStore
from ecgmoe.training.identity import check_name, run_identity
from ecgmoe.training.run import check_labels, check_resources, train
from ecgmoe.training.start import check_start, with_whole_path
from ecgmoe.training.tracking import ParentRun
from ecgmoe.tuning.cells import Cell, Plan, compute_cells, pooled
from ecgmoe.tuning.config import SearchConfig
from ecgmoe.tuning.estimate import together
from ecgmoe.tuning.identity import claim, parent_run
from ecgmoe.tuning.search_report import write_report
from ecgmoe.tuning.space import Choice, Domain, Space, changed, describe, require_varied, space_of
from ecgmoe.tuning.trials import Ended, at_once, run_trials
from ecgmoe.tuning.tried import Tried, best_of

METRIC = "best_score"
WINNER = "winner"


def search(
    config: RunConfig,
    options: SearchConfig,
    *,
    data: str,
    name: str,
    storage: str,
    wanted_at_once: int | None = None,
    dry_run: bool = False,
    final: bool = False,
) -> dict[str, Any]:
    """Run all trials, then train the winner with fresh seeds and report.

    Args:
        config: that is varied.
        options: of the search.
        data: prepared folder.
        name: of the search; the same name goes on where it stopped.
        storage: folder or URL; everything lies in STORAGE/NAME.
        wanted_at_once: trials side by side; None takes as many as there is room for.
        dry_run: say what it will take, and stop.
        final: evaluate the winner on the test split instead of the validation split.

    Returns:
        The content of report/search.json; with `dry_run` the estimate.

    Raises:
        ValueError: options that do not fit, another search under this name, or no trial that ended well.
    """
    check_name(name)
    space = space_of(options.space)
    require_varied(config, space)
    require(
        config.training.seed not in options.winner_seeds,
        f"--winner-seeds holds training.seed {config.training.seed}, with which the winner was chosen: take others",
    )
    require(config.training.epochs >= 1, "a search needs at least one epoch")
    prepared, store = PreparedData(data), Store(storage) / name
    config = with_whole_path(config)
    check_labels(prepared, config)
    check_start(config)
    check_resources(config.training)
    features = embed(prepared.store.root, config.cached, precision=config.training.precision)
    identity = {
        **run_identity(config, PreparedData(data, features)),
        "search": json.loads(json.dumps(asdict(options))),
        "space": describe(space),
    }
    if not dry_run:
        claim(store, "search.json", identity)
    side_by_side = at_once(config.training, wanted_at_once)
    trainings = options.trials + len(options.winner_seeds)
    # The first trials begin together, before there is one to share, and each seed has its own.
    pretrainings = min(side_by_side, options.trials) + len(options.winner_seeds)
    estimate = together(
        {name: config}, {name: trainings}, prepared.store.root, {name: features}, pretrainings=pretrainings
    )
    estimate = replace(estimate, upper=options.early_stopping)
    print(f"search {name}: {estimate.line(side_by_side, config.training.num_workers)}", flush=True)
    if dry_run:
        return asdict(estimate)
    parent = parent_run(store, storage, name, {"search": identity["search"], "space": identity["space"]}, config)
    tried = _trials(config, options, space, prepared.store.root, features, store, parent, side_by_side)
    winner = best_of(tried)
    chosen = changed(config, winner.values)
    store.write_json("winner.json", {"run": winner.run, "values": winner.values, "config": to_dict(chosen)})
    plan = Plan(
        configs={WINNER: chosen},
        folders={None: prepared.store.root},
        split="test" if final else "validation",
        store=store,
    )
    cells = [Cell(variant=WINNER, seed=seed) for seed in options.winner_seeds]
    failed = compute_cells(plan, cells, wanted_at_once=wanted_at_once, parent=parent) if cells else {}
    whole = [cell for cell in cells if cell not in failed]
    rows = winner_rows(plan, whole, prepared) if whole else []
    seeds = ", ".join(str(cell.seed) for cell in whole)
    chosen_by = "the split that chose it: expect less elsewhere" if not final else "OPENED for this search by --final"
    remarks = notes(chosen, prepared.manifest, {"tasks": {}}, _backbones(store / winner.run))
    remarks += [f"{cell.run} failed: {why}" for cell, why in failed.items()]
    found = write_report(
        store,
        f"Search {name} on {prepared.manifest['dataset']}",
        remarks,
        tried,
        winner,
        space=space,
        epochs=config.training.epochs,
        facts={"estimate": asdict(estimate), "split": plan.split, "winner_seeds": [cell.seed for cell in whole]},
        winner_rows=rows,
        winner_text=f"Seeds {seeds}, on the {plan.split} split ({chosen_by}); mean and standard deviation over seeds.",
        parent=parent,
    )
    best = store / (whole[0].run if whole else winner.run)
    version = tracking.register_model(best, parent.uri, name)
    print(f"model {best.path('model')}, in MLflow's registry {name} version {version}", flush=True)
    return found


def _trials(
    config: RunConfig,
    options: SearchConfig,
    space: Space,
    data: str,
    features: dict[str, str],
    store: Store,
    parent: ParentRun,
    side_by_side: int,
) -> list[Tried]:
    call = partial(
        run_trial,
        config=to_dict(config),
        data=data,
        features=features,
        storage=store.root,
        parent=asdict(parent),
    )
    ended = run_trials(
        call,
        {option: _domain(domain) for option, domain in space.items()},
        store=store,
        name="trials",
        at_once=side_by_side,
        label=lambda values: ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in values.items()),
        total=options.trials,
        config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=options.trials,
            scheduler=_scheduler(options, config.training.epochs),
            search_alg=_searcher(options),
        ),
        go_on=True,
    )
    return [_tried(each, store) for each in ended]


def _scheduler(options: SearchConfig, epochs: int) -> Any:
    if not options.early_stopping:
        return None
    # At max_t it would cut a trial off that has only its model left to write.
    return ASHAScheduler(
        time_attr="epoch",
        max_t=epochs + 1,
        grace_period=min(options.grace_epochs, epochs),
        reduction_factor=options.reduction,
    )


def _searcher(options: SearchConfig) -> Any:
    if options.searcher == "random":
        return tune.search.basic_variant.BasicVariantGenerator(random_state=options.seed)
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(seed=options.seed)


def _domain(domain: Domain) -> Any:
    """Ray Tune's form of a domain; choices travel as JSON, since a searcher knows no tuples."""
    if isinstance(domain, Choice):
        return tune.choice([json.dumps(value) for value in domain.values])
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {option: json.loads(value) if isinstance(value, str) else value for option, value in values.items()}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def run_name(trial: str) -> str:
    """Name of the run of Ray Tune's trial."""
    return f"trial-{trial}"


def run_trial(
    values: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    data: str,
    features: dict[str, str],
    storage: str,
    parent: Mapping[str, str],
) -> None:
    """What Ray Tune calls for a trial: train its configuration and report each validation."""
    from ray.tune.integration.ray_train import TuneReportCallback

    own = changed(from_dict(RunConfig, config), _plain(values))
    name = run_name(tune.get_context().get_trial_id())
    run = Store(storage) / name
    if run.exists("model/model.safetensors"):
        # It ended after Ray Tune last wrote down what it knows, and before the driver did.
        best = CheckpointStore(run).best()
        score = best.score if best else None
        tune.report({"score": score, METRIC: score, "epoch": float(own.training.epochs)})
        return
    train(
        own,
        data=data,
        features=features,
        name=name,
        storage=storage,
        parent=ParentRun(**parent),
        callbacks=[TuneReportCallback()],
        shared=storage,
    )


def _tried(ended: Ended, store: Store) -> Tried:
    name = run_name(ended.trial)
    run = store / name
    curve: dict[str, list[float]] = {}
    if run.exists("mlflow.json"):
        known = run.read_json("mlflow.json")
        # The store has each step once, whatever was cut off and made again.
        curve = tracking.curves(known["tracking_uri"], known["run_id"], "validation/")
    scores = curve.get("score", [])
    return Tried(
        run=name,
        values=_plain(ended.values),
        score=max(scores) if scores else ended.last.get(METRIC),
        epochs=len(scores) or int(ended.last.get("epoch", 0)),
        failure=ended.failure,
        curve=curve,
    )


def winner_rows(plan: Plan, cells: Sequence[Cell], data: PreparedData) -> list[tuple[str, ...]]:
    """The head and a row per task and metric: mean and standard deviation over the seeds, and the constant."""
    tasks = plan.config(cells[0]).task_table()
    labels = data.labels()
    constants = Constants.fit(labels.filter(pc.equal(labels["split"], "train")), tasks)
    each = [evaluate(pooled(plan, [cell]), constants, tasks, intervals=False) for cell in cells]
    rows: list[tuple[str, ...]] = [("task", "metric", "mean", "sd", "constant")]
    for task, metric, values in measured(each[0], SHOWN):
        found = [one["tasks"][task][metric] for one in each]
        if any(value is None for value in found):
            continue
        spread = f"{np.std(found, ddof=1):.4f}" if len(found) > 1 else ""
        constant = values["constant"].get(metric)
        rows.append((task, metric, f"{np.mean(found):.4f}", spread, "" if constant is None else f"{constant:.4f}"))
    return rows


def _backbones(run: Store) -> list[dict[str, Any]]:
    """As the model folder describes them; none where a trial was stopped before it left one."""
    return run.read_json("model/config.json")["backbones"] if run.exists("model/config.json") else []
