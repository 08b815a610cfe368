-- What placement wants to know of a stage, found when its build is made; and agents that lose too much.
ALTER TABLE build_stages ADD COLUMN cache_key TEXT NOT NULL DEFAULT '';
-- Longest expected time from this stage to its build's end.
ALTER TABLE build_stages ADD COLUMN critical_ms BIGINT NOT NULL DEFAULT 60000;
-- Losses before this do not count: somebody looked.
ALTER TABLE agents ADD COLUMN resumed_ms BIGINT NOT NULL DEFAULT 0;
CREATE INDEX attempts_agent ON attempts (agent_id, ended_ms);
-- The sweep reads the queue a page of builds at a time.
CREATE INDEX build_stages_state_build ON build_stages (state, build_id);
