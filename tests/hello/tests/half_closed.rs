//! `printf … | nc HOST 80` ends its half of the connection as soon as it has asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_has_asked_and_says_no_more_is_answered() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hello"));
    let mut server = Ended(command.arg("0").stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let mut output = BufReader::new(server.0.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let port: u16 = line.trim_end().rsplit_once(' ').unwrap().1.parse().unwrap();
    let signal = |name: &str| {
        let done = Command::new("kill").args([name, &server.0.id().to_string()]).status().unwrap();
        assert!(done.success(), "kill {name}");
    };

    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /first HTTP/1.1\r\nHost: hello\r\n\r\n").unwrap();
    let mut first = BufReader::new(&stream).lines().map(Result::unwrap);
    let greeting = first.find(|line| line.starts_with("Hello from ")).unwrap();
    // Stopped meanwhile, it finds the second question and the end of it at once.
    signal("-STOP");
    stream.write_all(b"GET /second HTTP/1.0\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    signal("-CONT");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(&format!("\r\n\r\n{greeting}\n")), "{answer:?}");
}
