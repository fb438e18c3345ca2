"""The timer wheel, without a clock: time is what `advance` says."""

from __future__ import annotations

import pytest

from duologue.server.transport.wheel import Wheel


class Alarm:
    def __init__(self) -> None:
        self.due = 0
        self.rings = 0

    def expire(self) -> None:
        self.rings += 1


def pass_time(wheel: Wheel, seconds: float, step: float = 0.01) -> None:
    for _ in range(round(seconds / step)):
        wheel.advance(step)


@pytest.mark.parametrize("delay", [0.05, 0.3, 1.0, 7.77])
def test_an_entry_expires_once_and_in_time(delay: float) -> None:
    wheel, alarm = Wheel(0.01), Alarm()
    wheel.advance(0.005)
    wheel.schedule(alarm, delay)
    pass_time(wheel, delay - 0.031, 0.001)
    assert alarm.rings == 0
    pass_time(wheel, 0.031, 0.001)
    assert alarm.rings == 1
    pass_time(wheel, 3)
    assert alarm.rings == 1
    assert len(wheel) == 0


def test_cancelled_and_moved_entries() -> None:
    wheel, cancelled, moved = Wheel(0.01), Alarm(), Alarm()
    wheel.schedule(cancelled, 1)
    wheel.schedule(moved, 1)
    wheel.cancel(cancelled)
    wheel.schedule(moved, 2)
    pass_time(wheel, 1.5)
    assert (cancelled.rings, moved.rings) == (0, 0)
    pass_time(wheel, 0.5)
    assert (cancelled.rings, moved.rings, len(wheel)) == (0, 1, 0)


def test_what_the_loop_lost_is_given_back() -> None:
    wheel, alarm = Wheel(0.25), Alarm()
    wheel.schedule(alarm, 20)
    wheel.advance(3)
    wheel.advance(40)
    pass_time(wheel, 18, 0.25)
    assert alarm.rings == 0
    pass_time(wheel, 2, 0.25)
    assert alarm.rings == 1


def test_a_failing_entry_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Alarm):
        def expire(self) -> None:
            raise ValueError("broken")

    wheel, alarm = Wheel(0.01), Alarm()
    wheel.schedule(Broken(), 0.1)
    wheel.schedule(alarm, 0.1)
    pass_time(wheel, 0.2)
    assert alarm.rings == 1
    assert "a deadline's action failed" in caplog.text
