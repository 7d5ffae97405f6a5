//! Runs operations on a system and on the [`Oracle`], side by side, and makes failures small.

use crate::{
    generate::Generator,
    ops::{Op, Outcome},
    oracle::{Oracle, Verdict},
};
use std::{
    fmt::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Every this many steps everything is compared, not only what the operation touched.
const FULL_CHECK_EVERY: usize = 32;
/// How many times a failing list is run to make it smaller.
const SHRINK_RUNS: usize = 3_000;

/// What operations are applied to.
pub trait System {
    /// Whether the system knows this operation at all.
    fn supports(&self, _op: &Op) -> bool {
        true
    }
    /// Does it.
    fn apply(&mut self, op: &Op) -> Outcome;
    /// Where the area that holds `addr` ends.
    fn area_end(&mut self, space: usize, addr: u64) -> Option<u64>;
    /// Compares the areas of one address space with the oracle's.
    fn check_areas(&mut self, space: usize, oracle: &Oracle) -> Verdict;
    /// Compares everything, every byte included, and checks the system's own invariants.
    fn check_all(&mut self, oracle: &Oracle) -> Verdict;
    /// Makes the `nth` allocation from now fail (1 is the next); 0 stops that.
    fn fail_allocation(&mut self, nth: u64);
    /// Whether an allocation has failed since.
    fn allocation_failed(&self) -> bool;
    /// Whether an operation may run out of memory without being made to.
    fn may_run_short(&self) -> bool {
        false
    }
    /// Whether it maps areas by leaves, so that operations should meet some.
    fn has_leaves(&self) -> bool {
        false
    }
    /// Ends all address spaces and looks for leaks. Not called after a failure: the system may be in any
    /// state then, and should be abandoned rather than torn down.
    fn finish(self) -> Verdict;
}

/// Whether allocations fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inject {
    /// None.
    Nothing,
    /// For one step in `one_in`, each allocation in turn: the step is repeated with its first, second, ...
    /// allocation failing until it does not fail any more.
    EveryAllocation {
        /// The reciprocal of the share of steps.
        one_in: u64,
    },
}

/// A list of operations that went wrong.
pub struct Failure {
    /// The operations, the last one being where it showed.
    pub ops: Vec<Op>,
    /// What was wrong.
    pub why: String,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nthe operations that lead there, ready for `replay`:\n[", self.why)?;
        self.ops.iter().try_for_each(|op| writeln!(f, "    {op:?},"))?;
        f.write_char(']')
    }
}

/// Both sides, and what was done so far.
struct Run<S> {
    system: S,
    oracle: Oracle,
    done: Vec<Op>,
}

impl<S: System> Run<S> {
    fn step(&mut self, op: Op, inject: bool) -> Verdict {
        self.done.push(op);
        let step = self.done.len();
        let label = |why: String| format!("step {step}, {op:?}: {why}");
        for nth in 1.. {
            let area_end = match op {
                Op::Mremap(at, ..) => self.system.area_end(at.space, at.addr),
                _ => None,
            };
            self.system.fail_allocation(if inject { nth } else { 0 });
            let outcome = self.system.apply(&op);
            let failed = inject && self.system.allocation_failed();
            self.system.fail_allocation(0);
            let may_fail = failed || self.system.may_run_short();
            if !(may_fail && outcome.is_out_of_memory(&op)) {
                self.oracle.judge(&op, &outcome, area_end).map_err(label)?;
                break;
            }
            if self.accept_success(&op, &outcome, area_end) {
                break;
            }
            self.accept_failure(&op, &outcome)
                .map_err(|why| label(format!("{outcome:?} (allocation {nth} failed), yet {why}")))?;
            if !failed {
                break;
            }
        }
        let checked = if self.done.len().is_multiple_of(FULL_CHECK_EVERY) {
            self.system.check_all(&self.oracle)
        } else {
            self.system.check_areas(op.space(), &self.oracle)
        };
        checked.map_err(label)
    }

