//! Reads `samples.csv` of a run directory, which holds every timed element.

use serde::Deserialize;

/// A timed element. Field names are the heads of the columns.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Sample {
    /// Block, as the case names it.
    pub block: String,
    /// Number of the vCPU.
    pub vcpu: u64,
    /// Number of the round.
    pub round: u64,
    /// `touch`, `exec` or `resident`.
    pub op: String,
    /// Duration in ticks of the guest's counter.
    pub ticks: u64,
    /// Start in ticks of the guest's counter.
    pub began: u64,
}

/// Returns the samples in `text`. Lines that are not samples are left out: the last line of a run that died may be torn.
///
/// # Examples
///
/// ```
/// let text = "block,vcpu,round,op,ipa,ticks,outcome,began\n1G,0,2,exec,0x100000000,4096,0,70000\n";
/// let samples = faultline_report::samples::parse(text);
/// assert_eq!((samples[0].op.as_str(), samples[0].ticks), ("exec", 4096));
/// ```
pub fn parse(text: &str) -> Vec<Sample> {
    csv::Reader::from_reader(text.as_bytes()).into_deserialize().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_samples() {
        let samples = parse(include_str!("../../record/tests/runs/debian-6.1/samples.csv"));
        assert!(samples.len() > 100);
        let longest = samples.iter().max_by_key(|sample| sample.ticks).expect("there are some");
        assert_eq!((longest.block.as_str(), longest.op.as_str()), ("1G", "exec"));
        assert!(parse("").is_empty() && parse("a,b\n1,2\n").is_empty());
    }

    #[test]
    fn torn_lines_are_left_out() {
        const HEAD: &str = "block,vcpu,round,op,ticks,began\n";
        assert!(parse(&format!("{HEAD}short\n")).is_empty());
        assert_eq!(parse(&format!("{HEAD}1G,0,0,exec,1,2\n1G,0,0,exe")).len(), 1);
        assert_eq!(parse(&format!("{HEAD}1G,0,x,exec,1,2\n1G,0,1,exec,1,2\n")).len(), 1);
    }
}
