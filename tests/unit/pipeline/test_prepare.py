"""prepare writes what the contract says, goes on where it was, and never mixes two configurations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from damaged_records import write_good
from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import SPLITS, DatasetError
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.record import MISSING
from ecgmoe.ecg.rhythm import TAXONOMIES
from ecgmoe.ecg.simulate import TRUTH
from ecgmoe.pipeline.config import Compression, DatasetName, PrepareConfig
from ecgmoe.pipeline.prepare import refuse_other_plan, shard_plan
from ecgmoe.pipeline.prepared import EVERY_SPLIT, PreparedData, row_groups, split_group, split_rows
from ecgmoe.pipeline.schema import RECORD_SCHEMA, signals_of
from ecgmoe.pipeline.store import StorageError, Store
from external_records import write_ludb
from prepared_examples import prepare_here, simulated_and_prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepare")
    simulated_and_prepared(folder, patients=110, studies=240)
    return folder


def content(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


def test_every_study_is_stored_or_excluded_with_a_reason(folder: Path) -> None:
    truth = pq.read_table(folder / "raw" / TRUTH).to_pylist()
    labels = pq.read_table(folder / "data" / "labels.parquet").to_pylist()
    excluded = pq.read_table(folder / "data" / "exclusions.parquet").to_pylist()
    assert len(labels) + len(excluded) == len(truth) == 240
    damaged = {str(row["study_id"]) for row in truth if row["damage"]}
    assert {Path(row["path"]).name for row in excluded} <= damaged
    assert all(row["reason"] for row in excluded)
    ages = {row["study_id"]: row["age_years"] for row in truth}
    assert all(row["age_years"] is None or abs(row["age_years"] - ages[row["study_id"]]) < 1.5 for row in labels)


def test_labels_say_where_each_record_lies(folder: Path) -> None:
    data = PreparedData(str(folder / "data"))
    labels = data.labels()
    truth = {row["study_id"]: row for row in pq.read_table(folder / "raw" / TRUTH).to_pylist()}
    differences = []
    for position, group in list(enumerate(row_groups(labels)))[::13]:
        part = data.row_group(*split_group(int(group)))
        row = int(labels["row"][position].as_py()) % 32
        study = labels["study_id"][position].as_py()
        assert part.study_id[row] == study
        assert part.signal[row].shape == (12, 5000)
        differences.append(abs(part.rr_ms[row] - truth[study]["rr_ms"]))
    assert np.median(differences) < 5


def test_splits_keep_patients_together(folder: Path) -> None:
    labels = PreparedData(str(folder / "data")).labels()
    by_split = [set(labels["patient_id"].to_numpy()[split_rows(labels, s)]) for s in ("train", "validation", "test")]
    assert all(by_split)
    assert not by_split[0] & by_split[1]
    assert not by_split[0] & by_split[2]
    assert not by_split[1] & by_split[2]


def test_shards_can_be_read_with_pyarrow_alone(folder: Path) -> None:
    table = pq.read_table(folder / "data" / "records" / "shard-00000.parquet")
    assert table.schema.equals(RECORD_SCHEMA, check_metadata=False)
    assert table.schema.field("signal").metadata[b"unit"] == b"uV"
    signal = signals_of(table["signal"])
    by_hand = np.frombuffer(table["signal"][1].as_py(), dtype="<i2").reshape(12, 5000)
    assert np.array_equal(signal[1], by_hand)


def test_a_lost_shard_comes_back_with_the_same_bytes(folder: Path) -> None:
    before = content(folder / "data")
    (folder / "data" / "records" / "shard-00003.parquet").unlink()
    (folder / "data" / "manifest.json").unlink()
    prepare_here(folder / "raw", folder / "data")
    assert content(folder / "data") == before


@pytest.mark.parametrize(("compression", "codec"), [("lz4", "LZ4"), ("none", "UNCOMPRESSED")])
def test_compression_is_no_part_of_the_content(
    folder: Path, tmp_path: Path, compression: Compression, codec: str
) -> None:
    """So that a shard that was lost may be written with another one, into the same folder."""
    prepare_here(folder / "raw", tmp_path, PrepareConfig(compression=compression))
    before, after = content(folder / "data"), content(tmp_path)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if name.startswith("records/")
    }
    first = "records/shard-00000.parquet"
    assert pq.ParquetFile(tmp_path / first).metadata.row_group(0).column(1).compression == codec
    assert pq.read_table(tmp_path / first).equals(pq.read_table(folder / "data" / first))


def test_another_quality_policy_is_refused_and_nothing_changes(folder: Path) -> None:
    before = content(folder / "data")
    with pytest.raises(ValueError, match=r"quality\.max_unusable_leads: 3 -> 0"):
        prepare_here(folder / "raw", folder / "data", PrepareConfig(quality=QualityPolicy(max_unusable_leads=0)))
    assert content(folder / "data") == before


@pytest.mark.parametrize(
    ("dataset", "before", "after", "message"),
    [
        ("ptbxl", {}, {"sampling_rate": 100}, "index.sampling_rate: 500 -> 100"),
        ("ptbxl", {}, {"test_fold": 9}, "index.test_fold: 10 -> 9"),
        ("simulated", {"patients": 40}, {"patients": 20}, "index.patients: 40 -> 20"),
    ],
)
def test_another_choice_of_records_is_refused_by_its_option(
    folder: Path, tmp_path: Path, dataset: DatasetName, before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    (tmp_path / "ptbxl_database.csv").write_text(
        "ecg_id,patient_id,age,sex,scp_codes,strat_fold,recording_date,filename_lr,filename_hr\n"
        "1,1,56,1,{},9,,records100/1_lr,records500/1_hr\n2,2,56,1,{},10,,records100/2_lr,records500/2_hr\n"
    )
    root, store = str(tmp_path if dataset == "ptbxl" else folder / "raw"), Store(tmp_path / "out")
    for options in (before, {**before, "split_seed": 1} if dataset == "simulated" else before):
        config = PrepareConfig(index=IndexOptions(**options))
        refuse_other_plan(store, shard_plan(build_index(dataset, root, options=config.index), config)[1], config.index)
    config = PrepareConfig(index=IndexOptions(**after))
    plan = shard_plan(build_index(dataset, root, options=config.index), config)[1]
    with pytest.raises(ValueError, match=rf"configuration \(.*{re.escape(message)}\): choose another --out") as error:
        refuse_other_plan(store, plan, config.index)
    assert "sha256" not in str(error.value)


def test_other_labels_leave_the_records_alone(folder: Path, tmp_path: Path) -> None:
    prepare_here(folder / "raw", tmp_path / "data")
    before = content(tmp_path / "data")
    prepare_here(folder / "raw", tmp_path / "data", PrepareConfig(index=IndexOptions(split_seed=5)))
    after = content(tmp_path / "data")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"labels.parquet", "manifest.json", "card.json", "card.html"}


def test_masked_leads_are_stored_as_missing(folder: Path, tmp_path: Path) -> None:
    prepare_here(folder / "raw", tmp_path / "data", PrepareConfig(quality=QualityPolicy(missing="mask")))
    shards = [pq.read_table(path) for path in sorted((tmp_path / "data" / "records").iterdir())]
    masks = [(table["quality_masked_leads"].to_numpy(), signals_of(table["signal"])) for table in shards]
    masked = [(mask, signal) for rows, signals in masks for mask, signal in zip(rows, signals, strict=True) if mask]
    assert masked, "the simulated set holds records with missing samples in few leads"
    for mask, signal in masked:
        missing = (signal == MISSING).all(axis=1)
        assert int(missing @ (1 << np.arange(12))) == mask


def test_the_card_counts_what_the_tables_hold(folder: Path) -> None:
    data = folder / "data"
    card, labels = json.loads((data / "card.json").read_text()), pq.read_table(data / "labels.parquet")
    excluded = pq.read_table(data / "exclusions.parquet").to_pylist()
    assert card["simulated"] is True
    steps = [step["studies"] for step in card["funnel"]]
    assert (steps[0], steps[-1]) == (240, len(labels))
    assert sum(row["studies"] for row in card["exclusions"]) == len(excluded) == 240 - len(labels)
    train = labels.filter(pc.equal(labels["split"], "train"))
    assert card["splits"]["train"]["records"] == len(train)
    assert card["splits"]["train"]["potassium_abnormal"] == len(train) - train["potassium_abnormal"].null_count
    for name, low, high in (("potassium_hypo", 0, 3.5), ("potassium_hyper", 5.5, 99)):
        potassium = train["potassium_mmol"].drop_null().to_numpy()
        expected = int(((potassium >= low) & (potassium < high)).sum())
        assert card["splits"]["train"][name] == expected > 0
    counts = card["classes"]["rhythm15"]
    assert sum(sum(split) for split in counts.values()) == len(labels) - labels["rhythm15"].null_count
    assert card["class_names"]["rhythm15"][14] == "sinus rhythm"
    ages = labels["age_years"].drop_null().to_numpy()
    assert card["distributions"]["age_years"]["quantiles"]["0.5"] == pytest.approx(np.median(ages))
    assert sum(card["distributions"]["age_years"]["histogram"]["counts"]) == len(ages)


def test_the_card_names_the_findings_that_are_no_class(folder: Path, tmp_path: Path) -> None:
    block = "Incomplete right <bundle> branch block"
    write_ludb(tmp_path / "raw", [{"Conduction abnormalities": block}] * 3)
    prepare_here(tmp_path / "raw", tmp_path / "data", dataset="ludb")
    assert json.loads((tmp_path / "data" / "card.json").read_text())["unmapped"] == {block: 3}
    page = (tmp_path / "data" / "card.html").read_text()
    assert "Incomplete right &lt;bundle&gt; branch block (3)." in page
    assert json.loads((folder / "data" / "card.json").read_text())["unmapped"] == {}
    assert "Not used for rhythm15" not in (folder / "data" / "card.html").read_text()


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("dataset", "records", "excluded", "disagree"), [("ludb", 120, 0, 0), ("cinc2021", 32, 1, None)]
)
def test_real_datasets_for_an_external_test(
    shared_data: Path, tmp_path: Path, dataset: DatasetName, records: int, excluded: int, disagree: int | None
) -> None:
    prepare_here(shared_data / dataset, tmp_path, dataset=dataset)
    labels = PreparedData(str(tmp_path)).labels()
    assert (len(labels), len(pq.read_table(tmp_path / "exclusions.parquet"))) == (records, excluded)
    assert labels["rr_label_ms"].null_count == 0
    # People's marks are a reference for the detector; the detector's own RR is none.
    assert pc.sum(labels["rr_disagrees"]).as_py() == disagree


def test_all_is_every_record_of_a_folder(folder: Path) -> None:
    labels = PreparedData(str(folder / "data")).labels()
    assert split_rows(labels, EVERY_SPLIT).tolist() == list(range(len(labels)))
    assert sum(len(split_rows(labels, split)) for split in SPLITS) == len(labels)


def test_a_share_of_nothing_is_not_known(tmp_path: Path) -> None:
    """Own records without RR labels: nothing was compared with the detector."""
    write_good(tmp_path / "raw", 4, 3)
    prepare_here(tmp_path / "raw", tmp_path / "data", dataset="wfdb")
    card = json.loads((tmp_path / "data" / "card.json").read_text())
    assert card["flags"]["rr_disagrees"] is None
    assert card["flags"]["quality_zero_leads"] == 0
    assert card["splits"]["train"]["potassium_hypo"] == 0
    row = r"differs from the label by more than 10 %, of those that have both</td><td>not known</td>"
    assert re.search(row, (tmp_path / "data" / "card.html").read_text())


def test_the_page_says_simulated_and_needs_nothing_else(folder: Path) -> None:
    page = (folder / "data" / "card.html").read_text()
    assert "Simulated data: no record is a real ECG" in page
    assert page.count("data:image/png;base64,") == 5  # the distributions and four examples
    assert "src=" not in page.replace('src="data:', "")
    assert "href=" not in page


def test_class_names_are_in_the_schema(folder: Path) -> None:
    schema = pq.read_schema(folder / "data" / "labels.parquet")
    for taxonomy in ("rhythm15", "report0_15"):
        assert schema.field(taxonomy).metadata[b"classes"].decode().split(" | ") == list(TAXONOMIES[taxonomy])


def test_a_dataset_without_a_usable_record_says_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none of the 240 records could be used; .*mV"):
        prepare_here(folder / "raw", tmp_path, PrepareConfig(quality=QualityPolicy(min_amplitude_mv=9.9)))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "records", "reason"),
    [
        ("mitbih", 4, r"4 as 100: lead I is missing: the record has "),
        ("code15", 10, r"10 as org/code_15_\d+\.mat: .*name it with --reader\.mat-unit"),
    ],
)
def test_excluded_records_are_listed_even_where_there_are_no_others(
    shared_data: Path, tmp_path: Path, name: str, records: int, reason: str
) -> None:
    with pytest.raises(DatasetError, match=rf"none of the {records} records .*reasons: {reason}") as error:
        prepare_here(shared_data / name, tmp_path, dataset="wfdb")
    assert str(tmp_path / "exclusions.parquet") in str(error.value)
    excluded = pq.read_table(tmp_path / "exclusions.parquet").to_pylist()
    assert len(excluded) == records
    assert all(row["stage"] == "read" and row["reason"] for row in excluded)


def test_an_unprepared_folder_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no manifest\.json\): run jobs/prepare\.py"):
        PreparedData(str(tmp_path))
