//! Load, attach, pin, apply, count; decides nothing.
