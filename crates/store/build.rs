//! New migration files must be embedded at the next build.
fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
