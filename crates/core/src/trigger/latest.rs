//! Does a push move its branch forward, or did it only arrive late?

/// How the head that we know relates to a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// The ref was never seen.
    Unknown,
    /// It is the pushed commit already.
    Same,
    /// It is the commit that the push says it found.
    IsBefore,
    /// It is another one.
    Other,
}

/// What the repository's history says about the pushed commit and the head that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// The pushed commit is an ancestor of the head: the push is the older one.
    PushIsOlder,
    /// It is not: a later push, or a forced one.
    PushIsNotOlder,
    /// The history cannot be read.
    Unknown,
}

/// Whether the push is the newest of its ref. When in doubt it is: an extra build is better than a
/// missing one.
#[must_use]
pub fn judge(head: &Head, ancestry: Ancestry) -> bool {
    match head {
        Head::Unknown | Head::Same | Head::IsBefore => true,
        Head::Other => ancestry != Ancestry::PushIsOlder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_reorder() {
        // Push #2 (b → c) arrived first and moved the head to c; now push #1 (a → b) arrives.
        assert!(
            judge(&Head::Unknown, Ancestry::Unknown),
            "push #2 on a ref never seen"
        );
        assert!(
            !judge(&Head::Other, Ancestry::PushIsOlder),
            "push #1 moves nothing back"
        );
        // In order, a repetition, and a forced push to somewhere else.
        assert!(judge(&Head::IsBefore, Ancestry::Unknown));
        assert!(judge(&Head::Same, Ancestry::Unknown));
        assert!(judge(&Head::Other, Ancestry::PushIsNotOlder));
        assert!(
            judge(&Head::Other, Ancestry::Unknown),
            "in doubt it is built as the newest"
        );
    }
}
