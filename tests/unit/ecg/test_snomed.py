"""Rhythm classes from SNOMED CT codes: every code is a real one of its class, and the rule for several codes."""

from __future__ import annotations

import pytest

from ecgmoe.ecg.rhythm import TAXONOMIES
from ecgmoe.ecg.snomed import _CLASSES, _OPEN, rhythm_from_snomed, says_nothing_of_rhythm

AV_BLOCK, FIBRILLATION_AND_FLUTTER, BRADYCARDIA = "233917008", "195080001", "426627000"
FIBRILLATION, FLUTTER, SINUS, SINUS_BRADYCARDIA = "164889003", "164890007", "426783006", "426177001"
FIRST_DEGREE, COMPLETE_BLOCK, PACED, ATRIAL_PREMATURE = "270492004", "27885002", "10370003", "284470004"
RIGHT_BUNDLE_BRANCH_BLOCK, T_WAVE = "59118001", "164934002"


def verhoeff_is_right(code: str) -> bool:
    """The last digit of every SNOMED CT identifier is a check digit (Verhoeff's, over the dihedral group of order 10)."""
    total = 0
    for position, digit in enumerate(reversed(code)):
        value = int(digit)
        for _ in range(position):
            value = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4][value]
        flipped, turned = divmod(total, 5)
        other_flip, other_turn = divmod(value, 5)
        turn = (turned - other_turn) if flipped else (turned + other_turn)
        total = (flipped ^ other_flip) * 5 + turn % 5
    return total == 0


@pytest.mark.parametrize("code", [*_CLASSES, *_OPEN])
def test_no_code_is_mistyped(code: str) -> None:
    assert verhoeff_is_right(code)
    wrong = f"{code[:3]}{(int(code[3]) + 1) % 10}{code[4:]}"
    assert not verhoeff_is_right(wrong)


def test_all_classes_can_occur_and_no_other() -> None:
    assert set(_CLASSES.values()) == set(range(len(TAXONOMIES["rhythm15"])))
    assert not set(_CLASSES) & set(_OPEN)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([SINUS], "sinus rhythm"),
        ([SINUS, T_WAVE], "sinus rhythm"),
        ([T_WAVE, SINUS, SINUS_BRADYCARDIA], "sinus bradycardia"),
        ([SINUS_BRADYCARDIA, FIRST_DEGREE], "1st degree AV block"),
        ([SINUS, ATRIAL_PREMATURE, "427172004"], "ventricular premature"),
        ([FIBRILLATION, "427172004"], "atrial fibrillation"),
        ([FIBRILLATION, FLUTTER], "atrial flutter"),
        ([FIBRILLATION, COMPLETE_BLOCK], "2nd or 3rd degree AV block"),
        ([FIBRILLATION, PACED], "paced"),
        (["427084000", "713422000"], "supraventricular tachycardia"),
        ([T_WAVE, RIGHT_BUNDLE_BRANCH_BLOCK], None),
        (["12345678"], None),
        ([], None),
    ],
)
def test_the_first_class_by_priority_wins(codes: list[str], expected: str | None) -> None:
    for order in (codes, codes[::-1]):
        label = rhythm_from_snomed(order)
        assert (None if label is None else TAXONOMIES["rhythm15"][label]) == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([FIBRILLATION_AND_FLUTTER], None),
        ([FIBRILLATION_AND_FLUTTER, SINUS], None),
        ([FIBRILLATION_AND_FLUTTER, FIBRILLATION], "atrial fibrillation"),
        ([FIBRILLATION_AND_FLUTTER, COMPLETE_BLOCK], "2nd or 3rd degree AV block"),
        ([AV_BLOCK, SINUS], None),
        ([AV_BLOCK, FIBRILLATION], None),
        ([AV_BLOCK, SINUS, FIRST_DEGREE], "1st degree AV block"),
        ([AV_BLOCK, COMPLETE_BLOCK], "2nd or 3rd degree AV block"),
        ([AV_BLOCK, PACED], "paced"),
        ([BRADYCARDIA, SINUS], None),
        ([BRADYCARDIA, SINUS_BRADYCARDIA], "sinus bradycardia"),
        ([BRADYCARDIA, FIRST_DEGREE], "1st degree AV block"),
    ],
)
def test_a_code_that_leaves_the_class_open_masks_what_ranks_behind(codes: list[str], expected: str | None) -> None:
    for order in (codes, codes[::-1]):
        label = rhythm_from_snomed(order)
        assert (None if label is None else TAXONOMIES["rhythm15"][label]) == expected


def test_what_is_left_aside() -> None:
    assert says_nothing_of_rhythm(T_WAVE)
    assert says_nothing_of_rhythm("12345678")
    assert not says_nothing_of_rhythm(SINUS)
    assert not says_nothing_of_rhythm(AV_BLOCK)
