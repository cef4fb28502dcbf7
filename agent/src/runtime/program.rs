//! Programs: system calls compiled ahead, for a supervisor's child to run. Built by the plans, run by
//! nobody here.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;

use super::sys::wire::{self, PROGRAM_BASE, STEP_SIZE, Step};

/// Steps lie below, data above: where data goes is known before the last step is.
const DATA: u64 = 1 << 20;

/// A program under construction. Addresses it hands out are valid in the process that runs it.
#[derive(Default)]
pub struct Program {
    steps: Vec<Step>,
    names: Vec<Box<str>>,
    data: Vec<u8>,
    registers: u8,
}

/// A result that a later step uses as an argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Register(u8);

/// For results that only the next steps use.
pub const SCRATCH: Register = Register(254);

/// What the steps of a program do, for the message when one fails.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<Box<str>>);

impl Program {
    /// Appends a system call. `name` completes "cannot …".
    pub fn step(&mut self, name: impl Into<Box<str>>, nr: i64, args: &[u64]) -> &mut Step {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.names.push(name.into());
        self.steps.push(Step { nr: nr as u32, args: all, ..Step::default() });
        self.steps.last_mut().expect("just pushed")
    }

    /// As [`Self::step`], keeping the result.
    pub fn saved(&mut self, name: impl Into<Box<str>>, nr: i64, args: &[u64]) -> Register {
        let register = Register(self.registers);
        self.registers += 1;
        assert!(register.0 < SCRATCH.0, "too many results to keep");
        self.step(name, nr, args).save = register.0 + 1;
        register
    }

    /// As [`Self::step`], with the result in `SCRATCH`.
    pub fn scratch(&mut self, name: impl Into<Box<str>>, nr: i64, args: &[u64]) {
        self.step(name, nr, args).save = SCRATCH.0 + 1;
    }

    /// The step just appended.
    pub fn last(&mut self) -> &mut Step {
        self.steps.last_mut().expect("a step was appended")
    }

    /// The number that the next step gets.
    pub fn next(&self) -> usize {
        self.steps.len()
    }

    /// Lets step `number`, when it succeeds, go on with the step that is appended next.
    pub fn skip_from(&mut self, number: usize) {
        let between = self.steps.len() - number - 1;
        self.steps[number].skip = u8::try_from(between).expect("a short way");
    }

    /// Appends a step that does nothing but leave out the next `count`.
    pub fn jump(&mut self, count: u8) {
        self.step("go on", libc::SYS_getpid, &[]).skip = count;
    }

    /// Appends a pseudo step of `wire`.
    pub fn pseudo(&mut self, name: impl Into<Box<str>>, nr: u32) {
        self.names.push(name.into());
        self.steps.push(Step { nr, ..Step::default() });
    }

    /// The address of a copy of `text` with a NUL at its end.
    pub fn text(&mut self, text: &str) -> u64 {
        self.raw_text(text.as_bytes())
    }

    fn raw_text(&mut self, text: &[u8]) -> u64 {
        self.bytes(&[text, &[0]].concat())
    }

    /// The address of a copy of `bytes`, aligned to a word.
    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let address = PROGRAM_BASE + DATA + self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        address
    }

    pub fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.bytes(&bytes)
    }

    /// The address of an array of strings that ends with a null pointer.
    pub fn strings<S: AsRef<[u8]>>(&mut self, strings: &[S]) -> u64 {
        let mut addresses: Vec<u64> =
            strings.iter().map(|text| self.raw_text(text.as_ref())).collect();
        addresses.push(0);
        self.words(&addresses)
    }

    /// Writes the program into memory that can be passed on: its descriptor, size and names.
    pub fn finish(self) -> io::Result<(OwnedFd, u64, Names)> {
        assert!(
            (self.steps.len() + 1) * STEP_SIZE <= DATA as usize,
            "a program of {} steps",
            self.steps.len()
        );
        let mut head = vec![0; STEP_SIZE];
        head[..4].copy_from_slice(&(self.steps.len() as u32).to_ne_bytes());
        head.extend(self.steps.iter().flat_map(|step| step.to_bytes()));
        let file = rustix::fs::memfd_create("program", MemfdFlags::CLOEXEC)?;
        write_at(&file, &head, 0)?;
        write_at(&file, &self.data, DATA)?;
        let size = DATA + self.data.len() as u64;
        rustix::fs::ftruncate(&file, size)?;
        Ok((file, size, Names(self.names)))
    }
}

impl Names {
    /// What step `number` does.
    pub fn of(&self, number: u32) -> &str {
        self.0.get(number as usize).map_or("set up the process", |name| name)
    }
}

/// Changes to the step just appended.
pub trait Adjust {
    /// Goes on with the next step after these errors.
    fn tolerate(&mut self, errors: &[rustix::io::Errno]) -> &mut Self;
    fn tolerate_all(&mut self) -> &mut Self;
    /// Takes argument `index` from a register.
    fn from(&mut self, index: usize, register: Register) -> &mut Self;
    /// Leaves out the next `count` steps when this one succeeds.
    fn skip(&mut self, count: u8) -> &mut Self;
}

impl Adjust for Step {
    fn tolerate(&mut self, errors: &[rustix::io::Errno]) -> &mut Self {
        for (slot, error) in self.tolerate.iter_mut().zip(errors) {
            *slot = error.raw_os_error() as u8;
        }
        self
    }

    fn tolerate_all(&mut self) -> &mut Self {
        self.tolerate[0] = wire::ANY_ERROR;
        self
    }

    fn from(&mut self, index: usize, register: Register) -> &mut Self {
        self.registers |= 1 << index;
        self.args[index] = u64::from(register.0);
        self
    }

    fn skip(&mut self, count: u8) -> &mut Self {
        self.skip = count;
        self
    }
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
