//! A task's life as a pure state machine: inputs and the time in, transitions and effects out.
