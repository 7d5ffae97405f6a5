//! What the program prints, read: lines that start with `@bench`, among whatever else a console shows.

/// Other lines that are kept for the report when a guest fails.
const SAID_KEPT: usize = 24;

/// Everything that one boot told.
#[derive(Clone, Debug, Default)]
pub(super) struct Transcript {
    /// The kernel's name and release, as `uname` has them.
    pub(super) kernel: Option<String>,
    /// CPUs that the guest saw.
    pub(super) cpus: u32,
    /// Ticks of the time stamp counter in a loop of known length, and that length in instructions.
    pub(super) ticks: Option<(u64, u64)>,
    pub(super) rows: Vec<Measured>,
    /// Rows that could not be measured, as `ROW: why`.
    pub(super) failed: Vec<String>,
    /// Whether the program came to its end.
    pub(super) ended: bool,
    /// The last other lines.
    pub(super) said: Vec<String>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) kind: String,
    pub(super) mode: String,
    pub(super) tasks: u32,
    /// Summed over the tasks, as are the two below.
    pub(super) operations: u64,
    pub(super) ns: u64,
    pub(super) ticks: u64,
}

impl Measured {
    /// Operations per second of all tasks together.
    pub(super) fn per_second(&self) -> f64 {
        self.operations as f64 * f64::from(self.tasks) / (self.ns as f64 / 1e9)
    }

    /// Ticks of the time stamp counter for an operation.
    pub(super) fn ticks_each(&self) -> f64 {
        self.ticks as f64 / self.operations as f64
    }
}

/// What a line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The result of a row, good or bad.
    Row,
    /// The end of the program's work.
    End,
    /// Anything else.
    Other,
}

impl Transcript {
    /// Reads one line.
    pub(super) fn take(&mut self, line: &str) -> Taken {
        // A kernel's message may stand before it on the same line.
        let words = line.split_once("@bench ").map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
        match words.as_deref() {
            Some(["begin", name, release, cpus]) => {
                self.kernel = Some(format!("{name} {release}"));
                self.cpus = cpus.parse().unwrap_or(0);
                Taken::Other
            }
            Some(["ticks", ticks, instructions]) => {
                self.ticks = ticks.parse().ok().zip(instructions.parse().ok());
                Taken::Other
            }
            Some(["row", rest @ ..]) => match measured(rest) {
                Some(row) => {
                    self.rows.push(row);
                    Taken::Row
                }
                None => self.say(line),
            },
            Some(["failed", kind, mode, tasks, what, error]) => {
                let error = error.parse().map_or_else(|_| error.to_string(), errno);
                self.failed.push(format!("{kind}.{mode}.{tasks}: {what}: {error}"));
                Taken::Row
            }
            Some(["end"]) => {
                self.ended = true;
                Taken::End
            }
            _ => self.say(line),
        }
    }

    fn say(&mut self, line: &str) -> Taken {
        let line = line.trim_end();
        if !line.is_empty() {
            if self.said.len() == SAID_KEPT {
                self.said.remove(0);
            }
            self.said.push(line.into());
        }
        Taken::Other
    }

    /// The measurement of a row.
    pub(super) fn row(&self, kind: &str, mode: &str, tasks: u32) -> Option<&Measured> {
        self.rows.iter().find(|row| row.kind == kind && row.mode == mode && row.tasks == tasks)
    }

    /// Whether a tick is an instruction here: the loop of known length says so. A timer may have interrupted
    /// it.
    pub(super) fn counts_instructions(&self) -> bool {
        self.ticks.is_some_and(|(ticks, known)| (known..known + known / 20).contains(&ticks))
    }
}

fn measured(words: &[&str]) -> Option<Measured> {
    let [kind, mode, tasks, operations, ns, ticks] = words else { return None };
    let row = Measured {
        kind: (*kind).into(),
        mode: (*mode).into(),
        tasks: tasks.parse().ok()?,
        operations: operations.parse().ok()?,
        ns: ns.parse().ok()?,
        ticks: ticks.parse().ok()?,
    };
    (row.operations > 0 && row.ns > 0).then_some(row)
}

fn errno(number: i32) -> String {
    std::io::Error::from_raw_os_error(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_a_consoles_other_lines() {
        let mut transcript = Transcript::default();
        for line in [
            "[    1.0] Run /init\r",
            "@bench begin Linux 6.1.0 2\r",
            "@bench ticks 2000100 2000000",
            "[    2.0] noise @bench row fork threads 2 10 4000000000 8000",
            "@bench row fork threads 2 10",
            "@bench failed brk1 processes 1 brk 12",
        ] {
            transcript.take(line);
        }
        assert_eq!(transcript.kernel.as_deref(), Some("Linux 6.1.0"));
        assert!(transcript.counts_instructions() && !transcript.ended);
        let row = transcript.row("fork", "threads", 2).unwrap();
        assert_eq!((row.per_second(), row.ticks_each()), (5.0, 800.0));
        assert!(transcript.failed[0].starts_with("brk1.processes.1: brk: "), "{:?}", transcript.failed);
        assert_eq!(transcript.said, ["[    1.0] Run /init", "@bench row fork threads 2 10"]);
        assert_eq!(transcript.take("@bench end"), Taken::End);
    }

    #[test]
    fn a_counter_of_time_does_not_count_instructions() {
        let transcript = Transcript { ticks: Some((588_744, 2_000_000)), ..Transcript::default() };
        assert!(!transcript.counts_instructions());
        assert!(!Transcript::default().counts_instructions());
    }
}
