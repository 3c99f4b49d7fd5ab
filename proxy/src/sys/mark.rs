//! A mark in the binary, by which a running proxy knows another one before it starts it.

/// Version of all that two supervisors say to each other ([`crate::handover`]). It changes when an older one would
/// get something wrong; what can be left out (a default) changes nothing.
pub const FORMAT: u32 = 1;

/// The section that has it: the format of a handover, four bytes, little-endian.
pub const SECTION: &str = ".proxy.handover";

// SAFETY: a section of its own, which holds nothing else and is only read.
#[unsafe(link_section = ".proxy.handover")]
#[used]
static MARK: [u8; 4] = FORMAT.to_le_bytes();

/// What the mark of this binary says. Asking keeps the linker from leaving it out.
pub fn format() -> u32 {
    u32::from_le_bytes(*std::hint::black_box(&MARK))
}
