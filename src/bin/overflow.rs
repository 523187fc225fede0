//! Adds one to the largest number. `scripts/check.sh` builds it as a release is built, and sees that this stops it.

fn main() {
    let sum = std::hint::black_box(u64::MAX) + std::hint::black_box(1);
    println!("an overflow went unnoticed: {sum}");
}
