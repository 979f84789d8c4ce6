//! From the last tables and the next to ordered map operations.
