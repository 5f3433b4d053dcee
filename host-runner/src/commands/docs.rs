//! Checks that every command line in a document or a unit file can be parsed.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use record::result::RunResult;
use report::compare::{Options, compare, print};

use crate::commands::{Cli, Command};
use crate::invocation::unknown_scenario;
use crate::plan::file;
use crate::plan::request::PlanRequest;
use crate::reproduction_screen::{Screen, Subject};

/// A command line in a file.
struct Line {
    /// File and line number, for messages.
    place: String,
    text: String,
    context: Context,
}

/// Context of a command line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    /// A code block or a unit file, in which the command line is complete.
    Code,
    /// A sentence, which may leave out required arguments.
    Sentence,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files() -> Vec<PathBuf> {
    let matches = |pattern: &str| glob::glob(&root().join(pattern).to_string_lossy()).expect("a pattern");
    let patterns = ["*.md", "docs/*.md", "lab/*.md", "lab/*/*.md", "results/*.md", "lab/systemd/*.service"];
    patterns.into_iter().flat_map(matches).flatten().collect()
}

/// Returns the words after `faultline` if `text` begins with this command.
fn command(text: &str) -> Option<&str> {
    let text = text.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ");
    let text = text.strip_prefix("./").or(text.strip_prefix("/usr/bin/")).unwrap_or(text);
    // Lines of the kernel log begin with this word, too.
    text.strip_prefix("faultline ").filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '-'))
}

/// Returns the command lines in one line of a file.
fn commands(line: &str, context: Context) -> Vec<(&str, Context)> {
    if let Some((_, command_line)) = line.split_once('=').filter(|(key, _)| key.starts_with("Exec")) {
        return command(command_line.trim_start_matches('-')).map(|text| (text, Context::Code)).into_iter().collect();
    }
    if context == Context::Code || line.starts_with("    ") {
        return command(line).map(|text| (text, Context::Code)).into_iter().collect();
    }
    line.split('`').skip(1).step_by(2).filter_map(command).map(|text| (text, Context::Sentence)).collect()
}

fn lines() -> Vec<Line> {
    let mut all = Vec::new();
    for path in files() {
        let mut context = Context::Sentence;
        let text = std::fs::read_to_string(&path).expect("a text");
        let mut printed = false;
        for (number, line) in text.lines().enumerate() {
            // Examples of output are compared as a whole.
            printed ^= line.starts_with("````");
            if printed {
                continue;
            }
            if line.starts_with("```") && !line.starts_with("````") {
                context = if context == Context::Code { Context::Sentence } else { Context::Code };
            }
            let place = format!("{}:{}", path.display(), number + 1);
            let found = commands(line, context).into_iter();
            all.extend(found.map(|(text, context)| Line { place: place.clone(), text: text.to_owned(), context }));
        }
    }
    all
}

/// Returns the words before a pipe or a comment. Replaces placeholders by valid values.
fn words(text: &str) -> Vec<String> {
    let words = shlex::split(text).unwrap_or_else(|| panic!("quotes in {text}"));
    let own = words.into_iter().take_while(|word| !["|", ">", "&&", "#"].contains(&word.as_str()));
    // Leaves out the optional words of a synopsis.
    own.take_while(|word| !word.starts_with('['))
        .map(|word| match word.as_str() {
            "…" | "SCENARIO" => "relax".into(),
            "N" => "1".into(),
            _ => word.split('|').next().unwrap_or_default().to_owned(),
        })
        .collect()
}

