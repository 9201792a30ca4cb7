//! The `worker` command with the built-in models.

fn main() -> std::process::ExitCode {
    worker::main(trainer::Registry::builtin())
}
