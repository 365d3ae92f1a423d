"""One record explained: the weights are those of the model, the windows those it cuts, and every record can be drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import ecgmoe
from ecgmoe.ecg.paper import across_mm, draw_ecg
from ecgmoe.ecg.quality_policy import QualityPolicy, apply_policy
from ecgmoe.ecg.read import UsableRecord, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import MISSING
from ecgmoe.inference.attribution import STEPS
from ecgmoe.inference.explain_one import write_explanation
from ecgmoe.inference.explanation import Explanation, explain
from ecgmoe.inference.explanation_picture import WARNING, draw_beats, explained_png, head_lines
from ecgmoe.inference.predictor import Predictor
from ecgmoe.inference.record_table import predict_records
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.config import ModelConfig
from ecgmoe.tasks import TASK_NAMES
from jobs import job
from model_examples import saved_model
from small_records import an_ecg, write_record

PEAKS = (100, 500, 700, 1900, 4980)
WINDOWS_S = [(-0.2, 0.6), (0.6, 1.2), (1.2, 2.0), (3.4, 4.4), (9.56, 10.56)]
"""To the midpoints between R peaks, at most 0.4 s before and 0.6 s after."""


def record(peaks: tuple[int, ...] = PEAKS, seed: int = 1) -> UsableRecord:
    signal = an_ecg(seed).astype(np.int16)
    return UsableRecord(
        signal=signal, r_peaks=np.array(peaks, dtype=np.int32), quality=apply_policy(signal, QualityPolicy())[1]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    saved_model(folder / "model")
    write_record(folder, "good", an_ecg(3))
    silent = np.zeros((12, 5000))
    write_record(folder, "silent", silent)
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor(str(folder / "model"))


def picture(explanation: Explanation, ecg: UsableRecord) -> bytes:
    return explained_png(explanation, ecg, task="arrhythmia", name="a record")


def test_beat_weights_are_gates_times_attention_and_sum_to_1_with_no_beat(predictor: Predictor) -> None:
    ecg = record()
    explanation = explain(predictor, ecg)
    identity = torch.zeros(1, dtype=torch.int64)
    peaks = torch.tensor([PEAKS], dtype=torch.int32)
    batch = ECGBatch(signal=torch.from_numpy(ecg.signal)[None], r_peaks=peaks, study_id=identity, patient_id=identity)
    routing = predictor.output(batch).routing
    assert routing.experts is not None
    assert routing.beats is not None
    for p, task in enumerate(TASK_NAMES):
        # One expert at a time, so that a swapped axis would be seen.
        each = [routing.experts[0, p, e] * routing.beats[0, p, e] for e in range(len(explanation.experts))]
        expected = torch.stack(each).sum(0).numpy()
        np.testing.assert_allclose(explanation.beat_weights[task], expected[:-1], rtol=1e-5)
        assert explanation.beat_weights[task].sum() + explanation.no_beat_weight[task] == pytest.approx(1, abs=1e-5)
        assert explanation.gates[task].sum() == pytest.approx(1, abs=1e-5)
    assert not np.allclose(explanation.beat_weights["rr"], explanation.beat_weights["arrhythmia"], rtol=1e-3)


def test_windows_run_to_the_midpoints_between_beats_within_the_models_bounds(predictor: Predictor) -> None:
    np.testing.assert_allclose(explain(predictor, record()).windows_s, WINDOWS_S, atol=1e-6)


def test_the_windows_are_drawn_where_they_are_and_a_heavier_beat_is_darker(predictor: Predictor) -> None:
    explanation = explain(predictor, record())
    axes = Figure().add_subplot()
    draw_ecg(axes, record().signal, PEAKS)
    draw_beats(axes, explanation, "sex")
    expected = across_mm(np.clip(WINDOWS_S, 0, 10))
    drawn = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    np.testing.assert_allclose(drawn, expected, atol=1e-4)
    redness = [bar.get_facecolor()[0] for bar in axes.patches]
    by_weight = np.argsort(explanation.beat_weights["sex"])
    assert redness[by_weight[0]] > redness[by_weight[-1]]


def test_predictions_are_those_of_predict(folder: Path, predictor: Predictor) -> None:
    model = str(folder / "model")
    ecg = read_usable(str(folder / "good"), ReaderOptions(), QualityPolicy())
    row = predict_records(predictor, "v", ["good"], [ecg]).to_pylist()[0]
    # Any of a record's names is taken.
    explanation = ecgmoe.explain(folder / "good.hea", model=model, steps=0).explanation
    assert explanation.predictions["rr"] == pytest.approx(row["rr_ms"], rel=1e-6)
    assert explanation.predictions["sex"] == pytest.approx(row["sex_female_probability"], rel=1e-6)
    lines = explanation.lines()
    assert lines[0] == ("rr", f"{row['rr_ms']:.0f} ms")
    rhythms = [text for name, text in lines if name == "arrhythmia"]
    assert rhythms[0] == f"{row['arrhythmia']} {row['arrhythmia_probability']:.2f}"
    assert len(rhythms) == 3


@pytest.mark.parametrize("peaks", [(), (2500,), tuple(range(60, 5000, 100))], ids=["none", "one", "fifty"])
def test_any_number_of_beats_is_drawn(predictor: Predictor, peaks: tuple[int, ...]) -> None:
    ecg = record(peaks)
    explanation = explain(predictor, ecg)
    beats = min(len(peaks), predictor.model.config.max_beats)
    assert explanation.windows_s.shape == (beats, 2)
    for task in TASK_NAMES:
        assert explanation.beat_weights[task].shape == (beats,)
        assert explanation.no_beat_weight[task] == pytest.approx(1 - explanation.beat_weights[task].sum(), abs=1e-5)
    assert picture(explanation, ecg).startswith(b"\x89PNG")


def test_flat_and_missing_leads_are_drawn(predictor: Predictor) -> None:
    ecg = record()
    ecg.signal[1] = 0
    ecg.signal[3] = MISSING
    assert picture(explain(predictor, ecg), ecg).startswith(b"\x89PNG")
    axes = Figure().add_subplot()
    draw_ecg(axes, ecg.signal)
    assert [text.get_text() for text in axes.texts][:2] == ["I", "aVR (missing)"]


def test_the_picture_is_the_same_every_time_and_another_for_another_task(predictor: Predictor) -> None:
    ecg = record()
    explanation = explain(predictor, ecg)
    first = picture(explanation, ecg)
    assert picture(explanation, ecg) == first
    assert explained_png(explanation, ecg, task="age", name="a record") != first


@pytest.mark.parametrize("mixture", ["moe", "self_attn"])
def test_a_model_that_sees_no_beats_is_drawn_and_says_so(tmp_path: Path, mixture: str) -> None:
    saved_model(tmp_path / "model", config=ModelConfig(width=16, mixture=mixture, paths="multi_model"))  # type: ignore[arg-type]
    explanation = explain(Predictor(str(tmp_path / "model")), record())
    assert not explanation.beat_weights
    assert not len(explanation.windows_s)
    assert bool(explanation.gates) == (mixture == "moe")
    title = head_lines(explanation, task="sex", name="a record", note="")[0]
    assert "no attention is drawn" in title
    assert picture(explanation, record()).startswith(b"\x89PNG")


def test_one_gate_for_all_tasks_is_that_of_each(tmp_path: Path) -> None:
    saved_model(tmp_path / "model", config=ModelConfig(width=16, task_conditioning=False, gate=False))
    explanation = explain(Predictor(str(tmp_path / "model")), record())
    assert set(explanation.beat_weights) == set(TASK_NAMES)
    np.testing.assert_allclose(explanation.gates["rr"], 1 / 5)
    np.testing.assert_array_equal(explanation.beat_weights["rr"], explanation.beat_weights["age"])
    assert picture(explanation, record()).startswith(b"\x89PNG")


def test_the_head_says_what_must_not_be_overlooked(tmp_path: Path) -> None:
    published = {"source": "a hub", "sha256": "0" * 64, "licence": "MIT", "pretraining": "other ECGs"}
    saved_model(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["backbones"][0]["provenance"] = published
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    explanation = explain(Predictor(str(tmp_path / "model")), record())
    assert head_lines(explanation, task="sex", name="r1", note="Simulated ECG.") == [
        "r1: attention over the beats for the task sex",
        "Simulated ECG.",
        "Random-initialised backbones: timesnet.",
        WARNING,
    ]
    saved_model(tmp_path / "late", config=ModelConfig(width=16, late_backbones=("dlinear",), late_weight=3.0))
    late = head_lines(explain(Predictor(str(tmp_path / "late")), record()), task="sex", name="r1", note="")
    assert "75% of each prediction comes from heads that read dlinear alone" in " ".join(late)
    # Dollars would be mathematics elsewhere in matplotlib.
    assert explained_png(explanation, record(), task="sex", name="$x_$", note=r"\frac$").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("source", "out", "task", "reason"),
    [
        ("absent", "ecg.png", "sex", "there is no recording .*absent: give a WFDB record"),
        ("", "ecg.png", "sex", "is a folder: one record is taken at a time"),
        ("silent", "ecg.png", "sex", r"excluded by the quality policy: .* flat .*--quality\.\* says"),
        ("good", "ecg.png", "height", "has no task 'height': choose one of rr, age, sex, potassium, arrhythmia"),
        ("good", "ecg.jpg", "sex", r"ends in \.png"),
    ],
)
def test_what_cannot_be_explained_has_a_reason(
    folder: Path, tmp_path: Path, source: str, out: str, task: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        write_explanation(str(folder / "model"), str(folder / source), str(tmp_path / out), task=task, steps=0)
    assert not list(tmp_path.iterdir())


def test_the_job_draws_and_prints_or_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures" / "ecg.png"
    arguments = ("--model", str(folder / "model"), "--out", str(out), "--task", "sex", "--note", "A note.", "--input")
    said = job("explain", *arguments, str(folder / "good"))
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "probability of female" in said
    # The function's own number, which jobs/explain.py repeats so that --help needs no torch.
    assert "integrated gradients of the log-odds of female (sex)" in said
    assert f"with {STEPS} gradients along the way" in said
    assert "never a diagnosis" in said
    refused = job("explain", *arguments, str(folder / "absent"), expect=2)
    assert refused.startswith("error: there is no recording")
    assert len(refused.splitlines()) == 1


def test_no_probability_is_told_as_certainty(predictor: Predictor) -> None:
    explanation = explain(predictor, record())
    explanation.predictions["sex"] = np.array(0.9997)
    explanation.predictions["potassium"] = np.array(0.0003)
    lines = dict(explanation.lines())
    assert lines["sex"] == "probability of female > 0.99"
    assert lines["potassium"] == "probability of abnormal < 0.01"
