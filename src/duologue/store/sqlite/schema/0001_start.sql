-- People, their sessions, the messages, and what each side of a conversation sees of it.
--
-- A person has a short number, `key`, beside the public id: every other row names people by it, which keeps rows and
-- indexes a third smaller. A conversation is named by the keys of its two people, the smaller first; so one pair never
-- has two conversations. Keys that begin with the conversation: message. Keys that begin with the user: dialog.

CREATE TABLE person (
    key       INTEGER PRIMARY KEY,
    id        TEXT    NOT NULL UNIQUE,
    name      TEXT    NOT NULL,
    last_seen INTEGER
) STRICT;

CREATE TABLE session (
    token_hash BLOB    PRIMARY KEY,
    person     INTEGER NOT NULL REFERENCES person (key),
    created    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A rowid table on purpose: messages go to its end, and only the two slim indexes are written at random places.
-- Without REFERENCES, here and in dialog: the writer takes each key from the row of its person, and people are never
-- deleted, so a lookup a column would prove it a second time (docs/decisions/store-sqlite.md).
CREATE TABLE message (
    low               INTEGER NOT NULL,
    high              INTEGER NOT NULL,
    seq               INTEGER NOT NULL,
    rev               INTEGER NOT NULL,
    sender            INTEGER NOT NULL,
    id                TEXT    NOT NULL,
    at                INTEGER NOT NULL,
    sender_version    INTEGER NOT NULL,
    recipient_version INTEGER NOT NULL,
    content           TEXT    NOT NULL,
    CHECK (low <= high AND (sender = low OR sender = high))
) STRICT;
CREATE UNIQUE INDEX message_by_seq ON message (low, high, seq);
CREATE UNIQUE INDEX message_by_id ON message (low, high, sender, id);

-- One row for each side. Every change that a user can see takes the user's next version and is written to its row here,
-- so the user's version is the greatest one of their rows.
CREATE TABLE dialog (
    user          INTEGER NOT NULL,
    peer          INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    rev           INTEGER NOT NULL,
    received      INTEGER NOT NULL,
    read          INTEGER NOT NULL,
    peer_received INTEGER NOT NULL,
    peer_read     INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    PRIMARY KEY (user, peer)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dialog_by_version ON dialog (user, version);
