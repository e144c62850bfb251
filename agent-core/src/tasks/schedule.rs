//! Schedules: a cron expression and a template submit tasks.
