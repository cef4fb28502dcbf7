//! systemd-logind, over the system bus: it holds up a shutdown of the machine as long as a lock is
//! held, and tells when one is asked for (the Inhibitor Locks of systemd). A thread reads the bus.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::sync::mpsc;

use super::bus::{Call, ERROR, Message, RETURN, SIGNAL, decode, encode};

/// Where the system bus is.
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// The lock, and what logind tells.
pub struct Logind {
    lock: Option<OwnedFd>,
    delay: Duration,
    changes: mpsc::UnboundedReceiver<bool>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connect to the system bus")]
    Connect(#[source] io::Error),
    #[error("talk to the system bus")]
    Talk(#[source] io::Error),
    #[error("read a message of the system bus: {0}")]
    Message(&'static str),
    #[error("{call}: {answer}")]
    Refused { call: &'static str, answer: String },
}

impl Logind {
    /// Takes the lock and begins to listen. It talks to a socket of this machine, for moments.
    pub fn connect(bus: &Path) -> Result<Logind, Error> {
        let stream = UnixStream::connect(bus).map_err(Error::Connect)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(Error::Talk)?;
        let mut bus =
            Bus { stream, serial: 0, read: Vec::new(), fds: Vec::new(), heard: Vec::new() };
        bus.greet().map_err(Error::Talk)?;
        bus.call("Hello", &of_bus("Hello", &[]))?;
        let rule = "type='signal',interface='org.freedesktop.login1.Manager',\
                    member='PrepareForShutdown',path='/org/freedesktop/login1'";
        bus.call("AddMatch", &of_bus("AddMatch", &[rule]))?;
        let manager = "org.freedesktop.login1.Manager";
        let what = [manager, "InhibitDelayMaxUSec"];
        let get = of_logind("org.freedesktop.DBus.Properties", "Get", &what);
        let delay = bus.call("InhibitDelayMaxUSec", &get)?.long().unwrap_or(0);
        let why = "Kubelet needs time to handle node shutdown";
        let lock = ["shutdown", "kubelet", why, "delay"];
        bus.call("Inhibit", &of_logind(manager, "Inhibit", &lock))?;
        let refused = || Error::Refused { call: "Inhibit", answer: "no lock came".into() };
        let lock = bus.fds.pop().ok_or_else(refused)?;
        bus.stream.set_read_timeout(None).map_err(Error::Talk)?;
        let (sender, changes) = mpsc::unbounded_channel();
        // A thread of its own, that ends with the bus: nothing waits for it.
        std::thread::spawn(move || bus.listen(&sender));
        Ok(Logind { lock: Some(lock), delay: Duration::from_micros(delay), changes })
    }

    /// How long a shutdown is held up at most.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// True when the machine is about to shut down, false when it will not after all; None when
    /// the bus is gone.
    pub async fn changed(&mut self) -> Option<bool> {
        self.changes.recv().await
    }

    /// The machine may go.
    pub fn release(&mut self) {
        self.lock = None;
    }
}

fn of_bus<'a>(member: &'a str, arguments: &'a [&'a str]) -> Call<'a> {
    Call {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member,
        arguments,
    }
}

fn of_logind<'a>(interface: &'a str, member: &'a str, arguments: &'a [&'a str]) -> Call<'a> {
    Call {
        destination: "org.freedesktop.login1",
        path: "/org/freedesktop/login1",
        interface,
        member,
        arguments,
    }
}

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

struct Bus {
    stream: UnixStream,
    serial: u32,
    read: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// Signals that came while an answer was waited for.
    heard: Vec<Message>,
}

impl Bus {
    /// Who we are the socket itself says.
    fn greet(&mut self) -> io::Result<()> {
        let uid = hex::encode(rustix::process::geteuid().as_raw().to_string());
        self.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        self.expect("OK ")?;
        self.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        self.expect("AGREE_UNIX_FD")?;
        self.stream.write_all(b"BEGIN\r\n")
    }

    fn expect(&mut self, beginning: &str) -> io::Result<()> {
        let mut line = Vec::new();
        let mut byte = [0];
        // Byte by byte: what comes after the line is not ours to take yet.
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line);
        match line.starts_with(beginning) {
            true => Ok(()),
            false => Err(io::Error::other(format!("the bus says {:?}", line.trim()))),
        }
    }

    fn call(&mut self, name: &'static str, call: &Call<'_>) -> Result<Message, Error> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&encode(call, serial)).map_err(Error::Talk)?;
        loop {
            let message = self.next()?;
            match message.kind {
                RETURN if message.reply_to == serial => return Ok(message),
                ERROR if message.reply_to == serial => {
                    return Err(Error::Refused { call: name, answer: message.text() });
                }
                SIGNAL => self.heard.push(message),
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<Message, Error> {
        loop {
            if let Some((message, length)) = decode(&self.read).map_err(Error::Message)? {
                self.read.drain(..length);
                return Ok(message);
            }
            self.receive().map_err(Error::Talk)?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let count = recvmsg(&self.stream, slices, &mut ancillary, flags)?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read.extend_from_slice(&bytes[..count]);
        Ok(())
    }

    fn listen(mut self, changes: &mpsc::UnboundedSender<bool>) {
        let mut heard = std::mem::take(&mut self.heard);
        loop {
            for signal in heard.drain(..).filter(|it| it.member == "PrepareForShutdown") {
                if signal.flag().is_some_and(|near| changes.send(near).is_err()) {
                    return;
                }
            }
            match self.next() {
                Ok(message) => heard.push(message),
                Err(error) => {
                    let error = client::error::chain(&error);
                    tracing::warn!(error, "the system bus says nothing any more");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    /// A message as the bus would send it: an answer to `reply_to`, or a signal.
    fn message(kind: u8, reply_to: u32, signature: &str, body: &[u8]) -> Vec<u8> {
        let mut fields = Vec::new();
        if reply_to > 0 {
            fields.extend([5, 1, b'u', 0]);
            fields.extend(reply_to.to_le_bytes());
        } else {
            fields.extend([3, 1, b's', 0, 18, 0, 0, 0]);
            fields.extend(b"PrepareForShutdown\0");
        }
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([8, 1, b'g', 0, signature.len() as u8]);
        fields.extend(signature.as_bytes());
        fields.push(0);
        let mut bytes = vec![b'l', kind, 0, 1];
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((fields.len() as u32).to_le_bytes());
        bytes.extend(fields);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(body);
        bytes
    }

    /// A bus with a logind: it gives out a lock, asks for a shutdown and waits for the lock's end.
    fn serve(listener: &UnixListener) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = vec![0; 256];
        for answer in ["OK 1234\r\n", "AGREE_UNIX_FD\r\n"] {
            let _ = stream.read(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
        let mut bytes = Vec::new();
        let mut wanted = vec!["Inhibit", "Get", "AddMatch", "Hello"];
        let (mut lock, ours) = UnixStream::pair().unwrap();
        let mut ours = Some(ours);
        let mut serial = 0;
        while let Some(member) = wanted.last() {
            match decode(bytes.strip_prefix(b"BEGIN\r\n".as_slice()).unwrap_or(&bytes)).unwrap() {
                None => {
                    let mut more = [0; 1024];
                    let count = stream.read(&mut more).unwrap();
                    bytes.extend_from_slice(&more[..count]);
                    continue;
                }
                Some((call, length)) => {
                    assert_eq!(call.member, *member);
                    if bytes.starts_with(b"BEGIN") {
                        bytes.drain(..7);
                    }
                    bytes.drain(..length);
                }
            }
            serial += 1;
            let answer = match *member {
                "Get" => message(RETURN, serial, "v", b"\x01t\0\0\0\0\0\0\x40\x4b\x4c\0\0\0\0\0"),
                _ => message(RETURN, serial, "h", &[0; 4]),
            };
            let handed = ours.take_if(|_| *member == "Inhibit");
            let fds: Vec<_> = handed.iter().map(|lock| lock.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
            }
            sendmsg(&stream, &[IoSlice::new(&answer)], &mut ancillary, SendFlags::empty()).unwrap();
            wanted.pop();
        }
        stream.write_all(&message(SIGNAL, 0, "b", &[1, 0, 0, 0])).unwrap();
        // Nothing comes over the lock but its end.
        assert_eq!(lock.read(&mut [0]).unwrap(), 0);
        stream.write_all(&message(SIGNAL, 0, "b", &[0; 4])).unwrap();
    }

    #[tokio::test]
    async fn a_shutdown_is_held_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || serve(&listener));
        let mut logind = Logind::connect(&path).unwrap();
        assert_eq!(logind.delay(), Duration::from_secs(5));
        assert_eq!(logind.changed().await, Some(true));
        logind.release();
        assert_eq!(logind.changed().await, Some(false));
        assert_eq!(logind.changed().await, None);
        server.join().unwrap();
    }

    #[test]
    fn without_a_bus_there_is_none() {
        let error = Logind::connect(Path::new("/nonexistent/bus")).err().unwrap();
        assert_eq!(error.to_string(), "connect to the system bus");
    }
}
