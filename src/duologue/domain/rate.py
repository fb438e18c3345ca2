"""Token buckets: how often somebody may do something."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address
from typing import Final

MAX_BUCKETS: Final = 100_000
"""Addresses or users that are remembered at once; the one that was quiet for longest is forgotten first."""


class TokenBucket:
    """Allows `burst` at once and `rate` a second in the long run."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, burst: float, now: float) -> None:
        self._tokens = burst
        self._at = now

    def take(self, now: float, rate: float, burst: float) -> float:
        """Take one token. 0.0 if there was one, else the seconds until there will be one. `now` is monotonic."""
        tokens = self._tokens + (now - self._at) * rate
        if tokens > burst:
            tokens = burst
        self._at = now
        if tokens >= 1.0:
            self._tokens = tokens - 1.0
            return 0.0
        self._tokens = tokens
        return (1.0 - tokens) / rate

    def full(self, now: float, rate: float, burst: float) -> bool:
        """Whether it's as good as a new one."""
        return self._tokens + (now - self._at) * rate >= burst


class RestingBuckets:
    """The buckets of those who left before theirs was full again, so that coming back refills nothing."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take_back(self, key: str, now: float) -> TokenBucket:
        """The bucket that was left, or a full one."""
        return self._buckets.pop(key, None) or TokenBucket(self._burst, now)

    def leave(self, key: str, bucket: TokenBucket, now: float) -> None:
        buckets = self._buckets
        while buckets and next(iter(buckets.values())).full(now, self._rate, self._burst):
            buckets.popitem(last=False)
        if not bucket.full(now, self._rate, self._burst):
            buckets[key] = bucket
            if len(buckets) > MAX_BUCKETS:
                buckets.popitem(last=False)


class AddressBuckets:
    """A bucket per IP address; of IPv6 per network of 64 bits, for whoever has one has all the addresses in it."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, address: str, now: float) -> float:
        """As `TokenBucket.take`."""
        key = IPv6Address(address).packed[:8].hex() if ":" in address else address
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._burst, now)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now, self._rate, self._burst)
