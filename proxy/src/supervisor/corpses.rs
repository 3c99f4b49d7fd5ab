//! Dead children: how each ended, which a signal tells, and the line in the log about it. Nothing is
//! waited for: the kernel collects them by itself, for doing it here can take seconds (it has to forget
//! what `/proc` has shown of a process with thousands of descriptors).

use crate::sys::process::{self, Child, Ending};

use super::{history::History, plan::name};

/// How long a death waits for the signal that tells how it came, nanoseconds. The signals of two
/// deaths at once are one (signal(7)), and children of a dead supervisor tell somebody else.
const PATIENCE: u64 = 100_000_000;
/// Endings that are kept for deaths that were not seen yet.
const MOST: usize = 16;

/// Who died.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// A seat's pool, and the number of the takeover, if it is one.
    Pool(u32, Option<u64>),
    /// Control.
    Control,
    /// The supervisor's twin.
    Twin,
}

/// The dead whose ending was not told yet, and endings of whom nobody knows yet that they are dead.
#[derive(Default)]
pub struct Corpses {
    dead: Vec<(Who, Child, u64)>,
    endings: Vec<(i32, Ending)>,
}

impl Corpses {
    /// A child is seen dead. Its descriptor is closed when [`Self::tell`] tells of it: until the flow table
    /// has forgotten the child, its number may be nobody else's.
    pub fn add(&mut self, who: Who, child: Child, now: u64) {
        self.dead.push((who, child, now));
    }

    /// A signal tells how a child ended.
    pub fn note(&mut self, pid: i32, ending: Ending) {
        if self.endings.len() == MOST {
            self.endings.remove(0);
        }
        self.endings.push((pid, ending));
    }

    /// Logs the deaths whose ending is known, or never will be. To be called when no cell of the flow
    /// table names the dead.
    pub fn tell(&mut self, now: u64, history: &History) {
        let endings = &mut self.endings;
        self.dead.retain(|(who, child, since)| {
            let place = endings.iter().position(|(pid, _)| *pid == child.pid);
            let ending = place.map(|index| endings.remove(index).1);
            if ending.is_none() && now - since < PATIENCE {
                return true;
            }
            process::forget(*child);
            tell(*who, child.pid, ending.unwrap_or(Ending::Unknown), history);
            false
        });
    }
}

fn tell(who: Who, pid: i32, ending: Ending, history: &History) {
    match who {
        Who::Pool(seat, number) => {
            history.ended(number, ending);
            tracing::warn!(pool = name(seat), pid, %ending, "pool died");
        }
        Who::Control => tracing::warn!(pid, %ending, "control died"),
        Who::Twin => tracing::warn!(pid, %ending, "the supervisor's twin died"),
    }
}
