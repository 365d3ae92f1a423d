"""`jobs/export.py`: files that give the model's predictions without this project, checked before they are left anywhere."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

import ecgmoe
from documents import python_block
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import UsableRecord, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.export import export_model as module
from ecgmoe.export.check import TOLERANCE, Runner, Values, compare, records_of
from ecgmoe.export.export_model import export_model
from ecgmoe.export.graph import ExportError
from ecgmoe.inference.predictor import Predictor
from ecgmoe.inference.record_table import batch_of
from ecgmoe.model.folder import ModelFolderError
from jobs_here import job_here, last_line
from model_examples import TRAINED_ON, saved_model
from predict_examples import CALIBRATION, calibrated_model
from small_records import an_ecg, write_record

Records = list[tuple[str, UsableRecord]]
REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "ptbxl" / "records500"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    calibrated_model(folder / "model")
    (folder / "records").mkdir()
    for seed in range(5):
        write_record(folder / "records", f"made{seed}", an_ecg(seed))
    write_record(folder / "records", "silent", np.zeros((12, 5000)))
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    """Both formats, compared on 100 real records where they are there."""
    out = folder / "out"
    out.mkdir()
    (out / "predictor.onnx.data").write_text("weights of an earlier export")
    (out / "notes.txt").write_text("mine")
    records = REAL if REAL.is_dir() else folder / "records"
    text = job_here("export", "--model", str(folder / "model"), "--out", str(out), "--records", str(records))
    assert f"predictor.onnx: equal to the model on {100 if REAL.is_dir() else 5} records" in text
    assert last_line(text).endswith("Research use only.")
    return out


def test_onnxruntime_alone_predicts_what_predict_does(folder: Path, exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported / "predictor.onnx"), providers=["CPUExecutionProvider"])
    for name in ("made0", "made3"):
        path = str(folder / "records" / name)
        record = read_usable(path, ReaderOptions(), QualityPolicy())
        outputs = session.run(None, {"signal": record.signal[None]})
        got = dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))
        want = ecgmoe.predict(path, model=str(folder / "model")).tasks
        for task in ("rr", "age"):
            assert got[task][0] == pytest.approx(want[task].value, rel=1e-5)
        for task in ("sex", "potassium"):
            assert got[task][0] == pytest.approx(list(want[task].probabilities.values())[1], abs=TOLERANCE)
        assert got["arrhythmia"][0] == pytest.approx(list(want["arrhythmia"].probabilities.values()), abs=TOLERANCE)
        assert got["r_peaks"][0][: len(record.r_peaks)].tolist() == record.r_peaks.tolist()


def test_the_page_says_how_to_run_it(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "exported").symlink_to(exported)
    typed = f"import torch\n{python_block('EXPORT.md', 'import json')}\n" + (
        'other = torch.export.load("exported/predictor.pt2").module()(torch.from_numpy(signal))\n'
        "assert {name: value.tolist() for name, value in other.items()}.keys() == outputs.keys()\n"
        "import sys; assert not any(name.startswith('ecgmoe') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", typed], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ms" in done.stdout
    assert "sinus rhythm" in done.stdout


def test_it_says_what_it_takes_and_gives(exported: Path) -> None:
    said = json.loads((exported / "export.json").read_text())
    inside = {each.key: each.value for each in onnx.load(str(exported / "predictor.onnx")).metadata_props}
    assert json.loads(inside["ecgmoe"]) == {name: said[name] for name in said if name not in ("files", "checked")}
    assert said["input"]["unit"] == "microvolt"
    assert list(said["outputs"]) == ["rr", "age", "sex", "potassium", "arrhythmia", "gates", "r_peaks"]
    assert said["outputs"]["rr"]["half_width"] == CALIBRATION.half_width["rr"]
    assert said["outputs"]["arrhythmia"]["threshold"] == CALIBRATION.threshold["arrhythmia"]
    assert said["outputs"]["sex"]["classes"] == ["male", "female"]
    for kind in ("onnx", "pt2"):
        checked = said["checked"][kind]
        assert set(checked["largest"]) == {"rr", "age", "sex", "potassium", "arrhythmia"}
        assert max(checked["largest"].values()) <= checked["tolerance"] == TOLERANCE


def test_the_folder_holds_this_export_and_what_others_put_there(exported: Path) -> None:
    assert sorted(each.name for each in exported.iterdir()) == [
        "export.json",
        "notes.txt",
        "predictor.onnx",
        "predictor.pt2",
    ]
    said = json.loads((exported / "export.json").read_text())["files"]
    assert said == {
        name: hashlib.sha256((exported / name).read_bytes()).hexdigest() for name in ("predictor.onnx", "predictor.pt2")
    }


def test_tasks_that_were_not_trained_are_not_in_it(tmp_path: Path) -> None:
    saved_model(tmp_path / "model", trained_on=TRAINED_ON)
    done = export_model(str(tmp_path / "model"), str(tmp_path / "out"), formats=["pt2"])
    assert "potassium" in str(done.not_predicted)
    said = json.loads((tmp_path / "out" / "export.json").read_text())
    assert "potassium" not in said["outputs"]
    assert said["not_predicted"] == ["potassium"]
    assert said["checked"]["pt2"]["source"] == "simulated"
    assert list(done.files) == ["predictor.pt2"]


@pytest.fixture(scope="module")
def records(folder: Path) -> Records:
    with records_of(str(folder / "records")) as (_, found):
        # The silent one is not predicted, and so not compared.
        assert [name for name, _ in found] == [f"made{seed}" for seed in range(5)]
        return found


def wrong(predictor: Predictor, records: Records, task: str, row: int, by: float) -> Runner:
    """Gives what the model gives, but for one number of the record `row`."""
    seen = 0

    def run(signal: npt.NDArray[np.int16]) -> Values:
        nonlocal seen
        values = predictor(batch_of([record for _, record in records[seen : seen + len(signal)]]))
        if seen <= row < seen + len(signal):
            values[task].reshape(len(signal), -1)[row - seen, -1] += by
        seen += len(signal)
        return values

    return run


@pytest.mark.parametrize(
    ("task", "by", "fails"),
    [("age", 0.1, True), ("age", 1e-4, False), ("arrhythmia", 2e-4, True), ("sex", float("nan"), True)],
)
def test_a_file_that_differs_is_refused(folder: Path, records: Records, task: str, by: float, fails: bool) -> None:
    predictor = Predictor(str(folder / "model"))
    run = wrong(predictor, records, task, 3, by)
    if fails:
        with pytest.raises(ExportError, match=f"predicts {task} of made3 otherwise than the model"):
            compare(run, predictor, "made up", records)
    else:
        compared = compare(run, predictor, "made up", records)
        assert compared.largest[task] == pytest.approx(by / predictor.model.target_std[task], rel=0.2)


def test_a_file_that_differs_is_not_left_behind(folder: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ExportError("differs")

    before = {each.name: each.stat().st_mtime_ns for each in exported.iterdir()}
    monkeypatch.setattr(module, "compare", refuse)
    # What is written differs anyway: no need to trace the model for it.
    monkeypatch.setattr(module, "graph_of", lambda _: None)
    monkeypatch.setattr(module, "write_pt2", lambda _, file: file.write_bytes(b"another"))
    monkeypatch.setattr(module, "program_runner", lambda _: None)
    with pytest.raises(ExportError, match="differs"):
        export_model(str(folder / "model"), str(exported), formats=["pt2"])
    assert {each.name: each.stat().st_mtime_ns for each in exported.iterdir()} == before


def test_wrong_options(folder: Path, tmp_path: Path) -> None:
    model, out = str(folder / "model"), str(tmp_path / "out")
    with pytest.raises(ModelFolderError, match="is not a model folder"):
        export_model(str(tmp_path), out)
    with pytest.raises(ExportError, match="at most once"):
        export_model(model, out, formats=["pt2", "pt2"])
    with pytest.raises(ExportError, match="at least one"):
        export_model(model, out, formats=[])
    (tmp_path / "file").write_text("")
    (tmp_path / "silent").mkdir()
    text = job_here("export", "--model", model, "--out", str(tmp_path / "file"), "--formats", "pt2", expect=2)
    assert last_line(text).startswith("error: cannot write")
    write_record(tmp_path / "silent", "silent", np.zeros((12, 5000)))
    text = job_here("export", "--model", model, "--out", out, "--records", str(tmp_path / "silent"), expect=2)
    assert "no record of" in last_line(text)
    assert "--records" in last_line(text)
    assert not list(Path(out).iterdir())
