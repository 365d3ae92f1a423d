"""A record on which the model fails takes no neighbour of its batch with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgmoe.ecg.array import from_array
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import UsableRecord, usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import LEADS
from ecgmoe.inference import predict_one
from ecgmoe.serving.answers import answers, description
from model_examples import TRAINED_ON, saved_model
from predict_examples import calibrated_model
from serving_examples import Here
from small_records import an_ecg


def record(seed: int) -> UsableRecord:
    return usable(from_array(an_ecg(seed), 500, LEADS, "uV"), ReaderOptions(), QualityPolicy())


def test_a_batch_gives_each_record_what_it_gets_alone(tmp_path: Path) -> None:
    here = Here(calibrated_model(tmp_path / "model"))
    records = [record(seed) for seed in range(5)]
    together = answers(here.predictor, here.loaded, records)
    assert [answer.first for answer in together] == [True, False, False, False, False]
    assert {answer.batch for answer in together} == {5}
    for each, answer in zip(records, together, strict=True):
        alone = answers(here.predictor, here.loaded, [each])[0]
        assert answer.prediction is not None
        assert alone.prediction is not None
        assert answer.prediction["quality"] == alone.prediction["quality"]
        assert answer.prediction["tasks"]["rr"]["value"] == pytest.approx(
            alone.prediction["tasks"]["rr"]["value"], rel=1e-5
        )
        chances = [each["tasks"]["arrhythmia"]["probabilities"] for each in (answer.prediction, alone.prediction)]
        np.testing.assert_allclose(*(list(each.values()) for each in chances), rtol=1e-4, atol=1e-6)


def test_one_that_fails_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here(calibrated_model(tmp_path / "model"))
    records = [record(seed) for seed in range(3)]
    whole = predict_one.predict_records

    def failing(predictor, version, paths, given):  # type: ignore[no-untyped-def]
        if any(each is records[1] for each in given):
            raise RuntimeError("no")
        return whole(predictor, version, paths, given)

    monkeypatch.setattr(predict_one, "predict_records", failing)
    found = answers(here.predictor, here.loaded, records)
    assert [answer.prediction is None for answer in found] == [False, True, False]


def test_tasks_that_were_not_trained_are_named(tmp_path: Path) -> None:
    saved_model(tmp_path / "first" / "model", trained_on=TRAINED_ON)
    here = Here(str(tmp_path / "first" / "model"))
    about = description(str(tmp_path / "first" / "model"), here.predictor, here.loaded)
    assert about["not_predicted"] == ["potassium"]
    assert [task["name"] for task in about["tasks"]] == ["rr", "age", "sex", "arrhythmia"]
