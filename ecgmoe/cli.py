"""What the entry points under jobs/ share: options from dataclasses, presets by name, errors that a user can read."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from ecgmoe.worker_errors import raised, reason

T = TypeVar("T")

# Ray colours and repeats workers' lines otherwise, which makes a log file hard to read.
os.environ.setdefault("RAY_COLOR_PREFIX", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse(options: type[T], argv: Sequence[str], description: str, default: T | None = None) -> T:
    """Options from a command line.

    Args:
        options: a dataclass; its docstring's Attributes section is the help text.
        argv: without the program's name.
        description: shown by --help.
        default: values that the command line changes.
    """
    prog = f"python {os.path.relpath(sys.argv[0])}" if sys.argv[0].endswith(".py") else None
    arguments: dict[str, Any] = {"default": default} if default is not None else {}
    return tyro.cli(options, args=list(argv), prog=prog, description=description, **arguments)


def take_preset(argv: Sequence[str], presets: Mapping[str, Callable[[], T]], default: str) -> tuple[str, T, list[str]]:
    """Split a leading preset name off a command line.

    Args:
        argv: without the program's name.
        presets: by name; "package.module:function" calls one of the user's own.
        default: name where the command line begins with an option.

    Returns:
        Its name, its configuration, and the rest of the command line.

    Raises:
        ValueError: the first word is neither an option nor a preset.
    """
    rest = list(argv)
    name = default
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    if ":" in name:
        return (*_own_preset(name), rest)
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(presets)}, or package.module:function")
    return name, presets[name](), rest


def _own_preset(path: str) -> tuple[str, Any]:
    module, _, function = path.partition(":")
    try:
        preset = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"preset {path}: {error}; write it as package.module:function, with the folder of the module on PYTHONPATH"
        ) from error
    return function, preset()


def run_job(main: Callable[[list[str]], None]) -> None:
    """Run an entry point: mistakes of the user and of the data end in one line and exit code 2, not in a traceback.

    SIGINT and SIGTERM (a scheduler's, `ray job stop`) end it in order, with exit codes 130 and 143.
    """
    told: list[int] = []

    def terminate(number: int, _: Any) -> None:
        # Noted too: where Ray waits, it makes an exit of its own of this one, with code 1.
        told.append(number)
        sys.exit(number)

    # Training has more to say while it lasts.
    signal.signal(signal.SIGTERM, terminate)
    # A pipe or a log file would otherwise see nothing until its buffer is full.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except SystemExit:
        if not told:
            raise
        # A second one, for which there is no reason, would end Ray's own end.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("terminated: the same command goes on from here", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        reason, code = _reason(error)
        if reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(code)


SAID_IN_ONE_LINE = (ValueError, OSError, FloatingPointError, MemoryError)
"""Mistakes of the user, of the data or of the storage, a training that diverges, and too little memory."""


def _reason(error: Exception) -> tuple[str | None, int]:
    """One line about a failure and the exit code: 2 for a mistake of the user, of the data or of the storage.

    No line where the fault is this program's: then the traceback is what helps.
    """
    # Ray's errors first: some are made to look like their cause's class, with a whole traceback for a message.
    if type(error).__module__.split(".")[0] != "ray":
        return (str(error), 2) if isinstance(error, SAID_IN_ONE_LINE) else (None, 1)
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return _users_mistake(str(error)), 2
    reasons = {rank: _users_mistake(failure) for rank, failure in failures.items()}
    lines = [f"worker {rank}: {why or reason(failures[rank])}" for rank, why in reasons.items()]
    return "; ".join(lines), 2 if all(reasons.values()) else 1


def _users_mistake(error: object) -> str | None:
    """The message of what a worker raised, where that is a mistake of the user or of the storage."""
    found = raised(error, *SAID_IN_ONE_LINE)
    return str(found) if found else None
