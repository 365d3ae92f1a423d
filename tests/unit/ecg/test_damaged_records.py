"""Hundreds of damaged records: each is a fault of that record that says why, and none disturbs the good ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from damage_kinds import KINDS
from damaged_records import DamagedRecord, GoodRecord, write_damaged, write_directory_loops, write_good
from ecgmoe.datasets.index import build_index
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault
from ecgmoe.ecg.wfdb_file import read_wfdb

# A reader that opens a pipe or walks in a loop would wait for ever.
pytestmark = pytest.mark.timeout(60)

SEED = 20240611


@dataclass(frozen=True)
class Folder:
    root: Path
    good: list[GoodRecord]
    damaged: list[DamagedRecord]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("records")
    good = write_good(root, 36, SEED)
    before = [read_wfdb(record.path) for record in good]
    damaged = write_damaged(root, 5, SEED)
    write_directory_loops(root)
    for record, signal in zip(good, before, strict=True):
        assert np.array_equal(signal, record.microvolt), record.path
    return Folder(root, good, damaged)


def test_the_folder_is_worth_the_test(folder: Folder) -> None:
    assert len(KINDS) >= 25
    assert len(folder.damaged) >= 300
    assert len(folder.good) >= 24


def test_the_same_seed_gives_the_same_files(folder: Folder, tmp_path: Path) -> None:
    again = write_good(tmp_path, 2, SEED)
    assert again[1].microvolt.tobytes() == folder.good[1].microvolt.tobytes()
    other = write_good(tmp_path / "other", 2, SEED + 1)
    assert other[1].microvolt.tobytes() != again[1].microvolt.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_damaged_records_are_faults_that_name_the_damage(folder: Folder, kind: str) -> None:
    records = [record for record in folder.damaged if record.kind == kind]
    if not records:
        pytest.skip("permissions say nothing to root")
    for record in records:
        with pytest.raises(RecordFault, match=record.message) as fault:
            read_usable(record.path, ReaderOptions(), QualityPolicy())
        # The reason is stored in Parquet and shown in a report: it has to be text, and short.
        assert len(str(fault.value).encode("utf-8")) < 2000
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", str(fault.value))


def test_good_records_among_damaged_ones_read_as_before(folder: Folder) -> None:
    for record in folder.good:
        assert np.array_equal(read_wfdb(record.path), record.microvolt), record.path


def test_every_header_of_the_folder_is_in_the_index_or_excluded(folder: Folder) -> None:
    index = build_index("wfdb", str(folder.root))
    known = set(index.table["path"].to_pylist()) | {path for path, reason in index.excluded if reason}
    for path in [record.path for record in (*folder.good, *folder.damaged)]:
        if Path(f"{path}.hea").is_dir():
            continue  # a folder is no header, whatever its name
        relative = str(Path(path).relative_to(folder.root))
        # A name that is not UTF-8 cannot be written into a table as it is.
        assert {relative, relative.encode("utf-8", "backslashreplace").decode()} & known, relative
    for path, reason in index.excluded:
        (path + reason).encode("utf-8")


def test_no_folder_is_searched_twice(folder: Folder) -> None:
    index = build_index("wfdb", str(folder.root))
    # Links that lead back to the folder would list every good record again under another name.
    assert sum(path.endswith("good/000") for path in index.table["path"].to_pylist()) == 1


def test_plain_names_are_read_as_they_are(folder: Folder, tmp_path: Path) -> None:
    source = Path(folder.good[0].path)
    for name in ("a*b", "a[1]", "a?b", "~x", "#h", "a%20b", "x y", "ü", "=1+1", "{z}"):
        target = tmp_path / name
        target.mkdir()
        (target / f"{name}.hea").write_bytes(source.with_suffix(".hea").read_bytes())
        (target / "000.dat").write_bytes(source.with_suffix(".dat").read_bytes())
        assert np.array_equal(read_wfdb(str(target / name)), folder.good[0].microvolt), name


@pytest.mark.parametrize("path", ["", "/", "a\0b", "\ud800", "gone", "x/" * 3000, "a" * 300])
def test_paths_of_no_record_are_faults(path: str) -> None:
    with pytest.raises(RecordFault):
        read_wfdb(path)


def test_a_path_that_would_open_another_file_is_refused(folder: Folder, tmp_path: Path) -> None:
    """fsspec takes "a::b" for file system a over b, and so would read the file a."""
    source = Path(folder.good[0].path)
    (tmp_path / "a::b").mkdir()
    for name in ("a", "a::b/r.hea"):
        (tmp_path / name).write_bytes(source.with_suffix(".hea").read_bytes())
    (tmp_path / "a::b" / "000.dat").write_bytes(source.with_suffix(".dat").read_bytes())
    with pytest.raises(RecordFault, match="'::' in a path"):
        read_wfdb(str(tmp_path / "a::b" / "r"))


def test_a_pipe_behind_a_url_is_a_fault(folder: Folder) -> None:
    pipes = [record for record in folder.damaged if record.kind == "header is a pipe"]
    with pytest.raises(RecordFault, match="pipe"):
        read_wfdb(f"file://{pipes[0].path}")


MEMORY = """
import json, resource, sys
from ecgmoe.ecg.record import RecordFault
from ecgmoe.ecg.wfdb_file import read_wfdb

warm, *paths = sys.argv[1:]
read_wfdb(warm)
pages = int(open("/proc/self/statm").read().split()[0])
# Far less than the promised gigabytes, far more than one record needs: whoever allocates them fails here.
limit = pages * resource.getpagesize() + (1 << 28)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
said = {}
for path in paths:
    try:
        said[path] = f"read, {int(read_wfdb(path).max())}"
    except RecordFault as fault:
        said[path] = str(fault)
    except MemoryError:
        said[path] = "MemoryError"
print(json.dumps(said))
"""


def test_absurd_numbers_cost_no_memory(folder: Folder, tmp_path: Path) -> None:
    kinds = ("a billion samples", "samples per frame absurd", "skew absurd", "byte offset beyond the file")
    damaged = [record for record in folder.damaged if record.kind in kinds]
    text = Path(f"{folder.good[0].path}.hea").read_text()
    sparse = {
        # The file is as long as promised, but only its beginning is wanted.
        "long": text.replace(" 5000 ", " 1000000000 "),
        "endless": re.sub(r" 5000 .*", "", text, count=1),
        "frames": text.replace(" 5000 ", " 2 ").replace("dat 16 ", "dat 16x999999999 "),
    }
    for name, header in sparse.items():
        (tmp_path / f"{name}.hea").write_text(header)
    with (tmp_path / "000.dat").open("wb") as file:
        try:
            file.truncate(60_000_000_000)
        except OSError:
            pytest.skip("no sparse files here")
    paths = [record.path for record in damaged] + [str(tmp_path / name) for name in sparse]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, folder.good[0].path, *paths],
        capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    (tmp_path / "000.dat").unlink()
    said = json.loads(done.stdout)
    for record in damaged:
        assert re.search(record.message, said[record.path]), (record.kind, said[record.path])
    assert said[str(tmp_path / "long")] == "read, 0"
    assert "would have to be read at once" in said[str(tmp_path / "endless")]
    assert "would have to be read at once" in said[str(tmp_path / "frames")]
