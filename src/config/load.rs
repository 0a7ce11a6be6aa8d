//! From a file, or none, to a configuration.

use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use super::Config;
use super::check;
use super::document;
use super::env::Env;
use super::error::{Fault, Faults, Notice, Place};
use super::section::{Field, Report};

/// Names the configuration file where the command line does not.
pub const FILE_VARIABLE: &str = "QUOTA_PROXY_CONFIG";
/// Read where nothing names a file, if it is there.
pub const DEFAULT_FILE: &str = "/etc/quota-proxy/quota-proxy.yaml";
/// Where a running server listens for the process that takes over from it.
pub(super) const UPGRADE_SOCK: &str = "/run/quota-proxy/upgrade.sock";

/// A configuration that is right.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// What an operator should know of it, by line.
    pub notices: Vec<Notice>,
    /// The file it came from; `None` for the built-in defaults.
    pub source: Option<PathBuf>,
    /// All that was read.
    pub files: Files,
}

/// Files as they were when they were read.
#[derive(Clone, Debug, Default)]
pub struct Files(Vec<(PathBuf, Option<u64>)>);

impl Files {
    pub(super) fn add(&mut self, path: &Path, text: Option<&str>) {
        self.0.push((path.to_owned(), text.map(digest)));
    }

    /// Whether one of them holds something else by now. Reads them.
    pub fn have_changed(&self) -> bool {
        let changed = |(path, was): &(PathBuf, Option<u64>)| {
            let is = read_file(path).ok();
            is.as_deref().map(digest) != *was
        };
        self.0.iter().any(changed)
    }
}

