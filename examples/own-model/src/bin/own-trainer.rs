//! The `trainer` command with this project's models.

fn main() -> std::process::ExitCode {
    trainer_cli::main(own_model::registry())
}
