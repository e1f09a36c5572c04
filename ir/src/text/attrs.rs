//! Attributes of operators between their braces.

use super::lex::quote;
use super::literal::{Literal, push, write_elided, write_hex};
use super::{TextError, TextOptions, print};
use crate::{ElemType, IntClamp, Tensor};
use std::fmt::Display;
use std::str::FromStr;

/// Writes ` {key = value, …}`, or nothing when nothing is put in.
pub(super) struct AttrPrinter<'a> {
    pub(super) out: &'a mut String,
    pub(super) options: &'a TextOptions,
    empty: bool,
}

impl<'a> AttrPrinter<'a> {
    pub(super) fn new(out: &'a mut String, options: &'a TextOptions) -> Self {
        AttrPrinter { out, options, empty: true }
    }

    fn key(&mut self, key: &str) {
        self.out.push_str(if self.empty { " {" } else { ", " });
        self.empty = false;
        self.out.push_str(key);
    }

    pub(super) fn put(&mut self, key: &str, value: impl Display) {
        self.key(key);
        push(self.out, format_args!(" = {value}"));
    }

    pub(super) fn list<T: Display>(&mut self, key: &str, items: &[T]) {
        self.key(key);
        self.out.push_str(" = [");
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            push(self.out, format_args!("{item}"));
        }
        self.out.push(']');
    }

    pub(super) fn float(&mut self, key: &str, value: f32, default: f32) {
        if value.to_bits() != default.to_bits() {
            self.key(key);
            self.out.push_str(" = ");
            value.write(self.out);
        }
    }

    pub(super) fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.key(key);
        }
    }

    pub(super) fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.push_str(" = ");
        quote(self.out, value);
    }

    pub(super) fn bytes(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        self.out.push_str(" = ");
        if self.options.elide_over.is_some_and(|n| value.len() > n) {
            write_elided(self.out, value);
        } else {
            write_hex(self.out, value);
        }
    }

    pub(super) fn elem(&mut self, key: &str, value: &ElemType) {
        self.key(key);
        self.out.push_str(" = ");
        print::elem_type(self.out, value, self.options);
    }

    pub(super) fn clamp(&mut self, key: &str, value: Option<IntClamp>) {
        if let Some(IntClamp { min, max }) = value {
            self.list(key, &[min, max]);
        }
    }

    pub(super) fn tensor(&mut self, key: &str, value: &Tensor) {
        self.key(key);
        self.out.push_str(" = ");
        print::tensor_type(self.out, &value.ty(), self.options);
        self.out.push(' ');
        super::literal::write_elements(self.out, value, self.options);
    }

    pub(super) fn finish(self) {
        if !self.empty {
            self.out.push('}');
        }
    }
}

/// An attribute's value as written.
pub(super) enum Attr<'a> {
    Flag,
    /// A number or a word.
    Atom(&'a str),
    List(Vec<&'a str>),
    Str(String),
    Bytes(Vec<u8>),
    Elem(ElemType),
    Tensor(Tensor),
}

/// The attributes of one node, taken out one by one.
pub(super) struct Attrs<'a> {
    /// Key, value, offset of the key.
    pub(super) items: Vec<(&'a str, Attr<'a>, usize)>,
    /// Offset of the operator, for what is missing.
    pub(super) at: usize,
    /// Makes an error at an offset.
    pub(super) error: &'a dyn Fn(usize, String) -> TextError,
}

impl<'a> Attrs<'a> {
    pub(super) fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, TextError> {
        Err((self.error)(at, message.into()))
    }

    fn take(&mut self, key: &str) -> Option<(Attr<'a>, usize)> {
        let i = self.items.iter().position(|item| item.0 == key)?;
        let (_, attr, at) = self.items.remove(i);
        Some((attr, at))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.items.iter().any(|item| item.0 == key)
    }

    pub(super) fn is_list(&self, key: &str) -> bool {
        self.items.iter().any(|item| item.0 == key && matches!(item.1, Attr::List(_)))
    }

    fn missing<T>(&self, key: &str) -> Result<T, TextError> {
        self.fail(self.at, format!("attribute `{key}` is missing"))
    }

