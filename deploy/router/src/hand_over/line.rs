//! Messages of a hand-over: lines of JSON on a unix socket, and sockets beside them. Each is answered before
//! the next is sent.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::BATCH;

/// The longest line.
const LINE_MAX: usize = 64 * 1024;

/// Sends one message with at most [`BATCH`] sockets.
pub(super) async fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    sockets: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    if line.len() > LINE_MAX || sockets.len() > BATCH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut sent = 0;
    while sent < line.len() {
        // The sockets go with the first byte, once.
        let with = if sent == 0 { sockets } else { &[] };
        let write = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !with.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(with)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let bytes = [IoSlice::new(&line[sent..])];
            Ok(sendmsg(stream, &bytes, &mut beside, SendFlags::NOSIGNAL)?)
        };
        sent += stream.async_io(Interest::WRITABLE, write).await?;
    }
    Ok(())
}

/// The next message and its sockets; `None` at the end.
pub(super) async fn receive<T: DeserializeOwned>(
    stream: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (mut line, mut sockets) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut part = [0; 4_096];
        let read = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [IoSliceMut::new(&mut part)];
            let got = recvmsg(stream, &mut bytes, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(with) = message {
                    sockets.extend(with);
                }
            }
            Ok(got.bytes)
        };
        let got = stream.async_io(Interest::READABLE, read).await?;
        if got == 0 {
            return Ok(None);
        }
        line.extend_from_slice(part.get(..got).unwrap_or_default());
        if line.len() > LINE_MAX || sockets.len() > BATCH {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let message = serde_json::from_slice(&line).map_err(io::Error::other)?;
    Ok(Some((message, sockets)))
}
