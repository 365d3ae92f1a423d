"""Rhythm classes hold for a statement however it is spelled, wherever it stands and whatever stands beside it."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgmoe.ecg.rhythm import TAXONOMIES, classify_report0, classify_rhythm, find_rhythm, rhythm_from_scp

quickly = functools.partial(settings, deadline=None, derandomize=True)

RHYTHM = TAXONOMIES["rhythm15"]

# The class of each statement in rhythm15; the first fourteen are the paper's list, in the order of report0_15.
STATEMENTS: dict[str, str | None] = {
    "sinus rhythm": "sinus rhythm",
    "sinus bradycardia": "sinus bradycardia",
    "sinus tachycardia": "sinus tachycardia",
    "atrial fibrillation": "atrial fibrillation",
    "sinus rhythm with borderline 1st degree a-v block": "1st degree AV block",
    "sinus rhythm with 1st degree a-v block": "1st degree AV block",
    "atrial fibrillation with rapid ventricular response": "atrial fibrillation",
    "sinus arrhythmia": "sinus arrhythmia",
    "sinus rhythm with pac(s)": "atrial premature",
    "ventricular pacing": "paced",
    "consider acute st elevation mi": None,
    "warning: data quality may affect interpretation": None,
    "sinus rhythm with pvc(s)": "ventricular premature",
    "possible ectopic atrial rhythm": "ectopic atrial",
    "Sinus bradycardia with 1st degree A-V block": "1st degree AV block",
    "Atrial fibrillation with slow ventricular response": "atrial fibrillation",
    "Sinus rhythm with PVC(s)": "ventricular premature",
    "Possible ectopic atrial rhythm": "ectopic atrial",
    "Pacemaker rhythm - no further analysis": "paced",
    "Sinus or ectopic atrial rhythm": "ectopic atrial",
    "Prolonged PR interval": "1st degree AV block",
    "Atrial flutter with 2:1 A-V block": "atrial flutter",
    "Probable accelerated junctional rhythm": "junctional",
    "Age not entered, assumed to be 50 years old for purpose of ECG interpretation": None,
    "Ventricular tachycardia": "ventricular tachycardia or idioventricular",
    "Accelerated idioventricular rhythm": "ventricular tachycardia or idioventricular",
    "Wide QRS tachycardia": "ventricular tachycardia or idioventricular",
    "Sinus rhythm with 2nd degree A-V block, Mobitz I": "2nd or 3rd degree AV block",
    "Complete heart block": "2nd or 3rd degree AV block",
    "Supraventricular tachycardia": "supraventricular tachycardia",
    "Supraventricular ectopics": "atrial premature",
    "Wandering atrial pacemaker": "ectopic atrial",
    "ST junctional depression is nonspecific": None,
    "Borderline ECG": None,
    "Abnormal ECG": None,
    "Left axis deviation": None,
    "Possible left atrial abnormality": None,
    "": None,
}
PAPERS = list(STATEMENTS)[:14]
OPEN = (
    "Atrial fibrillation/flutter",
    "Atrial flutter/fibrillation",
    "Probable atrial flutter or fibrillation",
    "ATRIAL  FIB/FLUTTER with rapid ventricular response",
)

classified = st.sampled_from([text for text, name in STATEMENTS.items() if name])
neutral = st.sampled_from([text for text, name in STATEMENTS.items() if name is None])


def expected(statements: list[str]) -> int | None:
    """The class of highest priority, which is the smallest number."""
    names = [STATEMENTS[text] for text in statements]
    return min((RHYTHM.index(name) for name in names if name), default=None)


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """The same statement in another case and with more blanks between and around its words."""
    case = draw(st.sampled_from([str.lower, str.upper, str.title, str.swapcase, str]))
    blanks = st.sampled_from([" ", "  ", "\t", " \t "])
    words = case(text).split()
    inside = "".join(word + draw(blanks) for word in words[:-1]) + (words[-1] if words else "")
    return draw(st.sampled_from(["", " ", "\t"])) + inside + draw(st.sampled_from(["", "  ", "\t", "\n"]))


def test_every_class_has_a_statement() -> None:
    assert {name for name in STATEMENTS.values() if name} == set(RHYTHM)


@pytest.mark.parametrize("text", STATEMENTS)
@quickly(max_examples=10)
@given(data=st.data())
def test_a_statement_alone(text: str, data: st.DataObject) -> None:
    assert classify_rhythm([data.draw(spelled(text))]) == expected([text])


@pytest.mark.parametrize("text", PAPERS)
@quickly(max_examples=10)
@given(data=st.data())
def test_the_papers_list_in_any_spelling(text: str, data: st.DataObject) -> None:
    before, after = data.draw(st.sampled_from([("", ""), ("*** ", " ***"), ("--- ", " ---"), ("", "."), (" ", " . ")]))
    assert classify_report0(before + data.draw(spelled(text)) + after) == PAPERS.index(text)


@quickly(max_examples=200)
@given(data=st.data(), known=st.lists(classified, min_size=1, max_size=6), others=st.lists(neutral, max_size=12))
def test_the_class_of_highest_priority_wins_in_any_order(
    data: st.DataObject, known: list[str], others: list[str]
) -> None:
    report = data.draw(st.permutations(known + others))
    assert classify_rhythm([data.draw(spelled(text)) for text in report]) == expected(known)


@quickly(max_examples=200)
@given(known=st.lists(classified, max_size=4), added=neutral, place=st.integers(0, 4))
def test_a_neutral_line_changes_nothing(known: list[str], added: str, place: int) -> None:
    assert classify_rhythm([*known[:place], added, *known[place:]]) == classify_rhythm(known)


@quickly(max_examples=200)
@given(data=st.data(), known=st.lists(classified, max_size=4), phrase=st.sampled_from(OPEN))
def test_flutter_or_fibrillation_in_one_phrase_is_no_label(data: st.DataObject, known: list[str], phrase: str) -> None:
    """It hides what has less priority, fibrillation among it, and yields to what has more."""
    report = data.draw(st.permutations([*known, phrase]))
    best = expected(known)
    higher = best is not None and best < RHYTHM.index("atrial flutter")
    assert classify_rhythm(report) == (best if higher else None)


HEDGES = (
    "possible", "possibly", "Probable", "probably", "likely", "suspect", "suggests", "questionable", "consider", "may be",
    "cannot exclude", "cannot rule out", "CANNOT BE RULED OUT", "can not be excluded", "might be",
)  # fmt: skip
certain = st.sampled_from(
    [text for text, name in STATEMENTS.items() if name and not text.lower().startswith(("possible", "probable"))]
)
hedges = st.sampled_from(HEDGES)


@quickly(max_examples=200)
@given(text=certain.filter(lambda text: " - " not in text), hedge=hedges, others=st.lists(neutral, max_size=3))
def test_a_hedge_before_or_behind_makes_a_statement_uncertain(text: str, hedge: str, others: list[str]) -> None:
    for statement in (
        f"{hedge} {text}",
        f"{hedge}: {text}",
        f"{text}, {hedge}",
        f"{text} - {hedge}",
        f"{text} {hedge}.",
    ):
        report = [*others, statement]
        assert find_rhythm(report) == (expected([text]), len(others), True), statement
        assert find_rhythm(report, "mask") == (None, len(others), True)
        assert find_rhythm(report, "skip") == (None, None, False)


@quickly(max_examples=200)
@given(text=certain, hedge=hedges, separator=st.sampled_from([" - ", " -- ", "; ", ". ", ", "]))
def test_a_hedge_about_something_else_leaves_the_rhythm_certain(text: str, hedge: str, separator: str) -> None:
    statement = f"{text}{separator}{hedge} left atrial enlargement"
    for hedged in ("use", "skip", "mask"):
        assert find_rhythm([statement], hedged) == (expected([text]), 0, False), statement


@quickly(max_examples=200)
@given(first=certain, second=certain, hedge=hedges, separator=st.sampled_from([" - ", "; ", ". "]))
def test_what_a_statement_says_for_certain_counts_where_hedged_phrases_are_skipped(
    first: str, second: str, hedge: str, separator: str
) -> None:
    assert find_rhythm([f"{first}{separator}{hedge} {second}"], "skip") == (expected([first]), 0, False)


@quickly(max_examples=200)
@given(statements=st.lists(st.text(st.characters(), max_size=60), max_size=18), data=st.data())
def test_arbitrary_text_gives_a_class_or_none(statements: list[str], data: st.DataObject) -> None:
    label = classify_rhythm(statements)
    assert label is None or 0 <= label < len(RHYTHM)
    assert classify_rhythm(data.draw(st.permutations(statements))) == label
    for statement in statements:
        report0 = classify_report0(statement)
        assert report0 is None or 0 <= report0 < 15


@quickly(max_examples=100)
@given(text=st.text(alphabet="ab 1sd-av:()/", max_size=4000))
def test_long_statements_take_no_time(text: str) -> None:
    """A pattern that goes back over the text would take minutes for one line."""
    for statement in (text, text * 50, "sinus " * 5000 + text, "flut" * 5000, "fib " * 5000):
        classify_rhythm([statement])


@quickly(max_examples=200)
@given(
    known=st.lists(
        st.sampled_from(["PACE", "3AVB", "AFLT", "AFIB", "SVTAC", "PVC", "1AVB", "STACH", "SR"]), max_size=4
    ),
    others=st.lists(st.text(max_size=6).filter(lambda code: not code.isupper()), max_size=6),
    likelihood=st.floats(),
)
def test_scp_codes_count_at_any_likelihood(known: list[str], others: list[str], likelihood: float) -> None:
    label = rhythm_from_scp(dict.fromkeys([*others, *known], likelihood))
    alone = [rhythm_from_scp({code: 100.0}) for code in known]
    assert label == min((one for one in alone if one is not None), default=None)
