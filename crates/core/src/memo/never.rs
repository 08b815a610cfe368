//! Why a stage is executed every time.

use std::fmt;

use crate::build::RunsOn;
use crate::pipeline::{PlannedStage, Sandbox};

/// What keeps a stage from being recalled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Never {
    /// The file says so.
    Off,
    /// It holds a secret.
    Secret,
    /// It is executed at most once.
    AtMostOnce,
    /// It is executed for what happened before it.
    AfterFailure,
    /// It may do what no key describes.
    Trusted,
    /// It makes an image.
    BuildsImage,
    /// An image is named by something that can move.
    Tag(String),
    /// Nobody could look what its files name.
    Unread,
    /// There are too many files to choose from.
    Unlisted,
}

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not memoizable: ")?;
        match self {
            Self::Off => f.write_str("the file says `memoize: false`"),
            Self::Secret => f.write_str("it holds a secret"),
            Self::AtMostOnce => f.write_str("it is executed at most once"),
            Self::AfterFailure => f.write_str("it is executed for what happened before it"),
            Self::Trusted => f.write_str("the trusted sandbox may do what no key describes"),
            Self::BuildsImage => {
                f.write_str("it builds an image, and what that begins with can move")
            }
            Self::Tag(image) => write!(
                f,
                "`{image}` is named by a tag, which can move; name it by its digest (`…@sha256:…`)"
            ),
            Self::Unread => f.write_str("what its files name could not be read in time"),
            Self::Unlisted => {
                f.write_str("the commit has too many files to choose `memoize.inputs` from")
            }
        }
    }
}

/// What keeps this stage from being recalled, as far as the stage itself says; `None` = nothing.
#[must_use]
pub fn never(stage: &PlannedStage) -> Option<Never> {
    let spec = &stage.spec;
    if !spec.memoize {
        return Some(Never::Off);
    }
    if spec.secrets().next().is_some() {
        return Some(Never::Secret);
    }
    if stage.at_most_once {
        return Some(Never::AtMostOnce);
    }
    if stage.runs_on != RunsOn::Success {
        return Some(Never::AfterFailure);
    }
    if spec.sandbox == Sandbox::Trusted {
        return Some(Never::Trusted);
    }
    if spec.build.is_some() {
        return Some(Never::BuildsImage);
    }
    let images = spec.services.iter().map(|service| &service.image);
    images
        .chain([&spec.image])
        .find(|image| !is_pinned(image))
        .map(|image| Never::Tag(image.clone()))
}

fn is_pinned(image: &str) -> bool {
    let reference = image.parse::<crate::image::ImageReference>();
    reference.is_ok_and(|image| image.digest().is_some())
}
