"""Rhythm classes from the SNOMED CT codes of the PhysioNet/CinC Challenges 2020 and 2021.

The codes and their names are those of the challenge's own tables, dx_mapping_scored.csv and dx_mapping_unscored.csv of
https://github.com/physionetchallenges/evaluation-2021. A code that is here in neither table below says nothing of the
rhythm (a bundle branch block, an infarct), or names single beats that are neither premature nor a rhythm.
"""

from __future__ import annotations

from collections.abc import Collection

_CLASSES: dict[str, int] = {
    "10370003": 0,  # pacing rhythm
    "251268003": 0,  # atrial pacing pattern
    "251266004": 0,  # ventricular pacing pattern
    "164895002": 1,  # ventricular tachycardia
    "425856008": 1,  # paroxysmal ventricular tachycardia
    "164896001": 1,  # ventricular fibrillation
    "111288001": 1,  # ventricular flutter
    "49260003": 1,  # idioventricular rhythm
    "61277005": 1,  # accelerated idioventricular rhythm
    "81898007": 1,  # ventricular escape rhythm
    "195042002": 2,  # 2nd degree av block
    "54016002": 2,  # mobitz type i wenckebach atrioventricular block
    "426183003": 2,  # mobitz type II atrioventricular block
    "27885002": 2,  # complete heart block
    "50799005": 2,  # atrioventricular dissociation
    "164890007": 3,  # atrial flutter
    "164889003": 4,  # atrial fibrillation
    "282825002": 4,  # paroxysmal atrial fibrillation
    "426749004": 4,  # chronic atrial fibrillation
    "314208002": 4,  # rapid atrial fibrillation
    "426761007": 5,  # supraventricular tachycardia
    "67198005": 5,  # paroxysmal supraventricular tachycardia
    "713422000": 5,  # atrial tachycardia
    "426648003": 5,  # junctional tachycardia
    "251166008": 5,  # atrioventricular node reentrant tachycardia
    "233897008": 5,  # atrioventricular reentrant tachycardia
    "29320008": 6,  # atrioventricular junctional rhythm
    "426664006": 6,  # accelerated junctional rhythm
    "426995002": 6,  # junctional escape
    "106068003": 7,  # atrial rhythm
    "233892002": 7,  # accelerated atrial escape rhythm
    "195101003": 7,  # wandering atrial pacemaker
    "17366009": 7,  # sinus atrium to atrial wandering rhythm
    "427172004": 8,  # premature ventricular contractions
    "17338001": 8,  # ventricular premature beats
    "164884008": 8,  # ventricular ectopics
    "251182009": 8,  # paired ventricular premature complexes
    "11157007": 8,  # ventricular bigeminy
    "251180001": 8,  # ventricular trigeminy
    "284470004": 9,  # premature atrial contraction
    "63593006": 9,  # supraventricular premature beats
    "251170000": 9,  # blocked premature atrial contraction
    "251173003": 9,  # atrial bigeminy
    "251168009": 9,  # supraventricular bigeminy
    "270492004": 10,  # 1st degree av block
    "164947007": 10,  # prolonged pr interval
    "427084000": 11,  # sinus tachycardia
    "426177001": 12,  # sinus bradycardia
    "427393009": 13,  # sinus arrhythmia
    "426783006": 14,  # sinus rhythm
}
"""Index into `TAXONOMIES["rhythm15"]`, whose order is the priority."""

_OPEN: dict[str, tuple[int, ...]] = {
    "233917008": (2, 10),  # av block, of a degree that is not said
    "195080001": (3, 4),  # atrial fibrillation and flutter
    "426627000": (12,),  # bradycardia, of sinus rhythm or not
}
"""Codes that leave the class open, and the classes that they may mean."""

_LAST = 1 + max(_CLASSES.values())


def rhythm_from_snomed(codes: Collection[str]) -> int | None:
    """Clinical rhythm class of a record.

    Args:
        codes: SNOMED CT codes in any order.

    Returns:
        Index into `TAXONOMIES["rhythm15"]`: the first class by priority; None where no code names one, or where a code
        leaves open a class that would come first and none of the classes that it may mean is coded beside it.
    """
    labels = {_CLASSES[code] for code in codes if code in _CLASSES}
    doubts = (_OPEN[code] for code in codes if code in _OPEN)
    first_doubt = min((min(classes) for classes in doubts if not labels & set(classes)), default=_LAST)
    label = min(labels, default=_LAST)
    return label if label < first_doubt else None


def says_nothing_of_rhythm(code: str) -> bool:
    """Whether a code is left aside: a finding that is no rhythm, or one that this table does not know."""
    return code not in _CLASSES and code not in _OPEN
