//! What code touches: every access of a CPU that the probe sees, listed in order, without exploring anything.
//!
//! [`observed`] installs an engine without a search; [`list`] runs one CPU's code to its end and lists its
//! accesses. They are those of the production code: `peek`s are not among them, nor the page contents, nor
//! what a spin lock holds beside its word.

use crate::{
    Exploration, Scenario,
    accesses::Observer,
    explorer::engine::{Engine, Phase, install, set_phase, with},
    explorer::objects::Objects,
    names::Names,
};

/// Runs `f` where CPUs can be observed, `nr_cpus` of them.
pub(crate) fn observed<R>(nr_cpus: usize, f: impl FnOnce() -> R) -> R {
    let nobody =
        (0..nr_cpus).fold(Scenario::new("observed", 1, || ()), |scenario, _| scenario.cpu("", |()| ()));
    let mut engine = Engine::new(&Exploration::default(), &nobody, Objects::new());
    install(&mut engine, f)
}

/// Runs `f` as CPU number `cpu` and lists what it touches.
pub(crate) fn list(cpu: usize, observer: Observer, names: Names, f: impl FnOnce()) -> Observer {
    with(|e| {
        e.current = cpu;
        e.observer = Some(observer);
        e.names = names;
    });
    set_phase(Phase::Observed);
    f();
    set_phase(Phase::Idle);
    with(|e| {
        e.current = 0;
        e.names = Names::default();
        e.observer.take().expect("set above")
    })
}
