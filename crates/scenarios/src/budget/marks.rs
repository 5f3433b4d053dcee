//! Marks that the runner writes into the trace around each host event, so that the monitor knows the order of events and
//! faults.

use guest::event::{Event, RoundEvent};

/// Mark in the trace at the begin or at the end of a host event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMark {
    /// The event.
    pub event: Marked,
    /// vCPU that asked for it and waits for its end.
    pub vcpu: u64,
    /// Begin or end.
    pub edge: Edge,
}

/// Event that marks stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Event that a test examines.
    Event(Event),
    /// Event that divides a measurement.
    Round(RoundEvent),
}

/// Edge of a host event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The host is about to do the event.
    Begin,
    /// The host has done the event.
    End,
}

impl HostMark {
    /// Returns the marks around an event.
    pub const fn around(event: Marked, vcpu: usize) -> [Self; 2] {
        let vcpu = vcpu as u64;
        [Self { event, vcpu, edge: Edge::Begin }, Self { event, vcpu, edge: Edge::End }]
    }

    /// Returns the name of the event.
    pub const fn name(self) -> &'static str {
        match self.event {
            Marked::Event(event) => event.name(),
            Marked::Round(event) => event.name(),
        }
    }

    /// Returns the text of the mark in the trace.
    pub fn text(self) -> String {
        let kind = if matches!(self.event, Marked::Event(_)) { "event" } else { "round" };
        let edge = if self.edge == Edge::Begin { "begin" } else { "end" };
        format!("{kind} {} {edge} {}", self.name(), self.vcpu)
    }

    /// Returns the mark with this text.
    pub fn parse(text: &str) -> Option<Self> {
        let [kind, name, edge, vcpu] = text.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let edge = match edge {
            "begin" => Edge::Begin,
            "end" => Edge::End,
            _ => return None,
        };
        let event = match kind {
            "event" => Marked::Event(Event::ALL.into_iter().find(|event| event.name() == name)?),
            "round" => Marked::Round(RoundEvent::ALL.into_iter().find(|event| event.name() == name)?),
            _ => return None,
        };
        Some(Self { event, vcpu: vcpu.parse().ok()?, edge })
    }
}
