"""Prediction of files: one row each, bad ones with a reason, good ones as if they were alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import LEADS
from ecgmoe.inference.predict_files import REASON, PredictFiles, write_predictions
from model_examples import saved_model
from small_records import an_ecg, write_record


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    folder.mkdir()
    for number in range(4):
        write_record(folder, f"good{number}", an_ecg(number))
    torn = an_ecg(8)
    write_record(folder, "torn", torn)
    content = (folder / "torn.dat").read_bytes()
    (folder / "torn.dat").write_bytes(content[:5000])
    write_record(folder, "short_of_a_lead", an_ecg(9)[:11], LEADS[:11])
    missing = an_ecg(10)
    missing[2, 100] = -32768
    missing[2, -1] += 32768
    write_record(folder, "missing", missing)
    (folder / "no_signal.hea").write_text((folder / "good0.hea").read_text().replace("good0", "no_signal"))
    return folder


NAMES = ["good0", "missing", "good1", "torn", "good2", "short_of_a_lead", "good3"]


def test_bad_records_have_reasons_and_good_ones_do_not_notice(tmp_path: Path, records: Path) -> None:
    saved_model(tmp_path / "model")
    predict = PredictFiles(str(records), str(tmp_path / "model"), QualityPolicy(), ReaderOptions())
    rows = {row["path"]: row for row in predict(pa.table({"path": NAMES})).to_pylist()}
    assert list(rows) == NAMES
    for name in NAMES:
        assert (rows[name][REASON] is None) == name.startswith("good"), rows[name]
        assert (rows[name]["rr_ms"] is None) == (not name.startswith("good"))
    assert "V6" in rows["short_of_a_lead"][REASON]
    assert rows["good1"]["rr_ms"] == pytest.approx(800, rel=1)
    for name in ("good0", "good3"):
        alone = predict(pa.table({"path": [name]})).to_pylist()[0]
        assert alone["age_years"] == pytest.approx(rows[name]["age_years"], rel=1e-5)
        assert alone["arrhythmia"] == rows[name]["arrhythmia"]
        assert alone["sex_female_probability"] == pytest.approx(rows[name]["sex_female_probability"], rel=1e-5)


def test_a_block_of_bad_records_alone_has_the_same_columns(tmp_path: Path, records: Path) -> None:
    saved_model(tmp_path / "model")
    predict = PredictFiles(str(records), str(tmp_path / "model"), QualityPolicy(), ReaderOptions())
    bad, good = predict(pa.table({"path": ["torn", "no_signal"]})), predict(pa.table({"path": ["good0"]}))
    assert bad.schema == good.schema
    assert bad["age_years"].null_count == 2


def test_the_output_must_be_parquet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.parquet"):
        write_predictions("model", "input", str(tmp_path / "out.csv"))
