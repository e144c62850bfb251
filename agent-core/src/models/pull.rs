//! Pulls: models on their way from a registry to the store.
