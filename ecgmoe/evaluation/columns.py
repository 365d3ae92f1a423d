"""Names of the columns of a predictions file, and how a probability is read."""

from __future__ import annotations

PREDICTION = {
    "rr": "rr_ms",
    "age": "age_years",
    "sex": "sex_female_probability",
    "potassium": "potassium_abnormal_probability",
    "arrhythmia": "arrhythmia",
}
"""Prediction by task: ms, years, probability of female, probability of abnormal, name of the likeliest class."""

PROBABILITY = {"arrhythmia": "arrhythmia_probability"}
"""Probability of the predicted class."""

ARRHYTHMIA_PROBABILITIES = "arrhythmia_probabilities"
"""Probability of every class, in the order of the taxonomy."""

ARRHYTHMIA_SET = "arrhythmia_set"
"""Names of the classes that are to hold the truth, in the order of the taxonomy."""

DETECTED_RR = "rr_detected_ms"
"""Median of the detected RR intervals: the baseline of the task rr."""

CONDITION = ("perturbation", "strength")
"""In front of predictions of perturbed records: which perturbation, and how strong; null for the clean record."""

REFUSED = "refused"
"""Whether the default quality policy would have excluded the perturbed record."""

CART = "cart_id"
"""ECG machine, where the dataset knows it."""

DECISION_THRESHOLD = 0.5
"""A binary task's class 1 is predicted from this probability on."""


def label_column(task: str) -> str:
    """The column that holds a task's label beside its prediction."""
    return f"label_{task}"


def routing_column(task: str) -> str:
    """The column that holds a task's gate over the experts, a list in their order."""
    return f"routing_{task}"
