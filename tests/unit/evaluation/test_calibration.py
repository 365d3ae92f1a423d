"""Temperatures and conformal prediction on data whose truth is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from ecgmoe.config_tools import from_dict, to_dict
from ecgmoe.evaluation.calibration import Calibration, best_temperature, fit, patient_quantile, tempered
from ecgmoe.tasks import task_table

AGE, SEX, RHYTHM = (task_table((name,))[0] for name in ("age", "sex", "arrhythmia"))


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def drawn(rng: np.random.Generator, patients: int, records: int = 1, sharpness: float = 3.0) -> pa.Table:
    """Predictions of a model whose logits are `sharpness` times too large, and labels drawn from the right ones."""
    n = patients * records
    logits = rng.normal(size=(n, 15)) * 2
    label = (softmax(logits).cumsum(1) > rng.random((n, 1))).argmax(1)
    female = rng.normal(size=n)
    # What one patient's records have in common is much of the error.
    error = np.repeat(rng.normal(size=patients) * 8, records) + rng.normal(size=n) * 3
    age = rng.uniform(20, 80, n)
    return pa.table(
        {
            "patient_id": np.repeat(np.arange(patients), records),
            "age_years": age + error,
            "label_age": age,
            "sex_female_probability": 1 / (1 + np.exp(-female * sharpness)),
            "label_sex": (rng.random(n) < 1 / (1 + np.exp(-female))).astype(np.int8),
            "arrhythmia_probabilities": list(softmax(logits * sharpness)),
            "label_arrhythmia": [RHYTHM.classes[index] for index in label],
        }
    )


def test_the_temperature_undoes_what_was_done_to_the_logits() -> None:
    found = fit(drawn(np.random.default_rng(0), 20_000), (AGE, SEX, RHYTHM), "test")
    # Standard errors of the estimate at this size are about 1 % (rhythm) and 2 % (sex).
    assert found.temperature["arrhythmia"] == pytest.approx(3, rel=0.03)
    assert found.temperature["sex"] == pytest.approx(3, rel=0.06)
    assert found.patients == {"age": 20_000, "sex": 20_000, "arrhythmia": 20_000}


def test_a_temperature_changes_no_decision() -> None:
    p = softmax(np.random.default_rng(1).normal(size=(500, 15)) * 3)
    calibration = Calibration(temperature={"arrhythmia": 2.5, "sex": 0.4})
    assert np.array_equal(calibration.probabilities(RHYTHM, p).argmax(1), p.argmax(1))
    assert np.array_equal(calibration.probabilities(SEX, p[:, 0]) >= 0.5, p[:, 0] >= 0.5)
    ages = p[:, 0]
    assert calibration.probabilities(AGE, ages) is ages


def test_tempered_probabilities_stand_the_ends_of_the_scale() -> None:
    p = tempered(np.array([0.0, 1e-40, 0.5, 1.0]), 2.0)
    assert np.isfinite(p).all()
    assert p[2] == 0.5
    assert np.all(np.diff(p) >= 0)
    # Everything wrong and certain: as flat as is allowed, not infinitely so.
    assert 19 < best_temperature(np.array([0, 1] * 20), np.array([1.0, 0.0] * 20)) < 21


@pytest.mark.parametrize("records", [1, 3])
def test_intervals_and_sets_cover_what_they_promise(records: int) -> None:
    """Over 200 draws of 100 patients for the fit, the mean coverage of 2,000 new patients is 0.90.

    With one record each, split conformal prediction covers ceil(101 x 0.9) / 101 = 0.901 on average; the standard error of
    a mean over 200 draws is sqrt(0.9 x 0.1 / 102 / 200) = 0.002. Three records of a patient share most of their error:
    pooled with equal weights in each patient the coverage stays.
    """
    rng = np.random.default_rng(records)
    numbers, classes = [], []
    for _ in range(200):
        found = fit(drawn(rng, 100, records), (AGE, RHYTHM), "test")
        new = drawn(rng, 2000)
        error = np.abs(new["age_years"].to_numpy() - new["label_age"].to_numpy())
        numbers.append((error <= found.half_width["age"]).mean())
        p = found.probabilities(RHYTHM, np.stack(new["arrhythmia_probabilities"].to_numpy()))
        sets = found.sets(RHYTHM, p)
        assert sets is not None
        label = [RHYTHM.classes.index(name) for name in new["label_arrhythmia"].to_pylist()]
        classes.append(sets[np.arange(2000), label].mean())
    assert np.mean(numbers) == pytest.approx(0.901, abs=0.008)
    assert np.mean(classes) == pytest.approx(0.901, abs=0.008)


def test_the_quantile_is_that_of_split_conformal_prediction() -> None:
    scores = np.random.default_rng(2).permutation(np.arange(1.0, 100))
    # 99 patients: the 90th smallest, ceil(100 x 0.9).
    assert patient_quantile(scores, np.arange(99), 0.9) == 90
    # A second record of each patient, as far off as the first, changes nothing.
    assert patient_quantile(np.tile(scores, 2), np.tile(np.arange(99), 2), 0.9) == 90
    with pytest.raises(ValueError, match="8 patients cannot promise a coverage of 90%"):
        patient_quantile(scores[:8], np.arange(8), 0.9)


def test_one_patient_with_many_records_counts_once() -> None:
    scores = np.concatenate([np.arange(1.0, 100), np.full(1000, 1000.0)])
    patient = np.concatenate([np.arange(99), np.full(1000, 99)])
    assert patient_quantile(scores, patient, 0.9) == 91


def test_no_set_is_empty() -> None:
    found = Calibration(threshold={"arrhythmia": 0.9})
    p = np.full((2, 15), 1 / 15)
    p[1, 3] += 0.01
    sets = found.sets(RHYTHM, p)
    assert sets is not None
    assert sets.sum(1).tolist() == [1, 1]
    assert sets[1, 3]


def test_a_task_with_few_patients_is_left_out_and_says_so() -> None:
    few = drawn(np.random.default_rng(3), 19, 5)
    found = fit(few, (AGE, SEX, RHYTHM), "the validation split of x")
    assert not found.temperature
    assert not found.half_width
    assert found.left_out["age"] == "19 patients with a label in the validation split of x, at least 20 are needed"
    assert (
        found.probabilities(SEX, few["sex_female_probability"].to_numpy()).tolist()
        == few["sex_female_probability"].to_pylist()
    )
    assert found.sets(RHYTHM, np.full((2, 15), 1 / 15)) is None


def test_it_travels_as_json_and_nonsense_is_refused() -> None:
    found = fit(drawn(np.random.default_rng(4), 50), (AGE, SEX, RHYTHM), "test")
    assert from_dict(Calibration, to_dict(found)) == found
    for wrong in ({"temperature": {"sex": 0.0}}, {"half_width": {"age": -1.0}}, {"level": 1.0}, {"no_such_key": 1}):
        with pytest.raises(ValueError):
            from_dict(Calibration, {**to_dict(found), **wrong})
