//! Reading a tree field by field. Every field is asked for once, by name, with what makes a value of
//! it; whatever is wrong is noted with its place and reading goes on, so that one run finds it all.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::document::{Entry, Node, Value, is_null, join, shown_name};
use super::env::{Env, Expanded, expand};
use super::error::{Fault, Notice, Place};
use super::load::{Files, read_file};
use super::scalar::nearest;
use super::secret::SecretText;

/// What an operator reads where something is there already, but not yet in force.
pub const LATER: &str = "accepted; takes effect with a later release";

/// The faults and notices of one run, and what values are resolved against.
pub struct Report<'a> {
    pub env: Env<'a>,
    /// Relative paths start here.
    pub folder: &'a Path,
    pub faults: RefCell<Vec<Fault>>,
    pub notices: RefCell<Vec<Notice>>,
    /// Those that fields name and that were read.
    pub files: RefCell<Files>,
}

impl<'a> Report<'a> {
    pub fn new(env: Env<'a>, folder: &'a Path) -> Self {
        Report {
            env,
            folder,
            faults: RefCell::default(),
            notices: RefCell::default(),
            files: RefCell::default(),
        }
    }

    /// The text of a file that a field names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, path: &Path) -> Result<String, String> {
        let text = read_file(path);
        self.files.borrow_mut().add(path, text.as_deref().ok());
        text
    }
}

/// A place to speak of.
#[derive(Clone)]
pub struct At<'a> {
    pub report: &'a Report<'a>,
    pub file: &'a str,
    pub line: usize,
    pub path: String,
}

impl At<'_> {
    pub fn fault(&self, message: impl Into<String>) {
        let (place, message) = (self.place(), message.into());
        self.report
            .faults
            .borrow_mut()
            .push(Fault { place, message });
    }

    pub fn notice(&self, message: impl Into<String>) {
        let (place, message) = (self.place(), message.into());
        self.report
            .notices
            .borrow_mut()
            .push(Notice { place, message });
    }

    fn place(&self) -> Place {
        Place {
            file: String::from(self.file),
            line: self.line,
            path: self.path.clone(),
        }
    }
}

/// A node with its place.
#[derive(Clone)]
pub struct Field<'a> {
    pub at: At<'a>,
    pub node: &'a Node,
}

impl<'a> Field<'a> {
    /// The whole document.
    pub fn root(report: &'a Report<'a>, file: &'a str, node: &'a Node) -> Self {
        let path = String::new();
        let line = node.line;
        let at = At {
            report,
            file,
            line,
            path,
        };
        Field { at, node }
    }

    /// The scalar's text with its variables expanded; `None` where nothing is given, or it is faulty.
    fn expanded(&self) -> Option<Expanded> {
        let (text, plain) = match &self.node.value {
            Value::Scalar { text, plain } => (text, *plain),
            Value::List(_) => return self.wrong_kind("one value", "a list"),
            Value::Map(_) => return self.wrong_kind("one value", "a mapping"),
        };
        let expanded = match expand(text, self.at.report.env) {
            Ok(expanded) => expanded,
            Err(message) => {
                self.at.fault(message);
                return None;
            }
        };
        let given = !(plain && is_null(&expanded.text));
        given.then_some(expanded)
    }

    fn wrong_kind<T>(&self, expected: &str, found: &str) -> Option<T> {
        self.at.fault(format!("found {found}, expected {expected}"));
        None
    }

    /// The value that `make` makes of the text; what it answers as an error is what was expected.
    pub fn value<T>(&self, make: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let expanded = self.expanded()?;
        match make(&expanded.text) {
            Ok(value) => Some(value),
            Err(expected) => {
                let found = shown_value(&expanded);
                self.at.fault(format!("found {found}, {expected}"));
                None
            }
        }
    }

    /// As `value`, for what must not be shown even where it is wrong.
    pub fn hidden<T>(&self, make: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match make(&self.expanded()?.text) {
            Ok(value) => Some(value),
            Err(expected) => {
                let message = format!("found a value that is not shown, {expected}");
                self.at.fault(message);
                None
            }
        }
    }

    /// A secret. An empty one is none: it must never open a door.
    pub fn secret(&self) -> Option<SecretText> {
        let text = self.expanded()?.text;
        (!text.is_empty()).then(|| SecretText::new(text))
    }

    /// A path, from the configuration file's folder where it is relative.
    pub fn path(&self) -> Option<PathBuf> {
        self.value(|text| match text {
            "" => Err(String::from("expected a path")),
            text => Ok(self.at.report.folder.join(text)),
        })
    }

