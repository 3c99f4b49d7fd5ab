//! What each connection does, made from the storm's seed and the connection's number alone: both of
//! its ends know it, and a run can be repeated.

use std::time::Duration;

use fastrand::Rng;

/// A window below the loopback's segment size (64 KiB) makes the kernel wait for its timer with each
/// segment, for minutes.
const SMALLEST_BUFFER: usize = 192 << 10;

/// What the two ends of a connection do.
#[derive(Clone, Debug)]
pub struct Script {
    /// The end that connects.
    pub client: End,
    /// The end behind the proxy.
    pub server: End,
}

/// What one end does.
#[derive(Clone, Debug)]
pub struct End {
    /// Bytes that it sends before it ends its half.
    pub sends: usize,
    /// Where in the pattern its first byte is.
    pub offset: usize,
    /// Most bytes of one write, and of one read.
    pub chunk: usize,
    /// It pauses for so long,
    pub pause: Duration,
    /// whenever it has sent so many bytes more.
    pub pause_every: usize,
    /// It reads nothing for so long at first: its window closes.
    pub deaf_for: Duration,
    /// It sends nothing before the other end has ended its half.
    pub speaks_last: bool,
    /// It resets the connection when it has sent so many bytes.
    pub resets_after: Option<usize>,
    /// A receive buffer of its own size, bytes.
    pub receive_buffer: Option<usize>,
}

impl Script {
    /// The script of a connection of this number.
    pub fn of(seed: u64, number: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (client, server) = (End::any(&mut rng), End::any(&mut rng));
        let mut script = Self { client, server };
        match rng.u32(..100) {
            0..20 => script.make_short(&mut rng),
            20..32 => script.client.speaks_last = true,
            32..44 => script.server.speaks_last = true,
            44..52 => script.client.resets_after = Some(rng.usize(..=script.client.sends)),
            52..60 => script.server.resets_after = Some(rng.usize(..=script.server.sends)),
            60..72 => script.make_deaf(&mut rng),
            72..84 => script.make_slow(&mut rng),
            _ => {}
        }
        script
    }

    fn make_short(&mut self, rng: &mut Rng) {
        for end in [&mut self.client, &mut self.server] {
            end.sends = rng.usize(..2000);
            end.pause_every = usize::MAX;
        }
    }

    /// One end or both fill the other's window, and the proxy's pipe.
    fn make_deaf(&mut self, rng: &mut Rng) {
        for end in [&mut self.client, &mut self.server] {
            end.sends = rng.usize((1 << 20)..(8 << 20));
            end.deaf_for = Duration::from_millis(rng.u64(..1500));
            end.pause_every = end.sends / 4;
            end.chunk = end.chunk.max(end.sends / 500);
            end.receive_buffer = Some(rng.usize(SMALLEST_BUFFER..4 * SMALLEST_BUFFER));
        }
    }

    /// Small messages for some seconds.
    fn make_slow(&mut self, rng: &mut Rng) {
        for end in [&mut self.client, &mut self.server] {
            end.chunk = rng.usize(1..1500);
            end.sends = end.chunk * rng.usize(10..60);
            end.pause_every = end.chunk;
            end.pause = Duration::from_millis(rng.u64(20..200));
        }
    }
}

impl End {
    fn any(rng: &mut Rng) -> Self {
        let (most, most_chunk) = (1 << rng.u32(1..22), 1 << rng.u32(9..17));
        let sends = rng.usize(..most);
        Self {
            sends,
            offset: rng.usize(..1 << 30),
            chunk: rng.usize(1..most_chunk).max(sends / 2000),
            pause: Duration::from_millis(rng.u64(..300)),
            pause_every: (sends / rng.usize(1..8)).max(1),
            deaf_for: Duration::ZERO,
            speaks_last: false,
            resets_after: None,
            receive_buffer: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_depends_on_seed_and_number_alone() {
        let script = |seed, number| format!("{:?}", Script::of(seed, number));
        assert_eq!(script(7, 1), script(7, 1));
        assert_ne!(script(7, 1), script(7, 2));
        assert_ne!(script(7, 1), script(8, 1));
    }

    #[test]
    fn every_kind_of_script_comes_up() {
        let scripts: Vec<_> = (0..1000).map(|number| Script::of(1, number)).collect();
        let has = |kind: fn(&End) -> bool| {
            let client = scripts.iter().any(|script| kind(&script.client));
            client && scripts.iter().any(|script| kind(&script.server))
        };
        assert!(has(|end| end.speaks_last) && has(|end| end.resets_after.is_some()));
        assert!(has(|end| !end.deaf_for.is_zero()) && has(|end| end.sends < 100));
        assert!(scripts.iter().all(|script| !(script.client.speaks_last && script.server.speaks_last)));
    }
}
