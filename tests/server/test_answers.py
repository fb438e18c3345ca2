"""What a refusal tells its peer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duologue.domain.errors import Code, Refusal
from duologue.domain.rate import TokenBucket
from duologue.server.answers import seconds_to_wait


@given(rate=st.floats(0.001, 1e6), late=st.floats(0, 1))
def test_who_waits_as_told_is_let_in(rate: float, late: float) -> None:
    bucket = TokenBucket(1.0, 0.0)
    bucket.take(0.0, rate, 1.0)
    now = late / rate / 2
    wait = bucket.take(now, rate, 1.0)
    told = seconds_to_wait(Refusal(Code.RATE_LIMITED, retry_after=wait))
    assert told is not None
    assert wait < told < wait + 0.002
    assert bucket.take(now + told, rate, 1.0) == 0
