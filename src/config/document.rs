//! A YAML text as a tree whose nodes know their lines. Scalars stay text: what type a value has is
//! said by the field that reads it, so `"587"`, `587` and `${SMTP_PORT}` are one and the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::error::{Fault, Place};

/// Deeper nesting than any configuration needs; bounds the stack.
const MAX_DEPTH: usize = 32;
/// More nodes than any price table needs; bounds what aliases can blow up.
const MAX_NODES: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct Node {
    /// From 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `name: node` of a mapping.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub line: usize,
    pub node: Node,
}

impl Node {
    /// Nothing at all, as an empty file holds.
    pub fn nothing() -> Self {
        Node {
            line: 1,
            value: Value::Scalar {
                text: String::new(),
                plain: true,
            },
        }
    }
}

/// Whether a plain scalar means "not given".
pub fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Reads one document. Names given twice are faults that leave the rest readable.
///
/// # Errors
/// The one syntax error after which nothing more can be read.
pub fn read(text: &str, file: &str) -> Result<(Node, Vec<Fault>), Fault> {
    let masked = mask_references(text);
    let mut reader = TreeReader {
        parser: Parser::new_from_str(&masked),
        file,
        anchors: BTreeMap::new(),
        nodes: 0,
        faults: Vec::new(),
    };
    let root = reader.document()?;
    Ok((root, reader.faults))
}

/// Stand for the braces of `${NAME}` while YAML is read. They are for private use, and mean nothing.
const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

/// Hides the braces of `${NAME}`, so that it can stand without quotes in `{credential: ${NAME}}` too,
/// where YAML would take them for its own. Lines and columns stay as they are.
fn mask_references(text: &str) -> Cow<'_, str> {
    if !text.contains("${") || text.contains([OPEN, CLOSE]) {
        return Cow::Borrowed(text);
    }
    let mut masked = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        masked.push_str(before);
        let line = after.split('\n').next().unwrap_or_default();
        let Some((reference, _)) = line.split_once('}') else {
            masked.push_str("${");
            rest = after;
            continue;
        };
        masked.extend(['$', OPEN]);
        masked.push_str(reference);
        masked.push(CLOSE);
        rest = after.get(reference.len() + 1..).unwrap_or_default();
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

fn unmask(text: &str) -> String {
    text.replace(OPEN, "{").replace(CLOSE, "}")
}

struct TreeReader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    file: &'a str,
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    faults: Vec<Fault>,
}

impl<'a> TreeReader<'a> {
    fn document(&mut self) -> Result<Node, Fault> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                Event::StreamEnd => return Ok(root.unwrap_or_else(Node::nothing)),
                _ if root.is_some() => {
                    return Err(self.stop(span, "a second document; one file holds one document"));
                }
                event => root = Some(self.node(event, span, "", 0)?),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        span: Span,
        path: &str,
        depth: usize,
    ) -> Result<Node, Fault> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(self.stop(span, "nested too deeply, or too large"));
        }
        let before = self.nodes;
        let line = span.start.line();
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span)?;
                let text = unmask(&text);
                let plain = style == ScalarStyle::Plain;
                (anchor, Value::Scalar { text, plain })
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span)?;
                (anchor, Value::List(self.items(path, depth)?))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span)?;
                (anchor, Value::Map(self.entries(path, depth)?))
            }
            _ => return Err(self.stop(span, "the document ends in the middle")),
        };
        let node = Node { line, value };
        if anchor > 0 {
            let size = self.nodes - before + 1;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn items(&mut self, path: &str, depth: usize) -> Result<Vec<Node>, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            let path = format!("{path}[{}]", items.len());
            items.push(self.node(event, span, &path, depth + 1)?);
        }
    }

    fn entries(&mut self, path: &str, depth: usize) -> Result<Vec<Entry>, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut first_lines: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let (event, span) = self.next()?;
            let name = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, ..) => unmask(&text),
                _ => return Err(self.stop(span, "a field's name must be plain text")),
            };
            let line = span.start.line();
            let path = join(path, &name);
            let (event, span) = self.next()?;
            let node = self.node(event, span, &path, depth + 1)?;
            if let Some(first) = first_lines.get(&name) {
                let message = format!("given twice, first in line {first}; keep one of them");
                self.faults.push(self.fault(line, path, message));
                continue;
            }
            first_lines.insert(name.clone(), line);
            entries.push(Entry { name, line, node });
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node, Fault> {
        // An anchor's node is known only once it is read whole: an alias inside it is a cycle.
        let Some((node, size)) = self.anchors.get(&anchor) else {
            return Err(self.stop(span, "an alias to the node it stands in"));
        };
        self.nodes += size;
        if self.nodes > MAX_NODES {
            return Err(self.stop(span, "the aliases make the file too large"));
        }
        let mut node = node.clone();
        node.line = span.start.line();
        Ok(node)
    }

    fn refuse_tag(&self, tag: Option<&Tag>, span: Span) -> Result<(), Fault> {
        match tag {
            Some(tag) if !tag.is_yaml_core_schema() => Err(self.stop(
                span,
                "a YAML tag (`!…`) means nothing here; take it out, or quote the text",
            )),
            _ => Ok(()),
        }
    }

    fn syntax(&self, error: &ScanError) -> Fault {
        let marker = error.marker();
        let message = format!("column {}: {}", marker.col() + 1, error.info());
        self.fault(marker.line(), String::from("(syntax)"), message)
    }

    fn stop(&self, span: Span, what: &str) -> Fault {
        let message = format!("column {}: {what}", span.start.col() + 1);
        self.fault(span.start.line(), String::from("(syntax)"), message)
    }

    fn fault(&self, line: usize, path: String, message: String) -> Fault {
        let file = String::from(self.file);
        let line = line.max(1);
        let place = Place { file, line, path };
        Fault { place, message }
    }
}

