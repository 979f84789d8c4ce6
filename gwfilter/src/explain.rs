//! What the compiled tables do with one packet.
