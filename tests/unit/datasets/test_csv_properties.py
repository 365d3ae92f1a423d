"""Whatever stands in a dataset's tables: an index that keeps its promises, or a DatasetError; nothing else."""

from __future__ import annotations

import csv
import functools
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import SPLITS, STUDY_SCHEMA, DatasetError, StudyIndex
from ecgmoe.ecg.rhythm import TAXONOMIES

pytestmark = [
    pytest.mark.timeout(60),
    # Cells such as "\d" are parsed as Python text, which warns of the backslash.
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]
quickly = functools.partial(settings, deadline=None, derandomize=True)

LABELS = (
    "rr_label_ms", "age_years", "potassium_mmol", "sex_female", "potassium_abnormal", "report0_15", "rhythm15",
)  # fmt: skip
COLUMNS = ("path", "patient_id", "split", *LABELS)
INJECTED = ["=cmd|' /C calc'!A0", "@SUM(1)", "+1+1", "-2+3", '=HYPERLINK("x")', "<script>alert(1)</script>", 'a,b"c']
NUMBERS = [
    "0",
    "1",
    "14",
    "15",
    "-1",
    "0.5",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "NA",
    "null",
    "1e999",
    "٣",
    " 1",
    "1 ",
    "True",
]
UNSAFE = ["../x", "/etc/passwd", "C:\\x", "a/../../b", "s3://bucket/x", "a\nb", "..", "", " ", ".", "x\0y"]

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
cells = st.one_of(anything, st.sampled_from(INJECTED), st.sampled_from(NUMBERS), st.sampled_from(UNSAFE), st.just(""))
usual = {
    "path": st.from_regex(r"[a-zäö]{1,3}(/[a-z0-9 ']{1,3})?(\.hea)?", fullmatch=True),
    "patient_id": st.sampled_from(["1", "2", "007", "", "9" * 18]),
    "split": st.sampled_from(["train", "", ""]),
    **dict.fromkeys(LABELS, st.sampled_from(["0", "1", "1.0", "", ""])),
    "sex_female": st.sampled_from(["0", "1.0", "F", "m", "Female", "NA", ""]),
    "rhythm15": st.sampled_from(["14", "Sinus rhythm", "PACED", "nan", ""]),
    "report0_15": st.sampled_from(["13", "other", "Sinus Rhythm", ""]),
    "rr_label_ms": st.sampled_from(["800", "812.5", "29999", "65535", ""]),
    "age_years": st.sampled_from(["18", "64", "300", "-1", ""]),
    "potassium_mmol": st.sampled_from(["4.1", "0", "99", ""]),
}
odd = {
    "path": cells,
    "patient_id": st.sampled_from(["anna", "9" * 19, "-1", "1.0", "٣", " "]),
    "split": st.sampled_from(["test", "validation", "Train", "val", "train "]),
    **dict.fromkeys(LABELS, cells | st.sampled_from(NUMBERS)),
}
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1", "utf-16", "cp1252")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def table(rows: list[list[str]], line_end: str = "\n", encoding: str = "utf-8") -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerows(rows)
    return text.getvalue().encode(encoding, "replace")


def check(index: StudyIndex) -> None:
    """What every index promises."""
    assert index.table.schema.equals(STUDY_SCHEMA)
    assert len(index.table) > 0
    rows = index.table.to_pylist()
    assert len({row["study_id"] for row in rows}) == len(rows)
    assert {row["split"] for row in rows} <= set(SPLITS)
    assert len({(row["patient_id"], row["split"]) for row in rows}) == len({row["patient_id"] for row in rows})
    for row in rows:
        parts = row["path"].replace("\\", "/").split("/")
        assert row["path"]
        assert ".." not in parts
        assert parts[0] != ""  # an absolute path would leave root
        assert "://" not in row["path"]
        assert row["sex_female"] in (0, 1, None)
        assert row["age_years"] is None or 18 <= row["age_years"] <= 89
        assert row["potassium_mmol"] is None or 0 < row["potassium_mmol"] < 20
        assert row["rr_label_ms"] is None or 200 <= row["rr_label_ms"] <= 3000
        assert row["rhythm15"] is None or 0 <= row["rhythm15"] < 15
        assert row["report0_15"] is None or 0 <= row["report0_15"] < 15
        assert all(value == value for value in row.values()), f"NaN is no label: {row}"
    for path, reason in index.excluded:
        assert reason
        (path + reason).encode("utf-8")


def index_or_error(build: Callable[[], StudyIndex]) -> StudyIndex | None:
    try:
        index = build()
    except DatasetError as error:
        assert str(error).strip()  # noqa: PT017
        return None
    check(index)
    return index


