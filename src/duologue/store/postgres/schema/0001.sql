-- Two families of tables, so that they can be spread over several servers: one whose keys begin with the conversation
-- (message), one whose keys begin with the user (person, dialog); a session is found by its token alone. No query and no
-- reference crosses from one to the other, and there is no counter that everybody shares. A few queries ask for people without
-- a key: docs/decisions/store-postgres.md has them.
--
-- A user's key is the number that their public id is in hexadecimal, less 2^63: so keys sort as ids do, and no table has
-- to be asked for them. A conversation's key is made of the keys of its two people, the smaller first.

CREATE TABLE duologue.person (
    id        bigint PRIMARY KEY,
    name      text   NOT NULL,
    -- The user's version. Whoever changes something that a user can see locks this row first, everybody in the order of
    -- the ids, so that versions are given out in the order of the commits.
    version   bigint NOT NULL DEFAULT 0,
    last_seen bigint
) WITH (fillfactor = 50);

CREATE TABLE duologue.session (
    token_hash bytea  PRIMARY KEY,
    person     bigint NOT NULL,
    created    bigint NOT NULL
);

-- One row for each side of a conversation; `version` is the version of its owner that its last change took.
CREATE TABLE duologue.dialog (
    owner         bigint NOT NULL,
    peer          bigint NOT NULL,
    peer_name     text   NOT NULL,
    seq           bigint NOT NULL,
    rev           bigint NOT NULL,
    received      bigint NOT NULL,
    read          bigint NOT NULL,
    peer_received bigint NOT NULL,
    peer_read     bigint NOT NULL,
    version       bigint NOT NULL,
    PRIMARY KEY (owner, peer),
    UNIQUE (owner, version)
) WITH (fillfactor = 80);

CREATE TABLE duologue.message (
    conversation      uuid   NOT NULL,
    seq               bigint NOT NULL,
    rev               bigint NOT NULL,
    sender            bigint NOT NULL,
    id                text   NOT NULL,
    at                bigint NOT NULL,
    sender_version    bigint NOT NULL,
    recipient_version bigint NOT NULL,
    content           text   NOT NULL,
    PRIMARY KEY (conversation, seq),
    UNIQUE (conversation, sender, id)
);
