"""Prediction of files: one row each, bad ones with a reason, good ones as if they were alone, the same bytes after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ecgmoe
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import LEADS, MISSING
from ecgmoe.ecg.rhythm import TAXONOMIES
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.inference import predict_files
from ecgmoe.inference.predict_files import BATCH, PLAN, PredictFiles, cut, write_predictions
from ecgmoe.inference.predictions_file import class_column, part_name
from ecgmoe.inference.record_list import list_source
from ecgmoe.inference.record_table import REASON
from ecgmoe.pipeline.store import Store
from model_examples import saved_model
from predict_examples import CALIBRATION, calibrated_model, without_ray
from small_records import an_ecg, write_record

RHYTHMS = TAXONOMIES["rhythm15"]
NAMES = ["good0", "missing", "good1", "torn", "good2", "short_of_a_lead", "good3"]


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


@pytest.fixture
def model(tmp_path: Path) -> str:
    return calibrated_model(tmp_path / "model")


@pytest.fixture
def predicted(tmp_path: Path, records: Path, model: str) -> Callable[..., list[dict[str, Any]]]:
    """Predicts a block of these names."""
    Store(tmp_path / "parts").write_json(PLAN, {})

    def rows(names: list[str], policy: QualityPolicy | None = None) -> list[dict[str, Any]]:
        actor = PredictFiles(
            model=model,
            version="v",
            policy=policy or QualityPolicy(),
            reader=ReaderOptions(),
            parts=str(tmp_path / "parts"),
        )
        block = pa.table({"path": names, "record": [f"{records}/{name}" for name in names]})
        return actor.predict(block).to_pylist()

    return rows


def test_bad_records_have_reasons_and_good_ones_do_not_notice(predicted: Callable[..., list[dict[str, Any]]]) -> None:
    rows = {row["path"]: row for row in predicted(NAMES)}
    assert list(rows) == NAMES
    for name in NAMES:
        assert (rows[name][REASON] is None) == name.startswith("good"), rows[name]
        known = {column for column, value in rows[name].items() if value is not None}
        assert known == ({"path", "model_version", REASON} if rows[name][REASON] else set(rows[name]) - {REASON})
    assert "V6" in rows["short_of_a_lead"][REASON]
    assert rows["good1"]["rr_ms"] == pytest.approx(800, rel=1)
    for name in ("good0", "good3"):
        (alone,) = predicted([name])
        assert alone["age_years"] == pytest.approx(rows[name]["age_years"], rel=1e-5)
        assert alone["arrhythmia"] == rows[name]["arrhythmia"]
        assert alone["sex_female_probability"] == pytest.approx(rows[name]["sex_female_probability"], rel=1e-5)


def test_a_block_of_bad_records_alone_has_the_same_columns(predicted: Callable[..., list[dict[str, Any]]]) -> None:
    (bad, _), (good,) = predicted(["torn", "no_signal"]), predicted(["good0"])
    assert list(bad) == list(good)
    assert bad["age_years"] is None


def test_intervals_sets_and_classes_are_those_of_the_calibration(
    predicted: Callable[..., list[dict[str, Any]]],
) -> None:
    (row,) = predicted(["good0"])
    assert row["rr_ms_high"] - row["rr_ms"] == pytest.approx(12.5, abs=1e-3)
    assert row["rr_ms"] - row["rr_ms_low"] == pytest.approx(12.5, abs=1e-3)
    assert row["age_years_high"] - row["age_years_low"] == pytest.approx(40, abs=1e-3)
    assert row["sex"] == ("female" if row["sex_female_probability"] >= 0.5 else "male")
    assert row["potassium"] == ("abnormal" if row["potassium_abnormal_probability"] >= 0.5 else "normal")
    by_class = dict(zip(RHYTHMS, row["arrhythmia_probabilities"], strict=True))
    assert sum(by_class.values()) == pytest.approx(1, abs=1e-5)
    assert row["arrhythmia"] == max(by_class, key=by_class.__getitem__)
    assert row["arrhythmia_probability"] == by_class[row["arrhythmia"]]
    assert row["arrhythmia_set"] == [name for name, p in by_class.items() if p >= CALIBRATION.threshold["arrhythmia"]]
    assert 1 < len(row["arrhythmia_set"]) < len(RHYTHMS)


def test_quality_is_told_in_words(records: Path, predicted: Callable[..., list[dict[str, Any]]]) -> None:
    signal = an_ecg(3)
    signal[8] = 0
    signal[7] = np.random.default_rng(0).normal(0, 80, 5000).round()
    signal[7, -1] -= signal[7].sum()
    write_record(records, "doubtful", signal)
    (row,) = predicted(["doubtful"], QualityPolicy(noise="mask", amplitude="mask"))
    assert row["quality_flat_leads"] == row["quality_zero_leads"] == ["V3"]
    assert row["quality_noisy_leads"] == row["quality_masked_leads"] == ["V2"]
    assert row["quality_clipped_leads"] == []
    assert row["quality_missing_share"] == row["quality_padded_samples"] == 0
    assert row["quality_einthoven_uv"] > 0
    (row,) = predicted(["good0"])
    assert (row["beats_detected"], row["rr_detected_ms"], row["quality_few_beats"]) == (13, 800, False)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """100 records in four blocks, two of them bad, and two files between them that only look like records."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(100):
        write_record(folder, f"r{number:03d}", an_ecg(number % 7))
    (folder / "r040.dat").unlink()
    (folder / "r010.hea").write_text("")
    (folder / "a.dat").touch()
    (folder / "r031x.dat").touch()
    return folder


