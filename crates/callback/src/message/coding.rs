//! Content codings (RFC 9110 section 8.4): gzip, br, zstd.

use bytes::Bytes;

use super::Scan;
use crate::replace::{Asking, Refusal};

#[derive(Debug, Clone, Copy)]
pub(super) enum Coding {}
impl Coding {
    pub(super) fn parse(text: Option<&str>) -> Result<Option<Self>, Refusal> {
        match text.map(str::trim) {
            None | Some("" | "identity") => Ok(None),
            Some(c) => Err(Refusal::Coding(c.chars().take(40).collect())),
        }
    }
}
#[derive(Debug)]
pub(super) struct Coded {
    scan: Box<dyn Scan>,
}
impl Coded {
    pub(super) fn new(_: Coding, scan: Box<dyn Scan>, _: usize) -> Result<Self, Refusal> {
        Ok(Self { scan })
    }
    pub(super) fn push(&mut self, c: Bytes, a: &mut Asking<'_>, o: &mut Vec<Bytes>) -> Result<(), Refusal> {
        self.scan.push(c, a, o)
    }
    pub(super) fn end(&mut self, a: &mut Asking<'_>, o: &mut Vec<Bytes>) -> Result<(), Refusal> {
        self.scan.end(a, o)
    }
    pub(super) fn abandon(&mut self, _: bool, o: &mut Vec<Bytes>) -> Result<(), Refusal> {
        self.scan.abandon(o);
        Ok(())
    }
    pub(super) fn settled(&self) -> Option<i64> {
        None
    }
}
