//! An optimizer's pass over its buffers, on one or several threads.

use std::ops::Range;

use crate::moment::Moment;
use crate::state_check::{BLOCK, BlockCheck};
use crate::update_rules::{Rule, apply};

/// Minimum elements per thread: they take a millisecond or two, and starting a thread a hundredth of that.
const THREAD_ELEMENTS_MIN: usize = 16 * BLOCK;

/// Whole blocks of all buffers, from element `start` on; the very last block may be short.
pub(crate) struct Part<'a> {
    start: usize,
    parameters: &'a mut [f32],
    gradient: &'a [f32],
    /// Empty if the rule has no such moment.
    moments: [&'a mut [f32]; 2],
    block_hashes: &'a mut [u64],
}

impl<'a> Part<'a> {
    /// The whole of the buffers.
    pub(crate) fn new(
        parameters: &'a mut [f32],
        gradient: &'a [f32],
        moments: &'a mut [Moment],
        block_hashes: &'a mut [u64],
    ) -> Self {
        let mut buffers = moments.iter_mut().map(|moment| moment.values.as_mut_slice());
        let moments = [buffers.next().unwrap_or_default(), buffers.next().unwrap_or_default()];
        Self { start: 0, parameters, gradient, moments, block_hashes }
    }

    /// Splits off the first blocks.
    fn split(self, blocks: usize) -> (Self, Self) {
        let elements = self.parameters.len().min(blocks * BLOCK);
        let (parameters, later_parameters) = self.parameters.split_at_mut(elements);
        let (gradient, later_gradient) = self.gradient.split_at(elements);
        let (hashes, later_hashes) = self.block_hashes.split_at_mut(blocks);
        let [first, second] = self.moments.map(|moment| moment.split_at_mut(moment.len().min(elements)));
        let part = |start, parameters, gradient, moments, block_hashes| Self {
            start,
            parameters,
            gradient,
            moments,
            block_hashes,
        };
        (
            part(self.start, parameters, gradient, [first.0, second.0], hashes),
            part(self.start + elements, later_parameters, later_gradient, [first.1, second.1], later_hashes),
        )
    }

    /// Updates the elements in `runs` and hashes everything. Each piece stays in cache from its update to its hash.
    fn step(self, rules: &[Rule; 2], runs: &[(Range<usize>, bool)]) {
        let Self { start: first, parameters, gradient, mut moments, block_hashes } = self;
        let mut runs = &runs[runs.partition_point(|(range, _)| range.end <= first)..];
        let mut check = BlockCheck::new();
        for (block, hash) in block_hashes.iter_mut().enumerate() {
            let end_of_block = parameters.len().min((block + 1) * BLOCK);
            for start in (block * BLOCK..end_of_block).step_by(BlockCheck::PIECE) {
                let end = end_of_block.min(start + BlockCheck::PIECE);
                while let Some((range, decays)) = runs.first() {
                    let from = range.start.max(first + start) - first;
                    let to = range.end.min(first + end).saturating_sub(first);
                    if from < to {
                        let rule = &rules[usize::from(*decays)];
                        let pieces = moments.each_mut().map(|moment| piece_mut(moment, from..to));
                        apply(rule, &mut parameters[from..to], &gradient[from..to], pieces);
                    }
                    if range.end > first + end {
                        break;
                    }
                    runs = &runs[1..];
                }
                check.add(&parameters[start..end]);
                for moment in moments.iter().filter(|moment| !moment.is_empty()) {
                    check.add(&moment[start..end]);
                }
            }
            *hash = check.end_block();
        }
    }
}

/// A piece of a moment; empty if the moment is absent.
fn piece_mut(moment: &mut [f32], range: Range<usize>) -> &mut [f32] {
    if moment.is_empty() { moment } else { &mut moment[range] }
}

/// Updates the elements in `runs` on at most `threads` threads, by the first rule if they don't decay, else the second.
pub(crate) fn run(whole: Part<'_>, rules: &[Rule; 2], runs: &[(Range<usize>, bool)], threads: usize) {
    let blocks = whole.block_hashes.len();
    let threads = threads.min(whole.parameters.len() / THREAD_ELEMENTS_MIN).max(1);
    std::thread::scope(|scope| {
        let mut rest = whole;
        for _ in 1..threads {
            let (part, later) = rest.split(blocks / threads);
            scope.spawn(move || part.step(rules, runs));
            rest = later;
        }
        rest.step(rules, runs);
    });
}

/// Block hashes of the present state.
pub(crate) fn hashes(parameters: &[f32], moments: &[&[f32]]) -> Vec<u64> {
    let mut check = BlockCheck::new();
    let block_starts = (0..parameters.len()).step_by(BLOCK);
    let of_block = block_starts.map(|block| {
        let end_of_block = parameters.len().min(block + BLOCK);
        for start in (block..end_of_block).step_by(BlockCheck::PIECE) {
            let end = end_of_block.min(start + BlockCheck::PIECE);
            check.add(&parameters[start..end]);
            for moment in moments {
                check.add(&moment[start..end]);
            }
        }
        check.end_block()
    });
    of_block.collect()
}
