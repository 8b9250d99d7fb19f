//! Random bytes from the operating system, for ids and tokens.
//!
//! By way of the TLS library's provider, which is linked anyway and asks the kernel.

/// `N` bytes nobody can guess.
///
/// # Panics When the kernel has no randomness to give. It then has none for TLS either, and a token that can
/// be guessed is worse than no Agent.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the kernel gives random bytes to every process");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(bytes::<16>(), bytes::<16>());
    }
}
