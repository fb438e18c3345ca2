"""Who is this? A known session, or a new guest."""

from __future__ import annotations

from duologue.domain.identity import is_token, new_token, new_user_id, token_hash
from duologue.domain.model import User
from duologue.domain.names import normalise_username
from duologue.domain.ports import Store


async def resume(store: Store, session_id: object) -> User | None:
    """Whose session it is; None if the store doesn't know it."""
    return await store.session_user(token_hash(session_id)) if is_token(session_id) else None


async def join(store: Store, username: object) -> tuple[User, str]:
    """A new guest and their session's token, of our own making: one that the client proposes is never adopted. Raises
    `Refusal(INVALID_USERNAME)` if the name won't do."""
    user = User(new_user_id(), normalise_username(username))
    token = new_token()
    await store.create_guest(user, token_hash(token))
    return user, token
