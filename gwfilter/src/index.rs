//! Objects by identity - apply, delete, reset - and the snapshot taken of them.
