//! The wire of D-Bus, as much of it as logind needs: calls with strings, answers with one value,
//! signals with a flag (D-Bus Specification, "Message Protocol"). Pure.

/// A message that has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// [`RETURN`], [`ERROR`] or [`SIGNAL`].
    pub kind: u8,
    pub reply_to: u32,
    pub member: String,
    pub signature: String,
    pub body: Vec<u8>,
}

pub const RETURN: u8 = 2;
pub const ERROR: u8 = 3;
pub const SIGNAL: u8 = 4;
const CALL: u8 = 1;

/// Whom a call is for, and what it asks.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [&'a str],
}

/// The bytes of a call with this number.
pub fn encode(call: &Call<'_>, serial: u32) -> Vec<u8> {
    let mut body = Writer::default();
    for argument in call.arguments {
        body.string(argument);
    }
    let mut header = Writer(vec![b'l', CALL, 0, 1]);
    header.number(u32::try_from(body.0.len()).unwrap_or(0));
    header.number(serial);
    let mut fields = Writer::default();
    let texts = [(1, "o", call.path), (2, "s", call.interface), (3, "s", call.member)];
    let to = (6, "s", call.destination);
    for (code, kind, text) in texts.into_iter().chain([to]) {
        fields.field(code, kind);
        fields.string(text);
    }
    if !call.arguments.is_empty() {
        fields.field(8, "g");
        fields.signature(&"s".repeat(call.arguments.len()));
    }
    header.number(u32::try_from(fields.0.len()).unwrap_or(0));
    header.0.extend(fields.0);
    header.align(8);
    header.0.extend(body.0);
    header.0
}

/// The first message of `bytes` and its length; None where it is not whole yet. An error where it
/// is no message.
pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, &'static str> {
    let Some(head) = bytes.get(..16) else { return Ok(None) };
    if head[0] != b'l' || head[3] != 1 {
        return Err("it is not a message of D-Bus 1 in little endian");
    }
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (body, fields) = (number(4) as usize, number(12) as usize);
    if body > MOST || fields > MOST {
        return Err("it is longer than a message may be");
    }
    let begin = (16 + fields).next_multiple_of(8);
    let Some(whole) = bytes.get(..begin + body) else { return Ok(None) };
    let mut message =
        Message { kind: head[1], body: whole[begin..].to_vec(), ..Message::default() };
    let mut reader = Reader { bytes: &whole[..16 + fields], at: 16 };
    while reader.at < 16 + fields {
        reader.align(8);
        let code = reader.byte()?;
        let kind = reader.signature()?;
        match (code, kind.as_str()) {
            (5, "u") => message.reply_to = reader.number()?,
            (3, "s") => message.member = reader.string()?,
            (8, "g") => message.signature = reader.signature()?,
            (_, "u") => drop(reader.number()?),
            (_, "s" | "o") => drop(reader.string()?),
            (_, "g") => drop(reader.signature()?),
            _ => return Err("it has a header field of an unknown type"),
        }
    }
    Ok(Some((message, begin + body)))
}

/// Of a header or a body: nothing that is read here comes near.
const MOST: usize = 1 << 20;

impl Message {
    /// The body where it is one boolean.
    pub fn flag(&self) -> Option<bool> {
        let bytes = self.body.get(..4).filter(|_| self.signature == "b")?;
        Some(bytes != [0; 4])
    }

    /// The body where it is a variant with one 64-bit number.
    pub fn long(&self) -> Option<u64> {
        let inside = self.body.strip_prefix(b"\x01t\0").filter(|_| self.signature == "v")?;
        let bytes: [u8; 8] = inside.get(5..13)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// What an error says, or that it is one.
    pub fn text(&self) -> String {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let text = reader.string().ok().filter(|_| self.signature.starts_with('s'));
        text.unwrap_or("it refused".into())
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(0));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(0));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// A header field begins. The header before it has 16 bytes, which change no alignment.
    fn field(&mut self, code: u8, kind: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

const SHORT: &str = "it ends too early";

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&[u8], &'static str> {
        let end = self.at.checked_add(count).ok_or(SHORT)?;
        let taken = self.bytes.get(self.at..end).ok_or(SHORT)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u32, &'static str> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self, length: usize) -> Result<String, &'static str> {
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "it is no text")?;
        self.take(1)?;
        Ok(text)
    }

    fn string(&mut self) -> Result<String, &'static str> {
        let length = self.number()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Result<String, &'static str> {
        let length = self.byte()?.into();
        self.text(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let call = Call {
            destination: "org.freedesktop.login1",
            path: "/org/freedesktop/login1",
            interface: "org.freedesktop.login1.Manager",
            member: "Inhibit",
            arguments: &["shutdown", "kubelet", "because", "delay"],
        };
        let bytes = encode(&call, 7);
        let (message, length) = decode(&bytes).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!((message.kind, message.member.as_str()), (CALL, "Inhibit"));
        assert_eq!((message.signature.as_str(), message.text().as_str()), ("ssss", "shutdown"));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = encode(
            &Call { destination: "a", path: "/", interface: "b", member: "c", arguments: &[] },
            1,
        );
        for (at, byte) in [(0, b'B'), (3, 9), (7, 0xff), (15, 0xff), (17, 0xff), (18, b'x')] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes.resize(bytes.len() + 512, 0);
            assert!(decode(&bytes).is_err(), "{at}");
        }
    }

    #[test]
    fn values() {
        let message = |signature: &str, body: &[u8]| Message {
            signature: signature.into(),
            body: body.to_vec(),
            ..Message::default()
        };
        assert_eq!(message("b", &[1, 0, 0, 0]).flag(), Some(true));
        assert_eq!(message("s", &[1, 0, 0, 0]).flag(), None);
        let body = b"\x01t\0\0\0\0\0\0\x40\x4b\x4c\0\0\0\0\0";
        assert_eq!(message("v", body).long(), Some(5_000_000));
    }
}
