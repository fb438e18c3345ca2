-- Who is connected to which node. Unlogged: what a crash of the database empties, the nodes fill again with their next
-- sign of life. All times are by the database's clock, so that the nodes' clocks don't matter.

CREATE UNLOGGED TABLE duologue.node (
    id    text        PRIMARY KEY,
    seen  timestamptz NOT NULL, -- its last sign of life
    until timestamptz NOT NULL  -- the end of its lease; -infinity: others have begun to take over its people
);

CREATE UNLOGGED TABLE duologue.presence (
    owner bigint NOT NULL,
    node  text   NOT NULL,
    PRIMARY KEY (owner, node)
);
CREATE INDEX presence_by_node ON duologue.presence (node);
