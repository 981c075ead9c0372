//! The aggregator's binary: hands the process arguments to the library and nothing else.
//! It must never hold logic, because the demo starts the same aggregator through the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vedette_aggregator::main_from(std::env::args_os())
}
