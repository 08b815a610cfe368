-- Which dispatcher leads. A takeover raises the epoch; whoever writes under an older one is refused.
CREATE TABLE leaders (
    name           TEXT PRIMARY KEY,
    epoch          BIGINT NOT NULL,
    holder         TEXT NOT NULL,
    -- Where agents reach it.
    address        TEXT NOT NULL,
    -- By the database's clock.
    expires_ms     BIGINT NOT NULL,
    -- The epoch is part of a key, so that a takeover waits for open transactions of the old leader, which
    -- share the key, and a renewal does not.
    UNIQUE (name, epoch)
);
