"""What the paper prints: its Tables 1, 2 and 3, mean and spread on 10,000 patients of MIMIC-IV-ECG.

Its figures stand beside those of other data as another dataset's, never in one comparison with them. It does not say which F1
it means; that of its untrained models (0.33 where two classes are about even) is what a macro-F1 gives for one class alone.
"""

from __future__ import annotations

from collections.abc import Mapping

ROWS = (("rr", "mae"), ("age", "mae"), ("sex", "f1_macro"), ("potassium", "f1_macro"), ("arrhythmia", "accuracy"))
"""Task and metric of each row of its tables, in order."""

BACKBONES = ("timesnet", "dlinear", "moment", "tempo", "ecgfm")
"""Columns of Tables 1 and 2, in order."""

_ECG_MOE = ("76.37 ± 4.7", "12.83 ± 0.42", "0.69 ± 0.01", "0.57 ± 0.00", "0.73 ± 0.01")

PAPER: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "table1": {
        "timesnet": ("817.0 ± 2.5", "62.28 ± 0.36", "0.60 ± 0.00", "0.06 ± 0.00", "0.06 ± 0.01"),
        "dlinear": ("816.4 ± 2.9", "62.63 ± 0.50", "0.51 ± 0.08", "0.05 ± 0.00", "0.03 ± 0.02"),
        "moment": ("816.6 ± 2.1", "62.61 ± 0.37", "0.34 ± 0.00", "0.02 ± 0.00", "0.03 ± 0.02"),
        "tempo": ("816.3 ± 1.9", "62.33 ± 0.38", "0.42 ± 0.00", "0.18 ± 0.00", "0.02 ± 0.00"),
        "ecgfm": ("816.3 ± 1.9", "62.27 ± 0.38", "0.33 ± 0.00", "0.35 ± 0.00", "0.07 ± 0.00"),
    },
    "table2": {
        "timesnet": ("304.3 ± 4.3", "24.89 ± 0.07", "0.51 ± 0.05", "0.41 ± 0.01", "0.17 ± 0.00"),
        "dlinear": ("786.0 ± 5.4", "28.46 ± 0.74", "0.57 ± 0.01", "0.43 ± 0.01", "0.48 ± 0.02"),
        "moment": ("146.9 ± 1.3", "13.41 ± 0.45", "0.69 ± 0.02", "0.49 ± 0.00", "0.66 ± 0.03"),
        "tempo": ("141.5 ± 2.1", "13.52 ± 0.31", "0.54 ± 0.01", "0.50 ± 0.00", "0.54 ± 0.14"),
        "ecgfm": ("147.3 ± 1.3", "13.49 ± 0.17", "0.52 ± 0.05", "0.49 ± 0.00", "0.49 ± 0.03"),
        "ecg_moe": _ECG_MOE,
    },
    "table3": {
        "moe": ("103.47 ± 2.4", "16.49 ± 0.87", "0.53 ± 0.13", "0.39 ± 0.17", "0.62 ± 0.01"),
        "time_moe": ("78.64 ± 1.4", "13.04 ± 0.14", "0.61 ± 0.10", "0.50 ± 0.10", "0.74 ± 0.00"),
        "self_attn": ("117.46 ± 3.2", "15.47 ± 0.85", "0.54 ± 0.01", "0.48 ± 0.00", "0.67 ± 0.00"),
        "cross_attn": ("86.71 ± 5.8", "14.71 ± 0.51", "0.61 ± 0.02", "0.48 ± 0.00", "0.69 ± 0.01"),
        "ecg_moe": (*_ECG_MOE[:4], "0.73 ± 0.00"),
    },
}
"""By table and column, mean and spread in the order of ROWS, as printed.

Tables 2 and 3 print another spread for ECG-MoE's last figure. Table 3's sex and potassium of ECG-MoE are not legible in the
text that these were taken from: they are Table 2's.
"""
