"""`ecgmoe.predict`: the numbers of `jobs/predict.py` for one ECG, from a file or an array, without Ray."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import wfdb

import ecgmoe
from documents import REPOSITORY, python_block
from ecgmoe.datasets.folder import list_records
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import LEADS
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.inference.predict_files import write_predictions
from ecgmoe.inference.predict_one import Prediction
from ecgmoe.inference.record_table import REASON
from model_examples import TRAINED_ON, saved_model
from predict_examples import calibrated_model, without_ray
from small_records import an_ecg, write_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    calibrated_model(folder / "model")
    write_record(folder, "good", an_ecg(3))
    write_record(folder, "silent", np.zeros((12, 5000)))
    simulate(folder / "raw", SimulationConfig(patients=30, studies=70, seed=5))
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What `jobs/predict.py` says of the simulated records, predicted in batches."""
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        write_predictions(str(folder / "model"), str(folder / "raw" / "files"), str(folder / "out.parquet"))
    return {row["path"]: row for row in pq.read_table(folder / "out.parquet").to_pylist()}


def near(value: float) -> Any:
    """In a batch a matrix product sums in another order: float32 has 6e-8, and the model makes some ten of it."""
    return pytest.approx(value, rel=1e-5, abs=1e-5)


def check(one: Prediction, row: Mapping[str, Any]) -> None:
    """All that the two say is the same."""
    rr, age, sex, potassium, rhythm = (one.tasks[name] for name in ("rr", "age", "sex", "potassium", "arrhythmia"))
    assert (rr.value, age.value) == (near(row["rr_ms"]), near(row["age_years"]))
    assert rr.interval == (near(row["rr_ms_low"]), near(row["rr_ms_high"]))
    assert age.interval == (near(row["age_years_low"]), near(row["age_years_high"]))
    assert (rr.unit, age.unit) == ("ms", "years")
    assert sex.probabilities["female"] == near(row["sex_female_probability"])
    assert sum(sex.probabilities.values()) == pytest.approx(1)
    assert potassium.probabilities["abnormal"] == near(row["potassium_abnormal_probability"])
    assert (sex.class_name, potassium.class_name) == (row["sex"], row["potassium"])
    assert rhythm.class_name == row["arrhythmia"]
    assert list(rhythm.probabilities.values()) == [near(p) for p in row["arrhythmia_probabilities"]]
    assert rhythm.class_set == tuple(row["arrhythmia_set"])
    assert {f"quality_{name}": value for name, value in one.quality.items()} == {
        name: value for name, value in row.items() if name.startswith("quality_")
    }
    assert (one.beats_detected, one.rr_detected_ms) == (row["beats_detected"], row["rr_detected_ms"])
    assert one.model_version == row["model_version"]
    assert one.level == 0.9


def test_one_record_has_the_numbers_of_a_batch(folder: Path, rows: dict[str, dict[str, Any]]) -> None:
    paths = [path for path in list_records(str(folder / "raw" / "files")).paths if rows[path][REASON] is None]
    assert len(paths) > 60
    for path in paths:
        check(ecgmoe.predict(folder / "raw" / "files" / path, model=folder / "model"), rows[path])


def test_an_array_has_the_numbers_of_its_file(folder: Path) -> None:
    record = wfdb.rdrecord(str(folder / "good"))
    order = np.random.default_rng(0).permutation(12)
    array, leads = record.p_signal.T[order], [LEADS[index].lower() for index in order]
    expected = ecgmoe.predict(str(folder / "good.hea"), model=str(folder / "model"))
    assert ecgmoe.predict(array, fs=record.fs, leads=leads, model=folder / "model") == expected
    assert ecgmoe.predict(array * 1000, fs=500.0, leads=leads, unit="uV", model=folder / "model") == expected
    assert expected.tasks["rr"].value is not None


def test_a_url_is_a_record_by_any_of_its_names(folder: Path) -> None:
    for name in ("good.hea", "good.dat"):
        fsspec.filesystem("memory").put(str(folder / name), f"/ward/{name}")
    expected = ecgmoe.predict(folder / "good", model=folder / "model")
    for name in ("good", "good.hea", "good.dat"):
        assert ecgmoe.predict(f"memory://ward/{name}", model=folder / "model") == expected
    with pytest.raises(ValueError, match="there is no recording memory://ward/absent"):
        ecgmoe.predict("memory://ward/absent", model=folder / "model")


def test_what_comes_back_is_plain(folder: Path) -> None:
    found = asdict(ecgmoe.predict(folder / "good", model=folder / "model"))
    assert json.loads(json.dumps(found))["tasks"]["rr"]["unit"] == "ms"
    assert set(found["tasks"]) == {"rr", "age", "sex", "potassium", "arrhythmia"}


def test_without_calibration_there_are_no_intervals(folder: Path, tmp_path: Path) -> None:
    saved_model(tmp_path / "model")
    one = ecgmoe.predict(folder / "good", model=tmp_path / "model")
    assert one.level is None
    assert [task.interval for task in one.tasks.values()] == [None] * 5
    assert [task.class_set for task in one.tasks.values()] == [None] * 5


