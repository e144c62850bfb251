//! The integration tests, in reading order. One binary, so that the programs are linked once.

// A test that is skipped says so on the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod tidy;

mod command_line;
mod data_dir;
mod door;
mod fit;
mod mesh;
mod model_command;
mod ollama_client;
mod openai;
mod pull;
mod python_client;
mod registry;
mod residency;
mod runner_failures;
mod streams;
mod supervisor;
mod tasks;

mod browser;
mod mesh_panel;
mod models_journey;
mod package;
mod tasks_panel;
mod tray;
mod window;

mod support;
