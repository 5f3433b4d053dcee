//! `samples.csv` of a run directory: every timed element. Pure.

/// One timed element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The block, as the case names it.
    pub block: String,
    /// The vCPU.
    pub vcpu: u64,
    /// The round.
    pub round: u64,
    /// `touch`, `exec` or `resident`.
    pub op: String,
    /// How long, in ticks of the guest's counter.
    pub ticks: u64,
    /// When it began, in ticks of the guest's counter.
    pub began: u64,
}

/// Reads the samples; columns are found by name, and lines that are none are left out.
pub fn parse(text: &str) -> Vec<Sample> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| head.iter().position(|column| *column == name);
    let columns = ["block", "vcpu", "round", "op", "ticks", "began"].map(column);
    let [Some(block), Some(vcpu), Some(round), Some(op), Some(ticks), Some(began)] = columns else { return Vec::new() };
    let sample = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |n: usize| cells.get(n)?.parse().ok();
        Some(Sample {
            block: (*cells.get(block)?).to_owned(),
            vcpu: number(vcpu)?,
            round: number(round)?,
            op: (*cells.get(op)?).to_owned(),
            ticks: number(ticks)?,
            began: number(began)?,
        })
    };
    lines.filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_samples() {
        let samples = parse(include_str!("../../../record/tests/runs/debian-6.1/samples.csv"));
        assert!(samples.len() > 100);
        let longest = samples.iter().max_by_key(|sample| sample.ticks).expect("there are some");
        assert_eq!((longest.block.as_str(), longest.op.as_str()), ("1G", "exec"));
        assert!(parse("").is_empty() && parse("a,b\n1,2\n").is_empty());
        assert!(parse("block,vcpu,round,op,ticks,began\nshort\n").is_empty());
    }
}
