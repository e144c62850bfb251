//! Everything that is installed, wherever it lies.