def test_rows_are_in_order_and_the_file_says_what_it_is(
    many: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_ray(monkeypatch)
    done = write_predictions(model, str(many), str(tmp_path / "out.parquet"))
    table = pq.read_table(tmp_path / "out.parquet")
    paths = table["path"].to_pylist()
    assert paths == sorted([*(f"r{number:03d}" for number in range(100)), "a", "r031x"])
    reasons = dict(zip(paths, table[REASON].to_pylist(), strict=True))
    assert {path for path, reason in reasons.items() if reason} == {"a", "r010", "r031x", "r040"}
    assert (done.predicted, done.refused) == (98, 4)
    assert done.reasons[0] == "2 as a: its signal file .dat has no header .hea beside it"
    assert len(done.reasons) == 3
    # The twins of a record have its numbers, wherever they are in a batch: fp32 sums in another order, nothing more.
    by_path = {row["path"]: row for row in table.to_pylist()}
    assert by_path["r099"]["age_years"] == pytest.approx(by_path["r001"]["age_years"], rel=1e-5)
    told = json.loads(table.schema.metadata[b"ecgmoe"])
    assert told["use"] == "research use only: never a diagnosis"
    assert told["ecgmoe_version"] == ecgmoe.__version__
    assert told["level"] == 0.9
    assert told["classes"]["arrhythmia"] == list(RHYTHMS)
    assert set(table["model_version"].to_pylist()) == {told["model_version"]}
    assert not list(tmp_path.glob("*.parts"))
    assert "calibr" not in capsys.readouterr().out


def interrupted(patch: pytest.MonkeyPatch, after: int) -> None:
    """The job ends when so many blocks are done."""
    whole, done = PredictFiles.__call__, []

    def dying(self: PredictFiles, block: pa.Table) -> pa.Table:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(block)
        return whole(self, block)

    patch.setattr(PredictFiles, "__call__", dying)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_same_bytes_after_a_kill(
    many: Path,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without_ray(monkeypatch)
    out, again = tmp_path / f"out.{kind}", tmp_path / f"again.{kind}"
    write_predictions(model, str(many), str(out))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, after=3)
        write_predictions(model, str(many), str(again))
    assert not again.exists()
    (parts,) = (tmp_path / f"again.{kind}.parts").iterdir()
    # The last blocks come first.
    assert {path.name for path in parts.iterdir()} == {PLAN, *(part_name(number) for number in (3, 2, 1))}
    # What a writer that was killed leaves behind.
    (tmp_path / f".again.{kind}.0123456789abcdef0123456789abcdef").touch()
    (parts / ".part-000000.parquet.0123456789abcdef0123456789abcdef").touch()
    kept = (parts / part_name(2)).stat().st_mtime_ns
    read: list[str] = []
    real = predict_files.read_usable
    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", lambda self, name: None)
        patch.setattr(predict_files, "read_usable", lambda path, *more: read.append(path) or real(path, *more))
        write_predictions(model, str(many), str(again))
    # Block 1 has a record without prediction, which may have been mended.
    assert "predict: 67 of 100 records are there already" in capsys.readouterr().out
    assert [Path(path).name for path in read] == ["r040", *(f"r{number:03d}" for number in range(32))]
    assert (parts / part_name(2)).stat().st_mtime_ns == kept
    assert again.read_bytes() == out.read_bytes()
    assert not list(tmp_path.glob(".again*"))


def test_a_record_that_was_mended_is_predicted_when_the_job_goes_on(
    many: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, after=3)
        write_predictions(model, str(many), str(out))
    write_record(many, "r040", an_ecg(40 % 7))
    assert write_predictions(model, str(many), str(out)).predicted == 99
    rows = {row["path"]: row for row in pq.read_table(out).to_pylist()}
    assert list(rows) == sorted(rows)
    assert rows["r040"]["age_years"] == pytest.approx(rows["r047"]["age_years"], rel=1e-5)


def test_parts_of_another_model_or_policy_are_not_taken(
    many: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_ray(monkeypatch)
    out = str(tmp_path / "out.parquet")

    def begun(**more: Any) -> str:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupted(patch, after=1)
            write_predictions(model, str(many), out, **more)
        return capsys.readouterr().out

    assert "there already" not in begun()
    assert "there already" in begun()
    assert "there already" not in begun(policy=QualityPolicy(max_amplitude_mv=5.0))
    assert "there already" not in begun(reader=ReaderOptions(pad_short=True))
    calibrated_model(Path(model), Calibration(half_width={"rr": 1.0}, left_out={"age": "too few"}))
    said = begun()
    assert "there already" not in said
    assert "predict: not calibrated: age (too few); sex (not in calibration.json); potassium (" in said


def test_without_calibration_there_are_no_intervals_and_this_is_said(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_ray(monkeypatch)
    saved_model(tmp_path / "plain")
    write_predictions(str(tmp_path / "plain"), str(records), str(tmp_path / "out.parquet"))
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert not [name for name in schema.names if name.endswith(("_low", "_high", "_set"))]
    assert "age_years" in schema.names
    assert json.loads(schema.metadata[b"ecgmoe"])["level"] is None
    assert "predict: the model has no calibration: there are no intervals and sets" in capsys.readouterr().out


def test_a_csv_file_says_what_a_parquet_file_says(
    records: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    for kind in ("parquet", "csv"):
        write_predictions(model, str(records), str(tmp_path / f"out.{kind}"))
    expected = pq.read_table(tmp_path / "out.parquet")
    found = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, dtype=str)
    lists = {name for name in expected.column_names if pa.types.is_list(expected.schema.field(name).type)}
    assert len(found) == len(expected)
    for row, cells in zip(expected.to_pylist(), found.to_dict("records"), strict=True):
        probabilities = row["arrhythmia_probabilities"] or [None] * len(RHYTHMS)
        for name, p in zip(RHYTHMS, probabilities, strict=True):
            assert same(cells.pop(class_column(name)), p)
        for name in lists - {"arrhythmia_probabilities"}:
            assert cells.pop(name) == ";".join(row[name] or [])
        assert list(cells) == [name for name in expected.column_names if name not in lists]
        assert all(same(text, row[name]) for name, text in cells.items())


def same(text: str, value: Any) -> bool:
    """Whether a cell says it, with every digit that float32 has."""
    if isinstance(value, float):
        return bool(np.float32(text) == value)
    if isinstance(value, bool):
        return text == str(value).lower()
    return text == ("" if value is None else str(value))


HOSTILE = [
    "absent",
    "/absent/b",
    "good0/good1",
    "good0.txt",
    ".",
    "/",
    "..",
    "~",
    "*",
    "a\tb",
    "a::b",
    "a::b.mat",
    "x" * 300,
    "x" * 5000,
    "file:///absent/c",
    "file://",
    "memory://absent/d.mat",
    "memory://",
    "=1+1",
    ".hea",
    "folder",
]


def test_a_row_of_a_table_that_leads_nowhere_has_a_reason(
    records: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    (records / "folder.hea").mkdir()
    good = ["good0", "good1.hea", "good2.dat", f"file://{records}/good3"]
    pq.write_table(pa.table({"path": HOSTILE + good}), records / "list.parquet")
    done = write_predictions(model, str(records / "list.parquet"), str(tmp_path / "out.csv"))
    rows = pd.read_csv(tmp_path / "out.csv", keep_default_na=False).set_index("path")
    assert sorted(rows.index) == sorted(HOSTILE + good)
    assert set(rows.index[rows["reason"] == ""]) == set(good)
    assert (done.predicted, done.refused) == (len(good), len(HOSTILE))
    assert "No such file" in rows.loc["absent", "reason"]


def test_records_and_output_on_another_file_system(
    records: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    system = fsspec.filesystem("memory")
    system.put(f"{records}/", "/clinic/", recursive=True)
    with fsspec.open("memory://clinic/list.csv", "w") as file:
        file.write("path\ngood1.hea\ngood0\n")
    shutil.copytree(records, tmp_path / "same")
    (tmp_path / "same" / "list.csv").write_text("path\ngood1.hea\ngood0\n")
    write_predictions(model, "memory://clinic/list.csv", "memory://out/a.csv")
    write_predictions(model, str(tmp_path / "same" / "list.csv"), str(tmp_path / "a.csv"))
    assert system.cat_file("/out/a.csv") == (tmp_path / "a.csv").read_bytes()
    assert system.find("/out") == ["/out/a.csv"]
    assert write_predictions(model, "memory://clinic", "memory://out/b.parquet").predicted == 4


@pytest.mark.parametrize("out", ["out.txt", "out", "out.parquet.gz", "folder/"])
def test_the_output_is_parquet_or_csv(tmp_path: Path, out: str) -> None:
    with pytest.raises(ValueError, match=r"give a name that ends in \.parquet or \.csv"):
        write_predictions("model", "input", str(tmp_path / out))


def test_the_input_is_not_overwritten(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("path\na\n")
    with pytest.raises(ValueError, match=r"list\.csv is the input, which would be lost: choose another name"):
        write_predictions(model, "list.csv", str(tmp_path / "list.csv"))


def test_blocks_are_whole_batches_and_small_enough_to_lose() -> None:
    def sizes(records: int) -> list[int]:
        return [len(block) for block in cut(pa.table({"path": ["a"] * records, "record": ["a"] * records}))]

    assert sizes(96) == [BATCH] * 3
    assert sizes(33) == [BATCH, 1]
    assert set(sizes(800_000)[:-1]) == {predict_files.BLOCK_RECORDS}
    assert sum(sizes(800_000)) == 800_000


def test_one_record_is_predicted_alone(
    records: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    write_predictions(model, str(records / "good2.hea"), str(tmp_path / "out.parquet"))
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert row["path"] == "good2"
    assert list_source(str(records / "good2.hea")).root == str(records)
    assert MISSING not in row.values()
