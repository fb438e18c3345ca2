"""The bounds of the chat that an operator may move. The settings of the same names explain each to them."""

from __future__ import annotations

import msgspec


class ChatLimits(msgspec.Struct, frozen=True, kw_only=True):
    max_content: int
    """Characters of a message."""
    page: int
    """Messages in a page, and conversations in a page of a sync."""
    max_page: int
    sync_total: int = 500
    """Messages in one page of a sync, over all its conversations."""
    page_bytes: int
    """Bytes of messages in one answer, whatever the counts allow."""
    announce_people: int
    """Up to so many people everybody is announced to everybody."""
    roster_people: int
    """Beyond `announce_people`: conversations, the latest ones, whose people are listed and told of each other."""
    roster_messages: int
    roster_total: int
    message_rate: float
    """Messages, receipts and typing hints a second and user, in the long run."""
    message_burst: float
    connect_rate: float
    """Sign-ins a second and address, in the long run."""
    connect_burst: float
    max_user_connections: int
    """Sockets that one user may have."""
    request_limit: int
    """Requests that one socket may have under way."""
    max_watch: int
    """People whose presence one socket may watch."""
    presence_grace: float
    """Seconds after the last socket of a user is gone until they are told to be offline."""
    presence_lease: float = 30.0
    """Seconds without a sign of life after which the users of another node count as gone."""
    typing_repeat: float
    typing_expires: float
