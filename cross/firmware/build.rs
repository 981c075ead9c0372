//! Gives the linker the memory of the board that QEMU plays, and says whether it is enough for a pipeline.

use std::path::PathBuf;
use std::{env, fs};

/// mps2-an386: a Cortex-M4 with 4 MiB each of code and data. microbit: a Cortex-M0 with 256 KiB and 16 KiB.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(has_room)");
    let target = env::var("TARGET").unwrap_or_default();
    if target != "thumbv6m-none-eabi" {
        println!("cargo::rustc-cfg=has_room");
    }
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
