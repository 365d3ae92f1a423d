"""Attribution to leads and moments: it adds up, it is the model's, and the picture says what it is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import ecgmoe
from documents import python_block
from ecgmoe.benchmark.attribution import with_shuffled_weights
from ecgmoe.ecg.paper import WHOLE_ROW_MM, whole_lead_mm
from ecgmoe.ecg.quality_policy import QualityPolicy, apply_policy
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.ecg.record import LEADS, MISSING
from ecgmoe.inference.attribution import Attribution, attribute, integrated_gradients, without_beats
from ecgmoe.inference.attribution_picture import attribution_lines, draw_lead_sums, draw_moments
from ecgmoe.inference.explain_one import write_explanation
from ecgmoe.inference.explanation_picture import head_lines
from ecgmoe.inference.predictor import Predictor
from ecgmoe.model.config import ModelConfig
from ecgmoe.tasks import TASK_NAMES, task_table
from model_examples import saved_model
from predict_examples import CALIBRATION, calibrated_model
from small_records import an_ecg, write_record

FEW = 16
"""Steps of tests for which the parts need not add up."""
TASKS = {task.name: task for task in task_table()}


def record(signal: np.ndarray | None = None) -> UsableRecord:
    ecg = (an_ecg(1) if signal is None else signal).astype(np.int16)
    peaks = np.arange(200, 5000, 400, dtype=np.int32)
    return UsableRecord(signal=ecg, r_peaks=peaks, quality=apply_policy(ecg, QualityPolicy(missing="keep"))[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attribution")
    calibrated_model(folder / "model")
    write_record(folder, "good", an_ecg(3))
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor(str(folder / "model"))


@pytest.fixture(scope="module")
def found(predictor: Predictor) -> dict[str, Attribution]:
    return {name: attribute(predictor, record(), task, steps=32) for name, task in TASKS.items()}


def test_a_linear_function_is_its_gradient_times_the_way_from_the_baseline() -> None:
    generator = torch.Generator().manual_seed(0)
    weights, x, baseline = (torch.randn(1, 12, 5000, generator=generator) for _ in range(3))
    parts = integrated_gradients(lambda ecg: (ecg * weights).sum((1, 2)) + 7, x, baseline, steps=20)
    # The gradient is the same at each step; float32 rounds the weights of the steps, which sum to 1.
    torch.testing.assert_close(parts, (x - baseline) * weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_parts_add_up_to_what_the_output_changes_by(found: dict[str, Attribution], task: str) -> None:
    """A few thousandths remain at 32 steps; a gradient or a baseline that is not the function's misses by a lot more."""
    each = found[task]
    assert abs(each.change) > 1e-3
    assert each.samples.sum(dtype=np.float64) == pytest.approx(each.change, rel=0.01)
    assert not each.large_error
    assert sum(each.leads.values()) == pytest.approx(each.change + each.error)
    windows = each.windows(20)
    assert windows.shape == (12, 250)
    np.testing.assert_allclose(windows.sum(1), list(each.leads.values()), rtol=1e-6)
    np.testing.assert_allclose(windows[3, 10], each.samples[3, 200:220].sum(dtype=np.float64), rtol=1e-6)


def test_more_steps_leave_a_smaller_error(predictor: Predictor) -> None:
    """Far apart: from one number of steps to the next the error also falls and rises by chance."""
    few, many = (abs(attribute(predictor, record(), TASKS["rr"], steps=steps).error) for steps in (4, 50))
    assert few > 3 * many


def test_an_error_beside_the_change_is_large(found: dict[str, Attribution]) -> None:
    each = found["rr"]
    assert replace(each, samples=1.2 * each.samples).large_error
    assert not replace(each, samples=1.05 * each.samples).large_error


def test_what_is_explained_is_what_predict_says(folder: Path, predictor: Predictor) -> None:
    """Log-odds of calibrated probabilities, and numbers in their units."""
    ecg = ecgmoe.predict(folder / "good", model=folder / "model")
    for name, chosen in (("sex", "male"), ("sex", None), ("potassium", None), ("arrhythmia", None), ("rr", None)):
        explained = ecgmoe.explain(
            folder / "good", model=folder / "model", task=name, class_name=chosen, steps=1
        ).attribution
        assert explained is not None
        if name == "rr":
            assert (explained.output, explained.unit) == (pytest.approx(ecg.tasks[name].value, rel=1e-5), "ms")
            continue
        expected = chosen or {"sex": "female", "potassium": "abnormal"}.get(name, ecg.tasks[name].class_name)
        assert (explained.class_name, explained.unit) == (expected, "log-odds")
        p = ecg.tasks[name].probabilities[explained.class_name]
        assert explained.output == pytest.approx(np.log(p / (1 - p)), abs=1e-4)


