"""Tables on files alone: which cells are computed, what stands in the tables, and what a second call does."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cell_fakes import Fakes
from ecgmoe.config import RunConfig, tiny
from ecgmoe.tuning.ablation import ablate
from ecgmoe.tuning.config import Protocol
from ecgmoe.tuning.table_report import latex, paper_rows
from ecgmoe.tuning.tables import Table, tables_of
from ecgmoe.variants import variant
from finished_runs import CONFIG

BOTH = Table(name="ablations", title="Both", variants=("residual_network", "ecg_moe"), reference="ecg_moe")


def tables(data: Path, storage: Path, *, seeds: tuple[int, ...] = (0, 7), **protocol: Any) -> dict[str, Any]:
    own = Protocol(seeds=seeds, folds=3, **protocol)
    return ablate(CONFIG, (BOTH,), own, data=str(data), name="both", storage=str(storage))["ablations"]


def test_a_table_has_means_spreads_intervals_and_costs(
    data: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tables(data, tmp_path)
    assert len(fakes.trained) == 2 * 3 * 2
    ages = [each["tasks"]["age"]["mae"] for each in found["figures"]["ecg_moe"]["seeds"]]
    assert len(set(ages)) == 2
    said = capsys.readouterr().out
    mean, sd = sum(ages) / 2, abs(ages[0] - ages[1]) / 2**0.5
    assert f"**{mean:.3f} ± {sd:.3f}** |" in said
    assert "| age | mae (years) | lower | residual_network | -" in said
    assert "| better |" in said
    assert "no difference shown" in said
    assert "SIMULATED DATA" in said
    assert "Random-initialised backbones: dlinear, timesnet." in said
    assert "3 folds by patient; the test split stayed closed." in said
    # 7 x 6 weights and 7 biases; a metric logged as 40 plus the seed.
    assert "| training | parameters |  | 49 | 49 |" in said
    assert "| training | records/s |  | 43.50 | 43.50 |" in said
    report = tmp_path / "both" / "report"
    with (report / "ablations.csv").open() as file:
        rows = {(row["variant"], row["task"], row["metric"]): row for row in csv.DictReader(file)}
    row = rows["residual_network", "age", "mae"]
    assert float(row["mean"]) > float(rows["ecg_moe", "age", "mae"]["mean"])
    assert float(row["difference_ci_low"]) <= float(row["reference_minus_this"]) <= float(row["difference_ci_high"]) < 0
    assert rows["ecg_moe", "age", "mae"]["reference"] == ""
    page = (report / "ablations.html").read_text()
    assert "SIMULATED DATA" in page
    assert f"<b>{mean:.3f} ± {sd:.3f}</b>" in page
    assert r"\textbf{" in (report / "ablations.tex").read_text()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parent = json.loads((tmp_path / "both" / "mlflow.json").read_text())["run_id"]
    children = MlflowClient(uri).search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_name for run in children} == {name for name, _, _ in fakes.trained}
    assert MlflowClient(uri).get_model_version("both", "1").run_id in {run.info.run_id for run in children}


def test_what_is_finished_is_not_trained_again(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    fakes.fail_at = 5
    with pytest.raises(KeyboardInterrupt):
        tables(data, tmp_path)
    fakes.fail_at = None
    whole = tables(data, tmp_path)
    assert len(fakes.trained) == len(set(fakes.trained)) == 12
    assert tables(data, tmp_path) == whole
    # More seeds under the same name train these alone.
    tables(data, tmp_path, seeds=(0, 7, 8))
    assert {name for name, _, _ in fakes.trained[12:]} == {
        f"{variant}-fold{fold}-seed8" for variant in BOTH.variants for fold in range(3)
    }


def test_trainings_that_fail_leave_a_table_with_their_reason(
    data: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.failing = {f"residual_network-fold{fold}-seed{seed}" for fold in range(3) for seed in (0, 7)}
    tables(data, tmp_path)
    said = capsys.readouterr().out
    assert "| residual_network-fold1-seed7 | lead V9 is unknown |" in said
    assert "| age | mae (years) | lower | failed | **" in said
    assert "ecg_moe and the others have no finished seed and fold in common." in said
    fakes.failing = {"residual_network-fold1-seed7"}
    tables(data, tmp_path)
    said = capsys.readouterr().out
    assert "residual_network-fold1-seed0 |" not in said
    # Of other records than its neighbour: not ranked, and compared where both have been.
    assert "| training | finished cells |  | 5 | 6 |" in said
    assert "| age | mae (years) | lower | (1" in said
    assert "| age | mae (years) | lower | residual_network | -" in said
    assert "| residual_network-fold1-seed7 | lead V9 is unknown |" in said
    fakes.failing = set()
    tables(data, tmp_path)
    assert "failed" not in capsys.readouterr().out


def test_cells_whose_process_is_gone_are_tried_again(
    data: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    restarts = CONFIG.training.max_failures
    once, often = "residual_network-fold1-seed7", "residual_network-fold2-seed0"
    fakes.losses = {once: 1, often: 1 + restarts}
    tables(data, tmp_path)
    said = capsys.readouterr().out
    assert f"the process of {often}, {once} is gone: on from the last checkpoint, {restarts} more attempts" in said
    assert f"| {often} | its process is gone |" in said
    assert f"| {once} | its process" not in said
    assert fakes.losses == {once: 0, often: 0}
    names = [name for name, _, _ in fakes.trained]
    assert len(names) == len(set(names)) == 11


def test_the_test_split_is_opened_by_final_alone(
    data: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    tables(data, tmp_path / "folds", seeds=(0,), folds_computed=(1,))
    assert "3 folds by patient (only fold 1); the test split stayed closed." in capsys.readouterr().out
    assert {folder for _, _, folder in fakes.trained} == {"1"}
    tables(data, tmp_path / "final", seeds=(0,), final=True)
    assert "The test split was OPENED for this table by --final." in capsys.readouterr().out
    assert {folder for _, _, folder in fakes.trained} == {"1", data.name}


def test_a_name_stands_for_one_protocol(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    tables(data, tmp_path, seeds=(0,))
    with pytest.raises(ValueError, match=r"of another kind \(folds: 3 -> null.*choose another --name"):
        tables(data, tmp_path, seeds=(0,), final=True)
    assert len(fakes.trained) == 6


def test_the_papers_protocol_insists_on_its_patients(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    with pytest.raises(
        ValueError, match=r"takes 10,000 patients .* was prepared with all of simulated: prepare with the"
    ):
        tables(data, tmp_path, seeds=(0, 1, 2), protocol="paper")
    assert not fakes.trained
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "name each seed once"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"folds_computed": (5,)}, r"names \[5\], and there are the folds 0 to 4"),
        ({"folds_computed": (1,), "final": True}, "--final takes no folds"),
        ({"protocol": "paper", "seeds": (0,)}, "the paper's protocol has 3 seeds, got 1"),
    ],
)
def test_wrong_protocols(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Protocol(**changes)


def test_the_tables_of_the_paper() -> None:
    one, two, three, more = tables_of(tiny(), ("table1", "table2", "table3", "ablations", "rq3"))
    backbones = ("timesnet", "dlinear", "moment", "tempo", "ecgfm")
    assert one.variants == tuple(f"{kind}_{each}" for kind in ("untrained", "probe") for each in backbones)
    assert two.variants == (*(f"single_{each}" for each in backbones), "ecg_moe")
    assert three.variants == ("moe", "time_moe", "self_attn", "cross_attn", "ecg_moe")
    assert {"no_gate", "multi_task_baseline", "residual_network"} < set(more.variants)
    # What the configuration leaves out already is no ablation of it.
    assert "no_late_backbones" not in tables_of(CONFIG, ("ablations",))[0].variants
    uncontrasted = replace(CONFIG, loss=replace(CONFIG.loss, contrastive_weight=0.0))
    assert "no_contrastive_term" not in tables_of(uncontrasted, ("ablations",))[0].variants
    # Balancing the load of gates that a variant does not have is no reason to refuse it.
    balanced = replace(CONFIG, loss=replace(CONFIG.loss, load_balance_weight=0.1))
    for table in tables_of(balanced, ("table1", "table2", "table3", "ablations")):
        for name in table.variants:
            variant(name, balanced)
    alone = RunConfig(backbones=(tiny().backbones[-1],))
    with pytest.raises(ValueError, match="table1 is about timesnet, dlinear"):
        tables_of(alone, ("table1",))


def test_the_papers_own_figures() -> None:
    assert paper_rows("table1")[1][:3] == ("rr", "mae (ms)", "817.0 ± 2.5")
    head, *rows = paper_rows("table2")
    assert dict(zip(head, rows[0], strict=True))["ecg_moe"] == "76.37 ± 4.7"
    assert [row[0] for row in rows] == ["rr", "age", "sex", "potassium", "arrhythmia"]
    assert paper_rows("ablations") == []


def test_latex_is_escaped() -> None:
    text = latex([("task", "f1_macro", "a"), ("sex", "5 %", "**0.7 ± 0.1**")], "50 % & more_")
    assert r"\caption{50 \% \& more\_}" in text
    assert r"task & f1\_macro & a \\" in text
    assert r"sex & 5 \% & \textbf{0.7 $\pm$ 0.1} \\" in text
