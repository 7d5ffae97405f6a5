//! Samples of one quantity, and what is said of them: median and spread.

use serde::Serialize;

/// The samples of one side of one row, in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series(pub Vec<f64>);

/// A series in three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Half of the samples are below it.
    pub median: f64,
    /// The smallest sample.
    pub min: f64,
    /// The largest sample.
    pub max: f64,
}

impl Series {
    /// Sums it up; `None` if there is no sample.
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let mid = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[mid] } else { (sorted[mid - 1] + sorted[mid]) / 2.0 };
        Some(Summary { median, min, max })
    }

    /// This series divided by another, sample by sample: the two were taken in turns, so what disturbed one
    /// pair disturbs one ratio.
    pub fn ratio_to(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect())
    }
}

impl Summary {
    /// Half the distance between the extremes, in per cent of the median.
    pub fn spread_percent(&self) -> f64 {
        if self.median > 0.0 { (self.max - self.min) / 2.0 / self.median * 100.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(Series(vec![3.0, 1.0, 2.0]).summary(), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Series(vec![4.0, 1.0]).summary().unwrap().median, 2.5);
        assert_eq!(Series::default().summary(), None);
    }

    #[test]
    fn a_ratio_pairs_samples_of_one_run() {
        let (ours, host) = (Series(vec![1.0, 4.0]), Series(vec![2.0, 8.0, 100.0]));
        assert_eq!(ours.ratio_to(&host), Series(vec![0.5, 0.5]));
    }
}
