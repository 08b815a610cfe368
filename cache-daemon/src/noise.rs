//! Bytes for tests: they do not shrink, and are the same again for the same seed.

pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut word = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8 + 1)
        .flat_map(|_| word())
        .take(length)
        .collect()
}
