//! Compiles the shim: a program of its own, static and small, that the agent carries inside itself.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=shim");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("shim");
    let target = std::env::var("TARGET").expect("cargo sets it");
    let compile = |fixed: bool| {
        let mut rustc = Command::new(std::env::var_os("RUSTC").expect("cargo sets it"));
        rustc.args(["--edition", "2024", "--crate-name", "trierarch_shim", "--crate-type", "bin", "--target", &target]);
        rustc.args(["-Copt-level=s", "-Cpanic=abort", "-Ccodegen-units=1", "-Clto=fat", "-Cstrip=symbols"]);
        if fixed {
            // At a fixed address nothing is relocated, so every page of it is shared by all shims.
            rustc.args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]);
        }
        rustc.arg("shim/main.rs").arg("-o").arg(&out).output().expect("rustc runs, it compiled this script")
    };
    let mut done = compile(true);
    if !done.status.success() {
        println!("cargo::warning=no static C library was found: the shim is linked dynamically and needs more memory");
        done = compile(false);
    }
    assert!(done.status.success(), "the shim does not compile:\n{}", String::from_utf8_lossy(&done.stderr));
}
