//! The `trainer` command with the built-in models.

fn main() -> std::process::ExitCode {
    trainer_cli::main(trainer::Registry::builtin())
}
