//! A look at a message's wire form before it is decoded.
//!
//! Decoding makes a record of hundreds of bytes from a message of two. Counting records first, and
//! refusing those too short to mean anything, bounds what decoding allocates by a small multiple of
//! the file.

use crate::Limits;
use crate::file::Problem;

/// Shortest message with a name of one byte.
const MIN_VALUE: usize = 3;
/// As `MIN_VALUE` with an operator and a result.
const MIN_NODE: usize = 8;

pub(super) fn check(message: &[u8], limits: &Limits) -> Result<(), Problem> {
    let mut graphs = Count { what: "graphs", got: 0, limit: limits.nodes };
    let mut values = Count { what: "values", got: 0, limit: limits.values };
    let mut nodes = Count { what: "nodes", got: 0, limit: limits.nodes };
    let mut others = Count { what: "constants, symbols and pairs", got: 0, limit: limits.values };
    for field in (Fields { rest: message }) {
        match field? {
            (4, graph) => {
                graphs.add(graph, 0)?;
                for field in (Fields { rest: graph }) {
                    match field? {
                        (2, value) => values.add(value, MIN_VALUE)?,
                        (3, node) => nodes.add(node, MIN_NODE)?,
                        _ => {}
                    }
                }
            }
            (5..=7, body) => others.add(body, 0)?,
            _ => {}
        }
    }
    Ok(())
}

struct Count {
    what: &'static str,
    got: usize,
    limit: usize,
}

impl Count {
    fn add(&mut self, message: &[u8], least: usize) -> Result<(), Problem> {
        self.got += 1;
        let Count { what, got, limit } = *self;
        if message.len() < least {
            let reason = format!("one of the {what} has {} bytes", message.len());
            return Err(Problem::Protobuf { reason });
        }
        if got > limit {
            return Err(Problem::Limit { what, got: got as u64, limit: limit as u64 });
        }
        Ok(())
    }
}

/// Fields of a message: number, and body if it has one.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, n: u64) -> Option<&'a [u8]> {
        let (body, rest) = self.rest.split_at_checked(usize::try_from(n).ok()?)?;
        self.rest = rest;
        Some(body)
    }

    fn field(&mut self) -> Option<(u64, &'a [u8])> {
        let tag = self.varint()?;
        let body = match tag & 7 {
            0 => self.varint().map(|_| &[][..])?,
            1 => self.bytes(8)?,
            2 => {
                let n = self.varint()?;
                self.bytes(n)?
            }
            5 => self.bytes(4)?,
            // Groups do not occur in this schema.
            _ => return None,
        };
        Some((tag >> 3, body))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or_else(|| Problem::Protobuf { reason: "a field is cut off".into() }))
    }
}
