//! Results on their way to webhooks: rows, attempts with backoff, a dead-letter list.
