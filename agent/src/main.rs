//! The binary `vedette-agent`. Owns nothing: it hands the command line to the library. Must never hold logic. The
//! hard case, a wrong command line, is the library's too, so that a test sees the same exit codes.

use std::process::ExitCode;

use vedette_agent::allocation::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    vedette_agent::main_from(std::env::args_os())
}
