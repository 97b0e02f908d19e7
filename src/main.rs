//! The `tmax-ckpt` binary: everything is in [`tmax_ckpt::cli`].

fn main() -> std::process::ExitCode {
    tmax_ckpt::cli::main(std::env::args_os().collect())
}
