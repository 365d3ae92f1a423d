"""The linear baseline: it finds what is linear, uses the splits as it says, and is finite whatever is missing."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ecgmoe.evaluation import record_statistics as statistics_module
from ecgmoe.evaluation.linear import INVERSE_PENALTIES, LinearBaseline, fit_linear, linear_beside, sample
from ecgmoe.evaluation.record_statistics import STATISTICS, record_statistics
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.tasks import task_table
from prepared_examples import map_here, simulated_and_prepared

TASKS = task_table()
TYPES = {
    "rr_label_ms": pa.float32(),
    "age_years": pa.float32(),
    "sex_female": pa.int8(),
    "potassium_abnormal": pa.int8(),
    "rhythm15": pa.int8(),
}
SPLITS = ["train"] * 8 + ["validation", "test"]
NOISE_YEARS = 2.0


def problem(n: int = 2000, seed: int = 0) -> tuple[pa.Table, np.ndarray]:
    """Labels of known relations to the statistics; rhythms are the classes 3, 11 and 14 alone."""
    generator = np.random.default_rng(seed)
    x = generator.normal(0, 1, (n, len(STATISTICS)))
    scores = np.stack([3 * x[:, 5], 3 * x[:, 6], np.zeros(n)], 1) + generator.gumbel(0, 1, (n, 3))
    columns = {
        "rr_label_ms": 800 + 100 * x[:, 1],
        "age_years": 60 + 5 * x[:, 0] - 3 * x[:, 7] + generator.normal(0, NOISE_YEARS, n),
        "sex_female": (generator.random(n) < female_probability(x)).astype(int),
        "potassium_abnormal": (generator.random(n) < 0.2).astype(int),
        "rhythm15": np.array([3, 11, 14])[scores.argmax(1)],
    }
    labels = pa.table({"study_id": generator.permutation(n), "split": np.resize(SPLITS, n)})
    for name, values in columns.items():
        labels = labels.append_column(name, pa.array(values).cast(TYPES[name]))
    # Units of millivolt and milliseconds lie orders of magnitude apart.
    return labels, (x * 10.0 ** (np.arange(len(STATISTICS)) % 5 - 2) + 1).astype(np.float32)


def female_probability(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(0.5 + 1.5 * x[:, 2] - x[:, 3])))


def only(labels: pa.Table, statistics: np.ndarray, split: str) -> tuple[pa.Table, np.ndarray]:
    rows = np.flatnonzero(pc.equal(labels["split"], split).to_numpy())
    return labels.take(rows), statistics[rows]


def changed(labels: pa.Table, name: str, values: Any, rows: Any = None) -> pa.Table:
    """The table with another column; with `rows`, null where that is False."""
    column = pa.array(values, TYPES[name], mask=None if rows is None else ~rows)
    return labels.set_column(labels.schema.get_field_index(name), name, column)


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def test_ridge_finds_a_linear_relation() -> None:
    labels, statistics = problem()
    predicted = LinearBaseline.fit(labels, statistics, TASKS).predict(statistics)
    test, _ = only(labels, statistics, "test")
    rows = pc.equal(labels["split"], "test").to_numpy()
    error = np.abs(predicted["age"][rows] - test["age_years"].to_numpy()).mean()
    # The mean of a half-normal distribution; 200 records have a standard error of 4 %, 1,600 fit 49 weights to 2 %.
    assert error == pytest.approx(NOISE_YEARS * math.sqrt(2 / math.pi), rel=0.12)
    assert np.abs(predicted["rr"][rows] - test["rr_label_ms"].to_numpy()).mean() < 0.5


def test_logistic_regression_finds_the_probabilities() -> None:
    labels, statistics = problem(6000)
    fresh, unseen = problem(4000, seed=9)
    predicted = LinearBaseline.fit(labels, statistics, TASKS).predict(unseen)
    x = (unseen.astype(np.float64) - 1) / 10.0 ** (np.arange(len(STATISTICS)) % 5 - 2)
    # 49 weights from 4,800 records: a standard error of the logit of 0.2, that is 0.05 at most of a probability.
    assert np.abs(predicted["sex"] - female_probability(x)).mean() < 0.05
    truth = fresh["rhythm15"].to_numpy()
    bayes = np.array([3, 11, 14])[np.stack([x[:, 5], x[:, 6], np.zeros(len(x))], 1).argmax(1)]
    # The best rule is wrong as often as the noise says; disagreement with it lies near its boundaries.
    assert (predicted["arrhythmia"].argmax(1) == truth).mean() > (bayes == truth).mean() - 0.01
    assert predicted["arrhythmia"].shape == (4000, 15)
    assert predicted["arrhythmia"].sum(1) == pytest.approx(1)


def test_columns_are_the_classes_of_the_task_and_one_never_seen_is_finite() -> None:
    labels, statistics = problem()
    baseline = LinearBaseline.fit(labels, statistics, TASKS)
    _, test = only(labels, statistics, "test")
    probabilities = baseline.predict(test)["arrhythmia"]
    trained = baseline.records["arrhythmia"]
    assert trained == 1600
    assert set(probabilities.argmax(1)) == {3, 11, 14}
    # One label of each class beside the 1,600, as in the constant predictor.
    assert probabilities[:, 0] == pytest.approx(1 / (trained + 15))
    assert probabilities.min() >= 1 / (trained + 15)
    assert log_loss([0] * len(test), probabilities, labels=range(15)) == pytest.approx(math.log(trained + 15))


def test_a_record_without_a_label_does_not_count() -> None:
    labels, statistics = problem()
    female = labels["sex_female"].to_numpy()
    known = np.arange(len(labels)) % 3 == 0
    # Below the nulls the relation is the opposite one: whoever reads there unlearns it.
    partly = changed(labels, "sex_female", np.where(known, female, 1 - female).astype(np.int8), known)
    baseline = LinearBaseline.fit(partly, statistics, TASKS)
    train = pc.equal(labels["split"], "train").to_numpy()
    assert baseline.records["sex"] == (known & train).sum()
    assert baseline.records["age"] == baseline.training_records == train.sum()
    rows = pc.equal(labels["split"], "test").to_numpy()
    assert roc_auc_score(female[rows], baseline.predict(statistics)["sex"][rows]) > 0.8


def test_the_order_of_records_changes_nothing() -> None:
    labels, statistics = problem()
    once, again = (LinearBaseline.fit(labels, statistics, TASKS).predict(statistics) for _ in range(2))
    assert same(once, again)
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = LinearBaseline.fit(labels.take(order), statistics[order], TASKS).predict(statistics)
    assert same(once, shuffled)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_test_split_decides_nothing_and_the_others_do(split: str) -> None:
    labels, statistics = problem()
    generator = np.random.default_rng(2)
    rows = pc.equal(labels["split"], split).to_numpy()
    spoilt, noisy = labels, statistics.copy()
    noisy[rows] = generator.normal(50, 9, (rows.sum(), len(STATISTICS)))
    for name in TYPES:
        values = labels[name].to_numpy().copy()
        values[rows] = generator.permutation(values[rows])
        spoilt = changed(spoilt, name, values)
    before = LinearBaseline.fit(labels, statistics, TASKS).predict(statistics)
    after = LinearBaseline.fit(spoilt, noisy, TASKS).predict(statistics)
    assert same(before, after) == (split == "test")
    # Validation chooses the penalty of logistic regression, and nothing else.
    assert np.array_equal(before["age"], after["age"]) == (split != "train")


def test_validation_chooses_the_penalty() -> None:
    labels, statistics = problem()
    tasks = {"sex", "potassium", "arrhythmia"}
    chosen = {name: each["C"] for name, each in described(labels, statistics).items() if name in tasks}
    # Potassium is noise here: nothing of it may be believed.
    assert chosen["potassium"] == INVERSE_PENALTIES[0]
    assert chosen["arrhythmia"] > INVERSE_PENALTIES[0]
    without = labels.filter(pc.not_equal(labels["split"], "validation"))
    rows = pc.not_equal(labels["split"], "validation").to_numpy()
    middle = {name: each["C"] for name, each in described(without, statistics[rows]).items() if name in tasks}
    assert set(middle.values()) == {INVERSE_PENALTIES[len(INVERSE_PENALTIES) // 2]}


def described(labels: pa.Table, statistics: np.ndarray) -> dict[str, dict[str, float]]:
    return LinearBaseline.fit(labels, statistics, TASKS).describe()["tasks"]


def test_a_task_that_cannot_be_fitted_is_left_out_with_its_reason() -> None:
    labels, statistics = problem(400)
    n = len(labels)
    first = np.arange(n) == 0
    labels = changed(labels, "sex_female", np.ones(n, np.int8))
    labels = changed(labels, "potassium_abnormal", np.zeros(n, np.int8), np.zeros(n, bool))
    labels = changed(labels, "age_years", np.full(n, 60, np.float32), first)
    labels = changed(labels, "rr_label_ms", np.arange(n, dtype=np.float32), np.arange(n) < 2)
    baseline = LinearBaseline.fit(labels, statistics, TASKS)
    assert baseline.left_out == {
        "age": "one label in the training split",
        "sex": "one class in the training split",
        "potassium": "no label in the training split",
    }
    predicted = baseline.predict(statistics)
    assert set(predicted) == {"rr", "arrhythmia"}
    assert all(np.isfinite(values).all() for values in predicted.values())
    description = baseline.describe()
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    with pytest.raises(ValueError, match="the training split has no record"):
        LinearBaseline.fit(*only(labels, statistics, "test"), TASKS)


def test_an_electrode_fault_has_a_bounded_effect() -> None:
    labels, statistics = problem()
    baseline = LinearBaseline.fit(labels, statistics, TASKS)
    fault = statistics[:1].copy()
    fault[0, 0] = 1e6
    # Clipped at five spreads of a slope of 5 years each.
    assert abs(baseline.predict(fault)["age"] - baseline.predict(statistics[:1])["age"]).item() < 2 * 5 * 5 * 1.1


def test_a_sample_is_the_same_whatever_the_order_and_that_of_the_first_shards() -> None:
    labels, _ = problem()
    few = sample(labels, "train", 100)
    shuffled = sample(labels.take(np.random.default_rng(3).permutation(len(labels))), "train", 100)
    assert few["study_id"].to_pylist() == shuffled["study_id"].to_pylist()
    assert set(few["split"].to_pylist()) == {"train"}
    assert len(sample(labels, "train", 10_000)) == 1600


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedData, PreparedData]:
    """Two datasets."""
    first, second = (
        simulated_and_prepared(tmp_path_factory.mktemp("linear"), patients=patients, studies=studies, seed=patients)
        for patients, studies in ((90, 200), (30, 60))
    )
    return PreparedData(str(first)), PreparedData(str(second))


def test_on_a_prepared_folder(folders: tuple[PreparedData, PreparedData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_module, "map_shards", map_here)
    data, other = folders
    labels = data.labels()
    baseline = fit_linear(data, TASKS)
    assert baseline.training_records == pc.sum(pc.equal(labels["split"], "train")).as_py()
    test = labels.filter(pc.equal(labels["split"], "test"))
    study_id = test["study_id"].to_numpy()
    predicted = baseline.predict(record_statistics(data, study_id))
    truth = test["rr_label_ms"].to_numpy(zero_copy_only=False)
    known = np.isfinite(truth)
    constant = np.abs(truth - np.nanmedian(truth))[known].mean()
    assert np.abs(truth - predicted["rr"])[known].mean() < constant / 3

    # Fitted on a part: from the shards with the lowest hashes, which are the first ones.
    few = fit_linear(data, TASKS, {"train": 40, "validation": 10})
    assert few.training_records == 40
    first = sample(labels, "train", 40)
    assert pc.max(first["shard"]).as_py() < pc.max(labels["shard"]).as_py()

    # On another dataset it is the same baseline, applied to records of the other.
    elsewhere = other.labels()["study_id"].to_numpy()
    beside, about = linear_beside(data, other, elsewhere, TASKS)
    assert same(beside, baseline.predict(record_statistics(other, elsewhere)))
    assert about["training_records"] == baseline.training_records