def test_a_task_without_training_labels_is_not_predicted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a head says that nobody trained must not reach anybody; the other tasks stay what they are."""
    saved_model(tmp_path / "knowing")
    saved_model(tmp_path / "model", trained_on=TRAINED_ON)
    without_ray(monkeypatch)
    write_predictions(str(tmp_path / "model"), str(folder / "good.hea"), str(tmp_path / "out.parquet"))
    assert "not predicted: potassium (the training data of this model have no label of it)" in capsys.readouterr().out
    assert not [name for name in pq.read_table(tmp_path / "out.parquet").column_names if "potassium" in name]
    ecg = ecgmoe.predict(folder / "good", model=tmp_path / "model")
    whole = ecgmoe.predict(folder / "good", model=tmp_path / "knowing")
    assert set(whole.tasks) - set(ecg.tasks) == {"potassium"}
    assert ecg.tasks["age"].value == near(whole.tasks["age"].value)
    explained = ecgmoe.explain(folder / "good", model=tmp_path / "model", steps=0)
    assert explained.explanation.gates.keys() == ecg.tasks.keys()


def test_a_model_is_loaded_once_until_it_changes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    from ecgmoe.inference import predict_one

    loads: list[str] = []
    real = predict_one.Predictor
    monkeypatch.setattr(predict_one, "Predictor", lambda folder: loads.append(folder) or real(folder))
    first = ecgmoe.predict(folder / "good", model=tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert ecgmoe.predict(folder / "good", model="model") == first
    assert len(loads) == 1
    calibrated_model(tmp_path / "model", Calibration(half_width={"rr": 1.0}))
    changed = ecgmoe.predict(folder / "good", model=tmp_path / "model")
    assert len(loads) == 2
    assert changed.model_version != first.model_version
    assert changed.tasks["rr"].interval != first.tasks["rr"].interval


GOOD = an_ecg(3) / 1000
ARRAY = {"source": GOOD, "fs": 500, "leads": LEADS}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"source": "absent"}, "there is no recording .*absent: give a WFDB record"),
        ({"source": ""}, "is a folder: one record is taken at a time"),
        (
            {"source": "silent"},
            r"silent is excluded by the quality policy: 12 flat.*in Python policy=QualityPolicy\(\)",
        ),
        ({"source": "good", "fs": 500}, "^fs: a file tells this itself, leave it out"),
        ({"source": "good", "leads": LEADS, "unit": "mV"}, "^leads, unit: a file tells this itself"),
        ({"source": GOOD, "leads": LEADS}, "fs is missing: give the sampling rate of the array in Hz"),
        ({"source": GOOD, "fs": 500}, "leads is missing: name the rows of the array"),
        ({**ARRAY, "source": GOOD.T}, r"expected \(12 leads, samples\): pass array\.T"),
        ({**ARRAY, "source": GOOD[:, :4000]}, "lasts 8 s, 10 s are needed"),
        ({**ARRAY, "source": GOOD * 0}, "the array is excluded by the quality policy: 12 flat"),
        ({**ARRAY, "source": GOOD * np.nan}, "the array is excluded by the quality policy: 100.00% of the samples"),
        ({**ARRAY, "source": GOOD, "unit": "uV"}, r"amplitude 0\.00\d+ mV .* unit or gain is wrong"),
        ({**ARRAY, "reader": ReaderOptions(mat_unit="mV")}, r"mat_unit is about MATLAB files: give .* as unit="),
        ({"source": "good", "model": "good"}, "is not a model folder: config.json is missing"),
    ],
)
def test_what_cannot_be_predicted_has_a_reason(folder: Path, given: dict[str, Any], reason: str) -> None:
    source = given["source"]
    asked = {"model": folder / "model", **given, "source": folder / source if isinstance(source, str) else source}
    with pytest.raises(ValueError, match=reason):
        ecgmoe.predict(asked.pop("source"), **asked)


def test_the_policy_and_the_reader_are_the_callers(folder: Path) -> None:
    holes = GOOD.copy()
    holes[9, 100:200] = np.nan
    short = GOOD[:, :4500]
    with pytest.raises(ValueError, match="of the samples of a lead are missing"):
        ecgmoe.predict(holes, fs=500, leads=LEADS, model=folder / "model")
    masked = ecgmoe.predict(holes, fs=500, leads=LEADS, model=folder / "model", policy=QualityPolicy(missing="mask"))
    assert masked.quality["masked_leads"] == ["V4"]
    padded = ecgmoe.predict(short, fs=500, leads=LEADS, model=folder / "model", reader=ReaderOptions(pad_short=True))
    assert padded.quality["padded_samples"] == 500


def test_the_lines_of_the_readme_start_neither_ray_nor_deepspeed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "runs" / "first" / "model")
    (tmp_path / "my_records").mkdir()
    write_record(tmp_path / "my_records", "one", an_ecg(3))
    code = python_block("README.md", "import ecgmoe\n")
    assert len(list(filter(None, code.splitlines()))) == 3
    loaded = "import sys; print(sorted({heavy} & set(sys.modules)))\n"
    code = code.replace(
        "import ecgmoe\n", "import ecgmoe\n" + loaded.format(heavy={"torch", "numpy", "pyarrow", "ray"})
    )
    code += loaded.format(heavy={"ray", "deepspeed", "mlflow", "matplotlib"})
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    at_once, told, at_last = said.stdout.splitlines()
    assert (at_once, at_last) == ("[]", "[]")
    assert re.fullmatch(r"\d+\.\d+ \(\d+\.\d+, \d+\.\d+\) [\w ]+", told)


def test_there_is_nothing_else_by_that_name() -> None:
    with pytest.raises(AttributeError, match="module 'ecgmoe' has no attribute 'predicted'"):
        _ = ecgmoe.predicted