def index_csv(root: Path, content: bytes) -> StudyIndex | None:
    (root / "labels.csv").write_bytes(content)
    return index_or_error(lambda: build_index("wfdb", str(root), options=IndexOptions(csv=str(root / "labels.csv"))))


def seldom(draw: st.DrawFn) -> bool:
    return draw(st.integers(0, 14)) == 7


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Mostly what a person would write, and here and there anything."""
    columns = ["path", *draw(st.lists(st.sampled_from(COLUMNS[1:]), unique=True, max_size=4))]
    if seldom(draw):
        columns = draw(st.permutations([*columns, draw(anything | st.sampled_from(COLUMNS))]))
    if seldom(draw):
        columns.remove("path")
    rows = [
        [draw((odd if seldom(draw) else usual).get(name, cells)) for name in columns]
        for _ in range(draw(st.integers(0, 5)))
    ]
    if rows and seldom(draw):
        rows[-1] = draw(st.sampled_from([[*rows[-1], "one cell more"], rows[-1][:-1]]))
    line_end = draw(st.sampled_from(["\n", "\r\n", "\r"] if seldom(draw) else ["\n", "\r\n"]))
    return table([columns, *rows], line_end, draw(st.sampled_from(ENCODINGS[:2] if not seldom(draw) else ENCODINGS)))


@quickly(max_examples=200)
@given(content=tables())
@example(content=b"path,path\na,b\n")
@example(content=b" path\na\n")
@example(content=b"path \na\n")
@example(content=b'"pa\nth"\na\n')
@example(content=b"path\ra\rb\r")
@example(content=b"\xef\xbb\xbfpath\r\na\r\n")
@example(content=b"path,pa\xfe\na,b\n")
@example(content=b"path,rhythm15\na,nan\n")
@example(content=b"path,age_years,rr_label_ms,potassium_mmol\na,nan,inf,nan\n")
@example(content=b"path,potassium_mmol\na,inf\nb,-4\n")
@example(content=b"path,patient_id\na,\xd9\xa3\nb,3\n")
@example(content=b"path,split\na, \n")
def test_a_generated_table(root: Path, content: bytes) -> None:
    index_csv(root, content)


@quickly(max_examples=150)
@given(content=st.binary(max_size=120) | st.binary(max_size=60).map(lambda tail: b"path,age_years\na,50\n" + tail))
@example(content=b"\0")
@example(content=b"path\0\na\n")
@example(content=b'path\n"a\n')
@example(content=b"\n\npath\na\n")
@example(content=b",\n,\n")
@example(content=b"path," + b"x" * 70_000 + b"\na,b\n")
def test_arbitrary_bytes(root: Path, content: bytes) -> None:
    index_csv(root, content)


@quickly(max_examples=100)
@given(paths=st.lists(st.text("abö ,\"'<>=|!;#%*?[]{}~", min_size=1, max_size=10), min_size=1, max_size=6, unique=True))
def test_odd_but_harmless_paths_are_kept_as_they_are(root: Path, paths: list[str]) -> None:
    index = index_csv(root, table([["path"], *[[path] for path in paths]]))
    assert index is not None
    assert sorted(index.table["path"].to_pylist()) == sorted(paths)


@pytest.mark.parametrize("path", [path for path in UNSAFE if path.strip() and path != "."])
def test_paths_that_leave_the_folder_are_never_in_the_index(root: Path, path: str) -> None:
    index = index_csv(root, table([["path"], ["good"], [path]]))
    if index is not None:  # a table with NUL is refused as a whole
        assert index.table["path"].to_pylist() == ["good"]
        assert len(index.excluded) == 1


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_mark_and_line_ends_do_no_harm(root: Path, line_end: str, encoding: str) -> None:
    index = index_csv(root, table([["path", "sex_female", "age_years"], ["ä", "1", "50"]], line_end, encoding))
    assert index is not None
    row = index.table.to_pylist()[0]
    assert (row["path"], row["sex_female"], row["age_years"]) == ("ä", 1, 50)


@pytest.mark.parametrize("name", ["path", "sex_female", "split"])
def test_a_column_that_is_there_twice_is_refused(root: Path, name: str) -> None:
    """One of the two would be taken in silence."""
    values = {"path": "a", "sex_female": "1", "split": "test"}
    assert index_csv(root, table([["path", name, name], ["a", values[name], ""]])) is None


@pytest.mark.parametrize("again", ["./a/b", "a//b", "a/./b"])
def test_one_file_under_two_names_is_one_study(root: Path, again: str) -> None:
    """The same ECG in training and test would leak."""
    index = index_csv(root, table([["path"], ["a/b"], [again]]))
    assert index is not None
    assert index.table["path"].to_pylist() == ["a/b"]


@pytest.mark.parametrize("cell", INJECTED)
def test_a_formula_for_a_label_is_refused(root: Path, cell: str) -> None:
    assert index_csv(root, table([["path", "age_years"], ["a", cell]])) is None


@quickly(max_examples=100)
@given(data=st.data(), taxonomy=st.sampled_from(sorted(TAXONOMIES)), number=st.integers(0, 14))
def test_a_class_by_its_name_in_any_case_is_the_class_by_its_number(
    root: Path, data: st.DataObject, taxonomy: str, number: int
) -> None:
    name = TAXONOMIES[taxonomy][number]
    written = data.draw(st.sampled_from([name, name.upper(), name.title(), f" {name} ", name.replace(" ", "  ")]))
    index = index_csv(root, table([["path", taxonomy], ["a", written], ["b", str(number)]]))
    assert index is not None
    assert index.table[taxonomy].to_pylist() == [number] * 2


@quickly(max_examples=100)
@given(label=st.sampled_from(LABELS[3:]), value=st.integers(-3, 20) | st.floats(width=32))
def test_classes_out_of_range_are_refused(root: Path, label: str, value: float) -> None:
    index = index_csv(root, table([["path", label], ["a", repr(value)]]))
    limit = 15 if label.endswith("15") else 2
    if value == value and value not in range(limit):
        assert index is None
    elif index is not None:
        assert index.table[label].to_pylist() == [int(value) if value == value else None]


PTBXL_COLUMNS = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_hr", "recording_date"]
DAMAGED_CODES = [
    "{[]: 1}", "{{}: 1}", "{'SR': 1e999}", "{'SR': {}}", "{None: 0}", "{1: 2, 'SR': 0}", "{'SR'", "[]", "0", "''", "{'SR'}",
    "(" * 500, "[" * 3000, "-" * 20_000 + "1", "{" * 200 + "}" * 200, "9" * 5000, "{'a': 9e9}" + " " * 9, "\\", "'\\d'",
    "__import__('os').getcwd()", "{'SR': open('/etc/passwd')}", "b''", "1+1j", "{**{}}", "\ufeff{}", "{'SR': 0}; 1", "nan",
]  # fmt: skip


def ptbxl(root: Path, *rows: list[str]) -> StudyIndex | None:
    (root / "ptbxl_database.csv").write_bytes(table([PTBXL_COLUMNS, *([*row, "1984-11-09 09:17:34"] for row in rows)]))
    return index_or_error(lambda: build_index("ptbxl", str(root)))


@quickly(max_examples=150)
@given(codes=anything | st.text("{}[]()'\":,-1.eSRAFIB \\\n#", max_size=30))
def test_scp_codes_of_arbitrary_text(root: Path, codes: str) -> None:
    ptbxl(root, ["1", "1", "50", "1", codes, "1", "records500/1_hr"])


@pytest.mark.parametrize("codes", DAMAGED_CODES, ids=itertools.count())
def test_scp_codes_that_are_almost_a_dictionary(root: Path, codes: str) -> None:
    ptbxl(root, ["1", "1", "50", "1", codes, "1", "records500/1_hr"])


@quickly(max_examples=150)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["1", "2", "3", "4", "5", "x"]),
            st.sampled_from(["1.0", "2", "3"]) | st.sampled_from(NUMBERS),
            st.sampled_from([*NUMBERS, "50", "300", ""]),
            st.sampled_from([*NUMBERS, ""]),
            st.sampled_from(["{'SR': 0.0}", "{'AFIB': 100.0}", "{}", ""]),
            st.sampled_from(["1", "9", "10"]) | st.sampled_from(["11", "0", "", "-1", "1.0"]),
            usual["path"] | cells,
        ).map(list),
        max_size=4,
    )
)
@example(rows=[["1", "inf", "50", "0", "{}", "1", "a"]])
@example(rows=[["1", "1e300", "50", "0", "{}", "1", "a"]])
@example(rows=[["1", "1.2", "50", "0", "{}", "1", "a"], ["2", "1.7", "50", "0", "{}", "9", "b"]])
@example(rows=[["1", "1", "50", "0", "{}", "1", "a"], ["2", "1", "50", "0", "{}", "9", "b"]])
def test_ptbxl_cells_of_any_kind(root: Path, rows: list[list[str]]) -> None:
    ptbxl(root, *rows)
