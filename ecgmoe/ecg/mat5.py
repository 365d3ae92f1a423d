"""Numeric arrays of a MATLAB 5 file, read without scipy.

scipy.io.loadmat (1.17.1) takes the type in a tag for an index without a check, so that one flipped byte ends the process
(SIGSEGV) instead of raising, and it decompresses without a limit. Format: MAT-File Level 5 format, MathWorks.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Container
from typing import Any

import numpy as np
import numpy.typing as npt

_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x800
_HEADER_BYTES = 128

Array = npt.NDArray[np.generic]


def numeric_variables(content: bytes, names: Container[str], max_bytes: int) -> dict[str, Array]:
    """The variables of these names.

    Args:
        content: the whole file.
        names: which variables; others are passed over, whatever they are.
        max_bytes: limit for the decompressed file.

    Raises:
        ValueError: it is no MATLAB 5 file, it is torn or damaged, or one of the variables is no plain real array.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER_BYTES])
    if order is None:
        raise ValueError("it is no MATLAB file of version 5")
    found: dict[str, Array] = {}
    position, total = _HEADER_BYTES, 0
    while position < len(content):
        kind, data, position = _element(content, position, order, padded=False)
        if kind == _COMPRESSED:
            inflate = zlib.decompressobj()
            try:
                kind, data, _ = _element(inflate.decompress(data, max_bytes - total + 8), 0, order)
            except zlib.error as error:
                raise ValueError(f"a variable cannot be decompressed: {error}") from error
        total += len(data)
        if total > max_bytes:
            raise ValueError(f"it holds more than {max_bytes:,} bytes")
        if kind != _MATRIX:
            raise ValueError(f"a variable has the type {kind}")
        name, array = _matrix(data, names, order)
        if array is not None:
            found[name] = array
    return found


def _matrix(data: bytes, names: Container[str], order: str) -> tuple[str, Array | None]:
    position, parts = 0, []
    for expected in (_UINT32, _INT32, _INT8):
        kind, part, position = _element(data, position, order)
        if kind != expected:
            raise ValueError(f"a variable begins with elements of the type {kind}")
        parts.append(part)
    name = parts[2].decode("ascii", "replace")
    if name not in names:
        return name, None
    if len(parts[0]) != 8:
        raise ValueError(f"{name!r} has damaged flags")
    flags = struct.unpack_from(f"{order}I", parts[0])[0]
    kind, values, _ = _element(data, position, order)
    if flags & 0xFF not in _NUMERIC_CLASSES or flags & _COMPLEX or kind not in _DTYPES:
        raise ValueError(f"{name!r} is no plain array of real numbers")
    shape = [int(size) for size in np.frombuffer(parts[1], f"{order}i4")]
    dtype = np.dtype(f"{order}{_DTYPES[kind]}")
    if min(shape, default=-1) < 0 or math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"{name!r} of the shape {shape} holds {len(values):,} bytes")
    return name, np.frombuffer(values, dtype).reshape(shape, order="F")


def _element(data: bytes, position: int, order: str, *, padded: bool = True) -> tuple[int, Any, int]:
    """Type and data of an element, and where the next one starts; compressed and outermost elements are not padded."""
    if position + 8 > len(data):
        raise ValueError("a tag is torn")
    kind, size = struct.unpack_from(f"{order}II", data, position)
    start, after = position + 8, position + 8 + size
    if kind >> 16:  # up to four bytes of data are in the tag itself
        kind, size = kind & 0xFFFF, kind >> 16
        start, after = position + 4, position + 8
        if size > 4:
            raise ValueError("a tag is damaged")
    elif padded:
        after += -size % 8
    if start + size > len(data):
        raise ValueError(f"an element of {size:,} bytes is torn")
    return kind, data[start : start + size], after
