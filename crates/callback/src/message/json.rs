//! JSON bodies, which pass unread so far.
use super::Scan;
use crate::replace::{Asking, Refusal};
use bytes::Bytes;
#[derive(Debug)]
pub(super) struct Scanner;
impl Scan for Scanner {
    fn push(&mut self, chunk: Bytes, _: &mut Asking<'_>, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        out.push(chunk);
        Ok(())
    }
    fn end(&mut self, _: &mut Asking<'_>, _: &mut Vec<Bytes>) -> Result<(), Refusal> {
        Ok(())
    }
    fn abandon(&mut self, _: &mut Vec<Bytes>) {}
    fn done(&self) -> bool {
        true
    }
    fn delta(&self) -> i64 {
        0
    }
}
impl Scanner {
    pub(super) fn new(
        named: Vec<crate::rules::JsonPointer>,
        _: Vec<crate::rules::JsonPointer>,
        _: usize,
    ) -> Self {
        let _ = named.iter().map(|p| p.segments().len());
        Self
    }
}