def test_a_temperature_divides_the_parts_of_a_binary_task(tmp_path: Path, found: dict[str, Attribution]) -> None:
    saved_model(tmp_path / "model")
    plain = attribute(Predictor(str(tmp_path / "model")), record(), TASKS["sex"], steps=32)
    np.testing.assert_allclose(
        plain.samples / CALIBRATION.temperature["sex"], found["sex"].samples, rtol=1e-3, atol=1e-9
    )


def test_the_two_classes_of_a_task_are_each_others_opposite(
    predictor: Predictor, found: dict[str, Attribution]
) -> None:
    male = attribute(predictor, record(), TASKS["sex"], class_name="male", steps=32)
    np.testing.assert_allclose(male.samples, -found["sex"].samples, rtol=1e-3, atol=1e-9)


def test_another_class_has_another_map(predictor: Predictor, found: dict[str, Attribution]) -> None:
    other = next(name for name in TASKS["arrhythmia"].classes if name != found["arrhythmia"].class_name)
    each = attribute(predictor, record(), TASKS["arrhythmia"], class_name=other, steps=FEW)
    assert each.class_name == other
    assert likeness(each, found["arrhythmia"]) < 0.9


LIKE = 0.3
"""Rank correlation under which two maps have nothing to do with each other: over 60,000 samples chance gives 0.004, and
the largest of 15 pairs of untrained models had 0.13."""


def likeness(one: Attribution, other: Attribution) -> float:
    return float(spearmanr(one.samples.ravel(), other.samples.ravel()).statistic)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_with_shuffled_weights_the_map_is_another(
    predictor: Predictor, found: dict[str, Attribution], task: str
) -> None:
    """Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018."""
    shuffled = Predictor.__new__(Predictor)
    shuffled.__dict__.update(predictor.__dict__, model=with_shuffled_weights(predictor.model))
    each = attribute(shuffled, record(), TASKS[task], class_name=found[task].class_name, steps=FEW)
    assert abs(likeness(each, found[task])) < LIKE


def test_with_the_same_weights_it_is_the_same(folder: Path, found: dict[str, Attribution]) -> None:
    again = attribute(Predictor(str(folder / "model")), record(), TASKS["age"], steps=32)
    np.testing.assert_array_equal(again.samples, found["age"].samples)


def test_what_is_missing_adds_nothing(predictor: Predictor) -> None:
    signal = an_ecg(1)
    signal[4] = MISSING
    signal[7, 1000:2000] = MISSING
    each = attribute(predictor, record(signal), TASKS["age"], steps=32)
    assert each.leads["aVL"] == 0
    assert not each.samples[7, 1000:2000].any()
    assert each.samples[7, :1000].any()
    assert np.isfinite(each.samples).all()
    assert each.error == pytest.approx(0, abs=0.02 * abs(each.change))


def test_a_record_without_beats_and_with_flat_leads_has_finite_parts(predictor: Predictor) -> None:
    signal = an_ecg(1)
    signal[1], signal[2] = 0, 300
    each = attribute(predictor, replace(record(signal), r_peaks=np.array([], dtype=np.int32)), TASKS["sex"], steps=32)
    assert np.isfinite(each.samples).all()
    assert (each.leads["II"], each.leads["III"]) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert each.error == pytest.approx(0, abs=0.02 * abs(each.change))


@pytest.mark.parametrize("mixture", ["moe", "self_attn"])
def test_models_without_a_path_over_the_beats_are_explained(tmp_path: Path, mixture: str) -> None:
    saved_model(tmp_path / "model", config=ModelConfig(width=16, mixture=mixture, paths="multi_model"))  # type: ignore[arg-type]
    each = attribute(Predictor(str(tmp_path / "model")), record(), TASKS["age"], steps=32)
    assert each.change
    assert each.error == pytest.approx(0, abs=0.01 * abs(each.change))


def test_the_baseline_keeps_wander_and_has_no_beats() -> None:
    drift = 400 * np.sin(2 * np.pi * 0.1 * np.arange(5000) / 500)
    beats = an_ecg(1)
    signal = (beats + drift + 250).astype(np.int16)
    signal[2] = MISSING
    signal[5, 100:200] = MISSING
    baseline = without_beats(signal)
    inside = slice(500, 4500)
    # A spike of one sample and 1 mV has little below 0.5 Hz, and the median of the lead is its level.
    np.testing.assert_allclose(baseline[0, inside], (drift + 250)[inside], atol=60)
    assert (baseline[2] == MISSING).all()
    np.testing.assert_array_equal(baseline[5] == MISSING, signal[5] == MISSING)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"task": "height"}, "has no task 'height': choose one of rr, age, sex, potassium, arrhythmia"),
        ({"task": "age", "class_name": "old"}, "age is a number and has no class 'old': leave the class out"),
        ({"task": "sex", "class_name": "old"}, "sex has no class 'old': choose one of male, female"),
        ({"steps": -1}, "--steps -1: give the number of gradients to sum, 0 for none"),
        ({"steps": 0, "class_name": "paced"}, r"--class-name is about .* which --steps 0 leaves out"),
    ],
)
def test_what_cannot_be_explained_has_a_reason(folder: Path, asked: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ecgmoe.explain(folder / "good", model=folder / "model", **asked)


def test_without_captum_the_rest_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"needs captum: .* 'ecgmoe\[explain\]'; or leave it out with --steps 0"):
        ecgmoe.explain(folder / "good", model=folder / "model")
    explained = ecgmoe.explain(folder / "good", model=folder / "model", steps=0)
    assert explained.attribution is None
    assert explained.explanation.beat_weights["arrhythmia"].sum() > 0


