//! The manual pages and the completion scripts, as their readers read them.

use std::process::Command;

use super::command::{BINARY, said, silent};

#[test]
fn every_command_has_a_page_that_formats_without_a_remark() {
    let folder = tempfile::tempdir().unwrap();
    silent(
        Command::new(BINARY)
            .args(["man", "--output"])
            .arg(folder.path()),
    );
    let main = said(Command::new(BINARY).arg("man"));
    for word in ["SIGHUP", "SIGUSR2", "quota\\-proxy.yaml", "EXIT STATUS"] {
        assert!(main.contains(word), "{word}\n{main}");
    }
    let help = said(Command::new(BINARY).arg("--help"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .map_while(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 5, "{help}");
    for command in commands {
        let page = folder.path().join(format!("quota-proxy-{command}.1"));
        assert!(page.exists(), "{}", page.display());
    }
    for page in std::fs::read_dir(folder.path()).unwrap() {
        let page = page.unwrap().path();
        silent(
            Command::new("groff")
                .args(["-man", "-ww", "-z", "-K", "utf8"])
                .arg(&page),
        );
    }
    assert_eq!(
        main,
        std::fs::read_to_string(folder.path().join("quota-proxy.1")).unwrap()
    );
}

#[test]
fn bash_completes_commands_and_options() {
    let script = said(Command::new(BINARY).args(["completions", "bash"]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota-proxy");
    std::fs::write(&path, script).unwrap();
    silent(Command::new("bash").arg("-n").arg(&path));
    // Asks as the shell does: the function that the script registers, the word, the one before it.
    let ask = |words: &str, at: usize| {
        let ask = format!(
            "source '{}'; COMP_WORDS=({words}); COMP_CWORD={at}; \
             $(complete -p quota-proxy | sed 's/.* -F \\([^ ]*\\).*/\\1/') \
             quota-proxy \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{at} - 1]}}\"; \
             echo \"${{COMPREPLY[*]}}\"",
            path.display()
        );
        said(Command::new("bash").args(["--norc", "-c", &ask]))
    };
    assert_eq!(ask("quota-proxy ser", 1), "serve\n");
    assert_eq!(ask("quota-proxy serve --con", 2), "--config\n");
}

#[test]
fn other_shells_have_scripts_too() {
    for (shell, begins) in [
        ("zsh", "#compdef quota-proxy"),
        ("fish", "# Print an optspec"),
    ] {
        let script = said(Command::new(BINARY).args(["completions", shell]));
        assert!(script.starts_with(begins), "{script}");
    }
    let unknown = super::command::run(Command::new(BINARY).args(["completions", "tcsh"]));
    assert_eq!(unknown.status.code(), Some(2));
}
