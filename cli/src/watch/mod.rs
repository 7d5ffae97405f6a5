//! What a run uses from moment to moment: the kernel's looks, on the terminal while it runs, and as curves in
//! the bill's page.

pub mod html;
mod live;
pub mod sample;

use live::Live;
use sample::{Sample, Shown};

/// The looks of a run.
#[derive(Debug)]
pub struct Watch {
    samples: Vec<Sample>,
    /// Every so many looks, one is kept.
    stride: usize,
    seen: usize,
    last: Option<Sample>,
    live: Live,
}

/// The most looks that are kept: more than a page has columns.
const MOST: usize = 2048;

impl Watch {
    /// None so far.
    #[must_use]
    pub fn new(shown: Shown) -> Self {
        Self { samples: Vec::new(), stride: 1, seen: 0, last: None, live: Live::new(shown) }
    }

    /// Takes a look of the kernel's; gives what is to be written to standard error. What cannot be read is
    /// a newer kernel's, and is left out.
    pub fn take(&mut self, json: &[u8]) -> String {
        let Ok(sample) = serde_json::from_slice::<Sample>(json) else { return String::new() };
        let text = self.live.show(&sample, self.last.as_ref());
        if self.seen.is_multiple_of(self.stride) {
            self.samples.push(sample.clone());
        }
        self.seen += 1;
        if self.samples.len() == MOST {
            // The curve keeps its length, with half of the points.
            let mut nth = 0;
            self.samples.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.stride *= 2;
        }
        self.last = Some(sample);
        text
    }

    /// Gives what is to be written before output of the program: it takes the table away.
    pub fn make_way(&mut self, output: &[u8]) -> String {
        self.live.make_way(output)
    }

    /// The looks, the last one included.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        let mut all = self.samples.clone();
        let last = self.last.iter().filter(|last| all.last().is_none_or(|kept| kept.ms < last.ms));
        all.extend(last.cloned().collect::<Vec<_>>());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(ms: u64) -> Vec<u8> {
        format!(
            "{{\"ms\":{ms},\"total\":100,\"free\":50,\"user\":40,\"tables\":10,\"swap\":0,\"faults\":{ms},\"forks\":0,\
             \"swap_outs\":0,\"swap_ins\":0,\"folios\":{{\"64\":2}},\
             \"processes\":[{{\"pid\":2,\"name\":\"a\\\"b\",\"rss\":40,\"swap\":0,\"faults\":3}}]}}"
        )
        .into_bytes()
    }

    #[test]
    fn a_long_run_keeps_its_first_and_its_last_look() {
        let mut watch = Watch::new(Shown::No);
        for ms in 0..10_000 {
            assert_eq!(watch.take(&json(ms)), "");
        }
        assert_eq!(watch.take(b"{\"colour\":1}"), "");
        let samples = watch.samples();
        assert!((MOST / 2..=MOST).contains(&samples.len()), "{}", samples.len());
        assert_eq!((samples[0].ms, samples.last().unwrap().ms), (0, 9_999));
        assert!(samples.is_sorted_by_key(|sample| sample.ms));
        assert_eq!(samples[0].large(), [(64, 131_072)].into());
        assert_eq!(samples[1].rate(&samples[0], |sample| sample.faults), 1000);
    }
}
