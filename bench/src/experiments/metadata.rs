//! What a frame costs before anybody uses it.

use super::Experiment;
use crate::{
    host::Folios,
    outcome::{Bench, Samples, Side},
};
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "metadata",
    rows: &["metadata"],
    ours: Some(ours),
    host: Some(host),
    ..Experiment::NONE
};

/// `sizeof(struct page)` of 64-bit Linux (Documentation/mm/vmemmap_dedup.rst: 64 bytes).
const STRUCT_PAGE: f64 = 64.0;

fn ours(_bench: &Bench, samples: &mut Samples) {
    samples.add("metadata", Side::Ours, anonmem_frame::META_BYTES as f64);
}

fn host(_: &Bench, samples: &mut Samples, _: Folios) -> io::Result<()> {
    samples.add("metadata", Side::Host(Folios::Base), STRUCT_PAGE);
    Ok(())
}