    /// A number or word, if there.
    pub(super) fn maybe<T>(
        &mut self,
        key: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, TextError> {
        match self.take(key) {
            None => Ok(None),
            Some((Attr::Atom(text), at)) => match read(text) {
                Some(value) => Ok(Some(value)),
                None => self.fail(at, format!("`{text}` is no value of `{key}`")),
            },
            Some((_, at)) => self.fail(at, format!("`{key}` takes one value")),
        }
    }

    pub(super) fn int<T: FromStr>(&mut self, key: &str) -> Result<T, TextError> {
        match self.maybe(key, |text| text.parse().ok())? {
            Some(value) => Ok(value),
            None => self.missing(key),
        }
    }

    pub(super) fn float(&mut self, key: &str, default: f32) -> Result<f32, TextError> {
        Ok(self.maybe(key, f32::read)?.unwrap_or(default))
    }

    /// One of `all` by its name, `default` if absent.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        all: &[T],
        name: fn(T) -> &'static str,
        default: T,
    ) -> Result<T, TextError> {
        let read = |text: &str| all.iter().copied().find(|&v| name(v) == text);
        Ok(self.maybe(key, read)?.unwrap_or(default))
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<bool, TextError> {
        match self.take(key) {
            None | Some((Attr::Atom("false"), _)) => Ok(false),
            Some((Attr::Flag | Attr::Atom("true"), _)) => Ok(true),
            Some((_, at)) => self.fail(at, format!("`{key}` is a flag")),
        }
    }

    /// A list of numbers, if there.
    pub(super) fn maybe_list<T: FromStr>(
        &mut self,
        key: &str,
    ) -> Result<Option<Vec<T>>, TextError> {
        match self.take(key) {
            None => Ok(None),
            Some((Attr::List(items), at)) => {
                let mut out = Vec::new();
                for item in items {
                    match item.parse() {
                        Ok(value) => out.push(value),
                        Err(_) => {
                            return self.fail(at, format!("`{item}` is no element of `{key}`"));
                        }
                    }
                }
                Ok(Some(out))
            }
            Some((_, at)) => self.fail(at, format!("`{key}` is a list of numbers in brackets")),
        }
    }

    pub(super) fn list<T: FromStr>(&mut self, key: &str) -> Result<Vec<T>, TextError> {
        match self.maybe_list(key)? {
            Some(list) => Ok(list),
            None => self.missing(key),
        }
    }

    pub(super) fn clamp(&mut self, key: &str) -> Result<Option<IntClamp>, TextError> {
        match self.maybe_list(key)?.as_deref() {
            None => Ok(None),
            Some(&[min, max]) => Ok(Some(IntClamp { min, max })),
            Some(_) => self.fail(self.at, format!("`{key}` takes a lower and an upper bound")),
        }
    }

    pub(super) fn elem(&mut self, key: &str) -> Result<ElemType, TextError> {
        match self.take(key) {
            Some((Attr::Elem(elem), _)) => Ok(elem),
            Some((_, at)) => self.fail(at, format!("`{key}` is an element type")),
            None => self.missing(key),
        }
    }

    pub(super) fn tensor(&mut self, key: &str) -> Result<Tensor, TextError> {
        match self.take(key) {
            Some((Attr::Tensor(tensor), _)) => Ok(tensor),
            Some((_, at)) => self.fail(at, format!("`{key}` is a type with extents and elements")),
            None => self.missing(key),
        }
    }

    pub(super) fn string(&mut self, key: &str) -> Result<String, TextError> {
        match self.take(key) {
            Some((Attr::Str(text), _)) => Ok(text),
            Some((_, at)) => self.fail(at, format!("`{key}` is a text in quotes")),
            None => self.missing(key),
        }
    }

    pub(super) fn bytes(&mut self, key: &str) -> Result<Vec<u8>, TextError> {
        match self.take(key) {
            Some((Attr::Bytes(bytes), _)) => Ok(bytes),
            Some((_, at)) => self.fail(at, format!("`{key}` is hex \"…\"")),
            None => self.missing(key),
        }
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<(), TextError> {
        match self.items.first() {
            None => Ok(()),
            Some(&(key, _, at)) => self.fail(at, format!("unknown attribute `{key}`")),
        }
    }
}
