//! What visitors get through a real Caddy.
