"""Ctrl-C, which is never lost.

Python raises it wherever the program is at that moment. Where that is an import or a callback from
compiled code, it may be swallowed there, or come out as another error. So it is remembered as well,
until somebody asks.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_seen = threading.Event()


def _remember(number: int, frame: FrameType | None) -> None:
    _seen.set()
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


def answer() -> None:
    """Raise an interrupt that was seen, whatever became of it."""
    if _seen.is_set():
        raise KeyboardInterrupt
