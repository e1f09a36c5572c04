//! The program `requant`.
fn main() {}
