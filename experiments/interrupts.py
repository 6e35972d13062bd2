"""Ctrl-C, which is never lost.

Python raises it wherever the program is at that moment. Where that is a callback from compiled
code, it is swallowed there; where it is an import, it may come out as another error, or as a crash.
So it is remembered as well, until somebody asks, and while an import lasts, only remembered.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_seen, _waits = threading.Event(), threading.Event()


def _remember(number: int, frame: FrameType | None) -> None:
    again = _seen.is_set()
    _seen.set()
    if again or not _waits.is_set():
        raise KeyboardInterrupt


@contextmanager
def remembered() -> Iterator[None]:
    """In here, Ctrl-C is remembered where it would be raised: not where it is ignored, as in a
    background job of a shell."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _seen.clear()


@contextmanager
def deferred() -> Iterator[None]:
    """In here, Ctrl-C waits for the end; the second one does not."""
    _waits.set()
    try:
        yield
    finally:
        _waits.clear()
    answer()


def answer() -> None:
    """Raise an interrupt that was seen, whatever became of it."""
    if _seen.is_set():
        raise KeyboardInterrupt