/// Tells versions of one file apart, within one process.
fn digest(text: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Loaded {
    /// Logs the notices.
    pub fn tell(&self) {
        for notice in &self.notices {
            log::info!("{notice}");
        }
    }
}

/// Loads `path`, else the file that `$QUOTA_PROXY_CONFIG` names, else `DEFAULT_FILE` if it is there,
/// else the built-in defaults (whose relative paths start at the working directory).
///
/// # Errors
/// Every fault of the file and of the price file it names, by line.
pub fn load(path: Option<&Path>, env: Env<'_>) -> Result<Loaded, Faults> {
    load_or_default(path, env, Path::new(DEFAULT_FILE))
}

/// `server.upgrade_sock` of the file that [`load`] would load, whatever else is in it: the secrets that
/// the file refers to are in the server's environment, not in its operator's.
///
/// # Errors
/// What is wrong with the file's form, or with that setting.
pub fn load_upgrade_sock(path: Option<&Path>, env: Env<'_>) -> Result<PathBuf, Faults> {
    let Some(source) = source(path, env, Path::new(DEFAULT_FILE)) else {
        return Ok(PathBuf::from(UPGRADE_SOCK));
    };
    let (file, text) = text_of(&source)?;
    let (root, _) = document::read(&text, &file).map_err(|fault| Faults(vec![fault]))?;
    let report = Report::new(env, folder_of(&source));
    let mut root = Field::root(&report, &file, &root).section();
    let path = check::upgrade_sock(&mut root.section("server"));
    match report.faults.take() {
        faults if faults.is_empty() => Ok(path),
        faults => Err(Faults(faults)),
    }
}

fn source(path: Option<&Path>, env: Env<'_>, default: &Path) -> Option<PathBuf> {
    let named = || env(FILE_VARIABLE).filter(|name| !name.is_empty());
    path.map(Path::to_path_buf)
        .or_else(|| named().map(PathBuf::from))
        .or_else(|| default.exists().then(|| default.to_path_buf()))
}

fn folder_of(source: &Path) -> &Path {
    match source.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file's name in messages, and its text.
fn text_of(source: &Path) -> Result<(String, String), Faults> {
    let file = source.display().to_string();
    match read_file(source) {
        Ok(text) => Ok((file, text)),
        Err(message) => {
            let path = String::from("(file)");
            let place = Place {
                file,
                line: 1,
                path,
            };
            Err(Faults(vec![Fault { place, message }]))
        }
    }
}

fn load_or_default(path: Option<&Path>, env: Env<'_>, default: &Path) -> Result<Loaded, Faults> {
    let Some(source) = source(path, env, default) else {
        let mut loaded = parse("", "(built-in defaults)", Path::new("."), env)?;
        for notice in &mut loaded.notices {
            // There is no file to open at a line.
            notice.place.line = 0;
        }
        return Ok(loaded);
    };
    let (file, text) = text_of(&source)?;
    let mut loaded = parse(&text, &file, folder_of(&source), env)?;
    loaded.files.add(&source, Some(&text));
    loaded.source = Some(source);
    Ok(loaded)
}

/// Reads a configuration from its text. `file` is its name in messages, `folder` where its relative
/// paths start.
///
/// # Errors
/// Every fault, by line.
pub fn parse(text: &str, file: &str, folder: &Path, env: Env<'_>) -> Result<Loaded, Faults> {
    let (root, twice) = document::read(text, file).map_err(|fault| Faults(vec![fault]))?;
    let report = Report::new(env, folder);
    report.faults.borrow_mut().extend(twice);
    let config = check::config(Field::root(&report, file, &root));
    let mut faults = report.faults.take();
    // The price file's faults come after those of the file that names it.
    let order = |place: &Place| (place.file != file, place.line);
    faults.sort_by(|a, b| order(&a.place).cmp(&order(&b.place)).then(a.cmp(b)));
    faults.dedup();
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    let mut notices = report.notices.take();
    notices.sort_by(|a, b| order(&a.place).cmp(&order(&b.place)).then(a.cmp(b)));
    Ok(Loaded {
        config,
        notices,
        source: None,
        files: report.files.take(),
    })
}

/// A file's text, or what is wrong with it.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path)
        .map_err(|error| format!("cannot be read ({error}); name a file that is there"))?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    String::from_utf8(text.to_vec())
        .map_err(|_| String::from("is not UTF-8 text; save it as UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_looked_for_where_the_documentation_says() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let unset = |_: &str| None;
        let threads = |loaded: Result<Loaded, Faults>| loaded.unwrap().config.server.threads;

        let nothing = load_or_default(None, &unset, &at("default.yaml")).unwrap();
        assert_eq!(nothing.source, None);
        assert_eq!(nothing.config.server.threads, 2);
        let notice = nothing.notices[0].to_string();
        assert!(
            notice.starts_with("(built-in defaults): pools: notice: "),
            "{notice}"
        );

        for (name, count) in [("default.yaml", 3), ("variable.yaml", 4), ("given.yaml", 5)] {
            std::fs::write(at(name), format!("server: {{threads: {count}}}")).unwrap();
        }
        let variable = at("variable.yaml").display().to_string();
        let set = |name: &str| (name == FILE_VARIABLE).then(|| variable.clone());
        let default = at("default.yaml");
        assert_eq!(threads(load_or_default(None, &unset, &default)), 3);
        assert_eq!(threads(load_or_default(None, &set, &default)), 4);
        let given = at("given.yaml");
        assert_eq!(threads(load_or_default(Some(&given), &set, &default)), 5);
        assert!(load_or_default(Some(&at("gone.yaml")), &set, &default).is_err());
    }

    #[test]
    fn a_change_of_any_file_that_was_read_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (source, prices) = (at("q.yaml"), at("prices.yaml"));
        std::fs::write(&source, "pricing: {file: prices.yaml}").unwrap();
        std::fs::write(&prices, "models: {m: {input: 1, output: 1}}").unwrap();
        let loaded = load(Some(&source), &|_| None).unwrap();
        assert!(!loaded.files.have_changed());
        // Written anew with the same text it says the same.
        std::fs::write(&prices, "models: {m: {input: 1, output: 1}}").unwrap();
        assert!(!loaded.files.have_changed());
        std::fs::write(&prices, "models: {m: {input: 2, output: 1}}").unwrap();
        assert!(loaded.files.have_changed());
        let loaded = load(Some(&source), &|_| None).unwrap();
        std::fs::remove_file(&source).unwrap();
        assert!(loaded.files.have_changed());
    }

    #[test]
    fn a_byte_order_mark_and_crlf_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("windows.yaml");
        std::fs::write(&path, "\u{feff}server:\r\n  threads: 7\r\n").unwrap();
        let loaded = load(Some(&path), &|_| None).unwrap();
        assert_eq!(loaded.config.server.threads, 7);
        std::fs::write(&path, b"server: \xff\n").unwrap();
        let faults = load(Some(&path), &|_| None).unwrap_err().to_string();
        assert!(faults.contains("is not UTF-8 text"), "{faults}");
    }
}
