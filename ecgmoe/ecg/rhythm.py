"""Rhythm classes from machine statements (MIMIC-IV-ECG) and from SCP codes (PTB-XL).

Two taxonomies of 15 classes each: "report0_15" is the paper's list, an exact match on the first statement; "rhythm15"
is clinical and reads all statements. A record that matches nothing in rhythm15 has no label; it is not "other".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

_REPORT0_STATEMENTS = (
    "sinus rhythm",
    "sinus bradycardia",
    "sinus tachycardia",
    "atrial fibrillation",
    "sinus rhythm with borderline 1st degree a-v block",
    "sinus rhythm with 1st degree a-v block",
    "atrial fibrillation with rapid ventricular response",
    "sinus arrhythmia",
    "sinus rhythm with pac(s)",
    "ventricular pacing",
    "consider acute st elevation mi",
    "warning: data quality may affect interpretation",
    "sinus rhythm with pvc(s)",
    "possible ectopic atrial rhythm",
)

_REPORT0_CLASSES = (
    "sinus rhythm",
    "sinus bradycardia",
    "sinus tachycardia",
    "atrial fibrillation",
    "sinus rhythm with borderline 1st degree AV block",
    "sinus rhythm with 1st degree AV block",
    "atrial fibrillation with rapid ventricular response",
    "sinus arrhythmia",
    "sinus rhythm with PAC(s)",
    "ventricular pacing",
    "consider acute ST elevation MI",
    "data quality may affect interpretation",
    "sinus rhythm with PVC(s)",
    "possible ectopic atrial rhythm",
    "other",
)

_RHYTHM_CLASSES = (
    "paced",
    "ventricular tachycardia or idioventricular",
    "2nd or 3rd degree AV block",
    "atrial flutter",
    "atrial fibrillation",
    "supraventricular tachycardia",
    "junctional",
    "ectopic atrial",
    "ventricular premature",
    "atrial premature",
    "1st degree AV block",
    "sinus tachycardia",
    "sinus bradycardia",
    "sinus arrhythmia",
    "sinus rhythm",
)

TAXONOMIES: dict[str, tuple[str, ...]] = {"rhythm15": _RHYTHM_CLASSES, "report0_15": _REPORT0_CLASSES}
"""Class names by taxonomy, in the order of the label's integers."""


@dataclass(frozen=True)
class _Rule:
    """A statement belongs to the class when `pattern` is found in it and `unless` is not."""

    pattern: re.Pattern[str]
    unless: re.Pattern[str] | None = None

    def matches(self, statement: str) -> bool:
        if not self.pattern.search(statement):
            return False
        return self.unless is None or not self.unless.search(statement)


def _rule(pattern: str, unless: str | None = None) -> _Rule:
    return _Rule(re.compile(pattern), re.compile(unless) if unless else None)


# In the order of the classes: the first class with a matching statement wins. "supraventricular" contains
# "ventricular", hence the look-behinds; "st junctional depression" is no rhythm, hence the words after "junctional".
_RHYTHM_RULES: tuple[_Rule, ...] = (
    _rule(r"\bpac(?:ed|ing)\b|pacemaker", "wandering"),
    _rule(
        r"(?<!supra)ventricular (?:tachycardia|fibrillation|flutter)|idioventricular"
        r"|wide (?:qrs|complex) tachycardia|tachycardia with wide complex",
        "or aberrant",
    ),
    _rule(
        r"(?:2nd|second|3rd|third) degree a-?v block|mobitz|wenckebach|(?:complete|high[- ]grade) (?:a-?v|heart) block"
        r"|a-?v dissociation|\b[23]:1 a-?v block",
        "flutter",
    ),
    _rule(r"flut"),
    _rule(r"atrial fibrillation|\ba-?fib\b"),
    _rule(r"supraventricular tachycardia|\bsvt\b|\batrial tachycardia|junctional tachycardia", "sinus or ectopic"),
    _rule(r"junctional (?:rhythm|bradycardia|escape)"),
    _rule(r"ectopic atrial|wandering atrial|\batrial rhythm|supraventricular rhythm"),
    _rule(
        r"\bpvcs?\b|(?<!supra)ventricular (?:premature|ectop\w*|bigem\w*|trigem\w*)|premature ventricular",
    ),
    _rule(
        r"\bpacs?\b|atrial premature|premature atrial|supraventricular (?:ectop|complex|bigem|extrasyst|premature)",
    ),
    _rule(r"(?:1st|first) degree a-?v block|prolonged pr\b"),
    _rule(r"sinus tachycardia"),
    _rule(r"sinus bradycardia"),
    _rule(r"sinus arrhythmia"),
    _rule(r"sinus rhythm"),
)

_FLUTTER = 3
_FLUTTER_OR_FIBRILLATION = re.compile(r"flut.*fib|fib.*flut")

# By priority. Bigeminy and trigeminy do not say of what: ventricular, unless premature atrial complexes are coded.
_SCP_CLASSES: tuple[tuple[str, int], ...] = (
    ("PACE", 0),
    ("2AVB", 2),
    ("3AVB", 2),
    ("AFLT", 3),
    ("AFIB", 4),
    ("SVTAC", 5),
    ("PSVT", 5),
    ("SVARR", 7),
    ("PVC", 8),
    ("PAC", 9),
    ("BIGU", 8),
    ("TRIGU", 8),
    ("1AVB", 10),
    ("STACH", 11),
    ("SBRAD", 12),
    ("SARRH", 13),
    ("SR", 14),
)


