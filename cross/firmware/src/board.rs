//! What a board needs besides: where it starts, where words go, and what becomes of a panic.
//!
//! Words and the exit code travel by semihosting, which a debugger or QEMU understands; a real firmware would have a
//! wire here. The hard case is a panic: it must end the run with an error and never hang.

use core::fmt::Write;
use core::panic::PanicInfo;

use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hio};

#[allow(unsafe_code, reason = "the entry point is exported by its name")]
#[entry]
fn start() -> ! {
    let printed = hio::hstdout().map_err(|()| core::fmt::Error).and_then(|mut out| crate::run(&mut out));
    end(printed.is_ok())
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Ok(mut out) = hio::hstderr() {
        // Nothing is left to do for a word that cannot be written.
        let _ = writeln!(out, "{info}");
    }
    end(false)
}

fn end(well: bool) -> ! {
    loop {
        debug::exit(if well { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    }
}
