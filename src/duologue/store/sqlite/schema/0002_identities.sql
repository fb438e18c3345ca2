-- Identities of messages out of the index and into a table of their own, which is brought up to date in sorted portions
-- (duologue/store/sqlite/identities.py): entries at random places were two fifths of what a message cost.
--
-- `key` is the rowid, now by name, so that nothing renumbers it: `identities_up_to` in meta counts by it.
CREATE TABLE message_new (
    key               INTEGER PRIMARY KEY,
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
INSERT INTO message_new
    SELECT rowid, low, high, seq, rev, sender, id, at, sender_version, recipient_version, content
    FROM message ORDER BY rowid;

CREATE TABLE identity (
    low     INTEGER NOT NULL,
    high    INTEGER NOT NULL,
    sender  INTEGER NOT NULL,
    id      TEXT    NOT NULL,
    message INTEGER NOT NULL,
    PRIMARY KEY (low, high, sender, id)
) STRICT, WITHOUT ROWID;
INSERT INTO identity
    SELECT low, high, sender, id, rowid FROM message INDEXED BY message_by_id ORDER BY low, high, sender, id;

DROP TABLE message;
ALTER TABLE message_new RENAME TO message;
CREATE UNIQUE INDEX message_by_seq ON message (low, high, seq);
INSERT INTO meta SELECT 'identities_up_to', coalesce(max(key), 0) FROM message;
