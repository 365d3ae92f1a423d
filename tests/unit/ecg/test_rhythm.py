"""Rhythm classes: every statement that the data description names, and the traps around them."""

from __future__ import annotations

import pytest

from ecgmoe.ecg.rhythm import TAXONOMIES, classify_report0, classify_rhythm, rhythm_from_scp

RHYTHM = TAXONOMIES["rhythm15"]
REPORT0 = TAXONOMIES["report0_15"]


def test_both_taxonomies_have_15_distinct_classes() -> None:
    assert set(TAXONOMIES) == {"rhythm15", "report0_15"}
    assert all(len(set(classes)) == 15 for classes in TAXONOMIES.values())
    assert RHYTHM[0] == "paced"
    assert RHYTHM[14] == "sinus rhythm"
    assert REPORT0[0] == "sinus rhythm"
    assert REPORT0[14] == "other"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("Sinus rhythm", 0),
        ("Sinus rhythm.", 0),
        ("  SINUS  RHYTHM ", 0),
        ("Sinus bradycardia", 1),
        ("Sinus tachycardia", 2),
        ("Atrial fibrillation", 3),
        ("Sinus rhythm with borderline 1st degree A-V block", 4),
        ("Sinus rhythm with 1st degree A-V block", 5),
        ("Atrial fibrillation with rapid ventricular response", 6),
        ("Sinus arrhythmia", 7),
        ("Sinus rhythm with PAC(s)", 8),
        ("Ventricular pacing", 9),
        ("*** consider acute ST elevation MI ***", 10),
        ("--- Warning: Data quality may affect interpretation ---", 11),
        ("Sinus rhythm with PVC(s)", 12),
        ("Possible ectopic atrial rhythm", 13),
        ("Sinus rhythm with PVC(s) and PAC(s)", 14),
        ("Probable sinus rhythm", 14),
        ("", None),
        ("   ", None),
    ],
)
def test_report0_is_an_exact_match(statement: str, expected: int | None) -> None:
    assert classify_report0(statement) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("Pacemaker rhythm - no further analysis", "paced"),
        ("Ventricular pacing", "paced"),
        ("Wandering atrial pacemaker", "ectopic atrial"),
        ("Ventricular tachycardia", "ventricular tachycardia or idioventricular"),
        ("Accelerated idioventricular rhythm", "ventricular tachycardia or idioventricular"),
        ("Wide QRS tachycardia", "ventricular tachycardia or idioventricular"),
        ("Ventricular tachycardia or aberrant conduction", None),
        ("Supraventricular tachycardia", "supraventricular tachycardia"),
        ("Sinus rhythm with 2nd degree A-V block, Mobitz I", "2nd or 3rd degree AV block"),
        ("Complete heart block", "2nd or 3rd degree AV block"),
        ("Complete AV block", "2nd or 3rd degree AV block"),
        ("Atrial flutter with 2:1 A-V block", "atrial flutter"),
        ("Atrial flutter/fibrillation", None),
        ("Atrial fibrillation or flutter", None),
        ("Atrial fibrillation with slow ventricular response", "atrial fibrillation"),
        ("Atrial fibrillation", "atrial fibrillation"),
        ("Atrial fibrillation with rapid ventricular response", "atrial fibrillation"),
        ("Junctional tachycardia", "supraventricular tachycardia"),
        ("Probable accelerated junctional rhythm", "junctional"),
        ("st junctional depression", None),
        ("Possible ectopic atrial rhythm", "ectopic atrial"),
        ("Sinus or ectopic atrial rhythm", "ectopic atrial"),
        ("Sinus or ectopic atrial tachycardia", "ectopic atrial"),
        ("Sinus rhythm with PVC(s)", "ventricular premature"),
        ("Sinus rhythm with ventricular bigeminy", "ventricular premature"),
        ("Sinus rhythm with PAC(s)", "atrial premature"),
        ("Sinus rhythm with supraventricular bigeminy", "atrial premature"),
        ("Sinus bradycardia with 1st degree A-V block", "1st degree AV block"),
        ("Sinus rhythm with borderline 1st degree A-V block", "1st degree AV block"),
        ("Prolonged PR interval", "1st degree AV block"),
        ("Sinus tachycardia", "sinus tachycardia"),
        ("Sinus bradycardia", "sinus bradycardia"),
        ("Sinus arrhythmia", "sinus arrhythmia"),
        ("Sinus rhythm", "sinus rhythm"),
        ("Age not entered, assumed to be 50 years old for purpose of ECG interpretation", None),
        ("--- Warning: Data quality may affect interpretation ---", None),
        ("*** consider acute ST elevation MI ***", None),
    ],
)
def test_rhythm_of_one_statement(statement: str, expected: str | None) -> None:
    label = classify_rhythm([statement])
    assert (None if label is None else RHYTHM[label]) == expected


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["Sinus rhythm", "", "Prolonged PR interval"], "1st degree AV block"),
        (["Sinus bradycardia", "Ventricular pacing"], "paced"),
        (
            ["Age not entered, assumed to be 50 years old for purpose of ECG interpretation", "Sinus rhythm."],
            "sinus rhythm",
        ),
        (["Atrial fibrillation", "Atrial flutter/fibrillation"], None),
        (["Atrial flutter", "Atrial flutter/fibrillation"], None),
        (["Atrial flutter/fibrillation", "Ventricular pacing"], "paced"),
        ([], None),
        (["", ""], None),
    ],
)
def test_first_class_over_all_statements_wins(statements: list[str], expected: str | None) -> None:
    label = classify_rhythm(statements)
    assert (None if label is None else RHYTHM[label]) == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({"NORM": 100.0, "SR": 0.0}, 14),
        ({"SBRAD": 0.0}, 12),
        ({"STACH": 0.0, "SR": 0.0}, 11),
        ({"SARRH": 0.0}, 13),
        ({"AFIB": 0.0, "PACE": 0.0}, 0),
        ({"AFLT": 0.0, "AFIB": 100.0}, 3),
        ({"AFIB": 0.0, "PVC": 100.0}, 4),
        ({"3AVB": 100.0}, 2),
        ({"2AVB": 0.0, "SR": 0.0}, 2),
        ({"SVTAC": 0.0}, 5),
        ({"PSVT": 0.0}, 5),
        ({"SVARR": 0.0, "PVC": 100.0}, 7),
        ({"PVC": 100.0, "PAC": 100.0}, 8),
        ({"PAC": 100.0, "BIGU": 0.0}, 9),
        ({"BIGU": 0.0, "SR": 0.0}, 8),
        ({"TRIGU": 0.0}, 8),
        ({"1AVB": 100.0, "SR": 0.0}, 10),
        ({"NORM": 100.0}, None),
        ({}, None),
    ],
)
def test_scp_codes_count_whatever_their_likelihood(codes: dict[str, float], expected: int | None) -> None:
    assert rhythm_from_scp(codes) == expected
