"""People's marks of QRS complexes from a WFDB annotation file.

Format: WFDB annot(5), https://physionet.org/physiotools/wag/annot-5.htm.
"""

from __future__ import annotations

import numpy as np
import wfdb

from ecgmoe.ecg.beats import Peaks
from ecgmoe.ecg.record import RecordFault
from ecgmoe.filesystem import StorageError, filesystem, temporary_folder

_MAX_BYTES = 1 << 20
_END = b"\0\0"
_NORMAL_BEAT = "N"


def read_qrs_marks(path: str, annotator: str) -> Peaks:
    """Samples of the QRS complexes (symbol N) that an annotator marked.

    Args:
        path: local path or URL of the record, without extension.
        annotator: extension of the annotation file; in LUDB the lead.

    Returns:
        int32 (marks,), in samples of the record, as they lie in the file.

    Raises:
        RecordFault: the file is missing, torn or no annotation file.
    """
    system, inner = filesystem(f"{path}.{annotator}")
    name = inner.rpartition("/")[2]
    try:
        content = system.cat_file(inner, end=_MAX_BYTES) if system.isfile(inner) else None
    except StorageError:
        raise
    except OSError as error:
        raise RecordFault(f"{name} cannot be read: {error.strerror or error}") from error
    if content is None:
        raise RecordFault(f"{name} cannot be read: no such file")
    # wfdb takes what there is of a torn file for the whole.
    if len(content) % 2 or not content.endswith(_END):
        raise RecordFault(f"{name} is torn: an annotation file ends with two zero bytes")
    with temporary_folder() as folder:
        (folder / f"marks.{annotator}").write_bytes(content)
        try:
            annotation = wfdb.rdann(str(folder / "marks"), annotator)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # wfdb lets any error of its parsing through
            raise RecordFault(f"wfdb cannot read {name}: {error} ({type(error).__name__})") from error
    return annotation.sample[np.array(annotation.symbol) == _NORMAL_BEAT].astype(np.int32)
