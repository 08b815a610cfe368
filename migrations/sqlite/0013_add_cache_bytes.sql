-- What an attempt's workspace was laid out from: bytes that came from other agents, and bytes that were
-- there.
ALTER TABLE attempts ADD COLUMN moved_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN reused_bytes BIGINT NOT NULL DEFAULT 0;
