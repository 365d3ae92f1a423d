"""Every kind of damage to a WFDB record: how it is done, and what a reader's message has to name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from record_draft import MAT_HEADER, N_SAMPLES, Draft, Samples


def _field(column: int, value: str) -> Callable[[Draft], None]:
    """Replaces one field in the line of a random signal."""

    def damage(draft: Draft) -> None:
        draft.one_line()[column] = value

    return damage


def _every_field(column: int, value: str) -> Callable[[Draft], None]:
    def damage(draft: Draft) -> None:
        for line in draft.fields[1:]:
            line[column] = value

    return damage


def _record_field(column: int, value: str) -> Callable[[Draft], None]:
    def damage(draft: Draft) -> None:
        draft.fields[0][column] = value

    return damage


def _swapped(first: int, second: int, *, record_line: bool = False) -> Callable[[Draft], None]:
    def damage(draft: Draft) -> None:
        line = draft.fields[0] if record_line else draft.one_line()
        line[first], line[second] = line[second], line[first]

    return damage


def _header(make: Callable[[Draft], bytes]) -> Callable[[Draft], None]:
    def damage(draft: Draft) -> None:
        draft.header = make(draft)

    return damage


def _on_disk(act: Callable[[Path, Path], object], *, mat: bool = False) -> Callable[[Draft], None]:
    def damage(draft: Draft) -> None:
        if mat:
            draft.mat = True
            draft.describe()
        draft.on_disk = act

    return damage


def _samples(change: Callable[[Samples, np.random.Generator], Samples | None]) -> Callable[[Draft], None]:
    """Damages the waveform and describes it correctly, so that only the waveform is at fault."""

    def damage(draft: Draft) -> None:
        changed = change(draft.samples, draft.rng)
        draft.samples = draft.samples if changed is None else changed
        draft.describe()

    return damage


def _torn_signal(draft: Draft) -> None:
    draft.signal = draft.samples.tobytes()[: int(draft.rng.integers(1, draft.samples.nbytes))]


def _torn_matlab(draft: Draft) -> None:
    draft.mat = True
    draft.describe()
    draft.signal = (MAT_HEADER + draft.samples.tobytes())[: int(draft.rng.integers(0, draft.samples.nbytes))]


def _noise_for_signal(draft: Draft) -> None:
    """As long as the signal file, but the bytes of something else."""
    draft.mat = bool(draft.rng.integers(2))
    draft.describe()
    draft.signal = draft.rng.bytes(draft.samples.nbytes + 24)


def _torn_header(draft: Draft) -> bytes:
    """Cut before the last lead's name is whole: a cut in the comment would do no harm."""
    text = draft.text().encode()
    return text[: int(draft.rng.integers(0, text.rindex(b"V6") + 2))]


def _missing_share(samples: Samples, rng: np.random.Generator) -> None:
    samples[rng.random(samples.shape) < rng.choice([0.0005, 0.01, 0.5])] = -32768
    samples[0, 0] = -32768  # at least one


def _one_peak(samples: Samples, rng: np.random.Generator) -> None:
    samples[int(rng.integers(N_SAMPLES)), int(rng.integers(12))] = 200 * int(rng.choice([-15, 11, 30]))


def _named(pattern: str) -> Callable[[Draft], None]:
    """A name that does harm in a report or a table, of a record whose signal file is torn."""

    def damage(draft: Draft) -> None:
        # wfdb reads no signal file of such a name, so that the header names a plain one.
        draft.signal_name = f"{draft.name}.dat"
        draft.name = f"{pattern}{draft.name}"
        _torn_signal(draft)

    return damage


def _replaced(act: Callable[[Path], object], *, header: bool = False) -> Callable[[Draft], None]:
    """Something else stands where the file was."""

    def on_disk(header_path: Path, signal_path: Path) -> None:
        path = header_path if header else signal_path
        path.unlink()
        act(path)

    return _on_disk(on_disk)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


