//! The `worker` command with this project's models.

fn main() -> std::process::ExitCode {
    worker::main(own_model::registry())
}