    /// Whether an outcome that looks like a lack of memory is right anyway, and all is as it should be then.
    fn accept_success(&mut self, op: &Op, outcome: &Outcome, area_end: Option<u64>) -> bool {
        let mut after = self.oracle.clone();
        let right = after.judge(op, outcome, area_end).is_ok()
            && self.system.check_areas(op.space(), &after).is_ok()
            && self.system.check_all(&after).is_ok();
        if right {
            after.blur_residency(op, &self.oracle);
            self.oracle = after;
        }
        right
    }

    /// Finds the state, among those that are allowed, in which an operation without memory left everything.
    fn accept_failure(&mut self, op: &Op, outcome: &Outcome) -> Verdict {
        let mut first = None;
        for state in self.oracle.after_failure(op, outcome) {
            let areas = self.system.check_areas(op.space(), &state);
            match areas.and_then(|()| self.system.check_all(&state)) {
                Ok(()) => {
                    self.oracle = state;
                    return Ok(());
                }
                Err(why) => first = first.or(Some(why)),
            }
        }
        Err(first.unwrap_or_default())
    }

    fn finish(mut self) -> Verdict {
        self.system.check_all(&self.oracle)?;
        self.system.finish()
    }
}

/// Runs `f`; a panic is a failure like any other.
fn guarded<R>(f: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// Runs a given list of operations.
///
/// # Errors
/// The first thing that was wrong.
pub fn replay<S: System>(make: &dyn Fn() -> (S, Oracle), ops: &[Op], inject: Inject) -> Verdict {
    guarded(|| {
        let (system, oracle) = make();
        let mut run = Run { system, oracle, done: Vec::new() };
        for &op in ops {
            run.step(op, inject != Inject::Nothing)?;
        }
        run.finish()
    })
}

/// Runs `steps` random operations from `seed`.
///
/// # Errors
/// The shortest list of operations that still fails, as far as trying finds one.
pub fn run_random<S: System>(
    make: &dyn Fn() -> (S, Oracle),
    seed: u64,
    steps: usize,
    inject: Inject,
) -> Result<(), Failure> {
    let mut done = Vec::new();
    let result = guarded(|| {
        let (system, oracle) = make();
        let mut run = Run { system, oracle, done: Vec::new() };
        let generator = Generator::new(seed);
        let mut generator = if run.system.has_leaves() { generator.with_leaves() } else { generator };
        for _ in 0..steps {
            let op = generator.op(&run.oracle);
            if !run.system.supports(&op) {
                continue;
            }
            done.push(op);
            let inject = match inject {
                Inject::Nothing => false,
                Inject::EveryAllocation { one_in } => generator.one_in(one_in),
            };
            run.step(op, inject)?;
        }
        run.finish()
    });
    let Err(why) = result else { return Ok(()) };
    eprintln!("seed {seed}: {why}\nlooking for a shorter way there ...");
    Err(shrink(make, done, why, inject))
}

/// A message without its numbers: what stays the same while a failure is made smaller.
fn kind_of(why: &str) -> String {
    let words = why.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 2);
    words.filter(|word| !word.chars().all(|c| c.is_ascii_hexdigit())).collect()
}

/// Leaves out operations, in ever smaller blocks, as long as the rest still fails.
fn shrink<S: System>(make: &dyn Fn() -> (S, Oracle), ops: Vec<Op>, why: String, inject: Inject) -> Failure {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut best = Failure { ops, why };
    let mut runs = 0;
    let mut block = best.ops.len().div_ceil(2);
    while block > 0 && runs < SHRINK_RUNS {
        let mut at = 0;
        let before = best.ops.len();
        while at < best.ops.len() && runs < SHRINK_RUNS {
            runs += 1;
            let mut fewer = best.ops.clone();
            fewer.drain(at..(at + block).min(fewer.len()));
            match replay(make, &fewer, inject) {
                Ok(()) => at += block,
                Err(why) if kind_of(&why) == kind_of(&best.why) => best = Failure { ops: fewer, why },
                Err(_) => at += block,
            }
        }
        if block > 1 || best.ops.len() == before {
            block /= 2;
        }
    }
    std::panic::set_hook(report);
    best
}
