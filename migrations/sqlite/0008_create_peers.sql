-- Who belongs to this installation: its authority, and every process that joined.
CREATE TABLE authorities (
    authority_id   TEXT PRIMARY KEY,
    -- X.509, DER.
    certificate    BLOB NOT NULL,
    -- PKCS #8, sealed with the installation's key.
    sealed_key     BLOB NOT NULL,
    created_at     BIGINT NOT NULL
);

-- A row that is revoked, or is not there, makes every certificate of its name worthless.
CREATE TABLE peers (
    peer_id        TEXT PRIMARY KEY,
    -- agent | cache | deployer
    role           TEXT NOT NULL,
    name           TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    revoked_ms     BIGINT
);

ALTER TABLE join_tokens ADD COLUMN role TEXT NOT NULL DEFAULT 'agent';

-- Certificates take the place of bearer credentials; agents from before join again.
CREATE TABLE agents_of_certificates (
    agent_id       TEXT PRIMARY KEY,
    name           TEXT NOT NULL,
    -- ready | draining | quarantined | gone
    state          TEXT NOT NULL,
    reason         TEXT,
    -- Set by the server from the join token; gate placement.
    labels         TEXT NOT NULL DEFAULT '{}',
    slots          BIGINT NOT NULL DEFAULT 0,
    facts          TEXT NOT NULL DEFAULT '{}',
    boot_id        TEXT,
    connected_ms   BIGINT,
    renewed_ms     BIGINT,
    created_at     BIGINT NOT NULL
);
INSERT INTO agents_of_certificates
SELECT agent_id, name, 'gone', reason, labels, slots, facts, boot_id, connected_ms, renewed_ms,
       created_at
  FROM agents;
DROP TABLE agents;
ALTER TABLE agents_of_certificates RENAME TO agents;
