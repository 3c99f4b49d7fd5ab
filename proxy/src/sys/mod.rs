//! The only place for syscalls and `unsafe`.
