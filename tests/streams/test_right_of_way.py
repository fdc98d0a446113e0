"""The background lets answers go first, and does not wait for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.streams.right_of_way import RightOfWay

LONG_S = 60.0


def test_nobody_waits_where_nobody_goes() -> None:
    began_s = time.monotonic()
    RightOfWay(LONG_S).give()
    assert time.monotonic() - began_s < LONG_S / 2


def test_who_gives_way_goes_on_when_the_last_has_gone() -> None:
    way, left = RightOfWay(LONG_S), threading.Event()
    with ThreadPoolExecutor(1) as background:
        with way:
            with way:
                gone = background.submit(lambda: (way.give(), left.is_set()))
                time.sleep(0.05)
            # One of two has gone.
            time.sleep(0.05)
            assert not gone.done()
            left.set()
        assert gone.result(timeout=LONG_S / 2)[1]


def test_who_gives_way_goes_on_after_its_patience() -> None:
    way = RightOfWay(0.05)
    with way:
        began_s = time.monotonic()
        way.give()
        assert time.monotonic() - began_s >= 0.05


def test_an_answer_that_fails_leaves_the_way_free() -> None:
    way = RightOfWay(LONG_S)
    with pytest.raises(ValueError, match="no answer"), way:
        raise ValueError("no answer")
    began_s = time.monotonic()
    way.give()
    assert time.monotonic() - began_s < LONG_S / 2
