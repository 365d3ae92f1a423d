"""The file of predictions: flat memory, columns of each class, and the columns of the model's own tasks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgmoe.ecg.rhythm import TAXONOMIES
from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.inference import predictions_file
from ecgmoe.inference.predictions_file import class_column, flat, part_name, rows_in_order, write_rows
from ecgmoe.inference.record_table import record_schema
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import task_table
from predict_examples import CALIBRATION

TASKS = task_table()
CLASSES = TASKS[-1].classes
SCHEMA = record_schema(TASKS, CALIBRATION)


def block(paths: list[str]) -> pa.Table:
    """Rows with a long reason and nothing else."""
    known = {"path": paths, "reason": ["x" * 1000] * len(paths)}
    return pa.table(
        [pa.array(known.get(field.name, [None] * len(paths)), field.type) for field in SCHEMA], schema=SCHEMA
    )


def parts_of(folder: Path, blocks: list[list[str]]) -> Store:
    for number, paths in enumerate(blocks):
        with Store(folder).writing(part_name(number)) as file:
            pq.write_table(block(paths), file)
    return Store(folder)


def in_order(parts: Store, blocks: int, excluded: list[tuple[str, str]]) -> list[str]:
    rows = rows_in_order(parts, blocks, excluded, SCHEMA, "v")
    return [path for table in rows for path in table["path"].to_pylist()]


def test_what_was_excluded_has_its_place_between_the_blocks(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, [["b", "d"], ["f"], ["h", "ä"]])
    reasons = [(path, "why") for path in ("a", "c", "e", "g", "z", "é", "🫀")]
    assert in_order(parts, 3, reasons) == ["a", "b", "c", "d", "e", "f", "g", "h", "z", "ä", "é", "🫀"]
    assert in_order(parts, 3, []) == ["b", "d", "f", "h", "ä"]
    assert in_order(parts, 3, [("zz", "why")])[-2:] == ["zz", "ä"]


@pytest.mark.parametrize("kind", predictions_file.KINDS)
def test_memory_does_not_grow_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(predictions_file, "ROW_GROUP_ROWS", 64)
    parts = parts_of(tmp_path, [[f"{number:03d}-{row:02d}" for row in range(32)] for number in range(100)])

    def peak(blocks: int) -> int:
        held: list[int] = []

        def watched() -> Iterator[pa.Table]:
            for table in rows_in_order(parts, blocks, [], SCHEMA, "v"):
                held.append(pa.total_allocated_bytes())
                yield table

        before = pa.total_allocated_bytes()
        write_rows(io.BytesIO(), kind, watched(), SCHEMA, CLASSES)
        assert len(held) == blocks
        return max(held) - before

    # A block holds 32 kB of reasons: all of them would be 3.2 MB.
    assert peak(100) < peak(10) + 100_000


def test_small_blocks_become_large_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions_file, "ROW_GROUP_ROWS", 5)
    parts = parts_of(tmp_path, [["a", "b"], ["c", "d"], ["e", "f"], ["g"]])
    file = io.BytesIO()
    write_rows(file, ".parquet", rows_in_order(parts, 4, [], SCHEMA, "v"), SCHEMA, CLASSES)
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [6, 1]


def test_a_model_of_some_tasks_has_their_columns_alone() -> None:
    schema = record_schema(task_table(("sex", "age")), Calibration(half_width={"age": 9.0}))
    assert schema.names[:6] == ["path", "age_years", "age_years_low", "age_years_high", "sex", "sex_female_probability"]
    assert schema.names[6].startswith("quality_")
    assert not pa.types.is_nested(flat(schema.empty_table(), ()).schema.field("quality_flat_leads").type)


@pytest.mark.parametrize("classes", TAXONOMIES.values(), ids=TAXONOMIES)
def test_each_class_has_a_csv_column_of_its_own(classes: tuple[str, ...]) -> None:
    columns = [class_column(name) for name in classes]
    assert len(set(columns)) == len(classes)
    assert class_column("2nd or 3rd degree AV block") == "arrhythmia_probability_2nd_or_3rd_degree_av_block"
    assert class_column("sinus rhythm with PAC(s)") == "arrhythmia_probability_sinus_rhythm_with_pac_s"
