"""The simulated dataset: its files are the release's, its labels can be learnt, and none of them is trivial."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
import wfdb
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ecgmoe.ecg import simulate as module
from ecgmoe.ecg.physiology import Rhythm, Studies, draw_patients, draw_studies
from ecgmoe.ecg.record import LEADS, MISSING
from ecgmoe.ecg.rhythm import classify_report0, classify_rhythm
from ecgmoe.ecg.simulate import MARKER, TRUTH, SimulationConfig, simulate
from ecgmoe.ecg.waveform import Timeline, draw_timeline, synthesise

SCHEMA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mimic-iv-ecg-schema"
SMALL = SimulationConfig(patients=9, studies=20, seed=5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "data"
    simulate(folder, SimulationConfig(patients=180, studies=420, seed=1))
    return folder


@pytest.fixture(scope="module")
def truth(root: Path) -> pd.DataFrame:
    return pq.read_table(root / TRUTH).to_pandas()


@pytest.fixture(scope="module")
def measurements(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "machine_measurements.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def cohort() -> tuple[Studies, Timeline]:
    rng = np.random.default_rng(3)
    studies = draw_studies(rng, draw_patients(rng, 600), 1200)
    return studies, draw_timeline(rng, studies)


@pytest.fixture(scope="module")
def amplitudes(cohort: tuple[Studies, Timeline]) -> npt.NDArray[np.float32]:
    """What one number per lead can tell: standard deviation, range, highest and lowest value, (n, 48)."""
    studies, timeline = cohort
    parts = []
    for start in range(0, len(studies), 100):
        x = synthesise(3, studies.rows(slice(start, start + 100)), timeline.rows(slice(start, start + 100)))
        parts.append(np.concatenate([x.std(-1), np.ptp(x, axis=-1), x.max(-1), x.min(-1)], axis=1))
    return np.concatenate(parts)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def samples_of(root: Path, path: str) -> npt.NDArray[np.int16]:
    return np.fromfile(root / f"{path}.dat", dtype="<i2").reshape(5000, 12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patients": 0}, "patients must be .* got 0"),
        ({"patients": 10, "studies": 9}, "number of patients .10."),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_config_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulationConfig(**values)


def test_same_configuration_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(tmp_path / "a", SMALL)
    monkeypatch.setattr(module, "CHUNK", 7)
    simulate(tmp_path / "b", SMALL)
    simulate(tmp_path / "c", SimulationConfig(patients=9, studies=20, seed=6))
    a, b, c = (files_of(tmp_path / name) for name in "abc")
    assert a == b
    assert a["record_list.csv"] != c["record_list.csv"]


def test_existing_data_are_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another folder"):
        simulate(tmp_path, SMALL)
    assert files_of(tmp_path) == {"notes.txt": b"mine"}


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "data", SMALL, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_without_hosp_and_damage(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = SimulationConfig(patients=70, studies=210, seed=2, hosp=False, damaged=False)
    simulate(tmp_path / "data", config, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (210, 210)
    assert not (tmp_path / "data" / "hosp").exists()
    assert set(pq.read_table(tmp_path / "data" / TRUTH)["damage"].to_pylist()) == {""}


def test_says_that_it_is_simulated(root: Path) -> None:
    assert "No patient" in (root / MARKER).read_text()


def test_records_read_with_wfdb(root: Path, truth: pd.DataFrame) -> None:
    index = pd.read_csv(root / "record_list.csv")
    assert (root / "RECORDS").read_text().split() == index["path"].tolist()
    sound = index[truth["damage"].eq("").to_numpy()].iloc[:10]
    for row in sound.itertuples():
        record = wfdb.rdrecord(str(root / str(row.path)))
        assert row.path == f"files/p{str(row.subject_id)[:4]}/p{row.subject_id}/s{row.study_id}/{row.study_id}"
        assert record.sig_name == ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
        assert (record.fs, record.sig_len, record.adc_gain, record.units) == (500, 5000, [200.0] * 12, ["mV"] * 12)
        assert f"{record.base_date} {record.base_time}" == row.ecg_time
        assert record.comments == [f"<subject_id>: {row.subject_id}"]
        units = samples_of(root, str(row.path)).astype(np.int64)
        assert record.init_value == units[0].tolist()
        assert (units.sum(0).astype(np.int16) == np.array(record.checksum)).all()
        one, two, three, right, foot, left = units.T[:6]
        # Each lead is rounded by itself: three halves of a unit at most.
        assert np.abs(one + three - two).max() <= 1
        assert max(np.abs(2 * right + one + two).max(), np.abs(2 * left - 2 * one + two).max()) <= 2
        assert np.abs(2 * foot - 2 * two + one).max() <= 2


def test_header_is_written_as_in_the_release(root: Path) -> None:
    path = (root / "RECORDS").read_text().split()[0]
    lines = (root / f"{path}.hea").read_text().splitlines()
    name = path.split("/")[-1]
    assert lines[0].startswith(f"{name} 12 500 5000 ")
    assert lines[1].startswith(f"{name}.dat 16 200.0(0)/mV 16 0 ")
    assert lines[1].endswith(" 0 I")
    assert len(lines) == 14


@pytest.mark.real_data
def test_columns_are_those_of_the_release(root: Path) -> None:
    if not SCHEMA.is_dir():
        pytest.skip(f"{SCHEMA} is absent")
    for name in ("record_list.csv", "machine_measurements.csv"):
        with (root / name).open() as ours, (SCHEMA / name).open() as theirs:
            assert next(csv.reader(ours)) == next(csv.reader(theirs))


def test_statements_carry_the_rhythm(truth: pd.DataFrame, measurements: pd.DataFrame) -> None:
    reports = measurements[[f"report_{i}" for i in range(18)]].to_numpy().tolist()
    assert [classify_rhythm(lines) for lines in reports] == truth["rhythm15"].tolist()
    assert set(truth["rhythm15"]) == set(range(15))
    paper = {classify_report0(lines[0]) for lines in reports}
    assert paper >= {0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 14}
    assert any(lines[1] == "" and lines[2] for lines in reports), "blank cells occur in mid-list"
    assert any(lines[0].endswith(".") for lines in reports)


def test_measurements_and_sentinels(truth: pd.DataFrame, measurements: pd.DataFrame) -> None:
    assert measurements.shape[1] == 33
    numbers = measurements.iloc[:, 24:].astype(np.int64)
    rr = numbers["rr_interval"]
    assert sorted(rr[~rr.between(200, 3000)]) == [0, 65535]
    sound = rr.between(200, 3000)
    assert (rr[sound] == truth["rr_ms"][sound].round()).all()
    # 15 % and 29 % in the release.
    assert 0.08 < numbers["p_onset"].eq(29999).mean() < 0.30
    assert numbers["p_end"].eq(29999).sum() > numbers["p_onset"].eq(29999).sum()
    assert numbers["p_axis"].eq(32767).any()


def test_rr_is_that_of_the_peaks_and_the_peaks_are_in_the_waveform(root: Path, truth: pd.DataFrame) -> None:
    index = pd.read_csv(root / "record_list.csv")
    hits = []
    columns = (truth["r_peaks"], truth["rr_ms"], truth["damage"], index["path"])
    for peaks, rr_ms, damage, path in zip(*columns, strict=True):
        # Each peak is rounded to a sample of 2 ms.
        assert np.median(np.diff(peaks)) * 2 == pytest.approx(rr_ms, abs=2.1)
        if damage:
            continue
        steep = np.abs(np.diff(samples_of(root, path), axis=0)).sum(1)
        hits += [steep[max(0, r - 25) : r + 25].max() > np.quantile(steep, 0.8) for r in peaks]
    assert np.mean(hits) > 0.98


def test_damaged_records(root: Path, truth: pd.DataFrame) -> None:
    paths = pd.read_csv(root / "record_list.csv")["path"]
    kinds = truth["damage"]
    assert kinds[kinds != ""].value_counts().to_dict() == {"missing": 6, "zero_lead": 1, "over_range": 1, "flat": 1}
    for path, kind in zip(paths, kinds, strict=True):
        units = samples_of(root, path)
        assert (units == MISSING).any() == (kind == "missing")
        assert (units == 0).all(0).any() == (kind in ("zero_lead", "flat"))
        assert (units == 0).all() == (kind == "flat")
        assert (np.abs(units[units != MISSING].astype(int)) > 2000).any() == (kind == "over_range")


def test_hosp_tables(root: Path, truth: pd.DataFrame) -> None:
    patients = pd.read_csv(root / "hosp" / "patients.csv.gz")
    assert list(patients) == ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"]
    assert patients["anchor_age"][patients["anchor_age"] > 89].eq(91).all()
    studies = pd.read_csv(root / "record_list.csv", parse_dates=["ecg_time"]).merge(
        patients, on="subject_id", how="left"
    )
    age = studies["anchor_age"] + studies["ecg_time"].dt.year - studies["anchor_year"]
    stored = studies["anchor_age"] < 91
    assert (age[stored] == truth["age_years"][stored]).all()
    assert (studies["gender"].eq("F") == truth["sex_female"].eq(1)).all()


def test_laboratory(root: Path, truth: pd.DataFrame) -> None:
    events = pd.read_csv(root / "hosp" / "labevents.csv.gz", parse_dates=["charttime"], keep_default_na=False)
    assert " ".join(events.columns) == (
        "labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime storetime value valuenum "
        "valueuom ref_range_lower ref_range_upper flag priority comments"
    )
    items = pd.read_csv(root / "hosp" / "d_labitems.csv.gz").set_index("itemid")
    assert list(items) == ["label", "fluid", "category"]
    assert items.loc[[50971, 52610, 50822, 52452], "label"].str.startswith("Potassium").all()
    assert events["value"].eq("___").any()
    assert events["itemid"].eq(51097).any()
    potassium = events[events["itemid"].isin([50971, 52610, 50822, 52452])]
    assert potassium["comments"].str.contains("HEMOLY").any()
    usable = potassium[(potassium["valuenum"] != "") & ~potassium["comments"].str.contains("HEMOLY")].copy()
    for column in ("valuenum", "ref_range_lower", "ref_range_upper"):
        usable[column] = usable[column].astype(float)
    outside = ~usable["valuenum"].between(usable["ref_range_lower"], usable["ref_range_upper"])
    assert 0 < (outside != usable["flag"].eq("abnormal")).mean() < 0.05
    index = pd.read_csv(root / "record_list.csv", parse_dates=["ecg_time"])
    pairs = index.merge(usable.assign(outside=outside), on="subject_id")
    near = pairs[(pairs["charttime"] - pairs["ecg_time"]).abs() <= pd.Timedelta(minutes=60)]
    assert 0.5 < near["study_id"].nunique() / len(index) < 0.7
    assert 0.2 < near["outside"].mean() < 0.35
    measured = near.merge(truth, on="study_id")
    assert (measured["valuenum"] - measured["potassium_mmol"]).abs().median() < 0.1


def test_no_single_amplitude_gives_sex_or_age(
    cohort: tuple[Studies, Timeline], amplitudes: npt.NDArray[np.float32]
) -> None:
    studies, _ = cohort
    areas = np.array([roc_auc_score(studies.female, column) for column in amplitudes.T])
    explained = [np.corrcoef(studies.age, column)[0, 1] ** 2 for column in amplitudes.T]
    # 600 people: the standard error of an area is 0.02, of a share of variance about 0.03.
    assert np.abs(areas - 0.5).max() < 0.22 + 0.02
    assert max(explained) < 0.20 + 0.03


def test_many_features_give_sex_age_and_potassium(cohort: tuple[Studies, Timeline]) -> None:
    studies, _ = cohort
    features = np.column_stack(list(studies.traits.values()))
    folds, people = GroupKFold(5), studies.patient
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    sex = cross_val_predict(linear, features, studies.female, groups=people, cv=folds, method="predict_proba")[:, 1]
    assert roc_auc_score(studies.female, sex) > 0.86
    age = cross_val_predict(make_pipeline(StandardScaler(), Ridge()), features, studies.age, groups=people, cv=folds)
    constant = np.abs(studies.age - np.median(studies.age)).mean()
    assert np.abs(studies.age - age).mean() < 0.62 * constant
    abnormal = (studies.potassium < 3.4) | (studies.potassium > 5.1)
    trees = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8)
    chance = cross_val_predict(trees, features, abnormal, groups=people, cv=folds, method="predict_proba")[:, 1]
    assert roc_auc_score(abnormal, chance) > 0.82


def test_rr_alone_does_not_give_the_rhythm(cohort: tuple[Studies, Timeline]) -> None:
    studies, timeline = cohort
    trees = HistGradientBoostingClassifier(max_iter=15, max_leaf_nodes=6)
    rr = timeline.median_rr_ms()[:, None]
    guess = cross_val_predict(trees, rr, studies.rhythm, groups=studies.patient, cv=GroupKFold(3))
    assert f1_score(studies.rhythm, guess, average="macro") < 0.35


def test_rhythms_have_their_marks(cohort: tuple[Studies, Timeline]) -> None:
    studies, timeline = cohort
    rr = np.diff(timeline.r, axis=1)
    variation = np.nanstd(rr, axis=1) / np.nanmean(rr, axis=1)
    rhythm, pr = studies.rhythm, studies.traits["pr_ms"]
    assert variation[rhythm == Rhythm.FIBRILLATION].min() > variation[rhythm == Rhythm.SINUS_RHYTHM].max()
    assert np.isnan(timeline.p[np.isin(rhythm, (Rhythm.FIBRILLATION, Rhythm.FLUTTER))]).all()
    assert pr[rhythm == Rhythm.FIRST_DEGREE_BLOCK].min() > 200 > pr[rhythm == Rhythm.SINUS_RHYTHM].max()
    inside = (timeline.r > 0) & (timeline.r < 10)
    assert (timeline.wide & inside)[rhythm == Rhythm.VENTRICULAR_PREMATURE].any(axis=1).all()
    assert timeline.wide[rhythm == Rhythm.PACED].all()
    assert not timeline.wide[rhythm == Rhythm.SUPRAVENTRICULAR_TACHYCARDIA].any()


def test_leads_are_in_canonical_order(cohort: tuple[Studies, Timeline]) -> None:
    studies, timeline = cohort
    x = dict(zip(LEADS, synthesise(3, studies.rows(slice(0, 1)), timeline.rows(slice(0, 1)))[0], strict=True))
    np.testing.assert_allclose(x["aVL"], x["I"] - x["II"] / 2, atol=1e-5)
    np.testing.assert_allclose(x["aVF"], x["II"] - x["I"] / 2, atol=1e-5)