Hedged = Literal["use", "skip", "mask"]
"""What to make of a statement that is not certain: as any other, pass it over, or no label where it decides."""

_HEDGE = (
    r"(?:possibl[ey]|probabl[ey]|likely|suspect(?:ed)?|suggest\w*|questionable|consider|may ?be|might be"
    r"|can ?not (?:be )?(?:excluded?|ruled? out))"
)
_HEDGES = re.compile(rf"\b{_HEDGE}\b")
# Where a phrase ends: a hedge says nothing about the phrases beside its own. A comma separates only what a hedge opens,
# because "possible junctional, ectopic atrial rhythm" is one doubt.
_PHRASE_ENDS = re.compile(rf"\s-+\s|[;:.]\s|,\s(?={_HEDGE}\b)")


class Rhythm(NamedTuple):
    """What the statements say about the rhythm.

    Attributes:
        label: index into `TAXONOMIES["rhythm15"]`, None where there is none.
        line: which statement decided, None where none did.
        hedged: whether the class rests on a phrase of that statement that says possible, probable or the like.
    """

    label: int | None
    line: int | None
    hedged: bool


class _Statement(NamedTuple):
    """One statement's class, or `_NO_CLASS`. Sorting puts the class that wins first, then what is open, then certain."""

    label: int
    definite: bool
    hedged: bool


_NO_CLASS = _Statement(len(_RHYTHM_CLASSES), False, False)


# A few thousand distinct statements make up the reports of a whole release.
@lru_cache(maxsize=1 << 16)
def _statement_classes(statement: str) -> tuple[_Statement, _Statement]:
    """Class of a statement, and of what it says without a hedge; the class is hedged where the two are not the same."""
    line = _normalised(statement)
    label, definite = _line_class(line)
    if not _HEDGES.search(line):
        certain = _Statement(label, definite, False)
        return certain, certain
    certain = _Statement(*_line_class(_without_hedged_phrases(line)), False)
    return _Statement(label, definite, label != certain.label), certain


def _line_class(line: str) -> tuple[int, bool]:
    for label, rule in enumerate(_RHYTHM_RULES):
        if rule.matches(line):
            return label, label != _FLUTTER or _FLUTTER_OR_FIBRILLATION.search(line) is None
    return _NO_CLASS.label, _NO_CLASS.definite


def _without_hedged_phrases(line: str) -> str:
    """What a line says for certain. A phrase that is nothing but a hedge belongs to the one before it, or to the next."""
    phrases: list[str] = []
    for phrase in _PHRASE_ENDS.split(line):
        alone = _HEDGES.fullmatch(phrase.strip(" .,*-")) is not None
        if phrases and (alone or _HEDGES.fullmatch(phrases[-1].strip(" .,*-"))):
            phrases[-1] += f" {phrase}"
        else:
            phrases.append(phrase)
    return "; ".join(phrase for phrase in phrases if not _HEDGES.search(phrase))


def _normalised(statement: str) -> str:
    return " ".join(statement.lower().split())


def classify_report0(report_0: str) -> int | None:
    """Class of the paper's list for the first machine statement of a record.

    Args:
        report_0: the statement as written, with or without `*** ... ***`, `--- ... ---` and a trailing dot.

    Returns:
        Index into `TAXONOMIES["report0_15"]`; None for a blank statement.
    """
    statement = _normalised(report_0).strip("*-. ")
    if not statement:
        return None
    if statement in _REPORT0_STATEMENTS:
        return _REPORT0_STATEMENTS.index(statement)
    return len(_REPORT0_STATEMENTS)


def find_rhythm(statements: Sequence[str | None], hedged: Hedged = "use") -> Rhythm:
    """Clinical rhythm class over all machine statements of a record, and where it comes from.

    Args:
        statements: report_0, report_1, ... as written; blank ones are allowed and counted.
        hedged: what to make of "possible", "probable" and the like.

    Returns:
        The first class by priority; no label where no class matches, where a statement leaves open whether it is flutter
        or fibrillation, and where `hedged` masks it. Of two statements of that class the certain one counts.
    """
    part = 1 if hedged == "skip" else 0
    found = [(_statement_classes(text)[part], line) for line, text in enumerate(statements) if text]
    best, line = min(found, default=(_NO_CLASS, 0))
    if best.label == _NO_CLASS.label:
        return Rhythm(None, None, False)
    usable = best.definite and not (best.hedged and hedged == "mask")
    return Rhythm(best.label if usable else None, line, best.hedged)


def classify_rhythm(statements: Sequence[str | None]) -> int | None:
    """The label of `find_rhythm` alone, hedged statements as any other."""
    return find_rhythm(statements).label


def rhythm_from_scp(codes: Mapping[str, float]) -> int | None:
    """Clinical rhythm class of a PTB-XL record.

    Args:
        codes: SCP code to likelihood. Likelihood 0 means present but ungraded, so that every key counts.

    Returns:
        Index into `TAXONOMIES["rhythm15"]`; None where no rhythm is coded.
    """
    return next((label for code, label in _SCP_CLASSES if code in codes), None)
