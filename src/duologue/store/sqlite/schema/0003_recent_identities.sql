-- The newest identities of long conversations, until they move on to `identity` (duologue/store/sqlite/identities.py).
CREATE TABLE recent_identity (
    key INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (key, seq)
) STRICT, WITHOUT ROWID;
