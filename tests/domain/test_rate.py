"""Token buckets, with the clock in the test's hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.domain import rate
from duologue.domain.rate import AddressBuckets, TokenBucket


def test_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(3, now=0)
    assert [bucket.take(0, rate=2, burst=3) for _ in range(3)] == [0, 0, 0]
    wait = bucket.take(0, rate=2, burst=3)
    assert wait == pytest.approx(0.5)
    assert bucket.take(wait, rate=2, burst=3) == 0


@given(st.lists(st.floats(0, 5), max_size=200))
def test_never_more_than_burst_and_rate_allow(pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket(5, now=0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now, rate=2, burst=5) == 0
        assert taken <= 5 + 2 * now + 1e-6


def test_addresses_do_not_share() -> None:
    buckets = AddressBuckets(rate=1, burst=1)
    assert buckets.take("a", 0) == 0
    assert buckets.take("b", 0) == 0
    assert buckets.take("a", 0) > 0


def test_an_ipv6_network_is_one_address() -> None:
    buckets = AddressBuckets(rate=1, burst=1)
    assert buckets.take("2001:db8::1", 0) == 0
    assert buckets.take("2001:db8::ffff:ffff", 0) > 0
    assert buckets.take("2001:db8:0:0:1::", 0) > 0
    assert buckets.take("2001:db8:0:1::1", 0) == 0
    assert buckets.take("::1", 0) == 0
    assert buckets.take("fe80::1%eth0", 0) == 0
    assert buckets.take("fe80::2%eth0", 0) > 0


def test_the_number_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_BUCKETS", 10)
    buckets = AddressBuckets(rate=1, burst=1)
    for number in range(1000):
        buckets.take(f"10.0.{number // 256}.{number % 256}", 0)
    assert len(buckets) == 10