def test_an_array_is_explained_as_its_file(folder: Path) -> None:
    asked = {"model": folder / "model", "task": "sex", "steps": 2}
    file = ecgmoe.explain(folder / "good.hea", **asked)
    array = ecgmoe.explain(an_ecg(3), fs=500, leads=LEADS, unit="uV", **asked)
    assert file.attribution is not None
    assert array.attribution is not None
    np.testing.assert_array_equal(file.attribution.samples, array.attribution.samples)
    assert (file.name, array.name) == ("good.hea", "an array")


def test_colours_and_bars_are_those_of_the_leads(found: dict[str, Attribution]) -> None:
    samples = np.zeros((12, 5000), dtype=np.float32)
    samples[LEADS.index("V2"), 1000:1020] = 0.1
    samples[LEADS.index("aVR"), 2000:2020] = -0.05
    each = replace(found["sex"], samples=samples)
    paper, bars = Figure().add_subplot(), Figure().add_subplot()
    draw_moments(paper, each, record())
    assert [text.get_text() for text in paper.texts][:12] == list(LEADS)
    (mesh,) = [drawn for drawn in paper.collections if drawn.get_array() is not None]
    colours = mesh.to_rgba(each.windows(20))
    red, _, blue, _ = colours[LEADS.index("V2"), 50]
    assert red > blue
    red, _, blue, _ = colours[LEADS.index("aVR"), 100]
    assert blue > red
    # The mesh's row of a lead lies behind its line.
    edges = mesh.get_coordinates()[:, 0, 1]
    np.testing.assert_allclose((edges[:-1] + edges[1:]) / 2, whole_lead_mm())
    np.testing.assert_allclose(np.diff(edges), -WHOLE_ROW_MM)
    draw_lead_sums(bars, each)
    widths = dict(zip(LEADS, [bar.get_width() for bar in bars.patches], strict=True))
    assert (widths["V2"], widths["aVR"], widths["I"]) == (pytest.approx(2), pytest.approx(-1), 0)
    assert "log-odds" in bars.get_title()


def test_the_words_are_those_of_what_was_measured(found: dict[str, Attribution]) -> None:
    each = replace(
        found["sex"], output=1.25, baseline_output=-0.75, samples=np.full((12, 5000), 2.1 / 60_000, np.float32)
    )
    text = "\n".join(attribution_lines(each))
    assert "integrated gradients of the log-odds of female (sex), in log-odds per 40 ms" in text
    assert "From -0.75 without beats (each lead below 0.5 Hz, R peaks held) to 1.25" in text
    assert "add up to +2.\n" in text
    assert "miss it by +0.1 log-odds (5.0% of the change), with 32 gradients" in text
    assert "read no lead" not in text
    assert "(under 0.1% of the change)" in attribution_lines(replace(each, output=1.3499))[2]
    assert "read no lead" in attribution_lines(replace(each, output=0.25))[-1]
    assert "of the prediction of rr, in ms" in attribution_lines(found["rr"])[0]


def test_the_picture_holds_both_and_is_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    explained = write_explanation(
        str(folder / "model"), str(folder / "good"), str(tmp_path / "one.png"), task="sex", class_name="male", steps=FEW
    )
    picture = (tmp_path / "one.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert explained.png() == picture
    assert explained.png("A note.") != picture
    assert replace(explained, attribution=None).png() != picture
    head = head_lines(explained.explanation, task="sex", name="good", note="", moments=True)
    assert head[0] == "good: attention over the beats for the task sex; below it what leads and moments add"


def test_the_lines_of_the_page_say_and_draw(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "model").symlink_to(folder / "model")
    (tmp_path / "my_records").symlink_to(folder)
    (folder / "one.hea").write_text((folder / "good.hea").read_text().replace("good 12", "one 12"))
    monkeypatch.chdir(tmp_path)
    exec(python_block("docs/EXPLAIN.md", "from pathlib"), {})  # noqa: S102
    assert "'aVL': " in capsys.readouterr().out
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
