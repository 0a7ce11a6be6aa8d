//! The Debian package, made of the binary under test: what is in it, and its life in a folder.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{BINARY, repository, said};
use super::root::{Root, next_version};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const CONF: &str = "etc/quota-proxy/quota-proxy.yaml";
const ENV: &str = "etc/quota-proxy/env";

/// Makes the package, unpacked quickly and not small.
pub fn build(folder: &Path) -> PathBuf {
    let mut build = Command::new(repository("systemd/deb/build"));
    build.arg(BINARY).arg(folder);
    build.env("SOURCE_DATE_EPOCH", "1795262400");
    said(build.env("DPKG_DEB_COMPRESSOR_TYPE", "none"))
        .trim()
        .into()
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777
}

/// The fields of a package's control file, and what else dpkg-deb says of it.
fn field(package: &Path, name: &str) -> String {
    said(
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(package)
            .arg(name),
    )
}

#[test]
fn the_package_is_as_debian_wants_it() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let package = build(one.path());
    let arch = said(Command::new("dpkg").arg("--print-architecture"));
    let name = format!("quota-proxy_{VERSION}_{}.deb", arch.trim());
    assert_eq!(package.file_name().unwrap().to_str(), Some(name.as_str()));
    let again = build(other.path());
    let same = Command::new("cmp").arg(&package).arg(&again).status();
    assert!(same.unwrap().success(), "two builds of one binary differ");

    assert!(
        field(&package, "Depends").contains("libc6"),
        "{}",
        field(&package, "Depends")
    );
    let changelog = std::fs::read_to_string(repository("systemd/deb/changelog")).unwrap();
    let first = format!("quota-proxy ({VERSION}) ");
    assert!(
        changelog.starts_with(&first),
        "systemd/deb/changelog lacks {VERSION}"
    );

    let contents = said(Command::new("dpkg-deb").arg("--contents").arg(&package));
    for line in contents.lines() {
        let executable = line.ends_with("./usr/bin/quota-proxy");
        let expected = match line.as_bytes()[0] {
            b'd' => "drwxr-xr-x root/root",
            b'-' if executable => "-rwxr-xr-x root/root",
            _ => "-rw-r--r-- root/root",
        };
        assert!(line.starts_with(expected), "{line}");
    }
    for path in [
        "usr/bin/quota-proxy",
        "usr/lib/systemd/system/quota-proxy.service",
        "usr/share/man/man1/quota-proxy.1.gz",
        "usr/share/man/man1/quota-proxy-serve.1.gz",
        "usr/share/bash-completion/completions/quota-proxy",
        "usr/share/zsh/vendor-completions/_quota-proxy",
        "usr/share/fish/vendor_completions.d/quota-proxy.fish",
        "usr/share/doc/quota-proxy/copyright",
        "usr/share/doc/quota-proxy/changelog.gz",
        "usr/share/doc/quota-proxy/examples/monitoring/grafana.json",
        "etc/logrotate.d/quota-proxy",
        CONF,
    ] {
        let there = contents
            .lines()
            .any(|line| line.ends_with(&format!(" ./{path}")));
        assert!(there, "{path}\n{contents}");
    }
}

#[test]
fn it_installs_upgrades_and_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let package = build(folder.path());
    let root = Root::new();
    root.dpkg("--install", &package);

    // Ready to start: enabled, with secrets of its own that nobody else reads.
    let wanted = root.path("etc/systemd/system/multi-user.target.wants/quota-proxy.service");
    assert!(wanted.symlink_metadata().is_ok(), "not enabled");
    let env = root.text(ENV);
    let token = env
        .lines()
        .find_map(|line| line.strip_prefix("ADMIN_TOKEN="))
        .unwrap();
    assert!(
        token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()),
        "{token}"
    );
    assert_eq!(mode(&root.path(ENV)), 0o600);
    assert_eq!(mode(&root.path(CONF)), 0o644);
    let mut check = Command::new(root.path("usr/bin/quota-proxy"));
    check.env("ADMIN_TOKEN", token).args(["check", "--config"]);
    let checked = said(check.arg(root.path(CONF)));
    assert!(checked.starts_with("ok: 2 pools"), "{checked}");
    let sums = said(
        Command::new("md5sum")
            .args(["--check", "--quiet"])
            .current_dir(root.path(""))
            .arg(root.path("var/lib/dpkg/info/quota-proxy.md5sums")),
    );
    assert_eq!(sums, "");

    // The operator's changes and the books outlive an upgrade; what was not changed is renewed.
    let changed = root.text(CONF) + "# ours\n";
    std::fs::write(root.path(CONF), &changed).unwrap();
    let books = root.path("var/lib/private/quota-proxy/quota.db");
    std::fs::create_dir_all(books.parent().unwrap()).unwrap();
    std::fs::write(&books, "books").unwrap();
    std::os::unix::fs::symlink("private/quota-proxy", root.path("var/lib/quota-proxy")).unwrap();
    let add = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap() + "# theirs\n";
        std::fs::write(&path, text).unwrap();
    };
    let next = next_version(&package, "99.0.0", |files| {
        add(files.join(CONF));
        add(files.join("etc/logrotate.d/quota-proxy"));
    });
    root.dpkg("--install", &next);
    assert!(root.text("var/lib/dpkg/status").contains("Version: 99.0.0"));
    assert_eq!(root.text(CONF), changed);
    assert!(
        root.text("etc/logrotate.d/quota-proxy")
            .ends_with("# theirs\n")
    );
    assert_eq!(root.text(ENV), env);

    // A removal takes the program, a purge the rest.
    root.dpkg("--remove", "quota-proxy");
    assert!(!root.path("usr/bin/quota-proxy").exists());
    assert_eq!((root.text(CONF), root.text(ENV)), (changed, env));
    assert!(books.exists());
    root.dpkg("--purge", "quota-proxy");
    assert_eq!(root.with("quota-proxy"), Vec::<String>::new());
}
