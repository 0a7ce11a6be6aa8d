//! The package on a machine of its own: a Debian that is made by debootstrap and booted by
//! systemd-nspawn, with a network of its own. systemd, dpkg and logrotate are the real ones.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::command::{repository, run, said};
use super::deb::build;

/// Runs the trial once, tells how it went, and turns the machine off.
const TRIAL: &str = "[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/root/trial.sh >/root/trial.log 2>&1; echo $? >/root/trial.code'
ExecStopPost=/bin/systemctl --no-block poweroff
";

const CONFIGURATION: &str = "admin: {token: \"${ADMIN_TOKEN}\"}
store: {path: /var/lib/quota-proxy/quota.db}
log: {access: /var/log/quota-proxy/access.jsonl}
pools:
  - {name: fake, dialect: openai, models: [\"gpt-*\"], peers: [{url: \"http://127.0.0.1:9100\", credential: x}]}
";

/// A program with all of root's rights.
fn administrator(program: &str) -> Command {
    if said(Command::new("id").arg("-u")).trim() == "0" {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

/// This system's own release.
fn release() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap();
    let mut lines = text.lines();
    let name = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap().to_owned()
}

/// Files that root's own system is to have; written by whoever runs the test.
fn furnish(folder: &Path, root: &Path) {
    let package = build(folder);
    let put = |from: &Path, to: &str| {
        let to = root.join(to);
        said(administrator("install").arg("-D").arg(from).arg(to));
    };
    let write = |text: &str, to: &str| {
        let from = folder.join("file");
        std::fs::write(&from, text).unwrap();
        std::fs::set_permissions(&from, Permissions::from_mode(0o755)).unwrap();
        put(&from, to);
    };
    put(&package, "root/quota-proxy.deb");
    put(&repository("tests/operations/machine.sh"), "root/trial.sh");
    write(CONFIGURATION, "root/trial.yaml");
    let unit = "etc/systemd/system/trial.service";
    write(TRIAL, unit);
    let wanted = root.join("etc/systemd/system/default.target.wants");
    said(administrator("mkdir").arg("-p").arg(&wanted));
    said(
        administrator("ln")
            .arg("-s")
            .arg(Path::new("/").join(unit))
            .arg(wanted),
    );
}

#[test]
#[ignore = "boots a Debian: minutes, root and the network; see `make soak`"]
fn it_lives_on_a_machine() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let packages = "--include=systemd,systemd-sysv,dbus,ca-certificates,curl,logrotate,procps";
    let mut debootstrap = administrator("debootstrap");
    debootstrap.args(["--variant=minbase", packages, &release()]);
    said(debootstrap.arg(&root));
    furnish(folder.path(), &root);
    let mut boot = administrator("timeout");
    boot.args([
        "600",
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
    ]);
    boot.args(["--private-network", "--boot", "--directory"]);
    let booted = run(boot.arg(&root));
    let read = |name: &str| run(administrator("cat").arg(root.join("root").join(name))).stdout;
    let log = String::from_utf8_lossy(&read("trial.log")).into_owned();
    let code = String::from_utf8_lossy(&read("trial.code")).into_owned();
    // What root made is root's to remove.
    said(administrator("rm").arg("-rf").arg(&root));
    assert_eq!(
        code.trim(),
        "0",
        "{log}\n{}",
        String::from_utf8_lossy(&booted.stderr)
    );
}
