//! The catalogue: models worth pulling, as data in the repository.