KINDS: dict[str, tuple[Callable[[Draft], None], str]] = {
    "torn signal file": (_torn_signal, "is torn"),
    "empty signal file": (lambda d: setattr(d, "signal", b""), "is torn: it has 0 bytes"),
    "no signal file": (_replaced(lambda path: None), "cannot be read: No such file"),
    "signal file is a directory": (_replaced(Path.mkdir), "cannot be read: Is a directory"),
    "signal file is a dangling link": (_replaced(_dangling), "cannot be read: No such file"),
    "signal file is a link to itself": (_replaced(_loop), "cannot be read: Too many levels"),
    "signal file is a pipe": (_replaced(os.mkfifo), "it is a pipe or a device"),
    "signal file is a device": (_replaced(lambda path: path.symlink_to("/dev/zero")), "it is a pipe or a device"),
    "signal file without permission": (_on_disk(lambda hea, dat: dat.chmod(0)), "Permission denied"),
    "torn matlab file": (_torn_matlab, "is torn"),
    "noise in the signal file": (_noise_for_signal, "checksum of lead"),
    "header is a directory": (_replaced(Path.mkdir, header=True), "cannot be read: Is a directory"),
    "header is a dangling link": (_replaced(_dangling, header=True), "cannot be read: No such file"),
    "header is a link to itself": (_replaced(_loop, header=True), "cannot be read: Too many levels"),
    "header is a pipe": (_replaced(os.mkfifo, header=True), "it is a pipe or a device"),
    "no header": (_replaced(lambda path: None, header=True), "cannot be read: No such file"),
    "header with an upper-case extension": (
        _on_disk(lambda hea, dat: hea.rename(hea.with_suffix(".HEA"))),
        "No such file",
    ),
    "torn header": (_header(_torn_header), "header|lead"),
    "empty header": (_header(lambda d: b""), "the header is empty"),
    "noise in the header": (_header(lambda d: d.rng.bytes(int(d.rng.integers(1, 4000)))), "header|segments"),
    "header of 2 MB": (_header(lambda d: d.text().encode() + b"# x\n" * (1 << 19)), "larger than"),
    "header line without end": (_header(lambda d: b"1" * 900_000 + b"! 12 500 5000\n"), "line of 900,"),
    "header in UTF-16": (_header(lambda d: d.text().encode("utf-16")), "header"),
    "file name in Latin-1": (_header(lambda d: d.text().replace("r.dat", "ré.dat", 1).encode("latin-1")), "not ASCII"),
    "file name of wrong bytes": (_header(lambda d: d.text().encode().replace(b"r.dat", b"\xff\xfe.dat")), "not ASCII"),
    "file name with NUL": (_field(0, "r\0.dat"), "not beside it"),
    "gain not a number": (_field(2, "nan(0)/mV"), "damaged gain 'nan"),
    "gain infinite": (_field(2, "inf(0)/mV"), "damaged gain 'inf"),
    "gain too large a number": (_field(2, "1e999(0)/mV"), "gain inf"),
    "gain negative": (_field(2, "-200(0)/mV"), "gain -200"),
    "gain text": (_field(2, "abc"), "damaged gain 'abc'"),
    "gain zero": (_field(2, "0(0)/mV"), "gain 0 in the header"),
    "gain in a spelling wfdb cuts": (_every_field(2, "2E2(0)/mV"), "damaged gain '2E2"),
    "gain of a million mV": (_every_field(2, "0.0002(0)/mV"), r"reaches .* mV, beyond"),
    "gain next to nothing": (_every_field(2, "1e-320(0)/mV"), "infinite"),
    "gain beyond all signals": (_every_field(2, "1e300(0)/mV"), "12 flat .*leads"),
    "baseline absurd": (_field(2, "200(99999999999999999999)/mV"), "damaged gain"),
    "baseline implied by an absurd zero": (
        lambda d: d.fields.__setitem__(4, [*d.fields[4][:2], "200/mV", "16", "9" * 30, *d.fields[4][5:]]),
        "wfdb cannot read",
    ),
    "all samples missing": (_samples(lambda s, rng: np.full_like(s, -32768)), "100.00% of the samples"),
    "some samples missing": (_samples(_missing_share), "of the samples .*missing"),
    "flat": (_samples(lambda s, rng: np.full_like(s, rng.integers(-9, 9))), "12 flat .*leads"),
    "amplitude beyond the limit": (_samples(_one_peak), "amplitude .*limit 10 mV"),
    "millivolt called microvolt": (_every_field(2, "200.0(0)/uV"), "the file's unit or gain is wrong"),
    "too short": (_samples(lambda s, rng: s[: int(rng.integers(1, 4999))]), r"lasts \S+ s, 10 s are needed"),
    "lead missing": (lambda d: (d.fields.pop(), d.fields[0].__setitem__(1, "11")), "checksum|lead V6 is missing"),
    "lead twice": (lambda d: d.fields[3].__setitem__(8, "V1"), "lead III is missing"),
    "lead renamed": (_field(8, "X"), r"lead \w+ is missing"),
    "wrong checksum": (_field(6, "99999"), "checksum of lead"),
    "signal file above": (_field(0, "../good/000.dat"), "not beside it"),
    "signal file anywhere": (_field(0, "/etc/passwd"), "not beside it"),
    "no samples": (_record_field(3, "0"), "promises 0 samples"),
    "a billion samples": (_record_field(3, "1000000000"), "is torn"),
    "samples beyond every integer": (_record_field(3, "9" * 400), "damaged record line"),
    "negative samples": (_record_field(3, "-5000"), "promises -5000 samples"),
    "text for samples": (_record_field(3, "many"), "damaged record line"),
    "sampling rate zero": (_record_field(2, "0"), "sampling rate 0 Hz"),
    "sampling rate not a number": (_record_field(2, "nan"), "sampling rate 'nan'"),
    "sampling rate absurd": (_record_field(2, "1000000000"), r"sampling rate 1e\+09 Hz"),
    "sampling rate in a spelling wfdb cuts": (_record_field(2, "5e2"), "sampling rate '5e2'"),
    "wrong unit": (_field(2, "200.0(0)/mmHg"), "in 'mmHg', expected V, mV or uV"),
    "too few signals described": (lambda d: d.fields.pop(int(d.rng.integers(1, 13))), "promises 12 .* describes 11"),
    "no signal at all": (
        lambda d: d.fields.__setitem__(slice(None), [["r", "0", "500", "5000"]]),
        "describes 0 signals",
    ),
    "several segments": (_record_field(0, "r/3"), "several segments"),
    "unknown format": (_every_field(1, "17"), "wfdb cannot read"),
    "noise in a compressed format": (_every_field(1, "516"), "wfdb cannot read"),
    "byte offset beyond the file": (_every_field(1, "16+100000000000"), "is torn"),
    "skew absurd": (_field(1, "16:999999999"), "would have to be read at once"),
    "samples per frame absurd": (_field(1, "16x999999999"), "is torn"),
    "samples per frame zero": (_field(1, "16x0"), "no samples per frame"),
    "samples per frame of 5000 digits": (_field(1, f"16x{'9' * 5000}"), "line of 5,"),
    "format and gain swapped": (_swapped(1, 2), "damaged signal line"),
    "file and format swapped": (_swapped(0, 1), "damaged signal line"),
    "first value and sum swapped": (_swapped(5, 6), "checksum of lead"),
    "rate and samples swapped": (_swapped(2, 3, record_line=True), "checksum of lead|lasts"),
    "signals and rate swapped": (_swapped(1, 2, record_line=True), "promises 500 signals"),
    "formula for a name": (_named("=cmd|' /C calc'!A0"), "is torn"),
    "script for a name": (_named("<script>alert(1)</script>"), "is torn"),
    "comma and quote in the name": (_named('a,b"c'), "is torn"),
    "line end in the name": (_named("two\nlines"), "is torn"),
    "name of wrong bytes": (_named(os.fsdecode(b"\xff\xfe\xb0")), "is torn"),
}
