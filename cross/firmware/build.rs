//! Gives the linker the memory of the board that QEMU plays.

use std::path::PathBuf;
use std::{env, fs};

/// mps2-an386: a Cortex-M4 with 4 MiB each of code and data. microbit: a Cortex-M0 with 256 KiB and 16 KiB.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = env::var("TARGET").unwrap_or_default();
    let (code_kib, data_kib) = match target.as_str() {
        "thumbv6m-none-eabi" => (256, 16),
        "thumbv7em-none-eabihf" => (4096, 4096),
        _ => return,
    };
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo names the folder"));
    let memory = format!(
        "MEMORY {{ FLASH : ORIGIN = 0x00000000, LENGTH = {code_kib}K  RAM : ORIGIN = 0x20000000, LENGTH = {data_kib}K }}\n"
    );
    fs::write(folder.join("memory.x"), memory).expect("the folder can be written");
    println!("cargo::rustc-link-search={}", folder.display());
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
}
