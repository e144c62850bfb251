-- Ended tasks that were not submitted here have a bound of their own, and are counted for it
-- (storage/tasks.rs).
CREATE INDEX tasks_ended_others ON tasks (ended_ms)
    WHERE ended_ms IS NOT NULL AND (role = 'served' OR interactive = 1);

-- The text that an attempt goes on from, of nodes that were lost, and its tokens; while it lives.
ALTER TABLE task_attempts ADD COLUMN continued TEXT;
ALTER TABLE task_attempts ADD COLUMN continued_tokens INTEGER;
