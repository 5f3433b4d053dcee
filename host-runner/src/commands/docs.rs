//! Every command that a document or a unit file names is one: it parses.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;

use crate::commands::{Cli, Command};
use crate::invocation::unknown;
use crate::plan_file;
use crate::plans::request::Request;

/// A command line as some file has it.
struct Line {
    /// Where, for messages.
    place: String,
    text: String,
    whole: Whole,
}

/// Whether a line claims to be all that one types.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// In a code block, or executed by systemd.
    Yes,
    /// In a sentence, which may leave out what the reader chooses.
    No,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files() -> Vec<PathBuf> {
    let here = |pattern: &str| glob::glob(&root().join(pattern).to_string_lossy()).expect("a pattern");
    let patterns = ["*.md", "docs/*.md", "lab/*.md", "lab/*/*.md", "results/*.md", "lab/systemd/*.service"];
    patterns.into_iter().flat_map(here).flatten().collect()
}

/// Returns what follows `faultline` if `text` begins with it, however it is called.
fn command(text: &str) -> Option<&str> {
    let text = text.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ");
    let text = text.strip_prefix("./").or(text.strip_prefix("/usr/bin/")).unwrap_or(text);
    // The kernel log has lines that begin so, too.
    text.strip_prefix("faultline ").filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '-'))
}

/// Returns the commands of one line of a file.
fn commands(line: &str, fenced: bool) -> Vec<(&str, Whole)> {
    if let Some((_, command_line)) = line.split_once('=').filter(|(key, _)| key.starts_with("Exec")) {
        return command(command_line.trim_start_matches('-')).map(|text| (text, Whole::Yes)).into_iter().collect();
    }
    if fenced || line.starts_with("    ") {
        return command(line).map(|text| (text, Whole::Yes)).into_iter().collect();
    }
    line.split('`').skip(1).step_by(2).filter_map(command).map(|text| (text, Whole::No)).collect()
}

fn lines() -> Vec<Line> {
    let mut all = Vec::new();
    for path in files() {
        let mut fenced = false;
        let text = std::fs::read_to_string(&path).expect("a text");
        for (number, line) in text.lines().enumerate() {
            fenced ^= line.starts_with("```");
            let place = format!("{}:{}", path.display(), number + 1);
            let found = commands(line, fenced).into_iter();
            all.extend(found.map(|(text, whole)| Line { place: place.clone(), text: text.to_owned(), whole }));
        }
    }
    all
}

/// Returns the words before a pipe or a comment, with something in place of what the document leaves to the reader.
fn words(text: &str) -> Vec<String> {
    let words = shlex::split(text).unwrap_or_else(|| panic!("quotes in {text}"));
    let own = words.into_iter().take_while(|word| !["|", ">", "&&", "#"].contains(&word.as_str()));
    // What is optional in a synopsis is not to be typed as it stands.
    own.take_while(|word| !word.starts_with('['))
        .map(|word| match word.as_str() {
            "…" | "SCENARIO" => "relax".into(),
            "N" => "1".into(),
            _ => word.split('|').next().unwrap_or_default().to_owned(),
        })
        .collect()
}

fn check(words: &[String], whole: Whole) -> Result<(), String> {
    let parsed = match <Cli as clap::Parser>::try_parse_from(["faultline".to_owned()].iter().chain(words)) {
        Ok(cli) => cli.command,
        Err(error) => {
            let missing = [
                ErrorKind::MissingRequiredArgument,
                ErrorKind::MissingSubcommand,
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                ErrorKind::DisplayHelp,
            ];
            return if whole == Whole::No && missing.contains(&error.kind()) { Ok(()) } else { Err(error.to_string()) };
        }
    };
    match parsed {
        Command::Lab(args) => {
            let inside: Vec<_> = args.inside().iter().map(|word| word.to_string_lossy().into_owned()).collect();
            check(&inside, whole)
        }
        Command::Run(args) => match args.plan() {
            Some([name, ..]) if plan_file::built_in(&name.to_string_lossy()).is_none() => {
                if name.to_string_lossy().ends_with(".toml") { Ok(()) } else { Err(unknown(&name.to_string_lossy())) }
            }
            Some(words) => Request::of(words).map(drop).map_err(|failure| failure.message),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

#[test]
fn what_documents_say_to_type_is_a_command() {
    let lines = lines();
    assert!(lines.iter().filter(|line| line.whole == Whole::Yes).count() >= 10, "the documents have examples");
    let wrong: Vec<_> = lines
        .iter()
        .filter_map(|line| {
            Some(format!("{}: {}\n{}", line.place, line.text, check(&words(&line.text), line.whole).err()?))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_command_is_found() {
    let wrong = |text: &str, whole| check(&words(text), whole).is_err();
    assert!(wrong("recover --results x", Whole::Yes) && wrong("recovr", Whole::No));
    assert!(wrong("lab --kernel debian:6.1 -- run relax --ruonds 3", Whole::Yes));
    assert!(wrong("run nightly --lable x", Whole::Yes) && wrong("run nightli", Whole::No));
    assert!(wrong("lab", Whole::Yes) && !wrong("lab", Whole::No));
    assert_eq!(commands("say `./faultline doctor` twice", false).len(), 1);
}