    pub fn items(&self) -> Vec<Field<'a>> {
        let nodes = match &self.node.value {
            Value::List(nodes) => nodes.as_slice(),
            Value::Scalar { text, plain: true } if is_null(text) => &[],
            Value::Scalar { .. } => return self.wrong_list("one value"),
            Value::Map(_) => return self.wrong_list("a mapping"),
        };
        let item = |(at, node): (usize, &'a Node)| Field {
            at: At {
                line: node.line,
                path: format!("{}[{at}]", self.at.path),
                ..self.at.clone()
            },
            node,
        };
        nodes.iter().enumerate().map(item).collect()
    }

    fn wrong_list(&self, found: &str) -> Vec<Field<'a>> {
        self.wrong_kind::<()>("a list such as [a, b]", found);
        Vec::new()
    }

    /// A mapping whose names are the operator's own, such as `tiers` or `headers`.
    pub fn named(&self) -> Vec<(&'a str, Field<'a>)> {
        let entries = self.entries().unwrap_or_default();
        let own = |entry: &'a Entry| (entry.name.as_str(), entry_field(&self.at, entry));
        entries.iter().map(own).collect()
    }

    /// A mapping whose names we know.
    pub fn section(&self) -> Section<'a> {
        let entries = self.entries();
        Section {
            at: self.at.clone(),
            entries: entries.unwrap_or_default(),
            readable: entries.is_some(),
            asked: Vec::new(),
        }
    }

    fn entries(&self) -> Option<&'a [Entry]> {
        let expected = "a mapping with `name: value` lines";
        match &self.node.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar { text, plain: true } if is_null(text) => Some(&[]),
            Value::Scalar { .. } => self.wrong_kind(expected, "one value"),
            Value::List(_) => self.wrong_kind(expected, "a list"),
        }
    }
}

/// A mapping of known fields. `finish` it, or unknown fields pass unseen.
#[must_use]
pub struct Section<'a> {
    pub at: At<'a>,
    entries: &'a [Entry],
    /// False where something else stands in the mapping's place: nothing is missing then.
    readable: bool,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The field of this name, where it is given.
    pub fn field(&mut self, name: &'static str) -> Option<Field<'a>> {
        // Asked twice, it is still one name where the known ones are listed.
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        let given =
            !matches!(&entry.node.value, Value::Scalar { text, plain: true } if is_null(text));
        given.then(|| entry_field(&self.at, entry))
    }

    pub fn get<T>(
        &mut self,
        name: &'static str,
        make: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.field(name)?.value(make)
    }

    /// As `get`, with the value that holds where none is given.
    pub fn or<T>(
        &mut self,
        name: &'static str,
        default: T,
        make: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.get(name, make).unwrap_or(default)
    }

    /// As `get`, for what must be given; `expected` says what.
    pub fn need<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        make: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.field(name) {
            Some(field) => field.value(make),
            None => {
                self.missing(name, expected);
                None
            }
        }
    }

    pub fn missing(&self, name: &str, expected: &str) {
        if self.readable {
            let message = format!("is missing, expected {expected}");
            self.place_of(name).fault(message);
        }
    }

    /// Where the field of this name stands, or would stand.
    pub fn place_of(&self, name: &str) -> At<'a> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        At {
            line: entry.map_or(self.at.line, |entry| entry.line),
            path: join(&self.at.path, name),
            ..self.at.clone()
        }
    }

    pub fn secret(&mut self, name: &'static str) -> Option<SecretText> {
        self.field(name)?.secret()
    }

    /// The items of a list; none where it is not given.
    pub fn items(&mut self, name: &'static str) -> Vec<Field<'a>> {
        self.field(name)
            .map_or_else(Vec::new, |field| field.items())
    }

    /// A list of scalars, or the default where it is not given.
    pub fn list<T>(
        &mut self,
        name: &'static str,
        default: Vec<T>,
        make: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(field) = self.field(name) else {
            return default;
        };
        let items = field.items();
        items.iter().filter_map(|item| item.value(&make)).collect()
    }

    /// Whether a list is not given, or empty.
    pub fn lacks(&mut self, name: &'static str) -> bool {
        self.field(name)
            .is_none_or(|field| matches!(&field.node.value, Value::List(items) if items.is_empty()))
    }

    /// The mapping of this name; an empty one where it is not given.
    pub fn section(&mut self, name: &'static str) -> Section<'a> {
        let Some(field) = self.field(name) else {
            return Section {
                at: self.place_of(name),
                entries: &[],
                readable: true,
                asked: Vec::new(),
            };
        };
        field.section()
    }

    /// Tells the operator that a field which is given comes into force later.
    pub fn later(&self, name: &str) {
        if self.entries.iter().any(|entry| entry.name == name) {
            self.place_of(name).notice(LATER);
        }
    }

    /// Reports the fields that nobody asked for.
    pub fn finish(self) {
        for entry in self.entries {
            if self.asked.contains(&entry.name.as_str()) {
                continue;
            }
            let known = self.asked.join(", ");
            let near = nearest(&entry.name, &self.asked);
            let hint = near.map_or_else(
                || format!("known here are {known}"),
                |near| format!("did you mean `{near}`?"),
            );
            let glued = if shown_name(&entry.name) == entry.name {
                ""
            } else {
                " (a space is needed after the colon)"
            };
            let message = format!("unknown field{glued}; {hint}");
            self.place_of(&entry.name).fault(message);
        }
    }
}

fn entry_field<'a>(parent: &At<'a>, entry: &'a Entry) -> Field<'a> {
    let at = At {
        line: entry.line,
        path: join(&parent.path, &entry.name),
        ..parent.clone()
    };
    let node = &entry.node;
    Field { at, node }
}

/// The found value for a message; what came from the environment may be a secret.
fn shown_value(expanded: &Expanded) -> String {
    const MAX_CHARS: usize = 80;
    match expanded.names.first() {
        Some(name) => format!("a value from ${{{name}}} that is not shown"),
        None if expanded.text.chars().count() > MAX_CHARS => {
            let head: String = expanded.text.chars().take(MAX_CHARS).collect();
            format!("{:?}", format!("{head}…"))
        }
        None => format!("{:?}", expanded.text),
    }
}