/// The path of the field `name` inside `path`.
pub fn join(path: &str, name: &str) -> String {
    let name = shown_name(name);
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}

/// A field's name as it may be printed: `{token:abc}` without a space makes the secret a part of the
/// name, so what is shown ends where no name goes on.
pub fn shown_name(name: &str) -> String {
    const MAX_CHARS: usize = 48;
    let goes_on = |c: &char| !matches!(c, ':' | '=' | '"' | '\'' | '{') && !c.is_whitespace();
    let shown: String = name.chars().take(MAX_CHARS).take_while(goes_on).collect();
    if shown.len() == name.len() {
        shown
    } else {
        format!("{shown}…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_its_line() {
        let (root, faults) = read("a: 1\nb:\n  - x\n  - y: 2\n", "f").unwrap();
        assert!(faults.is_empty());
        let Value::Map(entries) = root.value else {
            panic!("no mapping")
        };
        assert_eq!(entries[1].line, 2);
        let Value::List(items) = &entries[1].node.value else {
            panic!("no list")
        };
        assert_eq!((items[0].line, items[1].line), (3, 4));
    }

    #[test]
    fn a_syntax_error_has_line_and_column() {
        let fault = read("a: 1\nb: [1, 2\nc: 3\n", "f.yaml").unwrap_err();
        assert_eq!(fault.place.file, "f.yaml");
        assert!(fault.place.line >= 2, "{fault}");
        assert!(fault.message.starts_with("column "), "{fault}");
    }

    #[test]
    fn names_given_twice_are_found_at_any_depth() {
        let (_, faults) = read("a:\n  b: 1\n  b: 2\na: 3\n", "f").unwrap();
        let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "f:3: a.b: given twice, first in line 2; keep one of them",
                "f:4: a: given twice, first in line 1; keep one of them",
            ]
        );
    }

    #[test]
    fn aliases_work_and_cannot_blow_up() {
        let (root, _) = read("a: &x [1]\nb: *x\n", "f").unwrap();
        let Value::Map(entries) = root.value else {
            panic!("no mapping")
        };
        assert!(matches!(&entries[1].node.value, Value::List(items) if items.len() == 1));
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let refs = vec![format!("*a{}", n - 1); 10].join(",");
            bomb.push_str(&format!("a{n}: &a{n} [{refs}]\n"));
        }
        assert!(read(&bomb, "f").is_err());
        assert!(read("a: &a [*a]\n", "f").is_err());
        assert!(read(&"[".repeat(5000), "f").is_err());
    }

    #[test]
    fn a_variable_needs_no_quotes_anywhere() {
        let text = "a: [{b: ${X}, c: \"${Y:-}\"}]\nd: ${Z:-1} # ${no\n";
        let shown = format!("{:?}", read(text, "f").unwrap().0);
        for reference in ["${X}", "${Y:-}", "${Z:-1}"] {
            assert!(shown.contains(&format!("{reference:?}")), "{shown}");
        }
    }

    #[test]
    fn a_secret_glued_to_its_name_is_not_shown() {
        assert_eq!(shown_name("token:hunter2"), "token…");
        assert_eq!(shown_name("token=hunter2"), "token…");
        assert_eq!(shown_name("max_request_body"), "max_request_body");
    }
}
