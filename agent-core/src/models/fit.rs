//! Whether a model will run here: memory it takes against memory there is.