fn check(words: &[String], context: Context) -> Result<(), String> {
    let parsed = match <Cli as clap::Parser>::try_parse_from(["faultline".to_owned()].iter().chain(words)) {
        Ok(cli) => cli.command,
        Err(error) => {
            let missing = [
                ErrorKind::MissingRequiredArgument,
                ErrorKind::MissingSubcommand,
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                ErrorKind::DisplayHelp,
            ];
            return if context == Context::Sentence && missing.contains(&error.kind()) {
                Ok(())
            } else {
                Err(error.to_string())
            };
        }
    };
    match parsed {
        Command::Lab(args) => {
            let inside: Vec<_> = args.inside().iter().map(|word| word.to_string_lossy().into_owned()).collect();
            check(&inside, context)
        }
        Command::Run(args) => match args.plan() {
            Some([name, ..]) if file::built_in(&name.to_string_lossy()).is_none() => {
                if name.to_string_lossy().ends_with(".toml") {
                    Ok(())
                } else {
                    Err(unknown_scenario(&name.to_string_lossy()))
                }
            }
            Some(words) => PlanRequest::parse(words).map(drop).map_err(|failure| failure.message),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Returns the texts that documents show as printed, by name. They are made from stored runs.
fn printed() -> Vec<(&'static str, String)> {
    let place = root().join("crates/record/tests/examples");
    let read = |name: &str| record::store::read(&place.join(name)).expect("a stored run");
    let (before, after, check) = (read("before"), read("after"), read("check"));
    let paths = [&before, &after].map(|run| PathBuf::from("results").join(&run.run.id));
    let end = |run: &RunResult| run.run.id.rsplit('-').next().unwrap_or_default().to_owned();
    let subjects = vec![
        Subject { role: "before", result: &before, path: &paths[0], name: end(&before) },
        Subject { role: "after", result: &after, path: &paths[1], name: end(&after) },
    ];
    let found = record::reproduction::reproduction(&before, &after);
    let screen = Screen { reproduced: found.reproduced, reason: found.reason, subjects };
    let table = |run: &RunResult| {
        let mut text = Vec::new();
        report::table::print(&mut text, &[scenarios::viewed(run)]).expect("memory");
        String::from_utf8(text).expect("text")
    };
    let compared = compare(std::slice::from_ref(&before), std::slice::from_ref(&after), Options::default());
    vec![
        ("reproduce", screen.text()),
        ("check", table(&check)),
        ("show", table(&before)),
        ("mail", print::markdown(&compared.expect("the same cases"))),
    ]
}

/// An example is a block of four backquotes after `<!-- printed: NAME -->`. `UPDATE_EXPECTED=1` writes it anew.
#[test]
fn printed_examples_are_those_of_stored_runs() {
    const FENCE: &str = "````\n";
    let mut left = printed();
    for path in files() {
        let text = std::fs::read_to_string(&path).expect("a text");
        let mut fresh = text.clone();
        left.retain(|(name, printed)| {
            let mark = format!("<!-- printed: {name} -->\n\n{FENCE}");
            let Some(at) = fresh.find(&mark) else { return true };
            let begin = at + mark.len();
            let end = begin + fresh[begin..].find(FENCE).expect("the block ends");
            fresh.replace_range(begin..end, printed);
            false
        });
        if std::env::var_os("UPDATE_EXPECTED").is_some() && fresh != text {
            std::fs::write(&path, &fresh).expect("writable");
        }
        let shown = std::fs::read_to_string(&path).expect("a text");
        assert!(fresh == shown, "{} shows what is not printed any more", path.display());
    }
    assert!(left.is_empty(), "no document shows {:?}", left.iter().map(|(name, _)| name).collect::<Vec<_>>());
}

#[test]
fn command_lines_in_documents_can_be_parsed() {
    let lines = lines();
    assert!(lines.iter().filter(|line| line.context == Context::Code).count() >= 10, "the documents have examples");
    let wrong: Vec<_> = lines
        .iter()
        .filter_map(|line| {
            Some(format!("{}: {}\n{}", line.place, line.text, check(&words(&line.text), line.context).err()?))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wrong_command_lines_are_found() {
    let wrong = |text: &str, context| check(&words(text), context).is_err();
    assert!(wrong("recover --results x", Context::Code) && wrong("recovr", Context::Sentence));
    assert!(wrong("lab --kernel debian:6.1 -- run relax --ruonds 3", Context::Code));
    assert!(wrong("run nightly --lable x", Context::Code) && wrong("run nightli", Context::Sentence));
    assert!(wrong("lab", Context::Code) && !wrong("lab", Context::Sentence));
    assert_eq!(commands("say `./faultline doctor` twice", Context::Sentence).len(), 1);
}
