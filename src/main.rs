//! The `tmax-ckpt` binary: everything is in [`tmax_ckpt::cli`].

use std::process::ExitCode;

use tmax_ckpt::sandbox::init;

fn main() -> ExitCode {
    // The first process of a sandbox is this program too, see `sandbox::init`.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == init::ARGUMENT) {
        return match init::serve(args.map(|arg| arg.to_string_lossy().into_owned())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    tmax_ckpt::cli::main(std::env::args_os().collect())
}
