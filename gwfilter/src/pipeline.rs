//! Objects and node facts to a whole generation, in one call.
