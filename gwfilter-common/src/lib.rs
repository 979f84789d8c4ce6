//! What the kernel and user sides of gwfilter share.
#![no_std]
