//! The binary: everything happens in `dispatch`.

fn main() -> std::process::ExitCode {
    cni_box::dispatch::main()
}
