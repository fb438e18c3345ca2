"""Who is this? A known session, or a new guest."""

from __future__ import annotations

from duologue.domain.identity import is_token, new_token, new_user_id, token_hash
from duologue.domain.model import User
from duologue.domain.names import normalise_username
from duologue.domain.ports import Store


async def sign_in(store: Store, session_id: object, username: object) -> tuple[User, str]:
    """The user and their session's token.

    A session that the store knows wins; otherwise the username makes a new guest with a token of our own making (a
    token that the client proposes is never adopted). Raises `Refusal(INVALID_USERNAME)` if neither will do.
    """
    if is_token(session_id):
        user = await store.session_user(token_hash(session_id))
        if user is not None:
            return user, session_id
    user = User(new_user_id(), normalise_username(username))
    token = new_token()
    await store.create_guest(user, token_hash(token))
    return user, token
