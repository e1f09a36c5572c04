//! Text to models.

use super::attrs::{Attr, Attrs};
use super::lex::{Lexer, Token};
use super::literal::{Literal, read_elements, read_hex};
use super::{TextError, ops};
use crate::{
    DType, Dim, ElemType, Graph, Limits, Model, Node, Quant, QuantParams, Tensor, TensorType,
    Value, ValueId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Result<T> = std::result::Result<T, TextError>;

pub(super) fn model(text: &str, limits: &Limits) -> Result<Model> {
    let mut lexer = Lexer::new(text);
    let (token, at) = lexer.next()?;
    let mut p = Parser { lexer, token, at, limits, derived: 0, symbols: BTreeSet::new() };
    let mut model = Model::default();
    if p.eat_word("requant")? {
        let at = p.at;
        if p.number::<u32>("a version")? != 1 {
            return p.fail_at(at, "this text needs a newer reader: only version 1 is known");
        }
    }
    loop {
        if p.eat_word("producer")? {
            model.producer = p.string()?;
        } else if p.eat_word("metadata")? {
            let key = p.string()?;
            p.punct('=')?;
            model.metadata.push((key, p.string()?));
        } else if p.eat_word("graph")? {
            model.graphs.push(p.graph()?);
        } else if p.token == Token::End {
            return Ok(model);
        } else {
            return p.expected("`graph`, `metadata` or `producer`");
        }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    /// Offset of `token`.
    at: usize,
    limits: &'a Limits,
    /// Bytes that `fill` has made so far.
    derived: u64,
    symbols: BTreeSet<Arc<str>>,
}

/// A graph while it is read.
#[derive(Default)]
struct Scope {
    graph: Graph,
    ids: BTreeMap<String, ValueId>,
    /// Nodes that have no name of their own.
    unnamed: Vec<usize>,
}

impl<'a> Parser<'a> {
    fn fail_at<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        Err(self.lexer.error_at(at, message))
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        self.fail_at(self.at, format!("expected {what}, found {}", self.token))
    }

    fn bump(&mut self) -> Result<Token<'a>> {
        let (token, at) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn eat(&mut self, c: char) -> Result<bool> {
        let hit = self.token == Token::Punct(c);
        if hit {
            self.bump()?;
        }
        Ok(hit)
    }

    fn punct(&mut self, c: char) -> Result<()> {
        if self.eat(c)? { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    fn eat_word(&mut self, word: &str) -> Result<bool> {
        let hit = self.token == Token::Word(word);
        if hit {
            self.bump()?;
        }
        Ok(hit)
    }

    fn word(&mut self, what: &str) -> Result<&'a str> {
        match self.token {
            Token::Word(word) => {
                self.bump()?;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    fn string(&mut self) -> Result<String> {
        match self.bump_if(|t| matches!(t, Token::Str(_)))? {
            Some(Token::Str(text)) => Ok(text),
            _ => self.expected("a text in quotes"),
        }
    }

    fn bump_if(&mut self, wanted: impl Fn(&Token<'a>) -> bool) -> Result<Option<Token<'a>>> {
        if wanted(&self.token) { self.bump().map(Some) } else { Ok(None) }
    }

    /// A number or word, as written.
    fn atom(&mut self, what: &str) -> Result<&'a str> {
        match self.token {
            Token::Number(text) | Token::Word(text) => {
                self.bump()?;
                Ok(text)
            }
            _ => self.expected(what),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        let at = self.at;
        let text = self.atom(what)?;
        text.parse().or_else(|_| self.fail_at(at, format!("`{text}` is not {what}")))
    }

    fn literal<T: Literal>(&mut self, what: &str) -> Result<T> {
        let at = self.at;
        let text = self.atom(what)?;
        match T::read(text) {
            Some(value) => Ok(value),
            None => self.fail_at(at, format!("`{text}` is not {what}")),
        }
    }

    /// Items between `open` and `close`, separated by commas.
    fn list<T>(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.punct(open)?;
        let mut out = Vec::new();
        while !self.eat(close)? {
            out.push(item(self)?);
            if self.token != Token::Punct(close) {
                self.punct(',')?;
            }
        }
        Ok(out)
    }

    fn value_name(&mut self) -> Result<String> {
        match self.bump_if(|t| matches!(t, Token::Value(_)))? {
            Some(Token::Value(name)) => Ok(name),
            _ => self.expected("a value, as `%name`"),
        }
    }

    /// `word` or `"text"`
    fn name(&mut self, what: &str) -> Result<String> {
        match self.bump_if(|t| matches!(t, Token::Word(_) | Token::Str(_)))? {
            Some(Token::Word(word)) => Ok(word.to_owned()),
            Some(Token::Str(text)) => Ok(text),
            _ => self.expected(what),
        }
    }

    fn graph(&mut self) -> Result<Graph> {
        let mut scope = Scope::default();
        scope.graph.name = self.name("the graph's name")?;
        scope.graph.inputs = self.list('(', ')', |p| p.definition(&mut scope))?;
        if self.token != Token::Arrow {
            return self.expected("`->`");
        }
        self.bump()?;
        let outputs = self.list('(', ')', |p| Ok((p.at, p.value_name()?)))?;
        self.punct('{')?;
        let mut order = None;
        while !self.eat('}')? {
            match self.token {
                Token::Word("const") => self.constant(&mut scope)?,
                Token::Word("order") => {
                    self.bump()?;
                    let mut names = Vec::new();
                    let at = self.at;
                    while let Token::Value(_) = self.token {
                        names.push(self.value_name()?);
                    }
                    order = Some((at, names));
                }
                Token::Value(_) => self.node(&mut scope)?,
                _ => return self.expected("`const`, a node, `order` or `}`"),
            }
        }
        for (at, name) in outputs {
            match scope.ids.get(&name) {
                Some(&id) => scope.graph.outputs.push(id),
                None => return self.fail_at(at, format!("output `%{name}` is not defined")),
            }
        }
        name_nodes(&mut scope);
        if let Some((at, names)) = order {
            self.reorder(&mut scope, at, &names)?;
        }
        Ok(scope.graph)
    }

    /// A value's first occurrence: `%name` or `%name: type`.
    fn definition(&mut self, scope: &mut Scope) -> Result<ValueId> {
        let at = self.at;
        let name = self.value_name()?;
        if scope.ids.contains_key(&name) {
            return self.fail_at(at, format!("`%{name}` is already defined"));
        }
        if scope.graph.values.len() >= self.limits.values {
            return self.fail_at(at, format!("more than {} values", self.limits.values));
        }
        let ty = if self.eat(':')? { Some(self.tensor_type()?) } else { None };
        let id = scope.graph.add_value(Value { name: name.clone(), ty, data: None });
        scope.ids.insert(name, id);
        Ok(id)
    }

    fn constant(&mut self, scope: &mut Scope) -> Result<()> {
        self.bump()?;
        let at = self.at;
        let id = self.definition(scope)?;
        let Some(ty) = scope.graph.values[id.index()].ty.clone() else {
            return self.fail_at(at, "a constant needs a type");
        };
        self.punct('=')?;
        scope.graph.values[id.index()].data = Some(self.tensor(ty)?);
        Ok(())
    }

    fn node(&mut self, scope: &mut Scope) -> Result<()> {
        let first = scope.graph.values.len();
        loop {
            self.definition(scope)?;
            if !self.eat(',')? {
                break;
            }
        }
        let outputs = (first..scope.graph.values.len()).map(|i| ValueId(i as u32)).collect();
        self.punct('=')?;
        let at = self.at;
        let mnemonic = self.word("an operator")?;
        let inputs = self.list('(', ')', |p| {
            if p.eat_word("_")? {
                return Ok(None);
            }
            let at = p.at;
            let name = p.value_name()?;
            match scope.ids.get(&name) {
                Some(id) if id.index() < first => Ok(Some(*id)),
                _ => p.fail_at(at, format!("`%{name}` is not defined above")),
            }
        })?;
        let items = if self.token == Token::Punct('{') {
            self.list('{', '}', Self::attr)?
        } else {
            Vec::new()
        };
        for (i, (key, _, at)) in items.iter().enumerate() {
            if items[..i].iter().any(|item| item.0 == *key) {
                return self.fail_at(*at, format!("attribute `{key}` occurs twice"));
            }
        }
        let error = |at: usize, message: String| self.lexer.error_at(at, message);
        let op = ops::read(mnemonic, Attrs { items, at, error: &error })?;
        let name = match self.token {
            Token::Str(_) => self.string()?,
            _ => {
                scope.unnamed.push(scope.graph.nodes.len());
                String::new()
            }
        };
        let origin =
            if self.eat_word("from")? { self.list('[', ']', Self::string)? } else { Vec::new() };
        scope.graph.nodes.push(Node { name, op, inputs, outputs, origin });
        Ok(())
    }

    fn attr(&mut self) -> Result<(&'a str, Attr<'a>, usize)> {
        let at = self.at;
        let key = self.word("an attribute")?;
        if !self.eat('=')? {
            return Ok((key, Attr::Flag, at));
        }
        let value = match &self.token {
            Token::Punct('[') => Attr::List(self.list('[', ']', |p| p.atom("a number"))?),
            Token::Str(_) => Attr::Str(self.string()?),
            Token::Word("hex") => Attr::Bytes(self.hex()?),
            Token::Word(word) => match word.parse::<DType>() {
                // `to` takes a bare storage type, which is an element type as well.
                Ok(_) if key != "to" => {
                    let elem = self.elem_type()?;
                    if self.token == Token::Punct('[') {
                        let dims = self.dims()?;
                        Attr::Tensor(self.tensor(TensorType { elem, dims })?)
                    } else {
                        Attr::Elem(elem)
                    }
                }
                _ => Attr::Atom(self.atom("a value")?),
            },
            _ => Attr::Atom(self.atom("a value")?),
        };
        Ok((key, value, at))
    }

    fn hex(&mut self) -> Result<Vec<u8>> {
        self.bump()?;
        let at = self.at;
        let text = self.string()?;
        match read_hex(&text) {
            Some(bytes) => Ok(bytes),
            None => self.fail_at(at, "not pairs of hex digits"),
        }
    }

    fn tensor_type(&mut self) -> Result<TensorType> {
        Ok(TensorType { elem: self.elem_type()?, dims: self.dims()? })
    }

    fn dims(&mut self) -> Result<Option<Vec<Dim>>> {
        let mut unranked = false;
        let dims = self.list('[', ']', |p| {
            if p.eat('?')? {
                return Ok(Dim::Unknown);
            }
            if p.eat('*')? {
                unranked = true;
                return Ok(Dim::Unknown);
            }
            if matches!(p.token, Token::Number(_)) {
                return p.number("an extent").map(Dim::Fixed);
            }
            let name: Arc<str> = p.name("an extent")?.into();
            // One allocation a symbol, however often it occurs.
            let known = p.symbols.get(&name).cloned();
            Ok(Dim::Symbol(known.unwrap_or_else(|| {
                p.symbols.insert(name.clone());
                name
            })))
        })?;
        match (unranked, dims.len()) {
            (false, _) => Ok(Some(dims)),
            (true, 1) => Ok(None),
            (true, _) => self.fail_at(self.at, "`*` stands alone"),
        }
    }

    fn dtype(&mut self) -> Result<DType> {
        let at = self.at;
        let word = self.word("a type")?;
        word.parse().or_else(|()| self.fail_at(at, format!("`{word}` is no storage type")))
    }

    fn elem_type(&mut self) -> Result<ElemType> {
        let dtype = self.dtype()?;
        let at = self.at;
        if self.token != Token::Punct('<') {
            return Ok(ElemType::plain(dtype));
        }
        let mut expressed = DType::F32;
        let (mut narrow_range, mut single) = (false, false);
        let (mut axis, mut block) = (None, None);
        let (mut scales, mut zeros) = (Vec::new(), Vec::new());
        self.list('<', '>', |p| {
            let at = p.at;
            let key = p.word("`s`, `z`, `axis`, `block`, `narrow` or `expressed`")?;
            if key == "narrow" {
                narrow_range = true;
                return Ok(());
            }
            p.punct('=')?;
            match key {
                "s" if p.token == Token::Punct('[') => {
                    scales = p.list('[', ']', |p| p.literal::<f32>("a scale"))?;
                }
                "s" => {
                    single = true;
                    scales = vec![p.literal::<f32>("a scale")?];
                }
                "z" if p.token == Token::Punct('[') => {
                    zeros = p.list('[', ']', |p| p.number::<i32>("a zero point"))?;
                }
                "z" => zeros = vec![p.number("a zero point")?],
                "axis" => axis = Some(p.number("an axis")?),
                "block" => block = Some(p.number("a block size")?),
                "expressed" => expressed = p.dtype()?,
                _ => return p.fail_at(at, format!("unknown quantization parameter `{key}`")),
            }
            Ok(())
        })?;
        if zeros.is_empty() {
            zeros = vec![0; scales.len()];
        }
        let params = match (axis, block) {
            (None, None) if single && zeros.len() == 1 => {
                QuantParams::PerTensor { scale: scales[0], zero_point: zeros[0] }
            }
            (Some(axis), None) if !single => {
                QuantParams::PerAxis { axis, scales: scales.into(), zero_points: zeros.into() }
            }
            (Some(axis), Some(size)) if !single => QuantParams::PerBlock {
                axis,
                size,
                scales: scales.into(),
                zero_points: zeros.into(),
            },
            _ => {
                return self.fail_at(
                    at,
                    "quantization is `s` and `z` alone, or `axis`, perhaps `block`, and lists",
                );
            }
        };
        Ok(ElemType { dtype, quant: Some(Quant { expressed, params, narrow_range }) })
    }

    /// The elements of a constant of this type.
    fn tensor(&mut self, ty: TensorType) -> Result<Tensor> {
        let at = self.at;
        let Some(dims) = ty.fixed_dims() else {
            return self.fail_at(at, "a constant's extents are all numbers");
        };
        let dtype = ty.dtype();
        let bytes = match self.token {
            Token::Punct('[') => {
                let items = self.list('[', ']', |p| Ok((p.at, p.atom("an element or `]`")?)))?;
                self.elements(dtype, &items)?
            }
            Token::Word("fill") => {
                self.bump()?;
                self.punct('(')?;
                let item = (self.at, self.atom("an element")?);
                self.punct(')')?;
                self.fill(dtype, &dims, item, at)?
            }
            Token::Word("hex") => self.hex()?,
            Token::Elided => {
                return self
                    .fail_at(at, "this constant was left out; print the model with all constants");
            }
            _ => return self.expected("elements: a list, `fill(x)` or `hex \"…\"`"),
        };
        Tensor::copy_from(ty.elem, dims, &bytes).or_else(|e| self.fail_at(at, e.to_string()))
    }

    fn elements(&self, dtype: DType, items: &[(usize, &str)]) -> Result<Vec<u8>> {
        let texts: Vec<&str> = items.iter().map(|item| item.1).collect();
        read_elements(dtype, &texts).or_else(|i| {
            self.fail_at(items[i].0, format!("`{}` is no element of type {dtype}", items[i].1))
        })
    }

    fn fill(
        &mut self,
        dtype: DType,
        dims: &[usize],
        item: (usize, &str),
        at: usize,
    ) -> Result<Vec<u8>> {
        let len = Tensor::byte_len(dtype, dims).or_else(|e| self.fail_at(at, e.to_string()))?;
        self.derived = self.derived.saturating_add(len as u64);
        if self.derived > self.limits.derived_bytes {
            return self.fail_at(
                at,
                format!("fills take more than the limit of {} bytes", self.limits.derived_bytes),
            );
        }
        if dtype.bits() == 4 {
            let elements: usize = dims.iter().product();
            let mut bytes = self.elements(dtype, &[item, item])?.repeat(len);
            if let Some(last) = bytes.last_mut().filter(|_| elements % 2 == 1) {
                *last &= 15;
            }
            return Ok(bytes);
        }
        let one = self.elements(dtype, &[item])?;
        Ok(one.repeat(len / one.len()))
    }

    fn reorder(&self, scope: &mut Scope, at: usize, names: &[String]) -> Result<()> {
        let graph = &mut scope.graph;
        let mut new_id = vec![None; graph.values.len()];
        for (i, name) in names.iter().enumerate() {
            match scope.ids.get(name) {
                Some(id) if new_id[id.index()].is_none() => {
                    new_id[id.index()] = Some(ValueId(i as u32));
                }
                _ => return self.fail_at(at, format!("`order` names `%{name}` wrongly")),
            }
        }
        let Some(new_id) = new_id.into_iter().collect::<Option<Vec<ValueId>>>() else {
            return self.fail_at(at, "`order` does not name every value");
        };
        let mut values: Vec<_> = new_id.iter().zip(std::mem::take(&mut graph.values)).collect();
        values.sort_by_key(|(id, _)| **id);
        graph.values = values.into_iter().map(|(_, value)| value).collect();
        let used = graph
            .nodes
            .iter_mut()
            .flat_map(|n| n.inputs.iter_mut().flatten().chain(&mut n.outputs));
        for id in used.chain(&mut graph.inputs).chain(&mut graph.outputs) {
            *id = new_id[id.index()];
        }
        Ok(())
    }
}

/// Names each unnamed node after its first result, with a suffix where another node has that name.
fn name_nodes(scope: &mut Scope) {
    let graph = &mut scope.graph;
    let mut taken: BTreeSet<String> = graph.nodes.iter().map(|n| n.name.clone()).collect();
    for &i in &scope.unnamed {
        let base = &graph.values[graph.nodes[i].outputs[0].index()].name;
        let mut name = base.clone();
        let mut n = 2;
        while !taken.insert(name.clone()) {
            name = format!("{base}.{n}");
            n += 1;
        }
        graph.nodes[i].name = name;
    }
}
