//! The `coordinator` command.

fn main() -> std::process::ExitCode {
    coordinator::main()
}
