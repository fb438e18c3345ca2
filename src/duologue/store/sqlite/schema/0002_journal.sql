-- A journal that takes each batch as one row, and tables that follow it many batches at a time: rows at many places of
-- many trees were most of what a message cost (docs/decisions/store-sqlite.md).
--
-- A conversation has a number now, which its chunks and identities begin with; see duologue/store/sqlite/chunks.py,
-- identities.py, journal.py. What version 1 holds is brought in by code (chunked.py), between this file and the end of
-- the same transaction.
CREATE TABLE journal (
    number  INTEGER PRIMARY KEY,
    entries BLOB    NOT NULL
) STRICT;

CREATE TABLE chunk (
    key          INTEGER PRIMARY KEY,
    low_version  INTEGER NOT NULL,
    high_version INTEGER NOT NULL,
    messages     BLOB    NOT NULL
) STRICT;

CREATE TABLE identity (
    key INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (key, seq)
) STRICT, WITHOUT ROWID;

ALTER TABLE dialog ADD COLUMN conversation INTEGER NOT NULL DEFAULT 0;
