//! Runs `git bisect run` over a history of kernels.

use std::path::Path;
use std::process::{Command, Output};

use super::{root, stderr, stdout};

fn git(directory: &Path, arguments: &[&str]) -> Output {
    let mut git = Command::new("git");
    git.current_dir(directory).args(["-c", "user.name=test", "-c", "user.email=test@example.invalid"]);
    // Settings of the user must have no effect.
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    let output = git.args(arguments).output().expect("git is there");
    assert!(output.status.success() || arguments[0] == "bisect", "git {arguments:?}: {}", stderr(&output));
    output
}

/// Commits one kernel after another to a new repository, and lets git find the first bad one. The first kernel is known to
/// be good and the last to be bad. Returns the output of git, and the number of the commit that it found.
pub fn first_bad(directory: &Path, kernels: &[&str], lab: &str) -> (String, Option<usize>) {
    let history = directory.join("history");
    std::fs::create_dir(&history).expect("fresh");
    git(&history, &["init", "-q"]);
    for (number, kernel) in kernels.iter().enumerate() {
        // Stands for the Image of a kernel tree. The number makes commits of equal kernels different.
        std::fs::write(history.join("kernel"), kernel).expect("writable");
        std::fs::write(history.join("number"), number.to_string()).expect("writable");
        git(&history, &["add", "."]);
        git(&history, &["commit", "-q", "-m", &format!("{number}: {kernel}")]);
    }
    let oldest = format!("HEAD~{}", kernels.len() - 1);
    git(&history, &["bisect", "start", "HEAD", &oldest]);
    let faultline = root().join("target/release/faultline");
    let results = directory.join("results");
    let test = format!(
        "timeout -k 5 300 {} lab --bisect --kernel \"$(cat kernel)\" --results {} {lab}",
        faultline.display(),
        results.display()
    );
    let output = git(&history, &["bisect", "run", "sh", "-c", &test]);
    let printed = stdout(&output) + &stderr(&output) + &stdout(&git(&history, &["bisect", "log"]));
    let found = printed.lines().find_map(|line| line.strip_prefix("# first bad commit: ["));
    let number = found.and_then(|line| line.split_once("] ")?.1.split(':').next()?.parse().ok());
    (printed, number)
}
