//! Cryptography for HTTPS.

use std::sync::Once;

/// Gives rustls its cryptography, once per process: reqwest is built without any of its own, and
/// a client for HTTPS cannot be made before.
pub fn install_crypto() {
    static RING: Once = Once::new();
    RING.call_once(|| {
        // An error means that somebody installed one before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
