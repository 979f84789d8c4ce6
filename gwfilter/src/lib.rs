//! gwfilter user side.
