//! The `roundelay` program: see [`roundelay::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    roundelay::cli::run()
}
