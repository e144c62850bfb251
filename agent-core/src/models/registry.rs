//! Talking to registries: OCI distribution as Ollama uses it.
