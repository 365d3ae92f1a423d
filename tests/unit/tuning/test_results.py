"""Results of a cross-validation that go to another machine: what is taken, what is refused, and that the report is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cell_fakes import REVISION, Fakes
from ecgmoe.config import PRESETS
from ecgmoe.config_tools import to_dict
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import StorageError
from ecgmoe.training.identity import compare_identities
from ecgmoe.tuning.crossvalidation import cross_validate
from ecgmoe.tuning.results import ABOUT
from ecgmoe.variants import variant
from finished_runs import CONFIG

PUBLISHED = Path(__file__).parents[3] / "docs" / "crossvalidation"
VARIANTS = ("ecg_moe", "residual_network")


def compare(data: Path, storage: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"variants": VARIANTS, "folds": 3, "seeds": (0, 7), "config": CONFIG} | changes
    config, variants = options.pop("config"), options.pop("variants")
    return cross_validate(config, variants, data=str(data), name="both", storage=str(storage), **options)


def results_of(storage: Path) -> Path:
    return storage / "both" / "results"


def test_seeds_of_two_machines_are_reported_as_one_comparison(
    data: Path, tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = compare(data, tmp_path / "whole")
    compare(data, tmp_path / "first", seeds=(0,))
    # The data lie elsewhere on the other machine.
    moved = shutil.copytree(data, tmp_path / "moved")
    fakes.trained.clear()
    capsys.readouterr()
    earlier = str(results_of(tmp_path / "first"))
    assert compare(moved, tmp_path / "second", earlier=(earlier,)) == whole
    assert {seed for _, seed, _ in fakes.trained} == {7}
    assert len(fakes.trained) == 2 * 3
    assert f"12 trainings at {REVISION}, 6 of them taken from {earlier}." in capsys.readouterr().out


def test_what_was_computed_and_taken_goes_on_to_a_third(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    whole = compare(data, tmp_path / "whole")
    compare(data, tmp_path / "first", seeds=(7,))
    compare(data, tmp_path / "second", earlier=(str(results_of(tmp_path / "first")),))
    fakes.trained.clear()
    assert compare(data, tmp_path / "third", earlier=(str(results_of(tmp_path / "second")),)) == whole
    assert not fakes.trained


def test_variants_of_two_machines(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    whole = compare(data, tmp_path / "whole")
    folders = []
    for name in VARIANTS:
        compare(data, tmp_path / name, variants=(name,))
        folders.append(str(results_of(tmp_path / name)))
    fakes.trained.clear()
    assert compare(data, tmp_path / "both", earlier=folders) == whole
    assert not fakes.trained


def test_they_hold_no_label_and_no_patient(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    compare(data, tmp_path, seeds=(0,))
    assert pq.read_schema(results_of(tmp_path) / "ecg_moe.parquet").names == [
        "study_id",
        "seed",
        "fold",
        "rr_ms",
        "age_years",
        "sex_female_probability",
        "potassium_abnormal_probability",
        "arrhythmia_probabilities",
        "rr_detected_ms",
    ]


def test_other_workers_are_the_same_comparison(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    compare(data, tmp_path / "first")
    fakes.trained.clear()
    config = replace(CONFIG, training=replace(CONFIG.training, num_workers=2))
    compare(data, tmp_path / "second", config=config, earlier=(str(results_of(tmp_path / "first")),))
    assert not fakes.trained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": replace(CONFIG, training=replace(CONFIG.training, learning_rate=0.5))},
            r"learning_rate: .* -> 0.5",
        ),
        ({"folds": 4}, "data.folds: 3 -> 4"),
    ],
)
def test_another_comparison_is_refused(
    data: Path, tmp_path: Path, fakes: Fakes, changes: dict[str, Any], message: str
) -> None:
    compare(data, tmp_path / "first")
    fakes.trained.clear()
    with pytest.raises(ValueError, match=rf"ecg_moe.parquet is of another comparison \(.*{message}"):
        compare(data, tmp_path / "second", earlier=(str(results_of(tmp_path / "first")),), **changes)
    assert not fakes.trained


def test_other_labels_are_other_data(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    compare(data, tmp_path / "first")
    moved = shutil.copytree(data, tmp_path / "moved")
    labels = PreparedData(str(moved)).labels()
    age = labels.schema.get_field_index("age_years")
    older = pa.array([None if each is None else each + 1 for each in labels["age_years"].to_pylist()])
    labels = labels.set_column(age, "age_years", older.cast(labels.schema.field("age_years").type))
    pq.write_table(labels, moved / "labels.parquet")
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["labels_sha256"] = PreparedData(str(moved)).store.sha256("labels.parquet")
    (moved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"data\.labels"):
        compare(moved, tmp_path / "second", earlier=(str(results_of(tmp_path / "first")),))


def change(file: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(file)
    pq.write_table(edit(table), file)


def test_records_of_another_fold_are_refused(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    compare(data, tmp_path / "first")
    file = results_of(tmp_path / "first") / "ecg_moe.parquet"
    change(file, lambda table: table.filter(pa.array(np.arange(len(table)) != 5)))
    with pytest.raises(ValueError, match=r"ecg_moe.parquet has other records in fold \d than the folds of this data"):
        compare(data, tmp_path / "second", earlier=(str(file.parent),))


@pytest.mark.parametrize("file", sorted(PUBLISHED.glob("*.parquet")), ids=lambda file: file.stem)
def test_published_predictions_are_of_the_preset_that_their_command_names(file: Path) -> None:
    """Where the preset changes, docs/crossvalidation/README.md has to name the options that give what it was."""
    about = json.loads(pq.read_schema(file).metadata[ABOUT])
    now = {**about, "config": to_dict(variant(file.stem, PRESETS["tiny"]()))}
    assert compare_identities(about, now)[1] == []


def test_predictions_are_published() -> None:
    assert len(list(PUBLISHED.glob("*.parquet"))) >= 7


def test_the_same_training_twice_is_refused(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    compare(data, tmp_path / "first")
    folder = str(results_of(tmp_path / "first"))
    with pytest.raises(ValueError, match="ecg_moe-fold0-seed0 is in two of"):
        compare(data, tmp_path / "second", earlier=(folder, folder))


def test_a_folder_without_results_is_named(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    with pytest.raises(
        ValueError, match=r"none has none of ecg_moe.parquet, residual_network.parquet: name the folder results"
    ):
        compare(data, tmp_path, earlier=(str(tmp_path / "none"),))
    assert not fakes.trained


def test_predictions_that_do_not_say_what_was_trained(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    compare(data, tmp_path / "first")
    with pytest.raises(ValueError, match=r"ecg_moe.parquet does not say what was trained"):
        compare(data, tmp_path / "second", earlier=(str(tmp_path / "first" / "both" / "predictions"),))


def test_a_torn_file_is_named(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    compare(data, tmp_path / "first")
    file = results_of(tmp_path / "first") / "ecg_moe.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(StorageError, match=r"ecg_moe.parquet"):
        compare(data, tmp_path / "second", earlier=(str(file.parent),))


def test_a_prediction_that_is_not_finite_is_refused(data: Path, tmp_path: Path, fakes: Fakes) -> None:
    compare(data, tmp_path / "first")
    file = results_of(tmp_path / "first") / "ecg_moe.parquet"
    place = pq.read_schema(file).get_field_index("age_years")
    metadata = pq.read_schema(file).metadata
    change(
        file,
        lambda table: table.set_column(
            place, "age_years", pa.array([float("nan")] * len(table), pa.float32())
        ).replace_schema_metadata(metadata),
    )
    fakes.trained.clear()
    with pytest.raises(
        ValueError, match=r"ecg_moe.parquet has predictions of the task age that are missing or not finite"
    ):
        compare(data, tmp_path / "second", seeds=(0, 7, 8), earlier=(str(file.parent),))
    assert not fakes.trained
