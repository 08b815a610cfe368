//! Why a stage waits, as data: printed by the client and the page, never searched for in logs.

use std::fmt;

use crate::pipeline::Group;
use crate::trigger::outside::PROVEN;

/// Why one agent does not take a stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfit {
    /// Every slot is taken.
    NoSlot,
    /// It finishes what it holds and takes nothing new.
    Draining,
    /// It lost too much too quickly.
    Quarantined,
    /// Not connected, or it has not renewed lately.
    Silent,
    /// Less than 15 % of its disk is free.
    DiskFull,
    /// Its processors or memory are under pressure.
    UnderPressure,
    /// It does not have a label: (name, value).
    Label(String, String),
    /// It lost this stage before.
    LostIt,
}

/// Why a stage waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Every agent of the right kind is busy; so many stages are ahead of it.
    Busy {
        /// Stages of its repository and kind before it.
        ahead: usize,
        /// Whether there are more: not all were counted.
        more: bool,
    },
    /// No agent is connected at all.
    NoAgents,
    /// No present agent is of the right kind; the reason of the nearest one.
    NoFit(Unfit),
    /// Its concurrency group is full.
    Group(String),
    /// It waits after a loss, for so many milliseconds more.
    BackOff(u64),
    /// It is not in the queue.
    NotQueued,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlot => f.write_str("every slot is taken"),
            Self::Draining => f.write_str("the agent is draining"),
            Self::Quarantined => f.write_str("the agent is quarantined"),
            Self::Silent => f.write_str("the agent is not connected"),
            Self::DiskFull => f.write_str("less than 15 % of the agent's disk is free"),
            Self::UnderPressure => f.write_str("the agent's processors or memory are overloaded"),
            Self::Label(name, _) if name == PROVEN.0 => f.write_str(
                "it is code from outside, and no agent has proven its strict sandbox \
                 (`slipway doctor --agent` on an agent's host does, or says why not)",
            ),
            Self::Label(name, value) => match name.strip_prefix('!') {
                Some(absent) => write!(f, "no agent without the label `{absent}`"),
                None => write!(f, "no agent with `{name}={value}`"),
            },
            Self::LostIt => f.write_str("the only fitting agent lost this stage before"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { ahead: 0, .. } => f.write_str("next in line; every fitting slot is taken"),
            Self::Busy { ahead, more } => {
                let more = if *more { "at least " } else { "" };
                write!(f, "{more}{ahead} stages of its kind are ahead of it")
            }
            Self::NoAgents => f.write_str("no agent is connected"),
            Self::NoFit(why) => why.fmt(f),
            Self::Group(name) => write!(f, "concurrency group `{}` is full", Group::written(name)),
            Self::BackOff(ms) => write!(f, "waits {} s after a lost attempt", ms.div_ceil(1_000)),
            Self::NotQueued => f.write_str("it is not waiting for an agent"),
        }
    }
}
