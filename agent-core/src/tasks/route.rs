//! Requests that somebody waits for (OpenAI and Ollama endpoints): to this node or to a peer, with
//! failover. Nothing of their words is stored.
